"""The files below a folder. The only file that opens any.

Nothing outside the root is ever opened, and no name that begins with a dot but /.well-known/. A path is not trusted for that:
links can lead anywhere, and can change between a look and an open. So what a path names is first opened as a mere place
(O_PATH, which touches nothing, not even a FIFO), the kernel is asked where that place really is, and only a regular file
inside the root is then opened through the same descriptor.

Files are remembered by path, the small ones' content and the large ones' open descriptor, and this memory is never stale. All
this must be as it was before it is used, at most once per wake of the loop:

- the file, where it really is: its device, inode, size, and the times of its last change to the nanosecond. That is one lstat;
- each folder from the root to there: still a folder, and no link. Otherwise one that was moved out of the root, and left a link
  in its place, would go on being served. One lstat each, for all the files beyond it together: a file in the root itself needs
  one system call, any other one more per level. In return nothing has to be remembered that could be wrong;
- what a link that led there leads to, and the file's precompressed neighbours, there or not. One stat each.

A file that changed a moment ago is not remembered at all: the file system's clock is so coarse that a second change could leave
the same times behind. What no stat can tell is content that arrives later than the time it is given: stored through a mapping
(mmap), or by a write that was interrupted in its middle. Who replaces files by renaming new ones has neither to fear.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Hashable, Iterable, Iterator
from operator import attrgetter
from typing import TypeAlias
from weakref import WeakValueDictionary

from rawservers.core.peer import Clock
from rawservers.core.protocol import FileSlice, OpenFile
from rawservers.http.cache import Cache
from rawservers.http.listing.entries import ListingEntry

SMALL_FILE = 16384  # bytes up to which a file is kept in memory, and leaves in one piece with its head
FILE_OVERHEAD, DEPENDENCY_OVERHEAD = (
    900,
    250,
)  # bytes that Python takes for a remembered file, and for each place that it depends on

NO_SIGNATURE = (-1, -1, -1, -1, -1)  # no file's signature
MTIME_GRACE = 0.020  # seconds after a change until the times tell changes apart: two ticks of a 100 Hz kernel
MTIME_GRACE_COARSE = 2.0  # the same where the file system keeps whole seconds only (FAT: two)

Signature: TypeAlias = "tuple[int, int, int, int, int]"

# What tells a file, and each state of it, from any other.
signature: Callable[[os.stat_result], Signature] = attrgetter("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")


class PathSnapshot:
    """What a path named when it was looked up: a file in a certain state, or nothing. A source of answers."""

    __slots__ = ("epoch", "modified", "path", "signature")

    def __init__(self, path: bytes, epoch: int) -> None:
        status = stat_or_none(path)
        self.path = path
        self.signature: Signature | None = status and signature(status)
        self.modified = status.st_mtime if status else 0.0
        self.epoch = epoch

    def is_fresh(self, epoch: int) -> bool:
        """Whether the path still names that, looked up at most once per wake."""
        if self.epoch != epoch:
            status = stat_or_none(self.path)
            if (status and signature(status)) != self.signature:
                return False
            self.epoch = epoch
        return True


class Directory:
    """A folder on the way to a file, and no link to one. A source of answers."""

    __slots__ = ("__weakref__", "_path", "epoch")

    def __init__(self, path: bytes) -> None:
        self._path = path
        self.epoch = -1

    def is_fresh(self, epoch: int) -> bool:
        """Whether it still is, looked up at most once per wake."""
        if self.epoch != epoch:
            try:
                if not stat.S_ISDIR(os.lstat(self._path).st_mode):
                    return False
            except OSError:
                return False
            self.epoch = epoch
        return True


class File:
    """A regular file as it stood when it was opened.

    body: its content, or a slice of its whole length; size: in bytes; modified, modified_ns: when it last changed, in seconds
    and ns since 1970; steady: whether it is remembered, for which that must be long enough ago; neighbours: what its name with
    each of the endings it was looked up with named then. A source of answers: it confirms itself, the way to it, and them.
    """

    __slots__ = (
        "_dependencies",
        "_path",
        "_signature",
        "body",
        "cacheable",
        "clock_mark",
        "cost",
        "epoch",
        "modified",
        "modified_ns",
        "size",
        "variants",
    )

    def __init__(self, path: bytes, status: os.stat_result, body: bytes | FileSlice, clock: Clock) -> None:
        self._signature = signature(status)
        self._path = path
        self.body = body
        self.size = status.st_size if isinstance(body, FileSlice) else len(body)
        self.modified = status.st_mtime
        self.modified_ns = status.st_mtime_ns
        self.variants: tuple[PathSnapshot, ...] = ()
        self._dependencies: tuple[Directory | PathSnapshot, ...] = ()
        self.epoch = self.clock_mark = clock.epoch
        self.cost = FILE_OVERHEAD + len(path)
        self.cacheable = clock.time - max(status.st_mtime, status.st_ctime) >= mtime_grace(status)

    def set_dependencies(self, parents: Iterable[Directory | PathSnapshot], variants: Iterable[PathSnapshot]) -> None:
        """It is found by this way, and beside these neighbours."""
        self.variants = tuple(variants)
        self._dependencies = (*parents, *self.variants)
        self.cost += DEPENDENCY_OVERHEAD * len(self._dependencies)

    def is_fresh(self, epoch: int) -> bool:
        """Whether the path still names this file, unchanged, and its neighbours are what they were."""
        if self.epoch != epoch:
            try:
                if signature(os.lstat(self._path)) != self._signature:
                    return False
            except OSError:
                return False
            for dependency in self._dependencies:
                if dependency.epoch != epoch and not dependency.is_fresh(epoch):
                    return False
            self.epoch = epoch
        return True

    def on_evict(self) -> None:
        """It is forgotten: let go of its content, whoever still means to lend it."""
        self._signature = NO_SIGNATURE
        self.epoch = -1
        del self.body


class FileCache:
    """Files remembered, those of all sites: at most `entries`, of which at most `open_files` are large ones; `size` bytes of
    the small ones.
    """

    def __init__(self, entries: int, size: int, open_files: int) -> None:
        large = min(open_files, entries // 2)
        self.small: Cache[File] = Cache(entries - large, size)
        self.large: Cache[File] = Cache(large, size)

    def get(self, key: Hashable) -> File | None:
        return self.small.get(key) or self.large.get(key)

    def put(self, key: Hashable, file: File) -> bool:
        """Remember `file`, if it is worth that."""
        return (self.large if isinstance(file.body, FileSlice) else self.small).put(key, file)

    def discard(self, key: Hashable) -> None:
        """Forget the file of `key`, if there is one."""
        self.small.discard(key)
        self.large.discard(key)


class DocumentRoot:
    """The files below `root`, a folder's path. endings: those of the neighbours that matter to a file of a given path."""

    def __init__(self, root: str, clock: Clock, suffixes: Callable[[bytes], tuple[bytes, ...]], cache: FileCache) -> None:
        self._root = os.fsencode(os.path.abspath(root)).rstrip(b"/")
        # Where the root really is, with a slash behind it; the device and inode of that folder. Always replaced as a whole,
        # since threads look there too.
        self._real_root: tuple[bytes, tuple[int, int] | None] = b"", None
        self._clock = clock
        self._suffixes = suffixes
        self._cache = cache
        self._directories: WeakValueDictionary[bytes, Directory] = (
            WeakValueDictionary()
        )  # as long as there are files beyond them

    def find(self, path: bytes) -> File:
        """The regular file at `path`, which begins with a slash: remembered, or looked up anew.

        Its body is there until another one is found. IsADirectoryError for a folder, FileNotFoundError for what is hidden or
        leads outside, PermissionError for what is neither file nor folder, or another OSError.
        """
        key = (self, path)  # sites differ in the neighbours that matter to them
        file = self._cache.get(key)
        if file is None or not file.is_fresh(self._clock.epoch):
            self._cache.discard(key)
            file = self._load(path)
            file.cacheable = file.cacheable and self._cache.put(key, file)
        return file

    def snapshot(self, path: bytes) -> PathSnapshot:
        """What `path` names now, if anything, as a source: for an answer that depends on its absence."""
        return PathSnapshot(self._root + path, self._clock.epoch)

    def is_directory(self, path: bytes) -> bool:
        """Whether `path` names a folder that may be served."""
        try:
            os.close(self._open(path)[0])
        except OSError as failure:
            return isinstance(failure, IsADirectoryError)
        return False

    def check_readable(self, path: bytes) -> None:
        """OSError unless the folder at `path` can be read."""
        os.close(self._open_directory(path))

    def list_directory(self, path: bytes) -> Iterator[ListingEntry]:
        """What may be served of the folder at `path`. OSError if it cannot be read. From any thread: it touches no memory.

        An entry that is no link lies in the folder, and with it in the root, so that one look by name is enough.
        """
        directory = self._open_directory(path)
        try:
            with os.scandir(directory) as found:
                for item in found:
                    entry = self._listing_entry(path, item)
                    if entry is not None:
                        yield entry
        finally:
            os.close(directory)

    def _open_directory(self, path: bytes) -> int:
        """A descriptor of the folder at `path`, to read it."""
        place, _ = self._open_path(path)
        try:
            return os.open(b"/proc/self/fd/%d" % place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.close(place)

    def _listing_entry(self, path: bytes, item: os.DirEntry[str]) -> ListingEntry | None:
        """What stands in the folder at `path`, if it may be served."""
        name = os.fsencode(item.name)
        if is_hidden(path + name):
            return None
        try:
            status = item.stat(follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                status = self._stat(path + name)
        except OSError:  # gone meanwhile, or a link that leads outside
            return None
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            return None
        return ListingEntry(name, stat.S_ISDIR(status.st_mode), status.st_size, status.st_mtime)

    def _stat(self, path: bytes) -> os.stat_result:
        """That of what `path` names, wherever links lead inside the root."""
        place, _ = self._open_path(path)
        try:
            return os.fstat(place)
        finally:
            os.close(place)

    def _load(self, path: bytes) -> File:
        fd, real_path = self._open(path)
        opened = OpenFile(fd, os.close)
        before = os.fstat(fd)
        if before.st_size > SMALL_FILE:
            file = File(self._root + real_path, before, FileSlice(opened, 0, before.st_size), self._clock)
        else:
            file = File(self._root + real_path, before, read_all(fd, before.st_size), self._clock)
            file.cost += file.size
            if signature(os.fstat(fd)) != signature(before) or file.size != before.st_size:
                file.cacheable = False  # it was being written meanwhile
        parents: list[Directory | PathSnapshot] = list(self._parents(real_path))
        if real_path != path:
            link = self.snapshot(path)
            file.cacheable &= link.signature == signature(before)
            parents.append(link)
        file.set_dependencies(parents, [self.snapshot(path + suffix) for suffix in self._suffixes(path)])
        return file

    def _parents(self, path: bytes) -> Iterator[Directory]:
        """The folders from the root to `path`, the same ones for all files beyond them."""
        end = 0
        while (end := path.find(b"/", end + 1)) > 0:
            place = self._root + path[:end]
            directory = self._directories.get(place)
            if directory is None:
                directory = self._directories[place] = Directory(place)
            yield directory

    def _open(self, path: bytes) -> tuple[int, bytes]:
        """A descriptor of the regular file at `path`, wherever links lead inside the root, and its real path there."""
        place, real_path = self._open_path(path)
        try:
            mode = os.fstat(place).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, "a folder")
            if not stat.S_ISREG(mode):
                raise PermissionError(errno.EACCES, "not a regular file")
            return os.open(b"/proc/self/fd/%d" % place, os.O_RDONLY | os.O_CLOEXEC), real_path
        finally:
            os.close(place)

    def _open_path(self, path: bytes) -> tuple[int, bytes]:
        """A descriptor that stands for what `path` names, without opening it, and where in the root that really is.

        FileNotFoundError if it may not be served.
        """
        if is_hidden(path):
            raise FileNotFoundError(errno.ENOENT, "hidden")
        place = os.open(self._root + path, os.O_PATH | os.O_CLOEXEC)
        try:
            real_path = self._path_below_root(os.readlink(b"/proc/self/fd/%d" % place))
            if real_path is not None:
                return place, real_path
        except OSError:
            os.close(place)
            raise
        os.close(place)
        raise FileNotFoundError(errno.ENOENT, "outside the root, or hidden there")

    def _path_below_root(self, place: bytes) -> bytes | None:
        """Where in the root a place is that the kernel names, from a slash on; None if it may not be served."""
        status = os.stat(self._root or b"/")
        root = status.st_dev, status.st_ino
        real_root, real_path = self._real_root
        if root != real_path or not (place + b"/").startswith(real_root):
            # The root is, or its path has, a link that has been moved, as deployments do.
            real_root = os.path.realpath(self._root or b"/").rstrip(b"/") + b"/"
            self._real_root = real_root, root
            if not (place + b"/").startswith(real_root):
                return None
        path = b"/" + place[len(real_root) :]
        return None if is_hidden(path) else path


def is_hidden(path: bytes) -> bool:
    """Whether `path` has an empty segment, or one that begins with a dot; /.well-known/ (RFC 8615) is not hidden."""
    if b"/." not in path and b"//" not in path:
        return False
    segments = path.split(b"/")[1:]
    if segments[0] == b".well-known":
        del segments[0]
    return any(segment.startswith(b".") for segment in segments) or b"" in segments[:-1]


def stat_or_none(path: bytes) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def mtime_grace(status: os.stat_result) -> float:
    coarse = status.st_mtime_ns % 1_000_000_000 == 0 and status.st_ctime_ns % 1_000_000_000 == 0
    return MTIME_GRACE_COARSE if coarse else MTIME_GRACE


def read_all(fd: int, size: int) -> bytes:
    """Up to `size` bytes of a file from its beginning."""
    parts = []
    while size > 0 and (part := os.read(fd, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
