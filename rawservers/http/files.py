"""The files below a document root, and their cache. The only module that opens files to serve.

Nothing outside the root is opened, and no name that begins with a dot, except /.well-known/. Checking a path is not enough for
that: symbolic links can lead anywhere, and can change between a check and an open. So a path is first opened with O_PATH, which
has no side effects, not even on a FIFO. The kernel then gives the real path of that descriptor (/proc/self/fd), and only a
regular file whose real path is below the root is opened for reading, through the same descriptor.

Files are cached by path, small ones with their content, large ones with an open descriptor. A cached file is never stale.
Before it is used, at most once per freshness epoch, these are checked:

- the file at its real path, by one lstat: device, inode, size, mtime and ctime in nanoseconds;
- each directory from the root to the file, by one lstat: still a directory, and no link. Otherwise a directory that was moved
  out of the root, with a link left in its path_fd, would still be served. The check is shared by all files below it. So a file
  in the root takes one system call, and any other one more per level;
- the link by which the file was found, if there is one, and the file's precompressed variants, present or not, by one stat
  each.

A file that has just changed is not cached: the clock of the file system is coarse, and a second change could leave the same
times. Not detected is content that arrives later than its mtime: through a shared mapping (mmap), or in the middle of an
interrupted write. Files that are replaced by rename are safe.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Hashable, Iterable, Iterator
from operator import attrgetter
from typing import TypeAlias
from weakref import WeakValueDictionary

from rawservers.core.protocol import FileSlice, OpenFile
from rawservers.http.cache import Cache, FreshnessClock
from rawservers.http.listing.entries import ListingEntry

SMALL_FILE = 16384  # bytes up to which the content is cached in memory, and sent in one chunk with the head
FILE_OVERHEAD = 900  # bytes of Python objects for a cached file, besides its content
DEPENDENCY_OVERHEAD = 250  # and for each of its dependencies

NO_SIGNATURE = (-1, -1, -1, -1, -1)  # equals that of no file
MTIME_GRACE = 0.020  # seconds in which a second change may leave the same mtime: two ticks of a 100 Hz kernel
MTIME_GRACE_COARSE = 2.0  # the same on file systems with whole seconds (FAT: two)

Signature: TypeAlias = "tuple[int, int, int, int, int]"

# The identity and version of a file: two files, or two states of one, differ in it.
signature: Callable[[os.stat_result], Signature] = attrgetter("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")


class PathSnapshot:
    """The state of a path, by stat: the signature of the file, None if there was none. A Dependency."""

    __slots__ = ("epoch", "modified", "path", "signature")

    def __init__(self, path: bytes, epoch: int) -> None:
        status = stat_or_none(path)
        self.path = path
        self.signature: Signature | None = status and signature(status)
        self.modified = status.st_mtime if status else 0.0
        self.epoch = epoch

    def is_fresh(self, epoch: int) -> bool:
        """Whether the path is in the same state; checked at most once per epoch."""
        if self.epoch != epoch:
            status = stat_or_none(self.path)
            if (status and signature(status)) != self.signature:
                return False
            self.epoch = epoch
        return True


class Directory:
    """A directory above a cached file, and no link to one. A Dependency."""

    __slots__ = ("__weakref__", "_path", "epoch")

    def __init__(self, path: bytes) -> None:
        self._path = path
        self.epoch = -1

    def is_fresh(self, epoch: int) -> bool:
        """Whether the path is still a directory; checked at most once per epoch."""
        if self.epoch != epoch:
            try:
                if not stat.S_ISDIR(os.lstat(self._path).st_mode):
                    return False
            except OSError:
                return False
            self.epoch = epoch
        return True


class File:
    """A regular file as it was when it was opened. A Dependency, and an entry of the file cache.

    body:       the content, or a slice of the whole file
    size:       in bytes
    modified, modified_ns:  mtime in seconds, and in nanoseconds, since 1970
    cacheable:  whether it is in the cache; false for a file that has just changed
    variants:   snapshots of its path + .br, .zst, .gz, in the order of `suffixes`
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

    def __init__(self, path: bytes, status: os.stat_result, body: bytes | FileSlice, clock: FreshnessClock) -> None:
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
        """Set the dependencies besides the file itself: the directories above it and links to it, and its variants."""
        self.variants = tuple(variants)
        self._dependencies = (*parents, *self.variants)
        self.cost += DEPENDENCY_OVERHEAD * len(self._dependencies)

    def is_fresh(self, epoch: int) -> bool:
        """Whether the file and all its dependencies are unchanged."""
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
        """Release the content, and invalidate the cached responses that share it."""
        self._signature = NO_SIGNATURE
        self.epoch = -1
        del self.body


