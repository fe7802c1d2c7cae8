"""The decoder of the chunked transfer coding: RFC 9112 §7.1.

    chunk   = size [extensions] CRLF data CRLF      the last one has the size 0, and no data
    body    = chunks, last chunk, trailer lines, CRLF

The grammar is that of the RFC and nothing beside it, since two servers that read a sloppy line differently can be made to
disagree where a request ends (request smuggling): line ends are CRLF, sizes are hexadecimal digits. Extensions and trailers are
checked, then dropped, whatever fields they name (RFC 9112 §7.1.1, RFC 9110 §6.5.1).
"""

from __future__ import annotations

import re
from enum import Enum

from rawservers.http.request import QUOTED, TOKEN, VALUE, require

LINE_LIMIT = 256  # bytes of a chunk's first line
FRAMING_LIMIT = 16384  # bytes of lines and line ends in a body, and in a trailer line, beyond one for each byte of data

TOO_MUCH_FRAMING = "The chunked body has too much besides its data."

EXTENSION = rf"[ \t]*;[ \t]*{TOKEN}(?:[ \t]*=[ \t]*(?:{TOKEN}|{QUOTED}))?"
CHUNK_LINE = rf"([0-9A-Fa-f]{{1,16}})(?:{EXTENSION})*\r\n".encode("latin-1")
TRAILER_LINE = rf"{TOKEN}:{VALUE}\r\n".encode("latin-1")


class Part(Enum):
    """The part of a chunked body that comes next."""

    CHUNK_LINE = 1
    DATA = 2
    DATA_END = 3
    TRAILER = 4
    NONE = 5  # the body is complete


# Attributes of an Enum class take a dictionary lookup in Python code (3.11).
LINE, DATA, DATA_END, TRAILER, NONE = Part


class ChunkedBody:
    """A request body as it is decoded. limit: of its data, in bytes.

    data: what is decoded so far; complete: whether that is all.
    """

    __slots__ = ("_framing", "_left", "_limit", "_next", "data")

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        self._limit = limit
        self._next = LINE
        self._left = 0  # bytes of the present chunk's data still to come
        self._framing = 0  # bytes of lines and line ends so far

    @property
    def complete(self) -> bool:
        return self._next is NONE

    def decode(self, buffer: bytearray, max_steps: int) -> int:
        """Decode what is in the buffer, and remove it: at most `max_steps` lines. Returns their number.

        What follows the body stays in the buffer. Raises HTTPError, by what has arrived in all, however it was cut.
        """
        position = steps = 0
        while self._next is not NONE and steps < max_steps:
            if self._next is DATA:
                piece = buffer[position : position + self._left]
                self.data += piece
                position += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self._next = DATA_END
            elif self._next is DATA_END:
                end = buffer[position : position + 2]
                if len(end) < 2:
                    break
                require(end == b"\r\n", 400, "The data of a chunk is not followed by CRLF.")
                position += 2
                self._next = LINE
            else:
                line = self._take_line(buffer, position)
                if not line:
                    break
                position += len(line)
                steps += 1
                self._handle_line(line)
        del buffer[:position]
        return steps

    def _take_line(self, buffer: bytearray, start: int) -> bytearray:
        """The line that begins at `start`, with its end; empty while it is incomplete. Raises HTTPError if it is too long."""
        limit = min(FRAMING_LIMIT, self._allowed() - self._framing) if self._next is TRAILER else LINE_LIMIT
        end = buffer.find(b"\n", start, start + limit) + 1
        require(end or len(buffer) - start < limit, 400, TOO_MUCH_FRAMING)
        return buffer[start:end]

    def _allowed(self) -> int:
        """Bytes that all lines and line ends may have."""
        return FRAMING_LIMIT + len(self.data) + self._left

    def _handle_line(self, line: bytearray) -> None:
        """Check a line, and set what comes next. Raises HTTPError."""
        self._framing += len(line)
        if self._next is TRAILER:
            require(line == b"\r\n" or re.fullmatch(TRAILER_LINE, line), 400, "The chunked body has a malformed trailer line.")
            if line == b"\r\n":
                self._next = NONE
            return
        match = re.fullmatch(CHUNK_LINE, line)
        require(match, 400, "The chunked body has a malformed chunk line.")
        assert match
        self._left = int(match[1], 16)
        self._framing += 2 if self._left else 0  # the line end behind the data
        require(self._framing <= self._allowed(), 400, TOO_MUCH_FRAMING)
        require(len(self.data) + self._left <= self._limit, 413, f"The request body is longer than {self._limit} bytes.")
        self._next = DATA if self._left else TRAILER
