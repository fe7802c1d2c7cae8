"""The conversation: a line comes in, and what a service makes of it goes out.

**Writing a service.** The simplest is a function of the line, without its end; what it returns is said, with its
line ends as Telnet wants them, and None says nothing:

    def shout(line: bytes) -> bytes | None:
        return line.upper()

A service that leads the conversation is a generator function. It is given the conversation, and yields prompts;
each yield gives the line that was typed in answer. `say` says a line, `Hidden` is a prompt whose answer the screen
must not show, and to return is to hang up, with a last line to say if there is one:

    def greet(talk: Echo) -> Talk:
        name = yield b"Your name? "
        word = yield Hidden(b"The word? ")
        talk.say(b"Hello " + name if word == b"swordfish" else b"Hello stranger")
        return b"Goodbye"

From outside, from any thread, `push` says a line unasked. A service that raises ends its own conversation, no
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
must be, in `_work`, a generator, so that it can stop. What is done there is counted, in steps: one for each command
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
from rawservers.telnet.editor import Editor, shown
from rawservers.telnet.nvt import Nvt, encode, quote
from rawservers.telnet.options import BINARY, ECHO, LOGOUT, SGA, TIMING_MARK, WANTYES, YES, Options

# The longest line, in bytes without its end. One that grows beyond it is answered with an error line at once, and not
# kept, so an endless line costs nothing. Precedents: 4096 for a line typed at a terminal in Linux (N_TTY_BUF_SIZE); 255
# is the least that POSIX asks for (MAX_CANON).
LONGEST_LINE = 4096

# The most that a call does before it rests, in steps; what it has begun it brings to an end. A step takes one or two
# microseconds, so a call takes half a millisecond: less than anybody notices, and long enough that a turn costs little more.
STEPS = 256

STEP = HIGH_WATER // STEPS  # bytes that are handled or said at a step: so a call says HIGH_WATER of them at most, as well
COUNTED = 8  # bytes, not ASCII, whose columns are counted at a step
ASKED = 8  # times that a call asks a service's function, of which nobody knows what it does: it takes its share of STEPS
RUN = 1024  # bytes of a line, at most, that are shown without a rest
SHORT = 128  # bytes, up to which a packet is looked through more quickly if it is taken for a single line

YES_HERE = b"\r\n[Yes]\r\n"  # AYT
IDLE = b"?Nothing was typed for too long: goodbye"
FAILED = b"?Something went wrong here: goodbye"
TOO_LONG = b"?Line too long: the limit is %d bytes"

_EDITING = b"\x00\x04\b\x15\x17\x7f"  # what is never plain text: NUL ^D BS ^U ^W DEL
_PLAIN = bytes(code for code in range(0xFF) if code not in _EDITING)
_PLAIN_SHOWN = _PLAIN.translate(None, b"\x03\x12\x1b")  # in character mode also not: ^C ^R ESC
_ALTERED = bytes(code ^ 1 if code in _EDITING + b"\r\n\xff" else code for code in range(256))  # for translate
_ERASE = {
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


Answer: TypeAlias = Callable[[bytes], "bytes | None"]
Talk: TypeAlias = Generator[bytes, bytes, "bytes | None"]
Service: TypeAlias = "Answer | Callable[[Echo], Talk]"


def echo(line: bytes) -> bytes | None:
    """RFC 862's service, a line at a time: `line` itself."""
    return line


def is_plain(data: bytes) -> bool:
    """Whether nothing in `data` is IAC or one of _EDITING. (Seven searches for a byte are quicker than one for seven.)"""
    return not (255 in data or 0 in data or 4 in data or 8 in data or 21 in data or 23 in data or 127 in data)


