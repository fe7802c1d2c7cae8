"""Opening a file as root, when others may write to its directory, or to one on the way to it.

They could put a link in the place of the file, or of a directory, and have root append to any file of the system. So root walks
along the path directory by directory, and follows a link only where nobody else could have made it: in a directory that is
root's alone, below such directories. Sticky ones, such as /tmp, may be on the way. Anywhere else there must be no link, and the
file must be root's, or the workers', or that of the directory's owner, with no other name, since a hard link is as bad.
"""

from __future__ import annotations

import errno
import os
import stat

MAX_LINKS = 40  # as the kernel's
DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
SHARED = stat.S_IWGRP | stat.S_IWOTH


def open_as_root(path: str, flags: int, mode: int, uid: int = 0) -> int:
    """A descriptor as by os.open. uid: of the workers. Raises OSError, also for a link that others could have made."""
    names = path.split("/")[::-1]  # that are left to walk, the next one last
    trusted, links = True, 0  # trusted: nobody but root can replace the directory
    directory = os.open("/" if path.startswith("/") else ".", DIRECTORY)
    try:
        while True:
            status = os.fstat(directory)
            trusted = trusted and status.st_uid == 0 and not (status.st_mode & SHARED and not status.st_mode & stat.S_ISVTX)
            is_roots = trusted and not status.st_mode & SHARED
            name = names.pop() or "."
            target = read_link(name, directory)
            if not names and (not target or (is_roots and status.st_dev == os.stat("/proc").st_dev)):
                break  # in /proc, where /dev/stdout leads, a link is more than its text
            if target:
                links += 1
                if not is_roots or links > MAX_LINKS:
                    raise OSError(errno.ELOOP, "too many links" if is_roots else "a link that others than root may have made")
                names += target.split("/")[::-1]
                name = "/" if target.startswith("/") else "."
            former, directory = directory, os.open(name, DIRECTORY, dir_fd=directory)
            os.close(former)
        fd = os.open(name, flags | (0 if target else os.O_NOFOLLOW), mode, dir_fd=directory)
    finally:
        os.close(directory)
    found = os.fstat(fd)
    if is_roots or (found.st_uid in {0, uid, status.st_uid} and (found.st_nlink < 2 or not stat.S_ISREG(found.st_mode))):
        return fd
    os.close(fd)
    raise PermissionError(errno.EPERM, "it belongs to somebody else, or has another name")


def read_link(name: str, directory: int) -> str:
    """What a symbolic link says; "" for anything else."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return ""
