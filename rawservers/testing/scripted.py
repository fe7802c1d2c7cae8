"""A protocol that plays faults: it stands between a connection and its conversation, and delays, cuts or replaces answers.

The conversation is the real one, HTTP's or Telnet's. For each answer it leaves a script in the Cue, or None; a script turns the
chunks of the answer into steps: chunks to send, pauses, and what becomes of the connection. While a script pauses, the
connection is not read and no deadline runs (Deadline.NONE); all waiting is a timer of the event loop, which ends with the
connection. The conversation makes one answer in a call (`ONE_ANSWER` steps), so a pipelined request is not looked at before
the script of the one before it has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import NamedTuple, TypeAlias

from rawservers.core.peer import Peer
from rawservers.core.protocol import Chunk, Closing, Deadline, Protocol, ResponseEnd

ONE_ANSWER = 1000  # steps of work that an answer counts for: more than the conversations do in a call


class Pause(NamedTuple):
    """A step: nothing is sent or received for so many seconds. inf: until the connection is closed."""

    seconds: float


Step: TypeAlias = Chunk | Pause | Closing  # Closing: the last step
Script: TypeAlias = Callable[[Sequence[Chunk]], Iterator[Step]]


class Cue:
    """What a conversation leaves for its Scripted protocol.

    script: that of the answer it has just made; None: it is sent as it is. before: chunks sent before the script begins.
    """

    __slots__ = ("before", "script")

    def __init__(self) -> None:
        self.script: Script | None = None
        self.before: Sequence[Chunk] = ()


class Scripted(Protocol):
    """A conversation whose answers are played by scripts. log: called with all bytes sent (True) and received (False)."""

    __slots__ = ("_cue", "_due", "_inner", "_log", "_peer", "_steps", "closing", "greeting", "steps", "waiting")

    def __init__(
        self, peer: Peer, inner: Protocol, cue: Cue, log: Callable[[bool, bytes], None] = lambda is_sent, data: None
    ) -> None:
        self._peer, self._inner, self._cue, self._log = peer, inner, cue, log
        self._steps: Iterator[Step] | None = None  # the rest of the present script
        self._due = 0.0  # when its pause ends
        self.greeting = inner.greeting
        self.steps = 0
        self._mirror()
        log(True, self.greeting)

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        self._log(False, data)
        return self._play(self._inner.receive(data, urgent))

    def resume(self) -> Sequence[Chunk]:
        if self._steps is None:
            return self._play(self._inner.resume())
        if self._peer.clock.now < self._due:
            return ()  # the conversation's own wake-up, which waits for the end of the script
        chunks = self._run(self._steps)
        if self._steps is None and self.closing is Closing.KEEP:
            self.waiting = Deadline.TURN  # for that wake-up, and for input that the conversation has already
        return chunks

    def end(self) -> Sequence[Chunk]:
        return self._play(self._inner.end())

    def expire(self) -> Sequence[Chunk]:
        return self._play(self._inner.expire())

    def drain(self) -> Sequence[Chunk]:
        chunks = self._inner.drain()
        return self._play(chunks) if self._steps is None else ()

    def connection_lost(self) -> ResponseEnd | None:
        self._steps = None
        return self._inner.connection_lost()

    def _play(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        """What to send first of an answer, or all of it if it has no script."""
        self._mirror()
        script, self._cue.script = self._cue.script, None
        if script is None:
            return self._logged(chunks)
        before, self._cue.before = self._cue.before, ()
        self._steps = script(chunks)
        return [*self._logged(before), *self._run(self._steps)]

    def _run(self, steps: Iterator[Step]) -> Sequence[Chunk]:
        """Run the script up to its next pause, or to its end."""
        chunks: list[Chunk] = []
        for step in steps:
            if isinstance(step, Pause):
                self.closing, self.waiting = Closing.KEEP, Deadline.NONE
                self._due = self._peer.clock.now + step.seconds
                if step.seconds != inf:
                    self._peer.call_later(step.seconds)
                return self._logged(chunks)
            if isinstance(step, Closing):
                self.closing = step
                return self._logged(chunks)
            chunks.append(step)
        self._steps = None
        self._mirror()
        return self._logged(chunks)

    def _mirror(self) -> None:
        """Wait, and close, as the conversation does."""
        self.closing, self.waiting = self._inner.closing, self._inner.waiting
        self.steps, self._inner.steps = self._inner.steps, 0

    def _logged(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        for chunk in chunks:
            if isinstance(chunk, bytes):
                self._log(True, chunk)
        return chunks


class Unread(Protocol):
    """A connection that is open, and never read."""

    waiting = Deadline.NONE


class ResetAtOnce(Protocol):
    """A connection that is reset as soon as it was accepted."""

    closing = Closing.RESET


def split_interim(chunks: Sequence[Chunk]) -> tuple[Sequence[Chunk], Sequence[Chunk]]:
    """The interim responses (100 Continue) among the chunks of an answer, and the answer itself."""
    ends = [index for index, chunk in enumerate(chunks[:-1]) if isinstance(chunk, ResponseEnd)]
    start = ends[-1] + 1 if ends else 0
    return chunks[:start], chunks[start:]