class FileCache:
    """The cached files of all sites.

    entries: number of files; size: bytes of the small ones; open_files: number of large ones, at most half of `entries`.
    """

    def __init__(self, entries: int, size: int, open_files: int) -> None:
        large = min(open_files, entries // 2)
        self.small: Cache[File] = Cache(entries - large, size)
        self.large: Cache[File] = Cache(large, size)

    def get(self, key: Hashable) -> File | None:
        return self.small.get(key) or self.large.get(key)

    def put(self, key: Hashable, file: File) -> bool:
        """Insert `file`. Returns False if it is too large for the cache."""
        return (self.large if isinstance(file.body, FileSlice) else self.small).put(key, file)

    def discard(self, key: Hashable) -> None:
        """Remove the file of `key`, if there is one."""
        self.small.discard(key)
        self.large.discard(key)


class DocumentRoot:
    """The files below the directory `root`. suffixes: those of the precompressed variants of a given path."""

    def __init__(
        self, root: str, clock: FreshnessClock, suffixes: Callable[[bytes], tuple[bytes, ...]], cache: FileCache
    ) -> None:
        self._root = os.fsencode(os.path.abspath(root)).rstrip(b"/")
        # The real path of the root, with a slash at its end, and its device and inode. Always replaced as a whole: the
        # builder's thread reads it as well.
        self._real_root: tuple[bytes, tuple[int, int] | None] = b"", None
        self._clock = clock
        self._suffixes = suffixes
        self._cache = cache
        self._directories: WeakValueDictionary[bytes, Directory] = WeakValueDictionary()  # those above cached files

    def find(self, path: bytes) -> File:
        """The regular file at `path`, which begins with a slash: from the cache, or opened.

        The body is valid until the next call. Raises IsADirectoryError for a directory, FileNotFoundError also for hidden files
        and those outside the root, PermissionError for special files, and other OSErrors.
        """
        key = (self, path)  # sites may differ in their variants
        file = self._cache.get(key)
        if file is None or not file.is_fresh(self._clock.epoch):
            self._cache.discard(key)
            file = self._load(path)
            file.cacheable = file.cacheable and self._cache.put(key, file)
            self._clock.recheck()  # cached responses from files that were evicted are no longer fresh
        return file

    def snapshot(self, path: bytes) -> PathSnapshot:
        """The present state of `path`, for a response that depends on its absence."""
        return PathSnapshot(self._root + path, self._clock.epoch)

    def is_directory(self, path: bytes) -> bool:
        """Whether `path` is a directory below the root, and not hidden."""
        try:
            os.close(self._open(path)[0])
        except OSError as failure:
            return isinstance(failure, IsADirectoryError)
        return False

    def check_readable(self, path: bytes) -> None:
        """Raises OSError unless the directory at `path` can be read."""
        os.close(self._open_directory(path))

    def list_directory(self, path: bytes) -> Iterator[ListingEntry]:
        """The entries of the directory at `path` that may be served. Raises OSError. Thread-safe: it uses no cache.

        An entry that is not a link is in the directory, and so below the root: one stat by name is enough.
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
        """A descriptor of the directory at `path`, for reading it. Raises OSError."""
        path_fd, _ = self._open_path(path)
        try:
            return os.open(b"/proc/self/fd/%d" % path_fd, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.close(path_fd)

    def _listing_entry(self, path: bytes, item: os.DirEntry[str]) -> ListingEntry | None:
        """The listing entry for `item` of the directory at `path`; None if it may not be served."""
        name = os.fsencode(item.name)
        if is_hidden(path + name):
            return None
        try:
            status = item.stat(follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                status = self._stat(path + name)
        except OSError:  # removed meanwhile, or a link that leads out of the root
            return None
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            return None
        return ListingEntry(name, stat.S_ISDIR(status.st_mode), status.st_size, status.st_mtime)

    def _stat(self, path: bytes) -> os.stat_result:
        """The status of the file at `path`, followed through links that stay below the root. Raises OSError."""
        path_fd, _ = self._open_path(path)
        try:
            return os.fstat(path_fd)
        finally:
            os.close(path_fd)

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
                file.cacheable = False  # it changed while it was read
        parents: list[Directory | PathSnapshot] = list(self._parents(real_path))
        if real_path != path:
            link = self.snapshot(path)
            file.cacheable &= link.signature == signature(before)
            parents.append(link)
        file.set_dependencies(parents, [self.snapshot(path + suffix) for suffix in self._suffixes(path)])
        return file

    def _parents(self, path: bytes) -> Iterator[Directory]:
        """The directories between the root and `path`, shared by all files below them."""
        end = 0
        while (end := path.find(b"/", end + 1)) > 0:
            parent = self._root + path[:end]
            directory = self._directories.get(parent)
            if directory is None:
                directory = self._directories[parent] = Directory(parent)
            yield directory

    def _open(self, path: bytes) -> tuple[int, bytes]:
        """A descriptor of the regular file at `path`, and its real path below the root. Raises OSError."""
        path_fd, real_path = self._open_path(path)
        try:
            mode = os.fstat(path_fd).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, "is a directory")
            if not stat.S_ISREG(mode):
                raise PermissionError(errno.EACCES, "not a regular file")
            return os.open(b"/proc/self/fd/%d" % path_fd, os.O_RDONLY | os.O_CLOEXEC), real_path
        finally:
            os.close(path_fd)

    def _open_path(self, path: bytes) -> tuple[int, bytes]:
        """An O_PATH descriptor of `path`, and its real path below the root.

        Raises FileNotFoundError for hidden files and those outside the root, and other OSErrors.
        """
        if is_hidden(path):
            raise FileNotFoundError(errno.ENOENT, "hidden")
        path_fd = os.open(self._root + path, os.O_PATH | os.O_CLOEXEC)
        try:
            real_path = self._path_below_root(os.readlink(b"/proc/self/fd/%d" % path_fd))
            if real_path is not None:
                return path_fd, real_path
        except OSError:
            os.close(path_fd)
            raise
        os.close(path_fd)
        raise FileNotFoundError(errno.ENOENT, "outside the root, or hidden")

    def _path_below_root(self, path: bytes) -> bytes | None:
        """The part of a real path that is below the root, with a leading slash; None if outside the root, or hidden."""
        status = os.stat(self._root or b"/")
        present_id = status.st_dev, status.st_ino
        real_root, root_id = self._real_root
        if present_id != root_id or not (path + b"/").startswith(real_root):
            # The root was replaced: it is, or its path contains, a link that now leads elsewhere, as deployments do.
            real_root = os.path.realpath(self._root or b"/").rstrip(b"/") + b"/"
            self._real_root = real_root, present_id
            if not (path + b"/").startswith(real_root):
                return None
        below = b"/" + path[len(real_root) :]
        return None if is_hidden(below) else below


def is_hidden(path: bytes) -> bool:
    """Whether a segment of `path` is empty or begins with a dot; a leading /.well-known/ (RFC 8615) is not hidden."""
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
    """The first `size` bytes of a file; fewer if it is shorter."""
    parts = []
    while size > 0 and (part := os.read(fd, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
