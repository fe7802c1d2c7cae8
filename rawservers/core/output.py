"""The output of a connection that has not left yet: a queue of chunks, sent in order."""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable, Sequence

from rawservers.core.errors import os_error_text
from rawservers.core.peer import Counters
from rawservers.core.protocol import Chunk, FileSlice, ResponseEnd, Urgent
from rawservers.core.transport import Transport

# Plain ints: an operation on the enum's own members takes ten times as long.
DONTWAIT = int(socket.MSG_DONTWAIT)
DONTWAIT_MORE = int(socket.MSG_DONTWAIT | socket.MSG_MORE)
DONTWAIT_OOB = int(socket.MSG_DONTWAIT | socket.MSG_OOB)

COALESCE_LIMIT = 65536  # bytes of small chunks joined for one send
PROGRESS = 65536  # bytes that must leave within the send deadline


# Errors of sendfile(2) that come from the file. All others are of the network.
FILE_ERRNOS = {errno.EINVAL, errno.EIO, errno.ENOMEM, errno.EOVERFLOW, errno.ESTALE}


class FileError(OSError):
    """A file could not be read while it was sent, or has become shorter."""


class Output:
    """The unsent output. A connection has one only while there is some.

    chunks: what has not left whole, with the responses that have not ended; unsent: its bytes; response_sent: bytes of the
    present response that have left, without those of the first chunk.
    """

    __slots__ = ("_counters", "_offset", "_on_end", "_since_progress", "_sock", "chunks", "response_sent", "unsent")

    def __init__(
        self, sock: Transport, counters: Counters, on_end: Callable[[ResponseEnd, int], None], response_sent: int, offset: int
    ) -> None:
        """on_end: called at the end of each response with the bytes of it that were sent; offset: bytes of the first chunk that
        have left already."""
        self._sock, self._counters, self._on_end = sock, counters, on_end
        self._offset, self.unsent = offset, -offset
        self.chunks: deque[Chunk] = deque()
        self.response_sent = response_sent
        self._since_progress = 0

    def add(self, chunks: Sequence[Chunk], now: float) -> None:
        """Append chunks. The responses that end in them began `now`, unless they say when."""
        for chunk in chunks:
            if type(chunk) is ResponseEnd and not chunk.started_at:
                chunk = ResponseEnd(chunk.record, now)
            self.unsent += length(chunk)
            self.chunks.append(chunk)

    def flush(self, quota: int) -> int:
        """Send until nothing is left, the socket's buffer is full, or `quota` bytes have left; returns their number.

        Raises OSError.
        """
        total = 0
        self._account(0)  # removes what needs no sending: empty chunks, and one that has left whole
        try:
            while self.chunks and total < quota:
                sent = self._send_some(quota)
                total += sent
                self._account(sent)
            if self._sock.unsent:
                self._sock.flush()
        except BlockingIOError:
            pass
        return total

    def has_left(self) -> bool:
        """Whether all of it has left."""
        return not (self.chunks or self._sock.unsent)

    def has_progressed(self) -> bool:
        """Whether PROGRESS bytes, or all the rest, have left since this was last true."""
        if self._since_progress < PROGRESS and not self.has_left():
            return False
        self._since_progress = 0
        return True

    def abandon(self) -> None:
        """Report the responses that were not sent, or not whole, with the bytes of them that were."""
        self.response_sent += self._offset
        for chunk in self.chunks:
            if type(chunk) is ResponseEnd:
                self._end(chunk)

    def _send_some(self, quota: int) -> int:
        first = self.chunks[0]
        if type(first) is FileSlice:
            return self._send_file(first, quota)
        parts: list[bytes | memoryview] = []
        size = 0
        urgent = -1  # the index of the last urgent part
        for chunk in self.chunks:
            if type(chunk) is FileSlice or size >= COALESCE_LIMIT:
                break
            if type(chunk) is Urgent:
                urgent = len(parts)
            if type(chunk) is not ResponseEnd:
                size += len(chunk)
                parts.append(chunk)
        if self._offset:
            parts[0] = memoryview(parts[0])[self._offset :]
        # The head of a response travels in one packet with the beginning of its file.
        flags = DONTWAIT_MORE if type(chunk) is FileSlice else DONTWAIT
        if urgent >= 0 and self._sock.family != socket.AF_UNIX:
            # TCP has one urgent pointer, to the last urgent byte: earlier ones lose their mark.
            flags = DONTWAIT if urgent else DONTWAIT_OOB
            del parts[urgent or 1 :]
        return self._sock.send(parts[0] if len(parts) == 1 else b"".join(parts), flags)

    def _send_file(self, piece: FileSlice, quota: int) -> int:
        left = piece.count - self._offset
        try:
            sent = self._sock.send_file(piece.file.fd, piece.offset + self._offset, min(left, quota))
        except OSError as error:
            if error.errno in FILE_ERRNOS:
                raise FileError(f"cannot read the file that is sent: {os_error_text(error)}") from error
            raise
        if sent == 0 and left:  # no padding: the short body shows the client that it is incomplete
            raise FileError("file truncated while it was sent")
        return sent

    def _account(self, sent: int) -> None:
        """`sent` more bytes have left: remove finished chunks, and report the responses that end there."""
        self._counters.sent += sent
        self.unsent -= sent
        self._since_progress += sent
        self._offset += sent
        while self.chunks and self._offset >= (size := length(self.chunks[0])):
            chunk = self.chunks.popleft()
            self._offset -= size
            self.response_sent += size
            if type(chunk) is ResponseEnd:
                self._end(chunk)

    def _end(self, end: ResponseEnd) -> None:
        sent, self.response_sent = self.response_sent, 0
        self._on_end(end, sent)


def length(chunk: Chunk) -> int:
    """The number of bytes that `chunk` is on the wire."""
    if type(chunk) is ResponseEnd:
        return 0
    return chunk.count if type(chunk) is FileSlice else len(chunk)
