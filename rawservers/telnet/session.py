"""A Telnet session: the conversation between a client and a line service.

**Echo and mode.** Who echoes is negotiated, and the server never begins (any offer at connect breaks one client or another). A
peer that sends DO ECHO or DO SGA gets both options, since SGA alone leaves some clients showing each character twice. From then
on it sends characters as they are typed, and the server echoes and edits: character mode. Otherwise the peer echoes its own
input and sends whole lines: line mode. For a hidden line the server sends WILL ECHO and echoes nothing, then WONT ECHO.

These are deliberate deviations from RFC 1123, which has servers offer SGA (§3.2.2) and be ready to begin negotiation (§3.2.1).
GA is never sent; no client waits for it.

**Control functions** (RFC 854 pp. 7 and 13, RFC 1184 §2.5):

    AYT              answered with [Yes]
    IP, BRK, ABORT   discard the line, as does ^C in character mode
    AO               answered with a Synch; the line stays, and output already returned cannot be taken back
    EC, EL           erase a character, the line
    EOF              ends the session after the unfinished line, as does the peer's FIN and, on an empty line, ^D
    NOP, GA, SUSP    ignored, and so is a DM outside urgent data

**Steps.** Input is handled by a generator, `_handle_input`, so that it can stop anywhere. Its work is counted in steps: one for
each command, key and piece of output, more for long text, and many for a call of the service. A call that has done STEPS steps
returns its output so far and waits for its TURN; `resume` continues the generator. So a call takes a fraction of a millisecond
and returns little more than HIGH_WATER bytes, whatever the input. The output does not depend on where the generator stops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

from rawservers.core.peer import Peer
from rawservers.core.protocol import HIGH_WATER, Chunk, Closing, Deadline, Protocol
from rawservers.telnet import nvt
from rawservers.telnet.client import BYTES_PER_STEP, WIDE_BYTES_PER_STEP, LineClient
from rawservers.telnet.editor import Editor
from rawservers.telnet.nvt import Nvt, encode
from rawservers.telnet.options import LOGOUT
from rawservers.telnet.service import Dialogue, Hidden, LineService, start_dialogue

# Steps of one call, at most, besides those of the event that it handled last: about half a millisecond, too little to delay
# other connections and enough that a turn costs little beside it. They return little more than HIGH_WATER bytes.
STEPS = HIGH_WATER // BYTES_PER_STEP
SERVICE_CALLS = 8  # calls of a service that use up STEPS, since their cost is unknown
INSERT_SIZE = 1024  # bytes of a line inserted between two looks at the number of steps

AYT_REPLY = b"\r\n[Yes]\r\n"
IDLE_MESSAGE = b"?Nothing was typed for too long: goodbye"
FAILURE_MESSAGE = b"?Something went wrong here: goodbye"
TOO_LONG_MESSAGE = b"?Line too long: the limit is %d bytes"

SPECIAL_BYTES = b"\x00\x04\b\x15\x17\x7f"  # not plain text: NUL, which the parser handles, and the keys ^D BS ^U ^W DEL
PLAIN_BYTES = bytes(code for code in range(0xFF) if code not in SPECIAL_BYTES)
_PLAIN_IN_CHARACTER_MODE = PLAIN_BYTES.translate(None, b"\x03\x12\x1b")  # without ^C ^R ESC
_ERASE_KEYS = {
    b"\b": Editor.erase_character,
    b"\x7f": Editor.erase_character,
    b"\x15": Editor.erase_line,
    b"\x17": Editor.erase_word,
}


class Session(Protocol):
    """One session of a line service.

    client:  the client
    failure: the last exception that the service raised, or None
    """

    __slots__ = (
        "_counters",
        "_dialogue",
        "_discarding",
        "_eof_received",
        "_fast_path_allowed",
        "_longest_line",
        "_nvt",
        "_on_failure",
        "_paused_input",
        "_pending",
        "_step_limit",
        "client",
        "closing",
        "failure",
        "greeting",
        "steps",
        "waiting",
    )

    def __init__(
        self,
        peer: Peer,
        service: LineService,
        *,
        longest_line: int,
        greeting: bytes = b"",
        on_failure: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        """service: a line handler or a dialogue, see service.py. greeting: text sent at once; line ends of any kind.

        longest_line: limit of an input line in bytes, without its end. A longer line is answered with an error line as soon as
        it passes the limit, and discarded up to its end. on_failure: called with each exception that the service raises.
        """
        self.client = LineClient(peer)
        self.waiting = Deadline.IDLE
        self.closing = Closing.KEEP
        self.steps = 0
        self.failure: Exception | None = None
        self._counters = peer.counters
        self._on_failure = on_failure
        self._longest_line = longest_line
        self._nvt = Nvt()
        self._discarding = False  # the rest of a line that was too long
        self._eof_received = False
        self._fast_path_allowed = True  # parser, editor and options are in their initial state
        self._pending: list[tuple[bytes, bool]] = []  # packets received and not handled, each with `urgent`
        self._paused_input: Iterator[None] | None = None  # _handle_input, if it has stopped with input left
        self._step_limit = STEPS
        self._dialogue: Dialogue | None = None
        self.greeting = encode(greeting)
        self._start_service(service)

    # Calls of the core.

    def receive(self, data: bytes, urgent: bool = False) -> tuple[Chunk, ...]:
        """The output for `data`."""
        if self.closing is not Closing.KEEP:
            return ()
        self._pending.append((data, urgent))
        return self._run_steps()

    def resume(self) -> tuple[Chunk, ...]:
        """Pushed lines, and the output for more of the pending input."""
        if self.closing is not Closing.KEEP:
            return ()
        self.client.write_pushed(STEPS)
        return self._run_steps()

    def end(self) -> tuple[Chunk, ...]:
        """The output for the unfinished last line; then the session ends."""
        if self.closing is not Closing.KEEP:
            self.closing = Closing.CLOSE
            return ()
        self._eof_received = True
        return self._run_steps()

    def expire(self) -> tuple[Chunk, ...]:
        """IDLE_MESSAGE; the session ends."""
        if self.closing is not Closing.KEEP:
            return ()
        self.client.start_row()
        self.client.send_line(IDLE_MESSAGE)
        self._hang_up()
        return self.client.flush()

    def connection_lost(self) -> None:
        """Close the dialogue and release everything that refers to this session."""
        if self.closing is Closing.KEEP:
            self.closing = Closing.CLOSE
        self.client.closed = True
        self._paused_input = None
        self._close_dialogue()
        self.failure = None  # its traceback refers to this session

    # Input.

    def _run_steps(self) -> tuple[Chunk, ...]:
        """Handle pending input until there is none or the steps are used up; returns the output."""
        client = self.client
        self._step_limit = STEPS
        handling = self._paused_input or self._handle_input()
        self._paused_input = None
        if (
            client.steps >= self._step_limit or next(handling, handling) is None
        ):  # it yields None where it stops with input left
            self._paused_input = handling
        if self.closing is not Closing.KEEP:
            self._paused_input, self._pending = None, []
            if self._eof_received:
                self.closing = Closing.CLOSE
        unfinished = self._paused_input or client.push_batch or client.pushed
        self.waiting = Deadline.TURN if unfinished and self.closing is Closing.KEEP else Deadline.IDLE
        self._fast_path_allowed = (
            self.waiting is Deadline.IDLE
            and self.closing is Closing.KEEP
            and self._nvt.at_boundary
            and client.editor.at_new_line
            and not (client.echoing or self._discarding)
        )
        self.steps += client.steps
        client.steps = 0
        return client.flush()

    def _handle_input(self) -> Iterator[None]:
        """Handle the pending packets, event by event. Yields where the steps are used up."""
        client = self.client
        while self._pending:
            packets, self._pending = self._pending, []
            for packet in packets:
                client.steps += 1
                for code, argument in self._nvt.parse(*packet):
                    client.steps += 1
                    if code == nvt.TEXT:
                        yield from self._handle_text(argument)
                    else:
                        self._handle_command(code, argument)
                    if client.steps >= self._step_limit:
                        yield
        if self._eof_received:
            self._end_input()

    def _handle_text(self, text: bytes) -> Iterator[None]:
        """Handle `text`, in which each line end is LF."""
        self.client.steps += 1 + len(text) // BYTES_PER_STEP
        if self._handle_plain_text(text):
            return
        start = 0
        while (end := text.find(b"\n", start)) >= 0:
            yield from self._handle_keys(text[start:end])
            self._end_line()
            if self.client.steps >= self._step_limit:
                yield
            start = end + 1
        yield from self._handle_keys(text[start:])

    def _handle_plain_text(self, text: bytes) -> bool:
        """A fast path for subclasses: either handles all of `text` and returns True, or does nothing."""
        return False

    def _handle_keys(self, keys: bytes) -> Iterator[None]:
        """Handle part of a line: all at once if it is plain, else key by key."""
        client = self.client
        if self._discarding or not keys:
            return
        plain = _PLAIN_IN_CHARACTER_MODE if client.echoing else PLAIN_BYTES
        if not (client.echoing and client.editor.in_escape_sequence) and not keys.translate(None, plain):
            for start in range(0, len(keys), INSERT_SIZE):
                self._insert(keys[start : start + INSERT_SIZE])
                if client.steps >= self._step_limit:
                    yield
            return
        for index in range(len(keys)):
            client.steps += 1
            self._handle_key(keys[index : index + 1])
            if client.steps >= self._step_limit:
                yield

    def _handle_key(self, key: bytes) -> None:
        client = self.client
        if self._discarding:
            return
        if client.echoing and (change := client.editor.handle_escape(key)) is not None:
            client.write(change)
        elif client.echoing and key == b"\x03":
            self._interrupt()
        elif client.echoing and key == b"\x12":
            client.print_and_redraw(b"^R\r\n")
        elif key == b"\x04" and not client.editor.line:
            self._hang_up()
        elif key in _ERASE_KEYS:
            self._erase(_ERASE_KEYS[key])
        else:
            self._insert(key)

    def _erase(self, erase: Callable[[Editor], bytes]) -> None:
        client = self.client
        size = len(client.editor.line)
        client.write(erase(client.editor))
        client.steps += (size - len(client.editor.line)) // WIDE_BYTES_PER_STEP

    def _insert(self, text: bytes) -> None:
        client = self.client
        if self._discarding:
            return
        room = self._longest_line - len(client.editor.line)
        client.write(client.editor.insert(text[:room]))
        if client.editor.visible and not text.isascii():
            client.steps += len(text) // WIDE_BYTES_PER_STEP
        if len(text) > room:
            self._discard_line()

    def _discard_line(self) -> None:
        """Discard a line that is too long, and what follows up to its end."""
        if self.client.echoing:
            self.client.write(b"\r\n")
        self.client.editor.clear()
        self._discarding = True
        self.client.send_line(TOO_LONG_MESSAGE % self._longest_line)

    def _end_line(self) -> None:
        """Handle a line end."""
        client = self.client
        if self._discarding:
            self._discarding = False
            client.write(client.prompt)
            return
        if client.echoing:
            client.write(b"\r\n")
        client.steps += len(client.editor.line) // BYTES_PER_STEP
        self._handle_line(client.editor.take_line())

    def _end_input(self) -> None:
        """Handle the unfinished line, if there is one, and end the session."""
        if self.client.editor.line:
            self._end_line()
        self._hang_up()

    # Service.

    def _start_service(self, service: LineService) -> None:
        """Start `service`. Its output before the first line belongs to the greeting."""
        try:
            self._dialogue = start_dialogue(service, self.client)
        except Exception as error:
            self._fail(error)
        self._advance_dialogue(None)
        self.greeting += b"".join(cast("tuple[bytes, ...]", self.client.flush()))

    def _handle_line(self, line: bytes) -> None:
        """Hand `line` to the service."""
        self._counters.answers += 1
        self.client.steps += STEPS // SERVICE_CALLS
        self._advance_dialogue(line)

    def _advance_dialogue(self, line: bytes | None) -> None:
        """Run the dialogue up to its next prompt. line: the value of its `yield`; None starts it."""
        if self._dialogue is None:
            return
        try:
            prompt = self._dialogue.send(cast("bytes", line))
            self.client.write_prompt(prompt, isinstance(prompt, Hidden))
        except StopIteration as stop:
            self._end_dialogue(stop.value)
        except Exception as error:
            self._fail(error)

    def _end_dialogue(self, text: bytes | None) -> None:
        """End the session, with `text` as its last line. The dialogue has returned it."""
        self.client.hide_input(False)
        self.client.prompt = b""
        try:
            if text is not None:
                self.client.send_line(text)
        except Exception as error:
            self._fail(error)
        self._hang_up()

    def _fail(self, error: Exception) -> None:
        """End the session because of `error`, which the service raised."""
        self._report_failure(error)
        self.client.send_line(FAILURE_MESSAGE)
        self._hang_up()

    def _report_failure(self, error: Exception) -> None:
        self.failure = error
        self._on_failure(error)

    def _hang_up(self) -> None:
        """End the session: no more input is handled."""
        self.closing = Closing.LINGER
        self.client.closed = True
        self.waiting = Deadline.IDLE
        self._step_limit = 0  # `_handle_input` stops at its next check
        self._fast_path_allowed = False
        self._close_dialogue()

    def _close_dialogue(self) -> None:
        dialogue, self._dialogue = self._dialogue, None
        try:
            if dialogue is not None:
                dialogue.close()
        except Exception as error:
            self._report_failure(error)

    # Commands and options.

    def _handle_command(self, code: int, option: bytes) -> None:
        match code:
            case nvt.WILL | nvt.WONT | nvt.DO | nvt.DONT:
                self.client.negotiate(code, option[0])
                self._nvt.binary = self.client.peer_sends_binary
                if code == nvt.DO and option[0] == LOGOUT:
                    self._hang_up()
            case nvt.AYT:
                self.client.print_and_redraw(AYT_REPLY)
            case nvt.AO:
                self.client.write_synch()
            case nvt.IP | nvt.BRK | nvt.ABORT:
                self._interrupt()
            case nvt.EC:
                self._erase(Editor.erase_character)
            case nvt.EL:
                self._erase(Editor.erase_line)
            case nvt.EOF:
                self._end_input()

    def _interrupt(self) -> None:
        """Discard the line, too long or not."""
        self.client.editor.clear()
        self._discarding = False
        if self.client.echoing:
            self.client.write(b"^C\r\n" + self.client.prompt)
