"""The conversation: a line comes in, and what a service makes of it goes out.

**Writing a service.** The simplest is a function of the line, without its end; what it returns is said, with its
line ends as Telnet wants them, and None says nothing:

    def shout(line: bytes) -> bytes | None:
        return line.upper()

A service that leads the conversation is a generator function. It is given the conversation, and yields prompts;
each yield gives the line that was typed in answer. `send_line` sends a line, `Hidden` is a prompt whose answer the screen
must not show, and to return is to hang up, with a last line to say if there is one:

    def greet(session: Session) -> Dialogue:
        name = yield b"Your name? "
        word = yield Hidden(b"The word? ")
        session.send_line(b"Hello " + name if word == b"swordfish" else b"Hello stranger")
        return b"Goodbye"

From outside, from any thread, `push_line` sends a line unasked. A service that raises ends its own conversation, no
other.

**Who echoes.** We never negotiate first: any offer at connect breaks one client or another. A peer that asks for
ECHO or SGA gets both, since SGA alone leaves some clients showing each character twice; from then on it sends
characters as they are typed and the editor keeps its screen ("character mode"). Otherwise it sends lines that it
has shown itself ("line mode"). These are two knowing deviations from RFC 1123, which wants SGA offered unasked
(§3.2.2) and any server ready to begin negotiating (§3.2.1); nor do we ever send GA, for which no client waits. For
a hidden line we say WILL ECHO and echo nothing, then WONT ECHO.

**Control functions** (RFC 854 p. 13, RFC 1184 §2.5). AYT answers `[Yes]`. IP, BRK and ABORT abandon the line, as
does ^C in character mode. AO is answered with a Synch and leaves the line alone: what we have said is out of our
hands by then. EC and EL edit. EOF, and ^D on an empty line, end the input: an unfinished line is answered and the
connection closed. NOP, GA, SUSP and a DM outside urgent data do nothing.

**Fast and slow.** Nearly every packet is one plain line, or several, while nothing is pending. `receive` tells those by
a few methods of bytes, and echoes them without a look at the single byte. The rest is taken byte by byte where it
must be, in `_input_steps`, a generator, so that it can stop. What is done there is counted, in steps: one for each command
and each key, one for each piece of output, more for what is long, and many for the line function of a service. A call
that has done STEPS of them rests: it says what there is to say so far, is `waiting` for its TURN, and goes on in
`resume`. So a call takes a fraction of a millisecond and says little more than HIGH_WATER bytes, whatever is asked for,
and nobody keeps the loop from the others. Where it rests changes nothing in the bytes that are said.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from inspect import isgeneratorfunction
from typing import TypeAlias, cast, final

from rawservers.core.peer import Peer
from rawservers.core.protocol import HIGH_WATER, Chunk, Closing, Deadline, Protocol, Urgent
from rawservers.telnet import nvt
from rawservers.telnet.editor import Editor, render
from rawservers.telnet.nvt import Nvt, encode, escape_iac
from rawservers.telnet.options import BINARY, ECHO, LOGOUT, SGA, TIMING_MARK, WANTYES, YES, Options

# The longest line, in bytes without its end. One that grows beyond it is answered with an error line at once, and not
# kept, so an endless line costs nothing. Precedents: 4096 for a line typed at a terminal in Linux (N_TTY_BUF_SIZE); 255
# is the least that POSIX asks for (MAX_CANON).
LONGEST_LINE = 4096

# The most that a call does before it rests, in steps; what it has begun it brings to an end. A step takes one or two
# microseconds, so a call takes half a millisecond: less than anybody notices, and long enough that a turn costs little more.
STEPS = 256

BYTES_PER_STEP = HIGH_WATER // STEPS  # bytes handled or sent in one step, so a call sends about HIGH_WATER bytes at most
WIDE_BYTES_PER_STEP = 8  # bytes, not ASCII, whose columns are counted at a step
SERVICE_CALLS = 8  # calls of a service within STEPS: their cost is unknown, so each counts as this share
INSERT_SIZE = 1024  # bytes of a line, at most, that are shown without a rest
SHORT_PACKET = 128  # bytes, up to which a packet is looked through more quickly if it is taken for a single line

AYT_REPLY = b"\r\n[Yes]\r\n"  # AYT
IDLE_MESSAGE = b"?Nothing was typed for too long: goodbye"
FAILURE_MESSAGE = b"?Something went wrong here: goodbye"
TOO_LONG_MESSAGE = b"?Line too long: the limit is %d bytes"

EDITING_KEYS = b"\x00\x04\b\x15\x17\x7f"  # what is never plain text: NUL ^D BS ^U ^W DEL
PLAIN_BYTES = bytes(code for code in range(0xFF) if code not in EDITING_KEYS)
_PLAIN_ECHOED = PLAIN_BYTES.translate(None, b"\x03\x12\x1b")  # in character mode also not: ^C ^R ESC
_CHANGE_SPECIAL = bytes(code ^ 1 if code in EDITING_KEYS + b"\r\n\xff" else code for code in range(256))  # for translate
_ERASE_KEYS = {
    b"\b": Editor.erase_character,
    b"\x7f": Editor.erase_character,
    b"\x15": Editor.erase_line,
    b"\x17": Editor.erase_word,
}
_PARTNER = {ECHO: SGA, SGA: ECHO}  # who asks for one gets the other as well


@final
class Hidden(bytes):
    """A prompt whose answer the screen must not show."""

    __slots__ = ()


LineHandler: TypeAlias = Callable[[bytes], "bytes | None"]
Dialogue: TypeAlias = Generator[bytes, bytes, "bytes | None"]
LineService: TypeAlias = "LineHandler | Callable[[Session], Dialogue]"


def echo(line: bytes) -> bytes | None:
    """RFC 862's service, a line at a time: `line` itself."""
    return line


