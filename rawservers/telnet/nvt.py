"""Bytes to text and commands: the Network Virtual Terminal of RFC 854, with the subnegotiations of RFC 855.

A Telnet stream is text with commands mixed in. A command may stand between any two bytes of the text, even between
the CR and the LF of one line end, and a packet may be cut anywhere, so two things are remembered from byte to byte:
where in a command we are (`_state`), and whether the last byte of the text was a CR (`_after_cr`).

            +-- any other command -------------------------------+
            v                                                    |
          TEXT ---- IAC ----> COMMAND ---- DO DONT WILL WONT --> OPTION
            ^                  |  ^
            |                 SB  | IAC and neither SE nor IAC: the subnegotiation is broken off, the command obeyed
            |                  v  |
            +---- IAC SE ---- SUBNEGOTIATION

A subnegotiation's bytes are counted and dropped. We agree to no option that has any, so nobody reads them; what is
not stored can neither grow nor leak into the line.

**Line ends.** Text comes out with one sign for the end of a line, LF, whichever the peer sent: CR LF, CR NUL (RFC
1123 §3.3.1 has both mean the same), a bare CR or a bare LF. A CR ends the line at once, without a wait for its
second half: some clients never send one. A NUL elsewhere is No Operation (RFC 854 p. 11), but data in binary
transmission (RFC 856).

**Synch.** A peer that wants to be heard over what it has already sent marks a place in the stream with TCP urgent
data (RFC 854 p. 8). Before the mark text is dropped and commands are obeyed. It ends at the Data Mark; a peer that
marks a byte that is no Data Mark is forgiven, and heard again from there on.
"""

from __future__ import annotations

from collections.abc import Iterator

EOF, SUSP, ABORT = 236, 237, 238  # RFC 1184 §2.5
SE, NOP, DM, BRK, IP, AO, AYT, EC, EL, GA, SB = range(240, 251)  # RFC 854 p. 14
WILL, WONT, DO, DONT, IAC = range(251, 256)
TEXT = -1  # no command
NO_EVENT = -2  # of a command that was no event for anybody

MAX_TEXT = 4096  # bytes, the most that one TEXT has: what is done with it is done at once

# States.
_TEXT, _COMMAND, _OPTION, _SUBNEGOTIATION, _SUBNEGOTIATION_IAC = range(5)

# How far a Synch has come.
_NO_SYNCH, _SYNCH, _MARKED = range(3)

_IAC = b"\xff"


def escape_iac(text: bytes) -> bytes:
    """`text` as data on the wire: 255 doubled (RFC 854 p. 14), nothing else changed."""
    return text.replace(_IAC, b"\xff\xff")


def encode(text: bytes, binary: bool = False) -> bytes:
    """`text` with line ends of any kind as it travels: CR LF for each, 255 doubled.

    A CR that ends no line is followed by NUL (RFC 854 p. 11), save in `binary` transmission (RFC 1123 §3.2.7).
    """
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
        if not binary:
            text = text.replace(b"\r", b"\r\0")
    return escape_iac(text).replace(b"\n", b"\r\n")


class Nvt:
    """One direction of a Telnet stream, taken apart.

    binary:        whether the peer transmits binary (RFC 856). Whoever negotiates sets it; the next event heeds it
    subnegotiation_bytes: how many bytes subnegotiations have carried so far, all of them dropped
    """

    __slots__ = ("_after_cr", "_state", "_synch", "_verb", "binary", "subnegotiation_bytes")

    def __init__(self) -> None:
        self._state = _TEXT
        self._verb = 0
        self._after_cr = False
        self._synch = _NO_SYNCH
        self.binary = False
        self.subnegotiation_bytes = 0

    @property
    def at_boundary(self) -> bool:
        """Nothing is pending: the next byte means what it would mean as the first of all."""
        return self._state == _TEXT and not self._after_cr and self._synch == _NO_SYNCH and not self.binary

    def parse(self, data: bytes, urgent: bool = False) -> Iterator[tuple[int, bytes]]:
        """The events in `data`, in order, each as (code, what belongs to it).

        (TEXT, text with LF for each line end), (DO, option), also DONT, WILL and WONT; any other command with b"".
        `urgent`: `data` lies before a Synch's mark. Events are found as they are asked for: come to the end of one call
        before the next. Between two events there is little to do: what many commands in a row come to nothing by, be it
        in a subnegotiation or in a Synch, is (NO_EVENT, b"") for each.
        """
        self._synch = max(self._synch, _SYNCH) if urgent else _NO_SYNCH
        at = 0
        while at < len(data):
            if self._state == _TEXT:
                end = data.find(_IAC, at, at + MAX_TEXT)
                run = data[at : at + MAX_TEXT if end < 0 else end]
                at += len(run)
                if run and (text := self._decode_text(run)):
                    yield TEXT, text
                if end >= 0:
                    at += 1
                    self._state = _COMMAND
            elif self._state == _SUBNEGOTIATION:
                end = data.find(_IAC, at)
                self.subnegotiation_bytes += (len(data) if end < 0 else end) - at
                if end < 0:
                    break
                at = end + 1
                self._state = _SUBNEGOTIATION_IAC
            else:
                event = self._handle_command_byte(data[at])
                at += 1
                if event is not None:
                    yield event

    def _handle_command_byte(self, byte: int) -> tuple[int, bytes] | None:
        """The event that `byte`, the next one of a command, completes. None: there is more of it to come."""
        if self._state == _OPTION:
            self._state = _TEXT
            return self._verb, bytes((byte,))
        within, self._state = self._state == _SUBNEGOTIATION_IAC, _TEXT
        if byte == IAC:
            return self._handle_escaped_iac(within)
        if byte >= WILL:
            self._verb = byte
            self._state = _OPTION
            return None
        if byte == SB:
            self._state = _SUBNEGOTIATION
        elif byte == DM and self._synch == _SYNCH:
            self._synch = _MARKED
        else:
            return byte, b""
        return NO_EVENT, b""

    def _handle_escaped_iac(self, within: bool) -> tuple[int, bytes]:
        """255 as data: of a subnegotiation or of the text."""
        if within:
            self.subnegotiation_bytes += 1
            self._state = _SUBNEGOTIATION
            return NO_EVENT, b""
        text = self._decode_text(_IAC)
        return (TEXT, text) if text else (NO_EVENT, b"")

    def _decode_text(self, run: bytes) -> bytes:
        """`run`, bytes of text, with LF for each line end; nothing of it during a Synch.

        A Synch drops text but not what we know of it: the LF of a CR that was dropped begins no line of its own.
        """
        if self._after_cr and run[0] in b"\n\0":
            run = run[1:]
        self._after_cr = run.endswith(b"\r")
        if self._synch == _SYNCH:
            return b""
        if b"\r" in run:
            run = run.replace(b"\r\n", b"\n").replace(b"\r\0", b"\n").replace(b"\r", b"\n")
        return run if self.binary or b"\0" not in run else run.translate(None, b"\0")  # quicker than replace, of many
