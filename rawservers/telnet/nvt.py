"""Bytes to text and commands: the Network Virtual Terminal of RFC 854, with the subnegotiations of RFC 855.

A Telnet stream is text with commands mixed in. A command may stand between any two bytes of the text, even between the CR and
the LF of one line end, and a packet may end anywhere. So the parser keeps two pieces of state between bytes: its position in a
command (`_state`), and whether the last byte of text was a CR (`_after_cr`).

            +-- the option --------------------------------------+
            |                                                    |
            | +-- IAC, or any other command --+                  |
            v v                               |                  |
          TEXT ------- IAC -----------------> COMMAND -- DO DONT WILL WONT --> OPTION
            ^                                 |  ^
            |                                SB  | IAC and neither SE nor IAC: ends the subnegotiation; the command is handled
            |                                 v  |
            +------- IAC SE ----------------- SUBNEGOTIATION

**Subnegotiations** are dropped: no option that this server agrees to has any. What is not stored uses no memory and
cannot get into the line.

**Line ends.** Each line end in the text becomes LF. Accepted are CR LF, CR NUL (the same as CR LF by RFC 1123 §3.3.1), a bare
CR and a bare LF. A CR ends the line at once, without waiting for its second half, which some clients never send. Any other NUL
is ignored (RFC 854 p. 11), but is data in binary transmission (RFC 856).

**Synch.** A peer that wants a command handled before the text it has sent marks a place in the stream with TCP urgent data (RFC
854 p. 8). Up to the mark text is dropped and commands are handled; the Data Mark ends that. If the marked byte is no Data Mark,
text counts again from it on.
"""

from __future__ import annotations

from collections.abc import Iterator

EOF, SUSP, ABORT = 236, 237, 238  # RFC 1184 §2.5
SE, NOP, DM, BRK, IP, AO, AYT, EC, EL, GA, SB = range(240, 251)  # RFC 854 p. 14
WILL, WONT, DO, DONT, IAC = range(251, 256)
TEXT = -1  # an event that is no command
NO_EVENT = -2  # handled by the parser itself: a verb, SB, a doubled IAC that is dropped, the Data Mark of a Synch

MAX_TEXT = 4096  # bytes of one TEXT event, at most, since an event is handled without a stop

# States.
_TEXT, _COMMAND, _OPTION, _SUBNEGOTIATION, _SUBNEGOTIATION_COMMAND = range(5)
_AFTER_IAC = {_TEXT: _COMMAND, _SUBNEGOTIATION: _SUBNEGOTIATION_COMMAND}

# Progress of a Synch: the mark of urgent data is ahead; the Data Mark has come before it, so text counts again.
_NO_SYNCH, _SYNCH, _DM_SEEN = range(3)

_IAC = b"\xff"


def escape_iac(text: bytes) -> bytes:
    """`text` as data on the wire: 255 doubled (RFC 854 p. 14), nothing else changed."""
    return text.replace(_IAC, b"\xff\xff")


def encode(text: bytes, binary: bool = False) -> bytes:
    """`text` as sent: each line end (CR LF or LF) as CR LF, 255 doubled.

    Any other CR is followed by NUL (RFC 854 p. 11), except in `binary` transmission (RFC 1123 §3.2.7).
    """
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
        if not binary:
            text = text.replace(b"\r", b"\r\0")
    return escape_iac(text).replace(b"\n", b"\r\n")


class Nvt:
    """Parser of one direction of a Telnet stream.

    binary: whether the peer transmits binary (RFC 856). Set by the caller; applies from the next event on
    """

    __slots__ = ("_after_cr", "_state", "_synch", "_verb", "binary")

    def __init__(self) -> None:
        self._state = _TEXT
        self._verb = 0
        self._after_cr = False
        self._synch = _NO_SYNCH
        self.binary = False

    @property
    def at_boundary(self) -> bool:
        """Whether nothing is pending: the next byte means what it would mean as the first of the stream."""
        return self._state == _TEXT and not self._after_cr and self._synch == _NO_SYNCH and not self.binary

    def parse(self, data: bytes, urgent: bool = False) -> Iterator[tuple[int, bytes]]:
        """The events in `data`, in order, as pairs of a code and an argument.

        (TEXT, text) with LF for each line end; (DO, option), (DONT, option), (WILL, option) and (WONT, option); any other
        command with b"". What is no event for the caller (see NO_EVENT) is (NO_EVENT, b""), so that the work between two
        events is bounded. urgent: `data` precedes the mark of TCP urgent data.

        Events are parsed one by one, as the iterator is advanced. It must be exhausted before the next call.
        """
        self._synch = max(self._synch, _SYNCH) if urgent else _NO_SYNCH
        at = 0
        while at < len(data):
            if self._state not in _AFTER_IAC:
                yield self._handle_command_byte(data[at])
                at += 1
                continue
            end = data.find(_IAC, at, at + MAX_TEXT)
            run = data[at : at + MAX_TEXT if end < 0 else end]
            at += len(run)
            if run and self._state == _TEXT and (text := self._decode_text(run)):
                yield TEXT, text
            if end >= 0:
                at += 1
                self._state = _AFTER_IAC[self._state]

    def _handle_command_byte(self, byte: int) -> tuple[int, bytes]:
        """The event of `byte`, which follows an IAC or a verb."""
        state, self._state = self._state, _TEXT
        if state == _OPTION:
            return self._verb, bytes((byte,))
        if byte == IAC:  # a 255 of data
            if state == _SUBNEGOTIATION_COMMAND:
                self._state = _SUBNEGOTIATION
            elif text := self._decode_text(_IAC):
                return TEXT, text
        elif byte >= WILL:
            self._verb = byte
            self._state = _OPTION
        elif byte == SB:
            self._state = _SUBNEGOTIATION
        elif byte == DM and self._synch == _SYNCH:
            self._synch = _DM_SEEN
        else:
            return byte, b""
        return NO_EVENT, b""

    def _decode_text(self, run: bytes) -> bytes:
        """`run`, bytes of text, with LF for each line end; b"" in a Synch.

        A Synch drops text but not the state: the LF after a dropped CR is no line end of its own.
        """
        if self._after_cr and run[0] in b"\n\0":
            run = run[1:]
        self._after_cr = run.endswith(b"\r")
        if self._synch == _SYNCH:
            return b""
        if b"\r" in run:
            run = run.replace(b"\r\n", b"\n").replace(b"\r\0", b"\n").replace(b"\r", b"\n")
        return run if self.binary else run.replace(b"\0", b"")
