"""The echo service of RFC 862, a line at a time.

Nearly every packet of an echo session holds plain lines, and arrives while nothing is pending. `EchoSession.receive` recognises
such packets by a few methods of bytes, without a loop over the bytes, and returns them. All else is left to `Session`. In any
case the output is that of a `Session` with the service `echo`.
"""

from __future__ import annotations

from rawservers.core.peer import Peer
from rawservers.core.protocol import Chunk
from rawservers.telnet.nvt import encode, escape_iac
from rawservers.telnet.service import LineService
from rawservers.telnet.session import PLAIN_BYTES, SPECIAL_BYTES, Session

SHORT_PACKET = 128  # bytes. A single line of up to this size is recognised by a quicker test

# A translation table that changes each byte with a meaning of its own: translate returns an unchanged line as the same object.
_CHANGE_SPECIAL = bytes(code ^ 1 if code in SPECIAL_BYTES + b"\r\n\xff" else code for code in range(256))


def echo(line: bytes) -> bytes | None:
    """The echo as a line handler: returns `line`."""
    return line


def is_plain(data: bytes) -> bool:
    """Whether `data` holds neither IAC nor SPECIAL_BYTES. (Seven searches for a byte are quicker than one for seven bytes.)"""
    return not (255 in data or 0 in data or 4 in data or 8 in data or 21 in data or 23 in data or 127 in data)


class EchoSession(Session):
    """A session of `echo`, with fast paths for plain lines."""

    __slots__ = ()

    def __init__(self, peer: Peer, *, longest_line: int, greeting: bytes = b"") -> None:
        """longest_line, greeting: see `Session`."""
        super().__init__(peer, echo, longest_line=longest_line, greeting=greeting)

    def receive(self, data: bytes, urgent: bool = False) -> tuple[Chunk, ...]:
        """The output for `data`."""
        if self._fast_path_allowed and not urgent and len(data) <= self._longest_line:
            if len(data) <= SHORT_PACKET:
                line = data.removesuffix(b"\r\n")
                if line is not data and line.translate(_CHANGE_SPECIAL) is line:
                    self._counters.answers += 1
                    return (data,)
            if data.endswith(b"\n") and is_plain(data):
                bare = data.replace(b"\r", b"")
                full = bare.replace(b"\n", b"\r\n")
                if full == data or len(bare) == len(data):  # all lines end in CR LF, or all in LF
                    self._counters.answers += len(full) - len(bare)  # the number of lines: a CR each
                    return (full,)
        return Session.receive(self, data, urgent)  # super() would make every call slower, the fast path included

    def _start_service(self, service: LineService) -> None:
        """Nothing: `_handle_line` is the service, and an idle session need not hold a generator."""

    def _handle_line(self, line: bytes) -> None:
        self._counters.answers += 1
        self.client.send_line(line)

    def _handle_plain_text(self, text: bytes) -> bool:
        """Echo all lines of `text` at once, if the peer shows its own input and there is nothing to edit."""
        if self.client.echoing or self._discarding or text.translate(None, PLAIN_BYTES) or not self._fits(text):
            return False
        end = text.rfind(b"\n") + 1
        if end:
            self._counters.answers += text.count(b"\n")
            self.client.write(escape_iac(self.client.editor.take_line()) + encode(text[:end]))
        self.client.editor.line += text[end:]
        return True

    def _fits(self, text: bytes) -> bool:
        """Whether no line grows too long by `text`."""
        room = self._longest_line - len(self.client.editor.line)
        start = 0
        while len(text) - start > room:
            self.client.steps += 1
            start = text.rfind(b"\n", start, start + room + 1) + 1
            if not start:
                return False
            room = self._longest_line
        return True
