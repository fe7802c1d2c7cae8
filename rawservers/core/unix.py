"""The file of a unix socket: taken over from a server that was killed, given a mode and an owner, removed.

Two servers that find the same stale file must not both replace it: the second would remove the socket of the first, which then
serves unseen. So whoever looks at the file with the aim to remove it holds a lock, on another file beside it, which is there
for that moment only. Nobody waits for the lock: whoever holds it is about to serve.

Others may have write access to the directory. No link is followed here, and no file but a socket of this process's user changes
its mode or owner.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator

LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
LOCK_TRIES = 100  # each time, another process has just released the lock and removed its file


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """A context that holds the lock of the socket at `path`. Raises OSError: EADDRINUSE if another process holds it."""
    name = f"{path}.lock"
    for _ in range(LOCK_TRIES):
        fd = os.open(name, LOCK_FLAGS, 0o600)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.lstat(name)):
                break
        os.close(fd)
    else:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    try:
        yield
    finally:
        os.unlink(name)
        os.close(fd)


def remove_stale(path: str) -> None:
    """Remove the file of a socket that no process listens on any more, because its server was killed. With the lock only."""
    if is_socket(path):  # any other file stays, and bind fails with EADDRINUSE
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # the accept queue of a live server may be full
            if probe.connect_ex(path) == errno.ECONNREFUSED:
                os.unlink(path)


def remove(path: str, inode: int) -> None:
    """Remove the file of a socket, unless another server has replaced it, or is about to."""
    with contextlib.suppress(OSError), locked(path):
        if os.lstat(path).st_ino == inode:
            os.unlink(path)


def is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def set_access(path: str, inode: int, mode: int | None, uid: int, gid: int) -> None:
    """Set mode (None: unchanged), user and group (-1: unchanged) of the file, if it is still this socket's. Raises OSError."""
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        status = os.fstat(fd)
        if stat.S_ISSOCK(status.st_mode) and status.st_ino == inode and status.st_nlink == 1:
            os.chown(f"/proc/self/fd/{fd}", uid, gid)  # of this very file, wherever its name leads by now
            if mode is not None:
                os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)
