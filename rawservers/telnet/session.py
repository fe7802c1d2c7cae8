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
from rawservers.core.protocol import HIGH_WATER, Chunk, Closing, Deadline
from rawservers.telnet import nvt
from rawservers.telnet.client import BYTES_PER_STEP, WIDE_BYTES_PER_STEP, LineClient
from rawservers.telnet.editor import Editor
from rawservers.telnet.nvt import encode
from rawservers.telnet.options import LOGOUT
from rawservers.telnet.service import Dialogue, Hidden, LineService, run_service

KEEP, CLOSE, LINGER = Closing.KEEP, Closing.CLOSE, Closing.LINGER

# Steps of one call, at most, besides those of the event that it handled last: about half a millisecond, too little to delay
# other connections and enough that a turn costs little beside it. They return little more than HIGH_WATER bytes.
STEPS = HIGH_WATER // BYTES_PER_STEP
SERVICE_CALLS = 8  # calls of a service that use up STEPS, since their cost is unknown

IDLE_MESSAGE = b"?Nothing was typed for too long: goodbye"
FAILURE_MESSAGE = b"?Something went wrong here: goodbye"
TOO_LONG_MESSAGE = b"?Line too long: the limit is %d bytes"

# The editing keys do what commands do. Two of them do what no command does, so that it gets a number of its own.
_ERASE_WORD, _REDRAW = -3, -4
_ESC, _EOT = b"\x1b", b"\x04"  # ^D
_KEYS = {b"\b": nvt.EC, b"\x7f": nvt.EC, b"\x15": nvt.EL, b"\x17": _ERASE_WORD}  # BS DEL ^U ^W
_KEYS_WHILE_ECHOING = {**_KEYS, b"\x03": nvt.IP, b"\x12": _REDRAW}  # ^C ^R
_REPLIES = {nvt.AYT: b"\r\n[Yes]\r\n", _REDRAW: b"^R\r\n"}
_ERASE = {nvt.EC: Editor.erase_character, nvt.EL: Editor.erase, _ERASE_WORD: Editor.erase_word}

SPECIAL_BYTES = b"\0" + _EOT + b"".join(_KEYS)  # not plain text: NUL, which the parser handles, and the keys
_SPECIAL_WHILE_ECHOING = _ESC + _EOT + b"".join(_KEYS_WHILE_ECHOING)


