"""What a connection needs of its socket.

The plain transport is the C socket itself, with the calls that it lacks. A listener chooses the class for its connections:
another one (TLS, a trace, faults for a test) is a subclass that overrides what differs, `recv` and `send` first of all. Both
are called with MSG_DONTWAIT among their flags, and raise BlockingIOError where they would wait.
"""

from __future__ import annotations

import os
import socket
import struct
from fcntl import ioctl

FIONREAD = 0x541B  # <asm-generic/ioctls.h>
SIOCATMARK = 0x8905  # <asm-generic/sockios.h>; Python has no sockatmark()
ZERO = b"\0\0\0\0"  # an int, for ioctl

# Bytes sent in one turn, so that a fast reader of large files does not starve the others. About what a socket's buffer takes: a
# turn mostly ends because it is full, so that the connection need not change what it polls for. nginx: sendfile_max_chunk, 2m.
SEND_QUOTA = 1 << 21


class Transport(socket.SocketType):
    """A connected stream socket, in blocking mode until it sends a file. Every call raises OSError.

    unsent: bytes that `send` and `send_file` have taken, and that are still to be sent by `flush`. None, for a plain socket.
    send_quota: bytes sent in one turn.
    """

    __slots__ = ()
    unsent: bytes = b""
    send_quota = SEND_QUOTA

    def send_file(self, fd: int, offset: int, count: int) -> int:
        """Send up to `count` bytes of a file by sendfile(2), which has no MSG_DONTWAIT; returns the number of bytes sent."""
        if self.gettimeout() is None:
            self.setblocking(False)
        return os.sendfile(self.fileno(), fd, offset, count)

    def flush(self) -> None:
        """Send what is `unsent`. Raises BlockingIOError if not all of it has left."""

    def has_unread(self) -> bool:
        """Whether there is input that `recv` would return."""
        return ioctl(self.fileno(), FIONREAD, ZERO) != ZERO

    def at_mark(self) -> bool:
        """Whether the next byte is the last urgent one (recv never reads across it)."""
        return ioctl(self.fileno(), SIOCATMARK, ZERO) != ZERO

    def push(self) -> None:
        """Send what an earlier `send` has held back (MSG_MORE), as setting TCP_NODELAY does, even if it is set already."""
        if self.family != socket.AF_UNIX:
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def reset(self) -> None:
        """Make `close` discard unsent bytes and send a RST: otherwise the kernel retransmits them for many minutes."""
        self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
