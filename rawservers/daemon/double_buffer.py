"""Text in shared memory, without a lock: one process writes it, others read it.

There are two buffers: the writer fills the older one, then increments the sequence number, which selects the current one. A
reader that finds the sequence number changed reads again.
"""

from __future__ import annotations

import mmap
import struct

INTEGER = struct.Struct("q")
MAX_SEQUENCE = 1 << 63
MAX_READS = 100  # of a buffer that is written again and again


class DoubleBuffer:
    """The sequence number, and two buffers, each a length and that much text: `size` bytes of `memory` from `start` on."""

    def __init__(self, memory: mmap.mmap, start: int, size: int) -> None:
        self._memory, self._start = memory, start
        self._size = (size - INTEGER.size) // 2 // 8 * 8  # of a buffer
        self.max_text = self._size - INTEGER.size  # bytes

    @property
    def sequence(self) -> int:
        """The number of writes so far."""
        return int(INTEGER.unpack_from(self._memory, self._start)[0])

    def write(self, text: bytes) -> None:
        """Write this text, unless it does not fit."""
        if len(text) <= self.max_text:
            sequence = (self.sequence + 1) % MAX_SEQUENCE
            store(self._memory, self._buffer(sequence), INTEGER.pack(len(text)) + text)
            store(self._memory, self._start, INTEGER.pack(sequence))

    def read(self) -> bytes:
        """The text written last, which may be anything; b"" if each of MAX_READS was interrupted by a write."""
        for _ in range(MAX_READS):
            sequence = self.sequence
            begin = self._buffer(sequence) + INTEGER.size
            (length,) = INTEGER.unpack_from(self._memory, begin - INTEGER.size)
            text = self._memory[begin : begin + min(max(0, length), self.max_text)]
            if sequence == self.sequence:
                return text
        return b""

    def _buffer(self, sequence: int) -> int:
        """The offset of the buffer that this write uses."""
        return self._start + INTEGER.size + sequence % 2 * self._size


def store(memory: mmap.mmap, begin: int, data: bytes) -> None:
    """Copy `data`; a concurrent reader sees each number old or new, never torn. (pack_into() writes zeros first.)"""
    memory[begin : begin + len(data)] = data
