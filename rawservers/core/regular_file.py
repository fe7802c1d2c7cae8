"""Reading a regular file as a whole: what an administrator has named may be anything, and must not keep the server waiting."""

from __future__ import annotations

import os
import stat

MAX_SIZE = 1 << 20  # bytes: thousands of times what all settings take, or a certificate
FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # O_NONBLOCK: do not wait for a FIFO's writer


def read_regular(path: str) -> tuple[os.stat_result, bytes]:
    """The state and the content of a regular file of up to MAX_SIZE bytes. Raises OSError or ValueError."""
    fd = os.open(path, FLAGS)
    try:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("is a directory" if stat.S_ISDIR(state.st_mode) else "not a regular file")
        content = b""
        while len(content) <= MAX_SIZE and (part := os.read(fd, MAX_SIZE + 1 - len(content))):
            content += part
    finally:
        os.close(fd)
    if len(content) > MAX_SIZE:
        raise ValueError(f"too large (the limit is {MAX_SIZE >> 20} MiB)")
    return state, content