class Echo(Protocol):
    """One Telnet conversation.

    peer:    the other end
    failure: what the service raised, if it did
    """

    __slots__ = (
        "_answer",
        "_borrowed",
        "_counters",
        "_dropping",
        "_echoing",
        "_editor",
        "_ended",
        "_failed",
        "_hidden",
        "_later",
        "_limit",
        "_longest",
        "_mark",
        "_nvt",
        "_options",
        "_out",
        "_plain",
        "_prompt",
        "_pushed",
        "_pushed_batch",
        "_spent",
        "_talk",
        "_work",
        "closing",
        "failure",
        "greeting",
        "peer",
        "waiting",
    )

    def __init__(
        self,
        peer: Peer,
        answer: Service = echo,
        *,
        longest: int = LONGEST_LINE,
        greeting: bytes = b"",
        failed: Callable[[Exception], None] = lambda failure: None,
    ) -> None:
        """`answer`: the service. `longest`: line, in bytes. `greeting`: text said at once, line ends of any kind.

        failed: is told what the service raised, if it does.
        """
        self.peer = peer
        self.waiting = Deadline.IDLE
        self._counters = peer.counters
        self.closing = Closing.KEEP
        self.failure: Exception | None = None
        self._failed = failed
        self._longest = longest
        self._nvt = Nvt()
        self._options: Options | None = None
        self._editor = Editor()
        self._dropping = False  # the rest of a line that was too long
        self._echoing = False  # the peer has agreed that the echo is ours
        self._ended = False  # the peer will say no more
        self._prompt = b""
        self._hidden = False
        self._borrowed = False  # the echo is ours only while a line is hidden
        self._pushed: list[bytes] = []  # by other threads
        self._pushed_batch: list[bytes] | None = None  # of that, what is to be said now; the last comes first
        self._later: list[tuple[bytes, bool]] = []
        self._work: Iterator[None] | None = None
        self._out: list[bytes] = []
        self._mark = 0  # where in `_out` the last Data Mark is, counted from 1
        self._spent = 0  # steps
        self._limit = STEPS
        self._answer: Answer | None = None
        self._talk: Talk | None = None
        self._plain = answer is echo
        self.greeting = encode(greeting)
        if answer is not echo and isgeneratorfunction(answer):
            self._begin(cast("Callable[[Echo], Talk]", answer))
        else:
            self._answer = cast("Answer", answer)

    # What the core calls.

    def receive(self, data: bytes, urgent: bool = False) -> tuple[Chunk, ...]:
        """What to say to `data`, in the order of the stream. `urgent`: it lies before a Synch's mark."""
        if self._plain and not urgent and len(data) <= self._longest:
            if len(data) <= SHORT:
                line = data.removesuffix(b"\r\n")
                if line is not data and line.translate(_ALTERED) is line:  # what nothing is altered in is not copied
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
        self._later.append((data, urgent))
        return self._go_on()

    def resume(self) -> tuple[Chunk, ...]:
        """What was pushed, and the rest of what was cut short."""
        if self.closing is not Closing.KEEP:
            return ()
        self._limit = STEPS
        self._show_pushed()
        return self._go_on()

    def end(self) -> tuple[Chunk, ...]:
        """The peer will say no more: answer its unfinished last line and close."""
        if self.closing is not Closing.KEEP:
            self.closing = Closing.CLOSE
            return ()
        self._ended = True
        return self._go_on()

    def expire(self) -> tuple[Chunk, ...]:
        """The peer was silent for too long: say so and close."""
        if self.closing is not Closing.KEEP:
            return ()
        self._put(self._fresh())
        self.say(IDLE)
        self._hang_up()
        return self._flush()

    def connection_lost(self) -> None:
        """Nothing is left to do. A service that leads the conversation learns of it: its generator is closed."""
        if self.closing is Closing.KEEP:
            self.closing = Closing.CLOSE
        self._work = None
        self._end_talk()
        self.failure = None  # whose traceback refers to this conversation

    # What a service may call.

    def say(self, text: bytes) -> None:
        """Say `text` and end the line. For a service, while it is being asked."""
        self._put(encode(text, self._binary) + b"\r\n")

    def push(self, text: bytes) -> None:
        """Say the line `text` soon, whoever's turn it is. From any thread; once the conversation is over, nothing."""
        if self.closing is Closing.KEEP:
            self._pushed.append(encode(text, self._binary) + b"\r\n")
            self.peer.wake()

    # Output.

    def _put(self, data: bytes) -> None:
        if data:
            self._out.append(data)
            self._spent += 1 + len(data) // STEP

    def _fresh(self) -> bytes:
        """What brings the cursor to a row of its own, as far as we know where it is."""
        return b"\r\n" if self._prompt or (self._editor.shows and self._editor.line) else b""

    def _interject(self, text: bytes) -> None:
        """Say `text`, whole rows, in the middle of a line, then show the line again."""
        self._put(text + self._prompt + (shown(bytes(self._editor.line)) if self._editor.shows else b""))

    def _show_pushed(self) -> None:
        """Say what was pushed, as far as the steps go."""
        if not self._pushed_batch and self._pushed:
            count = len(self._pushed)  # other threads append to it meanwhile: what they add stays behind
            self._pushed_batch = self._pushed[:count]
            del self._pushed[:count]
            self._pushed_batch.reverse()
        while self._pushed_batch and self._spent < self._limit:
            self._interject(self._fresh() + self._pushed_batch.pop())

    def _flush(self) -> tuple[Chunk, ...]:
        """What was put, as few pieces as can be. Of a Synch, IAC DM, the DM is urgent; of several, the last.

        (There is one urgent pointer, and it names one byte.)
        """
        self.peer.clock.work += self._spent
        self._spent = 0
        if not self._out:
            return ()
        out, self._out = self._out, []
        mark, self._mark = self._mark, 0
        if not mark:
            return (b"".join(out),)
        after = b"".join(out[mark:])
        synch = b"".join(out[: mark - 1]), Urgent(out[mark - 1])
        return (*synch, after) if after else synch

    # Input.

    def _go_on(self) -> tuple[Chunk, ...]:
        """Work until the input is used up, or the steps are."""
        self._limit = STEPS
        work = self._work or self._read()
        self._work = None
        if self._spent >= self._limit or next(work, work) is None:
            self._work = work
        if self.closing is not Closing.KEEP:
            self._work = None
            self._later, self._pushed_batch = [], None
            if self._ended:
                self.closing = Closing.CLOSE
        rests = self.closing is Closing.KEEP and (self._work or self._pushed_batch or self._pushed)
        self.waiting = Deadline.TURN if rests else Deadline.IDLE
        self._plain = self._is_plain()
        return self._flush()

    def _read(self) -> Iterator[None]:
        """Act on what was received, event by event; a yield where it is to rest."""
        while self._later:
            packets, self._later = self._later, []
            for packet in packets:
                self._spent += 1
                for code, what in self._nvt.parse(*packet):
                    self._spent += 1
                    if code == nvt.TEXT:
                        yield from self._type(what)
                    else:
                        self._obey(code, what)
                    if self._spent >= self._limit:
                        yield
        if self._ended:
            self._finish()

    def _is_plain(self) -> bool:
        """Whether a packet of plain lines would come back as it is."""
        return (
            self._answer is echo
            and self.waiting is Deadline.IDLE
            and self.closing is Closing.KEEP
            and self._nvt.quiet
            and self._editor.fresh
            and not (self._echoing or self._dropping)
        )

    def _type(self, text: bytes) -> Iterator[None]:
        """`text` was typed, with LF for each line end."""
        self._spent += 1 + len(text) // STEP
        if self._type_plainly(text):
            return
        at = 0
        while (end := text.find(b"\n", at)) >= 0:
            yield from self._keys(text[at:end])
            self._enter()
            if self._spent >= self._limit:
                yield
            at = end + 1
        yield from self._keys(text[at:])

    def _type_plainly(self, text: bytes) -> bool:
        """Echo `text` all at once, if nothing in it or before it asks for a closer look."""
        if self._answer is not echo or self._echoing or self._dropping or text.translate(None, _PLAIN):
            return False
        if not self._has_room(text):
            return False
        done = text.rfind(b"\n") + 1
        if done:
            self._counters.answers += text.count(b"\n")
            self._put(quote(self._editor.take()) + encode(text[:done]))
        self._editor.line += text[done:]
        return True

    def _has_room(self, text: bytes) -> bool:
        """Whether no line is too long once `text` is typed."""
        room = self._longest - len(self._editor.line)
        at = 0
        while len(text) - at > room:
            self._spent += 1
            at = text.rfind(b"\n", at, at + room + 1) + 1
            if not at:
                return False
            room = self._longest
        return True

    def _keys(self, keys: bytes) -> Iterator[None]:
        if self._dropping or not keys:
            return
        plain = _PLAIN_SHOWN if self._echoing else _PLAIN
        if not (self._echoing and self._editor.escaped) and not keys.translate(None, plain):
            for at in range(0, len(keys), RUN):
                self._insert(keys[at : at + RUN])
                if self._spent >= self._limit:
                    yield
            return
        for at in range(len(keys)):
            self._spent += 1
            self._key(keys[at : at + 1])
            if self._spent >= self._limit:
                yield

    def _key(self, key: bytes) -> None:
        if self._dropping:
            return
        if self._echoing and (change := self._editor.key(key)) is not None:
            self._put(change)
        elif self._echoing and key == b"\x03":
            self._interrupt()
        elif self._echoing and key == b"\x12":
            self._interject(b"^R\r\n")
        elif key == b"\x04" and not self._editor.line:
            self._hang_up()
        elif key in _ERASE:
            self._erase(_ERASE[key])
        else:
            self._insert(key)

    def _erase(self, erase: Callable[[Editor], bytes]) -> None:
        size = len(self._editor.line)
        self._put(erase(self._editor))
        self._spent += (size - len(self._editor.line)) // COUNTED

    def _insert(self, text: bytes) -> None:
        if self._dropping:
            return
        room = self._longest - len(self._editor.line)
        self._put(self._editor.insert(text[:room]))
        if self._editor.shows and not text.isascii():
            self._spent += len(text) // COUNTED
        if len(text) > room:
            self._drop()

    def _drop(self) -> None:
        """The line is too long: say so now, and forget it up to its end."""
        if self._echoing:
            self._put(b"\r\n")
        self._editor.clear()
        self._dropping = True
        self.say(TOO_LONG % self._longest)

    def _enter(self) -> None:
        """A line end was typed."""
        if self._dropping:
            self._dropping = False
            self._put(self._prompt)
            return
        if self._echoing:
            self._put(b"\r\n")
        self._spent += len(self._editor.line) // STEP
        self._ask(self._editor.take())

    def _finish(self) -> None:
        """The input is over: what stands in the line was its last."""
        if self._editor.line:
            self._enter()
        self._hang_up()

    # The service.

    def _begin(self, service: Callable[[Echo], Talk]) -> None:
        """Start `service`; what it says before the first line is heard belongs to the greeting."""
        try:
            self._talk = service(self)
            self._show_prompt(next(self._talk))
        except StopIteration as stop:
            self._stop(stop.value)
        except Exception as failure:
            self._fail(failure)
        self.greeting += b"".join(self._out)
        self._flush()

    def _ask(self, line: bytes) -> None:
        """Hand `line` to the service."""
        self._counters.answers += 1
        if self._answer is not echo:
            self._spent += STEPS // ASKED
        try:
            if self._talk is not None:
                self._show_prompt(self._talk.send(line))
            elif self._answer is not None:
                text = self._answer(line)
                if text is not None:
                    self.say(text)
        except StopIteration as stop:
            self._stop(stop.value)
        except Exception as failure:
            self._fail(failure)

    def _show_prompt(self, prompt: bytes) -> None:
        self._hide(isinstance(prompt, Hidden))
        self._prompt = encode(prompt, self._binary)
        self._put(self._prompt)

    def _stop(self, text: bytes | None) -> None:
        """The service has come to its end."""
        self._hide(False)
        self._prompt = b""
        try:
            if text is not None:
                self.say(text)
        except Exception as failure:
            self._fail(failure)
        self._hang_up()

    def _fail(self, failure: Exception) -> None:
        self._note(failure)
        self.say(FAILED)
        self._hang_up()

    def _note(self, failure: Exception) -> None:
        self.failure = failure
        self._failed(failure)

    def _hang_up(self) -> None:
        self.closing = Closing.LINGER
        self.waiting = Deadline.IDLE
        self._limit = 0  # no more is done
        self._plain = False
        self._end_talk()

    def _end_talk(self) -> None:
        """Have a service that leads the conversation come to its end."""
        talk, self._talk = self._talk, None
        try:
            if talk is not None:
                talk.close()
        except Exception as failure:
            self._note(failure)

    # Commands.

    def _obey(self, code: int, option: bytes) -> None:
        match code:
            case nvt.WILL | nvt.WONT | nvt.DO | nvt.DONT:
                self._negotiate(code, option[0])
            case nvt.AYT:
                self._interject(YES_HERE)
            case nvt.AO:
                self._put(b"\xff")
                self._put(b"\xf2")
                self._mark = len(self._out)
            case nvt.IP | nvt.BRK | nvt.ABORT:
                self._interrupt()
            case nvt.EC:
                self._erase(Editor.erase_character)
            case nvt.EL:
                self._erase(Editor.erase_line)
            case nvt.EOF:
                self._finish()

    def _interrupt(self) -> None:
        """Abandon the line, be it too long or not."""
        self._editor.clear()
        self._dropping = False
        if self._echoing:
            self._put(b"^C\r\n" + self._prompt)

    # Options.

    def _negotiate(self, verb: int, option: int) -> None:
        if verb == nvt.DO and option in (TIMING_MARK, LOGOUT):  # not states but requests, each of which is granted
            self._put(bytes((nvt.IAC, nvt.WILL, option)))
            if option == LOGOUT:
                self._hang_up()
            return
        self._spent += 1
        options = self._options = self._options or Options()
        answer = options.hear(verb, option)
        self._put(answer)
        if answer and verb == nvt.DO and option in _PARTNER and options.us[option] is YES:
            self._borrowed = False
            self._put(options.us.enable(_PARTNER[option]))
        self._agree(options)

    def _agree(self, options: Options) -> None:
        """Go by what is agreed now."""
        counted = self._editor.counted
        self._nvt.binary = options.him[BINARY] is YES
        self._echoing = options.us[ECHO] is YES
        self._editor.show(self._echoing and not self._hidden)
        self._spent += (self._editor.counted - counted) // COUNTED

    def _hide(self, hidden: bool) -> None:
        """Have the screen show the line or not: the peer shows nothing while the echo is ours."""
        if hidden == self._hidden:
            return
        self._hidden = hidden
        options = self._options = self._options or Options()
        if hidden:
            self._borrowed = options.us[ECHO] not in (YES, WANTYES)
            self._put(options.us.enable(ECHO))
        elif self._borrowed:
            self._borrowed = False
            self._put(options.us.disable(ECHO))
        self._agree(options)

    @property
    def _binary(self) -> bool:
        """Whether we transmit binary."""
        return self._options is not None and self._options.us[BINARY] is YES