class Session(LineClient):
    """One session of a line service."""

    __slots__ = (
        "_at_line_start", "_counters", "_dialogue", "_discarding", "_eof_received", "_longest_line", "_on_failure",
        "_paused_input", "_pending", "_plain_allowed", "greeting", "waiting",
    )  # fmt: skip

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
        super().__init__(peer)
        self.waiting = Deadline.IDLE
        self._counters = peer.counters
        self._on_failure = on_failure
        self._longest_line = longest_line
        self._discarding = False  # the rest of a line that was too long
        self._eof_received = False
        self._plain_allowed = True  # nothing is pending, and plain text means itself
        self._at_line_start = True  # and the line being typed is empty
        self._pending: list[tuple[bytes, bool]] = []  # packets received and not handled, each with `urgent`
        self._paused_input: Iterator[None] | None = None  # _handle_input, if it has stopped with input left
        self._dialogue: Dialogue | None = None
        self.write(encode(greeting))
        self._start_service(service)
        self.greeting = b"".join(cast("tuple[bytes, ...]", self.flush()))

    # Calls of the core.

    def receive(self, data: bytes, urgent: bool = False) -> tuple[Chunk, ...]:
        """The output for `data`."""
        self._pending.append((data, urgent))
        return self._run_steps(self.steps + STEPS)

    def resume(self) -> tuple[Chunk, ...]:
        """Pushed lines, and the output for more of the pending input."""
        limit = self.steps + STEPS
        self.write_pushed(limit)
        return self._run_steps(limit)

    def end(self) -> tuple[Chunk, ...]:
        """The output for the unfinished last line; then the session ends."""
        self._eof_received = True
        if self.closing is not KEEP:
            self.closing = CLOSE
        return self._run_steps(self.steps + STEPS)

    def expire(self) -> tuple[Chunk, ...]:
        """IDLE_MESSAGE; the session ends."""
        if self.closing is not KEEP:
            return ()
        self.write(self.row_start())
        self.send_line(IDLE_MESSAGE)
        self._hang_up()
        return self.flush()

    def connection_lost(self) -> None:
        """Close the dialogue and release everything that refers to this session."""
        self._hang_up()

    # Input.

    def _run_steps(self, limit: int) -> tuple[Chunk, ...]:
        """Handle pending input until there is none or `steps` has reached `limit`; returns the output: none after the end."""
        if self.closing is not KEEP:
            self._pending.clear()
            return ()
        self._paused_input = work = self._paused_input or self._handle_input()
        for _ in work:
            if self.steps >= limit or self.closing is not KEEP:
                break
        else:
            self._paused_input = None
        self.waiting = Deadline.TURN if self._paused_input or self.pushed else Deadline.IDLE
        idle = self.waiting is Deadline.IDLE and self.closing is KEEP and not (self.echoing or self._discarding)
        self._plain_allowed = idle and self.nvt.at_boundary and self.editor.at_new_line
        self._at_line_start = self._plain_allowed and not self.editor.line
        return self.flush()

    def _handle_input(self) -> Iterator[None]:
        """Handle the pending packets. Yields after each event, and in an event of text after each line or key."""
        while self._pending:
            self.steps += 1
            for code, argument in self.nvt.parse(*self._pending.pop(0)):
                self.steps += 1
                if code == nvt.TEXT:
                    yield from self._handle_text(argument)
                else:
                    self._handle_command(code, argument)
                    yield
        if self._eof_received:
            self._end_input()

    def _handle_text(self, text: bytes) -> Iterator[None]:
        """Handle `text`, in which each line end is LF."""
        self.steps += len(text) // BYTES_PER_STEP
        *lines, rest = text.split(b"\n")
        for line in lines:
            yield from self._handle_keys(line)
            self._end_line()
            yield
        yield from self._handle_keys(rest)

    def _handle_keys(self, keys: bytes) -> Iterator[None]:
        """Handle part of a line: all at once if it is plain, else key by key."""
        plain = keys.translate(None, _SPECIAL_WHILE_ECHOING if self.echoing else SPECIAL_BYTES)
        size = max(1, len(keys)) if len(plain) == len(keys) and not self.editor.escape_state else 1
        for start in range(0, len(keys), size):
            if self._discarding:
                return
            self.steps += 1
            self._handle_key(keys[start : start + size])
            yield

    def _handle_key(self, key: bytes) -> None:
        """Handle a key, or plain text."""
        size = len(self.editor.line)
        if self.echoing and (change := self.editor.handle_escape(key)) is not None:
            self.write(change)
            self.steps += size // WIDE_BYTES_PER_STEP if change else 0  # the line was erased, and another one is shown
        elif key == _EOT and not size:
            self._hang_up()
        elif code := (_KEYS_WHILE_ECHOING if self.echoing else _KEYS).get(key):
            self._handle_command(code, b"")
        else:
            room = self._longest_line - size
            self.write(self.editor.insert(key[:room]))
            if len(key) > room:
                self._discard_line()

    def _discard_line(self) -> None:
        """Discard a line that is too long, and what follows up to its end."""
        if self.echoing:
            self.write(b"\r\n")
        self.editor.clear()
        self._discarding = True
        self.send_line(TOO_LONG_MESSAGE % self._longest_line)

    def _end_line(self) -> None:
        """Handle a line end."""
        if self._discarding:
            self._discarding = False
            self.write(self.prompt)
            return
        if self.echoing:
            self.write(b"\r\n")
        self.steps += len(self.editor.line) // BYTES_PER_STEP
        self._counters.answers += 1
        self._handle_line(self.editor.take_line())

    def _end_input(self) -> None:
        """Handle the unfinished line, if there is one, and end the session."""
        if self.editor.line:
            self._end_line()
        self._hang_up()

    # Service.

    def _start_service(self, service: LineService) -> None:
        """Start `service`. Its output before the first line belongs to the greeting."""
        self._dialogue = run_service(service, self)
        self._advance_dialogue(None)

    def _handle_line(self, line: bytes) -> None:
        """Hand `line` to the service."""
        self.steps += STEPS // SERVICE_CALLS
        self._advance_dialogue(line)

    def _advance_dialogue(self, line: bytes | None) -> None:
        """Run the dialogue up to its next prompt. line: the value of its `yield`; None starts it."""
        try:
            prompt = cast("Dialogue", self._dialogue).send(cast("bytes", line))
            self.hide_input(isinstance(prompt, Hidden))
            self.prompt = encode(prompt, self._sends_binary)
            self.write(self.prompt)
        except StopIteration:
            self._hang_up()
        except Exception as error:
            self._on_failure(error)
            self.send_line(FAILURE_MESSAGE)
            self._hang_up()

    def _hang_up(self) -> None:
        """End the session: no more input is handled."""
        self.closing = CLOSE if self._eof_received else LINGER
        self.waiting = Deadline.IDLE
        self._plain_allowed = self._at_line_start = False
        self._paused_input = None
        self._pending.clear()
        self.pushed.clear()
        dialogue, self._dialogue = self._dialogue, None
        try:
            if dialogue is not None:
                dialogue.close()
        except Exception as error:
            self._on_failure(error)

    # Commands.

    def _handle_command(self, code: int, option: bytes) -> None:
        match code:
            case nvt.WILL | nvt.WONT | nvt.DO | nvt.DONT:
                self.negotiate(code, option[0])
                if code == nvt.DO and option[0] == LOGOUT:
                    self._hang_up()
            case nvt.IP | nvt.BRK | nvt.ABORT:  # discard the line, too long or not
                self.editor.clear()
                self._discarding = False
                if self.echoing:
                    self.write(b"^C\r\n" + self.prompt)
            case nvt.AO:
                self.write_synch()
            case nvt.EOF:
                self._end_input()
            case _ if code in _REPLIES:
                self.print_and_redraw(_REPLIES[code])
            case _ if code in _ERASE:
                size = len(self.editor.line)
                self.write(_ERASE[code](self.editor))
                self.steps += (size - len(self.editor.line)) // WIDE_BYTES_PER_STEP