def is_plain(data: bytes) -> bool:
    """Whether nothing in `data` is IAC or one of EDITING_KEYS. (Seven searches for a byte are quicker than one for seven.)"""
    return not (255 in data or 0 in data or 4 in data or 8 in data or 21 in data or 23 in data or 127 in data)


class Session(Protocol):
    """One Telnet conversation.

    peer:    the other end
    failure: what the service raised, if it did
    """

    __slots__ = (
        "_at_boundary",
        "_counters",
        "_data_mark",
        "_dialogue",
        "_discarding",
        "_echo_for_password",
        "_echoing",
        "_editor",
        "_eof_received",
        "_handler",
        "_hidden",
        "_input_steps",
        "_longest_line",
        "_nvt",
        "_on_failure",
        "_options",
        "_output",
        "_pending",
        "_prompt",
        "_push_batch",
        "_pushed",
        "_step_limit",
        "_steps",
        "closing",
        "failure",
        "greeting",
        "peer",
        "waiting",
    )

    def __init__(
        self,
        peer: Peer,
        answer: LineService = echo,
        *,
        longest_line: int = LONGEST_LINE,
        greeting: bytes = b"",
        on_failure: Callable[[Exception], None] = lambda failure: None,
    ) -> None:
        """`answer`: the service. `longest_line`: in bytes. `greeting`: text said at once, line ends of any kind.

        on_failure: is told what the service raised, if it does.
        """
        self.peer = peer
        self.waiting = Deadline.IDLE
        self._counters = peer.counters
        self.closing = Closing.KEEP
        self.failure: Exception | None = None
        self._on_failure = on_failure
        self._longest_line = longest_line
        self._nvt = Nvt()
        self._options: Options | None = None
        self._editor = Editor()
        self._discarding = False  # the rest of a line that was too long
        self._echoing = False  # the peer has agreed that the echo is ours
        self._eof_received = False  # the peer will say no more
        self._prompt = b""
        self._hidden = False
        self._echo_for_password = False  # the echo is ours only while a line is hidden
        self._pushed: list[bytes] = []  # by other threads
        self._push_batch: list[bytes] | None = None  # of that, what is to be said now; the last comes first
        self._pending: list[tuple[bytes, bool]] = []
        self._input_steps: Iterator[None] | None = None
        self._output: list[bytes] = []
        self._data_mark = 0  # where in `_output` the last Data Mark is, counted from 1
        self._steps = 0  # steps
        self._step_limit = STEPS
        self._handler: LineHandler | None = None
        self._dialogue: Dialogue | None = None
        self._at_boundary = answer is echo
        self.greeting = encode(greeting)
        if answer is not echo and isgeneratorfunction(answer):
            self._start_service(cast("Callable[[Session], Dialogue]", answer))
        else:
            self._handler = cast("LineHandler", answer)

    # What the core calls.

    def receive(self, data: bytes, urgent: bool = False) -> tuple[Chunk, ...]:
        """What to say to `data`, in the order of the stream. `urgent`: it lies before a Synch's mark."""
        if self._at_boundary and not urgent and len(data) <= self._longest_line:
            if len(data) <= SHORT_PACKET:
                line = data.removesuffix(b"\r\n")
                if line is not data and line.translate(_CHANGE_SPECIAL) is line:  # what nothing is altered in is not copied
                    self._counters.answers += 1
                    return (data,)
            if data.endswith(b"\n") and is_plain(data):
                bare = data.replace(b"\r", b"")
                full = bare.replace(b"\n", b"\r\n")
                if full == data or len(bare) == len(data):  # all lines end in CR LF, or in LF
                    self._counters.answers += len(full) - len(bare)
                    return (full,)
        if self.closing is not Closing.KEEP:
            return ()
        self._pending.append((data, urgent))
        return self._run_steps()

    def resume(self) -> tuple[Chunk, ...]:
        """What was pushed, and the rest of what was cut short."""
        if self.closing is not Closing.KEEP:
            return ()
        self._step_limit = STEPS
        self._write_pushed()
        return self._run_steps()

    def end(self) -> tuple[Chunk, ...]:
        """The peer will say no more: answer its unfinished last line and close."""
        if self.closing is not Closing.KEEP:
            self.closing = Closing.CLOSE
            return ()
        self._eof_received = True
        return self._run_steps()

    def expire(self) -> tuple[Chunk, ...]:
        """The peer was silent for too long: say so and close."""
        if self.closing is not Closing.KEEP:
            return ()
        self._write(self._newline_if_needed())
        self.send_line(IDLE_MESSAGE)
        self._hang_up()
        return self._flush()

    def connection_lost(self) -> None:
        """Nothing is left to do. A service that leads the conversation learns of it: its generator is closed."""
        if self.closing is Closing.KEEP:
            self.closing = Closing.CLOSE
        self._input_steps = None
        self._close_dialogue()
        self.failure = None  # whose traceback refers to this conversation

    # What a service may call.

    def send_line(self, text: bytes) -> None:
        """Say `text` and end the line. For a service, while it is being asked."""
        self._write(encode(text, self._binary) + b"\r\n")

    def push_line(self, text: bytes) -> None:
        """Say the line `text` soon, whoever's turn it is. From any thread; once the conversation is over, nothing."""
        if self.closing is Closing.KEEP:
            self._pushed.append(encode(text, self._binary) + b"\r\n")
            self.peer.wake()

    # Output.

    def _write(self, data: bytes) -> None:
        if data:
            self._output.append(data)
            self._steps += 1 + len(data) // BYTES_PER_STEP

    def _newline_if_needed(self) -> bytes:
        """What brings the cursor to a row of its own, as far as we know where it is."""
        return b"\r\n" if self._prompt or (self._editor.visible and self._editor.line) else b""

    def _print_above(self, text: bytes) -> None:
        """Say `text`, whole rows, in the middle of a line, then show the line again."""
        self._write(text + self._prompt + (render(bytes(self._editor.line)) if self._editor.visible else b""))

    def _write_pushed(self) -> None:
        """Say what was pushed, as far as the steps go."""
        if not self._push_batch and self._pushed:
            count = len(self._pushed)  # other threads append to it meanwhile: what they add stays behind
            self._push_batch = self._pushed[:count]
            del self._pushed[:count]
            self._push_batch.reverse()
        while self._push_batch and self._steps < self._step_limit:
            self._print_above(self._newline_if_needed() + self._push_batch.pop())

    def _flush(self) -> tuple[Chunk, ...]:
        """What was put, as few pieces as can be. Of a Synch, IAC DM, the DM is urgent; of several, the last.

        (There is one urgent pointer, and it names one byte.)
        """
        self.peer.clock.work += self._steps
        self._steps = 0
        if not self._output:
            return ()
        out, self._output = self._output, []
        mark, self._data_mark = self._data_mark, 0
        if not mark:
            return (b"".join(out),)
        after = b"".join(out[mark:])
        synch = b"".join(out[: mark - 1]), Urgent(out[mark - 1])
        return (*synch, after) if after else synch

    # Input.

    def _run_steps(self) -> tuple[Chunk, ...]:
        """Work until the input is used up, or the steps are."""
        self._step_limit = STEPS
        work = self._input_steps or self._handle_input()
        self._input_steps = None
        if self._steps >= self._step_limit or next(work, work) is None:
            self._input_steps = work
        if self.closing is not Closing.KEEP:
            self._input_steps = None
            self._pending, self._push_batch = [], None
            if self._eof_received:
                self.closing = Closing.CLOSE
        rests = self.closing is Closing.KEEP and (self._input_steps or self._push_batch or self._pushed)
        self.waiting = Deadline.TURN if rests else Deadline.IDLE
        self._at_boundary = self._is_at_boundary()
        return self._flush()

    def _handle_input(self) -> Iterator[None]:
        """Act on what was received, event by event; a yield where it is to rest."""
        while self._pending:
            packets, self._pending = self._pending, []
            for packet in packets:
                self._steps += 1
                for code, what in self._nvt.parse(*packet):
                    self._steps += 1
                    if code == nvt.TEXT:
                        yield from self._handle_text(what)
                    else:
                        self._handle_command(code, what)
                    if self._steps >= self._step_limit:
                        yield
        if self._eof_received:
            self._end_input()

    def _is_at_boundary(self) -> bool:
        """Whether a packet of plain lines would come back as it is."""
        return (
            self._handler is echo
            and self.waiting is Deadline.IDLE
            and self.closing is Closing.KEEP
            and self._nvt.at_boundary
            and self._editor.at_new_line
            and not (self._echoing or self._discarding)
        )

    def _handle_text(self, text: bytes) -> Iterator[None]:
        """`text` was typed, with LF for each line end."""
        self._steps += 1 + len(text) // BYTES_PER_STEP
        if self._handle_plain_text(text):
            return
        at = 0
        while (end := text.find(b"\n", at)) >= 0:
            yield from self._handle_keys(text[at:end])
            self._end_line()
            if self._steps >= self._step_limit:
                yield
            at = end + 1
        yield from self._handle_keys(text[at:])

    def _handle_plain_text(self, text: bytes) -> bool:
        """Echo `text` all at once, if nothing in it or before it asks for a closer look."""
        if self._handler is not echo or self._echoing or self._discarding or text.translate(None, PLAIN_BYTES):
            return False
        if not self._fits(text):
            return False
        done = text.rfind(b"\n") + 1
        if done:
            self._counters.answers += text.count(b"\n")
            self._write(escape_iac(self._editor.take_line()) + encode(text[:done]))
        self._editor.line += text[done:]
        return True

    def _fits(self, text: bytes) -> bool:
        """Whether no line is too long once `text` is typed."""
        room = self._longest_line - len(self._editor.line)
        at = 0
        while len(text) - at > room:
            self._steps += 1
            at = text.rfind(b"\n", at, at + room + 1) + 1
            if not at:
                return False
            room = self._longest_line
        return True

    def _handle_keys(self, keys: bytes) -> Iterator[None]:
        if self._discarding or not keys:
            return
        plain = _PLAIN_ECHOED if self._echoing else PLAIN_BYTES
        if not (self._echoing and self._editor.in_escape_sequence) and not keys.translate(None, plain):
            for at in range(0, len(keys), INSERT_SIZE):
                self._insert(keys[at : at + INSERT_SIZE])
                if self._steps >= self._step_limit:
                    yield
            return
        for at in range(len(keys)):
            self._steps += 1
            self._handle_key(keys[at : at + 1])
            if self._steps >= self._step_limit:
                yield

    def _handle_key(self, key: bytes) -> None:
        if self._discarding:
            return
        if self._echoing and (change := self._editor.handle_escape(key)) is not None:
            self._write(change)
        elif self._echoing and key == b"\x03":
            self._interrupt()
        elif self._echoing and key == b"\x12":
            self._print_above(b"^R\r\n")
        elif key == b"\x04" and not self._editor.line:
            self._hang_up()
        elif key in _ERASE_KEYS:
            self._erase(_ERASE_KEYS[key])
        else:
            self._insert(key)

    def _erase(self, erase: Callable[[Editor], bytes]) -> None:
        size = len(self._editor.line)
        self._write(erase(self._editor))
        self._steps += (size - len(self._editor.line)) // WIDE_BYTES_PER_STEP

    def _insert(self, text: bytes) -> None:
        if self._discarding:
            return
        room = self._longest_line - len(self._editor.line)
        self._write(self._editor.insert(text[:room]))
        if self._editor.visible and not text.isascii():
            self._steps += len(text) // WIDE_BYTES_PER_STEP
        if len(text) > room:
            self._discard_line()

    def _discard_line(self) -> None:
        """The line is too long: say so now, and forget it up to its end."""
        if self._echoing:
            self._write(b"\r\n")
        self._editor.clear()
        self._discarding = True
        self.send_line(TOO_LONG_MESSAGE % self._longest_line)

    def _end_line(self) -> None:
        """A line end was typed."""
        if self._discarding:
            self._discarding = False
            self._write(self._prompt)
            return
        if self._echoing:
            self._write(b"\r\n")
        self._steps += len(self._editor.line) // BYTES_PER_STEP
        self._handle_line(self._editor.take_line())

    def _end_input(self) -> None:
        """The input is over: what stands in the line was its last."""
        if self._editor.line:
            self._end_line()
        self._hang_up()

    # The service.

    def _start_service(self, service: Callable[[Session], Dialogue]) -> None:
        """Start `service`; what it says before the first line is heard belongs to the greeting."""
        try:
            self._dialogue = service(self)
            self._show_prompt(next(self._dialogue))
        except StopIteration as stop:
            self._end_service(stop.value)
        except Exception as failure:
            self._fail(failure)
        self.greeting += b"".join(self._output)
        self._flush()

    def _handle_line(self, line: bytes) -> None:
        """Hand `line` to the service."""
        self._counters.answers += 1
        if self._handler is not echo:
            self._steps += STEPS // SERVICE_CALLS
        try:
            if self._dialogue is not None:
                self._show_prompt(self._dialogue.send(line))
            elif self._handler is not None:
                text = self._handler(line)
                if text is not None:
                    self.send_line(text)
        except StopIteration as stop:
            self._end_service(stop.value)
        except Exception as failure:
            self._fail(failure)

    def _show_prompt(self, prompt: bytes) -> None:
        self._hide_input(isinstance(prompt, Hidden))
        self._prompt = encode(prompt, self._binary)
        self._write(self._prompt)

    def _end_service(self, text: bytes | None) -> None:
        """The service has come to its end."""
        self._hide_input(False)
        self._prompt = b""
        try:
            if text is not None:
                self.send_line(text)
        except Exception as failure:
            self._fail(failure)
        self._hang_up()

    def _fail(self, failure: Exception) -> None:
        self._report_failure(failure)
        self.send_line(FAILURE_MESSAGE)
        self._hang_up()

    def _report_failure(self, failure: Exception) -> None:
        self.failure = failure
        self._on_failure(failure)

    def _hang_up(self) -> None:
        self.closing = Closing.LINGER
        self.waiting = Deadline.IDLE
        self._step_limit = 0  # no more is done
        self._at_boundary = False
        self._close_dialogue()

    def _close_dialogue(self) -> None:
        """Have a service that leads the conversation come to its end."""
        talk, self._dialogue = self._dialogue, None
        try:
            if talk is not None:
                talk.close()
        except Exception as failure:
            self._report_failure(failure)

    # Commands.

    def _handle_command(self, code: int, option: bytes) -> None:
        match code:
            case nvt.WILL | nvt.WONT | nvt.DO | nvt.DONT:
                self._negotiate(code, option[0])
            case nvt.AYT:
                self._print_above(AYT_REPLY)
            case nvt.AO:
                self._write(b"\xff")
                self._write(b"\xf2")
                self._data_mark = len(self._output)
            case nvt.IP | nvt.BRK | nvt.ABORT:
                self._interrupt()
            case nvt.EC:
                self._erase(Editor.erase_character)
            case nvt.EL:
                self._erase(Editor.erase_line)
            case nvt.EOF:
                self._end_input()

    def _interrupt(self) -> None:
        """Abandon the line, be it too long or not."""
        self._editor.clear()
        self._discarding = False
        if self._echoing:
            self._write(b"^C\r\n" + self._prompt)

    # Options.

    def _negotiate(self, verb: int, option: int) -> None:
        if verb == nvt.DO and option in (TIMING_MARK, LOGOUT):  # not states but requests, each of which is granted
            self._write(bytes((nvt.IAC, nvt.WILL, option)))
            if option == LOGOUT:
                self._hang_up()
            return
        self._steps += 1
        options = self._options = self._options or Options()
        answer = options.receive(verb, option)
        self._write(answer)
        if answer and verb == nvt.DO and option in _PARTNER and options.us[option] is YES:
            self._echo_for_password = False
            self._write(options.us.enable(_PARTNER[option]))
        self._apply_options(options)

    def _apply_options(self, options: Options) -> None:
        """Go by what is agreed now."""
        measured = self._editor.measured
        self._nvt.binary = options.him[BINARY] is YES
        self._echoing = options.us[ECHO] is YES
        self._editor.set_visible(self._echoing and not self._hidden)
        self._steps += (self._editor.measured - measured) // WIDE_BYTES_PER_STEP

    def _hide_input(self, hidden: bool) -> None:
        """Have the screen show the line or not: the peer shows nothing while the echo is ours."""
        if hidden == self._hidden:
            return
        self._hidden = hidden
        options = self._options = self._options or Options()
        if hidden:
            self._echo_for_password = options.us[ECHO] not in (YES, WANTYES)
            self._write(options.us.enable(ECHO))
        elif self._echo_for_password:
            self._echo_for_password = False
            self._write(options.us.disable(ECHO))
        self._apply_options(options)

    @property
    def _binary(self) -> bool:
        """Whether we transmit binary."""
        return self._options is not None and self._options.us[BINARY] is YES
