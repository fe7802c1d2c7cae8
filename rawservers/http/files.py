"""The files below a document root, and their cache. The only module that opens files to serve.

Nothing outside the root is opened, and no name that begins with a dot, except /.well-known/. Checking a path is not enough for
that: symbolic links can lead anywhere, and can change between a check and an open. So a path is first opened with O_PATH, which
has no side effects, not even on a FIFO. The kernel then gives the real path of that descriptor (/proc/self/fd), and only a
regular file whose real path is below the root is opened for reading, through the same descriptor.

Files are cached by path, small ones with their content, large ones with an open descriptor. A cached file is never stale.
Before it is used, at most once per freshness epoch, these are checked:

- the file at its real path, by one lstat: device, inode, size, mtime and ctime in nanoseconds;
- each directory from the root to the file, by one lstat: still a directory, and no link. Otherwise a directory that was moved
  out of the root, with a link left in its place, would still be served. The check is shared by all files below it. So a file
  in the root takes one system call, and any other one more per level;
- the link by which the file was found, if there is one, and the file's precompressed variants, present or not, by one stat
  each.

A file that has just changed is not cached: the clock of the file system is coarse, and a second change could leave the same
times. Not detected is content that arrives later than its mtime: through a shared mapping (mmap), or in the middle of an
interrupted write. Files that are replaced by rename are safe.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import stat
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from typing import TypeAlias
from weakref import WeakValueDictionary

from rawservers.core.protocol import FileSlice, OpenFile
from rawservers.http.cache import Cache, FreshnessClock
from rawservers.http.conditional import fingerprint, is_reliable, version
from rawservers.http.listing.entry import ListingEntry
from rawservers.http.response import body_length

log = logging.getLogger("rawservers")

SMALL_FILE = 16384  # bytes up to which the content is cached in memory, and sent in one chunk with the head
FILE_OVERHEAD = 1000  # bytes of Python objects for a cached file, besides its content and path
DEPENDENCY_OVERHEAD = 250  # and for each of its dependencies, besides its path

SECOND = 1_000_000_000  # nanoseconds
MTIME_GRACE = 0.020  # seconds in which a second change may leave the same mtime: two ticks of a 100 Hz kernel
MTIME_GRACE_COARSE = 2.0  # the same on file systems with whole seconds (FAT: two)

LINK_REPORTS = 8  # paths that are logged, since links on them lead out of the root, in each LINK_REPORT_TIME
LINK_REPORT_TIME = 60  # seconds

HIDDEN = re.compile(rb"(?!\A/\.well-known(?:/|\Z))/[./]")

FileState: TypeAlias = tuple[int, ...]
StatFunction: TypeAlias = Callable[[bytes], os.stat_result]
StateFunction: TypeAlias = Callable[[os.stat_result], FileState]

# The identity and version of a file: two files, or two states of one, differ in it.
signature: StateFunction = attrgetter("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
MTIME_NS = 3  # its place in a signature


def file_type(status: os.stat_result) -> FileState:
    return (stat.S_IFMT(status.st_mode),)


class PathState:
    """A path, and the state in which it is to stay. A Dependency.

    read: os.stat or os.lstat; view: the part of the result that must not change, signature or file_type; state: that part, None
    if there is no such file; epoch: freshness epoch of the last successful check.
    """

    __slots__ = ("__weakref__", "_path", "_read", "_view", "epoch", "state")

    def __init__(self, path: bytes, read: StatFunction, view: StateFunction, state: FileState | None, epoch: int = -1) -> None:
        self._path = path
        self._read = read
        self._view = view
        self.state = state
        self.epoch = epoch

    def is_fresh(self, epoch: int) -> bool:
        """Whether the path is still in this state; checked at most once per epoch."""
        if self.epoch != epoch:
            try:
                if self._view(self._read(self._path)) != self.state:
                    return False
            except OSError:
                if self.state is not None:
                    return False
            self.epoch = epoch
        return True


class File(PathState):
    """A regular file as it was when it was opened, by its real path. An entry of the file cache.

    body:          the content, or a slice of the whole file
    size:          in bytes
    mtime_ns:      mtime in nanoseconds since 1970
    modified:      mtime in whole seconds since 1970; None if it is not reliable
    version:       what its entity tag is made from; "" if nothing tells its versions apart
    cacheable:     whether it is in the cache; false for a file that has just changed
    variants:      mtimes in nanoseconds, by suffix, of those path + .br, .zst, .gz that exist
    dependencies:  what else must stay as it is: the directories above it, a link to it, and its variants, present or not
    """

    __slots__ = (
        "body", "cacheable", "clock_mark", "cost", "dependencies", "modified", "mtime_ns", "size", "variants", "version",
    )  # fmt: skip

    def __init__(self, path: bytes, status: os.stat_result, body: bytes | FileSlice, clock: FreshnessClock) -> None:
        super().__init__(path, os.lstat, signature, signature(status), clock.epoch)
        self.body = body
        self.size = body_length(body)
        self.mtime_ns = status.st_mtime_ns
        now, second = clock.loop_clock.time, self.mtime_ns // SECOND
        self.modified = second if is_reliable(second, now) else None
        self.variants: dict[bytes, int] = {}
        self.dependencies: list[PathState] = []
        self.clock_mark = clock.epoch
        self.cost = FILE_OVERHEAD + len(path) + (self.size if isinstance(body, bytes) else 0)
        coarse = self.mtime_ns % SECOND == status.st_ctime_ns % SECOND == 0
        grace = MTIME_GRACE_COARSE if coarse else MTIME_GRACE
        settled = now - status.st_ctime >= grace
        self.cacheable = settled and now - status.st_mtime >= grace
        self.version = ""
        if self.modified is not None:
            self.version = version(self.mtime_ns, self.size)
        elif isinstance(body, bytes):
            self.version = fingerprint(body)
        elif settled and is_reliable(status.st_ctime_ns // SECOND, now):  # else another content may have the same times
            self.version = fingerprint(repr(signature(status)[1:]).encode())  # not the device, which may change with each start

    def on_evict(self) -> None:
        """Release the content, and invalidate the cached responses that share it."""
        self.state = ()  # equals the signature of no file
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
    """The files below the directory `root`; or it alone, if it is a file.

    suffixes: those of the precompressed variants of a given path; crosses: whether a link from a path to a real one leads to
    what others may not have.
    """

    def __init__(
        self,
        root: str,
        clock: FreshnessClock,
        suffixes: Callable[[bytes], list[bytes]],
        cache: FileCache,
        crosses: Callable[[bytes, bytes], bool] = lambda path, real_path: False,
    ) -> None:
        path = os.fsencode(os.path.abspath(root))
        self._name, self._only = b"", b""  # paths of a file that alone is served: as it was named, and its real one
        if os.path.isfile(path):
            self._name = b"/" + os.path.basename(path)
            path, name = os.path.split(os.path.realpath(path))
            self._only = b"/" + name
        self._root = path.rstrip(b"/")
        # The real path of the root, with a slash at its end, and its device and inode. Always replaced as a whole: the
        # builder's thread reads it as well.
        self._real_root: tuple[bytes, tuple[int, int] | None] = b"", None
        self._clock = clock
        self._suffixes = suffixes
        self._cache = cache
        self._crosses = crosses
        self._reported: set[bytes] = set()  # paths that were logged, since links on them lead out of the root
        self._reported_since = -math.inf  # clock.now of the first of them
        self._directories: WeakValueDictionary[bytes, PathState] = WeakValueDictionary()  # those above cached files

    def find(self, path: bytes) -> File:
        """The regular file at `path`, which begins with a slash: from the cache, or opened.

        The body is valid until the next call. Raises IsADirectoryError for a directory, FileNotFoundError also for hidden files
        and those outside the root, PermissionError for special files, and other OSErrors.
        """
        if path == self._name:
            path = self._only
        key = (self, path)  # sites may differ in their variants
        epoch = self._clock.epoch
        file = self._cache.get(key)
        if file is None or not all(state.is_fresh(epoch) for state in (file, *file.dependencies)):
            self._cache.discard(key)
            file = self._load(path)
            file.cacheable = file.cacheable and self._cache.put(key, file)
            self._clock.recheck()  # cached responses from files that were evicted are no longer fresh
        return file

    def snapshot(self, path: bytes) -> PathState:
        """The present state of `path`, also of one without a file."""
        path = self._root + path
        try:
            state = signature(os.stat(path))
        except OSError:
            state = None
        return PathState(path, os.stat, signature, state, self._clock.epoch)

    def absence(self, path: bytes) -> PathState:
        """The same of a path for which `find` has raised; never fresh if there is a file by now."""
        absent = self.snapshot(path)
        if absent.state:
            with suppress(OSError):
                self.find(path)
                absent.state, absent.epoch = (), -1
        return absent

    def open_directory(self, path: bytes) -> OpenFile:
        """The directory at `path`, opened for reading. Raises OSError."""
        with self._open_path(path) as (path_fd, _):
            return reopen(path_fd, os.O_DIRECTORY)

    def list_directory(self, path: bytes) -> Iterator[ListingEntry]:
        """The entries of the directory at `path` that may be served. Raises OSError. Thread-safe: it uses no cache.

        An entry that is not a link is in the directory, and so below the root: one stat by name is enough.
        """
        directory = self.open_directory(path)
        with os.scandir(directory.fd) as found:
            yield from filter(None, (self._listing_entry(path, item) for item in found))

    def _listing_entry(self, path: bytes, item: os.DirEntry[str]) -> ListingEntry | None:
        """The listing entry for `item` of the directory at `path`; None if it may not be served."""
        name = os.fsencode(item.name)
        if is_hidden(path + name):
            return None
        try:
            status = item.stat(follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                with self._open_path(path + name, report=False) as (path_fd, _):
                    status = os.fstat(path_fd)
        except OSError:  # removed meanwhile, or a link that leads out of the root
            return None
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            return None
        return ListingEntry(name, stat.S_ISDIR(status.st_mode), status.st_size, status.st_mtime)

    def _load(self, path: bytes) -> File:
        with self._open_path(path) as (path_fd, real_path):
            status = os.fstat(path_fd)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, "is a directory")
            if not stat.S_ISREG(status.st_mode):
                raise PermissionError(errno.EACCES, "not a regular file")
            opened = reopen(path_fd)
        size = status.st_size
        body = read_all(opened.fd, size) if size <= SMALL_FILE else FileSlice(opened, 0, size)
        file = File(self._root + real_path, status, body, self._clock)
        if signature(os.fstat(opened.fd)) != file.state or file.size != size:
            file.cacheable = False  # it changed while it was read
        file.dependencies += self._parents(real_path)
        if real_path != path:
            link = self.snapshot(path)
            file.cacheable &= link.state == file.state
            file.dependencies.append(link)
        for suffix in self._suffixes(path):
            variant = self.snapshot(path + suffix)
            file.dependencies.append(variant)
            if variant.state:
                file.variants[suffix] = variant.state[MTIME_NS]
        file.cost += sum(DEPENDENCY_OVERHEAD + len(each._path) for each in file.dependencies)
        return file

    def _parents(self, path: bytes) -> Iterator[PathState]:
        """The directories between the root and `path`, and no links to any; shared by all files below them."""
        end = 0
        while (end := path.find(b"/", end + 1)) > 0:
            parent = self._root + path[:end]
            yield self._directories.setdefault(parent, PathState(parent, os.lstat, file_type, (stat.S_IFDIR,)))

    @contextmanager
    def _open_path(self, path: bytes, report: bool = True) -> Iterator[tuple[int, bytes]]:
        """An O_PATH descriptor of `path`, and its real path below the root.

        Raises FileNotFoundError for hidden files and those outside the root, and other OSErrors. report: whether to log that a
        link leads to such a file.
        """
        if is_hidden(path) or (self._only and path != self._only):
            raise FileNotFoundError(errno.ENOENT, "hidden, or beside the only file")
        path_fd = os.open(self._root + path, os.O_PATH | os.O_CLOEXEC)
        try:
            real_path = os.readlink(b"/proc/self/fd/%d" % path_fd)
            below = self._below_root(real_path)
            if not below or is_hidden(below) or self._crosses(path, below):
                if report:
                    self._report_link(path, real_path)
                raise FileNotFoundError(errno.ENOENT, "outside the root, hidden, or protected")
            yield path_fd, below
        finally:
            os.close(path_fd)

    def _below_root(self, path: bytes) -> bytes:
        """The part of a real path that is below the root, with a leading slash; b"" if it is outside."""
        status = os.stat(self._root or b"/")
        present_id = status.st_dev, status.st_ino
        real_root, root_id = self._real_root
        if present_id != root_id or not (path + b"/").startswith(real_root):
            # The root was replaced: it is, or its path contains, a link that now leads elsewhere, as deployments do.
            real_root = os.path.realpath(self._root or b"/").rstrip(b"/") + b"/"
            self._real_root = real_root, present_id
        return b"/" + path[len(real_root) :] if (path + b"/").startswith(real_root) else b""

    def _report_link(self, path: bytes, real_path: bytes) -> None:
        """Log where the links on `path` lead: each path once, and few paths, in a while, since clients choose them."""
        now = self._clock.loop_clock.now
        if now - self._reported_since >= LINK_REPORT_TIME:
            self._reported.clear()
            self._reported_since = now
        if path not in self._reported and len(self._reported) < LINK_REPORTS:
            self._reported.add(path)
            text = "%r is not served: it leads to %r, which is hidden, protected, or outside the root %r"
            log.warning(text, *map(os.fsdecode, (path, real_path, self._root)))


def reopen(path_fd: int, flags: int = 0) -> OpenFile:
    """The file of an O_PATH descriptor, opened for reading. Raises OSError."""
    return OpenFile(os.open(b"/proc/self/fd/%d" % path_fd, os.O_RDONLY | os.O_CLOEXEC | flags), os.close)


def is_hidden(path: bytes) -> bool:
    """Whether a segment of `path` is empty or begins with a dot; a leading /.well-known/ (RFC 8615) is not hidden.

    `path` begins with a slash.
    """
    return HIDDEN.search(path) is not None


def open_body(path: str | os.PathLike[str]) -> FileSlice:
    """The regular file at `path`, whoever named it: a handler. Raises OSError."""
    opened = OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), os.close)
    status = os.fstat(opened.fd)
    if not stat.S_ISREG(status.st_mode):
        raise PermissionError(errno.EACCES, "not a regular file", os.fspath(path))
    return FileSlice(opened, 0, status.st_size)


def read_all(fd: int, size: int) -> bytes:
    """The first `size` bytes of a file; fewer if it is shorter."""
    parts = []
    while size > 0 and (part := os.read(fd, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
