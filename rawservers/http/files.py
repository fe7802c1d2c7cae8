"""The files below a folder. The only file that opens any.

Nothing outside the root is ever opened, and no name that begins with a dot but /.well-known/. A path is not trusted for that:
links can lead anywhere, and can change between a look and an open. So what a path names is first opened as a mere place
(O_PATH, which touches nothing, not even a FIFO), the kernel is asked where that place really is, and only a regular file
inside the root is then opened through the same descriptor.

Files are remembered by path, the small ones' content and the large ones' open descriptor, and this memory is never stale: an
entry says which file it came from, by device, inode, size and times to the nanosecond, and stat must confirm that before it is
used. A file that changed a moment ago is not remembered at all: the file system's clock is so coarse that a second change could
leave the same times behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from rawservers.core.protocol import Clock, FileSlice, OpenFile
from rawservers.http.cache import OVERHEAD, Cache
from rawservers.http.listing import Entry

SMALL = 16384  # bytes up to which a file is kept in memory, and leaves in one piece with its head
FILES, FILE_BYTES = 16384, 64 << 20  # bounds of the memory: 16,384 files of 4 KiB, or fewer larger ones
LARGE_COST = FILE_BYTES // 256  # what an open descriptor counts for: at most 256 are kept, of the 1024 a process may have

SETTLED = 0.020  # seconds after a change until the times tell changes apart: two ticks of a 100 Hz kernel
SETTLED_COARSE = 2.0  # the same where the file system keeps whole seconds only (FAT: two)

Signature = tuple[int, int, int, int, int]


class Seen:
    """What a path named when it was looked up: a file in a certain state, or nothing. A source of answers."""

    __slots__ = ("modified", "path", "signature", "wake")

    held = 0

    def __init__(self, path: bytes, wake: int) -> None:
        status = look(path)
        self.path = path
        self.signature = status and signature(status)
        self.modified = status.st_mtime if status else 0.0
        self.wake = wake

    def confirm(self, wake: int) -> bool:
        """Whether the path still names that, looked up at most once per wake."""
        if self.wake != wake:
            status = look(self.path)
            if (status and signature(status)) != self.signature:
                return False
            self.wake = wake
        return True


class File:
    """A regular file as it stood when it was opened.

    body: its content, or a slice of its whole length; size: in bytes; modified, modified_ns: when it last changed, in seconds
    and ns since 1970; steady: whether that was long enough ago for it to be remembered; neighbours: what its name with each
    of the endings it was looked up with named then. A source of answers: it confirms itself and its neighbours.
    """

    __slots__ = (
        "_signature",
        "body",
        "cost",
        "held",
        "modified",
        "modified_ns",
        "neighbours",
        "passed",
        "path",
        "size",
        "steady",
        "wake",
    )

    def __init__(self, path: bytes, status: os.stat_result, body: bytes | FileSlice, clock: Clock) -> None:
        self._signature = signature(status)
        self.path = path
        self.body = body
        self.size = status.st_size if isinstance(body, FileSlice) else len(body)
        self.modified = status.st_mtime
        self.modified_ns = status.st_mtime_ns
        self.neighbours: tuple[Seen, ...] = ()
        self.wake = self.passed = clock.wake
        self.held = LARGE_COST if isinstance(body, FileSlice) else 0
        self.cost = OVERHEAD + (self.held or len(body if isinstance(body, bytes) else b""))
        self.steady = clock.time - max(status.st_mtime, status.st_ctime) >= settling_time(status)

    def confirm(self, wake: int) -> bool:
        """Whether the path still names this file, unchanged, and its neighbours are what they were."""
        if self.wake != wake:
            status = look(self.path)
            if status is None or signature(status) != self._signature:
                return False
            for neighbour in self.neighbours:
                if not neighbour.confirm(wake):
                    return False
            self.wake = wake
        return True


class Files:
    """The files below `root`, a folder's path. endings: those of the neighbours that matter to a file of a given path."""

    def __init__(self, root: str, clock: Clock, endings: Callable[[bytes], tuple[bytes, ...]]) -> None:
        self._root = os.fsencode(os.path.abspath(root)).rstrip(b"/")
        self._landing = self._land()
        self._clock = clock
        self._endings = endings
        self._files: Cache[File] = Cache(FILES, FILE_BYTES)

    def find(self, path: bytes) -> File:
        """The regular file at `path`, which begins with a slash: remembered, or looked up anew.

        IsADirectoryError for a folder, FileNotFoundError for what is hidden or leads outside, PermissionError for what is
        neither file nor folder, or another OSError.
        """
        file = self._files.get(path)
        if file is None or not file.confirm(self._clock.wake):
            self._files.drop(path)
            file = self._load(path)
            if file.steady:
                self._files.put(path, file)
        return file

    def look(self, path: bytes) -> Seen:
        """What `path` names now, if anything, as a source: for an answer that depends on its absence."""
        return Seen(self._root + path, self._clock.wake)

    def is_folder(self, path: bytes) -> bool:
        """Whether `path` names a folder that may be served."""
        try:
            os.close(self._open(path))
        except OSError as failure:
            return isinstance(failure, IsADirectoryError)
        return False

    def entries(self, path: bytes) -> Iterator[Entry]:
        """What may be served of the folder at `path`. OSError if it cannot be read."""
        place = self._place(path)
        try:
            folder = os.open(b"/proc/self/fd/%d" % place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.close(place)
        try:
            names = os.listdir(folder)
        finally:
            os.close(folder)
        for name in map(os.fsencode, names):
            with contextlib.suppress(OSError):  # gone meanwhile, or a link that leads outside
                yield self._entry(path, name)

    def _entry(self, path: bytes, name: bytes) -> Entry:
        place = self._place(path + name)
        try:
            status = os.fstat(place)
        finally:
            os.close(place)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise PermissionError(errno.EACCES, "neither file nor folder")
        return Entry(name, stat.S_ISDIR(status.st_mode), status.st_size, status.st_mtime)

    def _load(self, path: bytes) -> File:
        fd = self._open(path)
        opened = OpenFile(fd, os.close)
        before = os.fstat(fd)
        if before.st_size > SMALL:
            file = File(self._root + path, before, FileSlice(opened, 0, before.st_size), self._clock)
        else:
            file = File(self._root + path, before, read_all(fd, before.st_size), self._clock)
            if signature(os.fstat(fd)) != signature(before) or file.size != before.st_size:
                file.steady = False  # it was being written meanwhile
        file.neighbours = tuple(self.look(path + ending) for ending in self._endings(path))
        return file

    def _open(self, path: bytes) -> int:
        """A descriptor of the regular file at `path`, wherever links lead inside the root."""
        place = self._place(path)
        try:
            mode = os.fstat(place).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, "a folder")
            if not stat.S_ISREG(mode):
                raise PermissionError(errno.EACCES, "not a regular file")
            return os.open(b"/proc/self/fd/%d" % place, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(place)

    def _place(self, path: bytes) -> int:
        """A descriptor that stands for what `path` names, without opening it; FileNotFoundError if that may not be served."""
        if hidden(path):
            raise FileNotFoundError(errno.ENOENT, "hidden")
        place = os.open(self._root + path, os.O_PATH | os.O_CLOEXEC)
        try:
            if self._inside(os.readlink(b"/proc/self/fd/%d" % place)):
                return place
        except OSError:
            os.close(place)
            raise
        os.close(place)
        raise FileNotFoundError(errno.ENOENT, "outside the root, or hidden there")

    def _inside(self, landed: bytes) -> bool:
        """Whether a place that the kernel names is one that may be served."""
        if not (landed + b"/").startswith(self._landing):
            self._landing = self._land()  # the root may be a link that has been moved, as deployments do
            if not (landed + b"/").startswith(self._landing):
                return False
        return not hidden(b"/" + landed[len(self._landing) :])

    def _land(self) -> bytes:
        """Where the root really is, with a slash behind it."""
        return os.path.realpath(self._root or b"/").rstrip(b"/") + b"/"


def hidden(path: bytes) -> bool:
    """Whether `path` has an empty segment, or one that begins with a dot; /.well-known/ (RFC 8615) is not hidden."""
    if b"/." not in path and b"//" not in path:
        return False
    segments = path.split(b"/")[1:]
    if segments[0] == b".well-known":
        del segments[0]
    return any(segment.startswith(b".") for segment in segments) or b"" in segments[:-1]


def look(path: bytes) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def signature(status: os.stat_result) -> Signature:
    """What tells a file, and each state of it, from any other."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def settling_time(status: os.stat_result) -> float:
    coarse = status.st_mtime_ns % 1_000_000_000 == 0 and status.st_ctime_ns % 1_000_000_000 == 0
    return SETTLED_COARSE if coarse else SETTLED


def read_all(fd: int, size: int) -> bytes:
    """Up to `size` bytes of a file from its beginning."""
    parts = []
    while size > 0 and (part := os.read(fd, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
