"""Which bytes a target names. The only file that opens files.

Nothing outside the root is ever served, and no name that begins with a dot but /.well-known/. A path is not trusted for
that: links can lead anywhere, and can change between a look and an open. So what a path names is first opened as a mere
place (O_PATH, which touches nothing, not even a FIFO), the kernel is asked where that place really is, and only a regular
file inside the root is then opened through the same descriptor.

Two memories make it fast, and neither can be stale:

- `_answers`: whole answers by the exact bytes of the request, so that a repeated one needs no parsing at all.
- `_files`: files by path, the small ones' content and the large ones' open descriptor, for requests that differ.

Each entry names the file it came from with its device, inode, size and times to the nanosecond. Before an entry is used,
stat must confirm them; once per wake of the loop is enough, since what was confirmed in this wake was confirmed after the
request had begun to arrive. A file that changed a moment ago is not remembered at all: the file system's clock is so coarse
that a second change could leave the same times behind.
"""

from __future__ import annotations

import errno
import logging
import mimetypes
import os
import stat
from urllib.parse import quote

from rawservers.core.protocol import Clock, FileSlice, OpenFile
from rawservers.http.cache import Cache
from rawservers.http.request import Request
from rawservers.http.response import Answer, Response, error, http_date

log = logging.getLogger("rawservers")

SMALL = 16384  # bytes up to which a file is kept in memory, and leaves in one piece with its head
ANSWERS, ANSWER_BYTES = 16384, 16 << 20  # bounds of the answers' memory: 1 KiB for a request and its answer's head
FILES, FILE_BYTES = 16384, 64 << 20  # bounds of the files' memory: 16,384 of 4 KiB, or fewer larger ones
LARGE_COST = FILE_BYTES // 256  # what an open descriptor counts for: at most 256 are kept, of the 1024 a process may have
OVERHEAD = 600  # bytes that Python takes for an entry besides its content
SIGHTED = 8192  # requests of which no more is kept than that they came once

SETTLED = 0.020  # seconds after a change until the times tell changes apart: two ticks of a 100 Hz kernel
SETTLED_COARSE = 2.0  # the same where the file system keeps whole seconds only (FAT: two)

INDEX = b"index.html"
ALLOW = ("Allow", "GET, HEAD, OPTIONS")
TYPES = mimetypes.common_types | mimetypes.types_map | {
    ".avif": "image/avif",
    ".br": "application/octet-stream",
    ".bz2": "application/x-bzip2",
    ".gz": "application/gzip",  # the file itself, .tar.gz too: nobody is to unpack it on the way
    ".js": "text/javascript",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xz": "application/x-xz",
    ".zst": "application/zstd",
}  # fmt: skip

STATUS = {errno.EACCES: 403, errno.EPERM: 403, errno.EMFILE: 503, errno.ENFILE: 503, errno.ENOMEM: 503}
STATUS |= dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL), 404)
WHY = {
    403: "You may not read this.",
    404: "There is nothing here by that name.",
    405: "Files can be read, not written.",
    500: "The file cannot be read.",
    503: "The server is short of descriptors or memory; try again in a moment.",
}


class File:
    """A regular file as it stood when it was opened, and how it is served."""

    __slots__ = ("body", "cost", "headers", "passed", "path", "signature", "steady", "wake")

    def __init__(self, path: bytes, status: os.stat_result, body: bytes | FileSlice, clock: Clock) -> None:
        self.path = path
        self.signature = signature(status)
        self.body = body
        self.wake = self.passed = clock.wake
        self.cost = OVERHEAD + (len(body) if isinstance(body, bytes) else LARGE_COST)
        self.steady = clock.time - max(status.st_mtime, status.st_ctime) >= settling_time(status)
        modified = http_date(min(status.st_mtime, clock.time))  # never later than Date (RFC 9110 §8.8.2.1)
        self.headers = [("Content-Type", content_type(path)), ("Last-Modified", modified)]

    def confirm(self, wake: int) -> bool:
        """Whether the path still names this file, unchanged: looked up at most once per wake."""
        if self.wake != wake:
            try:
                if signature(os.stat(self.path)) != self.signature:
                    return False
            except OSError:
                return False
            self.wake = wake
        return True


class Remembered:
    """An answer, and the file it tells of."""

    __slots__ = ("answer", "cost", "file", "passed", "wake")

    def __init__(self, request: Request, answer: Answer, file: File) -> None:
        self.answer = answer
        self.file = file
        self.wake = self.passed = file.wake
        self.cost = OVERHEAD + len(request.head) + len(answer.before) + len(answer.behind)


class Site:
    """Answers requests from the files below `root`, a folder's path. `clock` is the loop's."""

    def __init__(self, root: str, clock: Clock) -> None:
        self._root = os.fsencode(os.path.abspath(root)).rstrip(b"/")
        self._landing = os.path.realpath(self._root or b"/").rstrip(b"/") + b"/"  # where files of the root really are
        self._clock = clock
        self._answers: Cache[Remembered] = Cache(ANSWERS, ANSWER_BYTES)
        self._files: Cache[File] = Cache(FILES, FILE_BYTES)
        self._sighted: set[int] = set()

    # The short way

    def recall(self, data: bytes) -> Answer | None:
        """The answer to a request whose bytes are exactly `data`, if it is remembered and still true."""
        entry = self._answers.get(data)
        if entry is None:
            return None
        wake = self._clock.wake
        if entry.wake != wake:
            if not entry.file.confirm(wake):
                self._answers.drop(data)
                return None
            entry.wake = wake
        return entry.answer

    # The long way

    def respond(self, request: Request) -> Answer:
        """The answer to `request`. Raises Refused if its target is malformed."""
        if request.method == "OPTIONS":
            if request.target != "*":
                request.locate()
            return Answer(Response(204, [ALLOW]), request)
        if request.method not in {"GET", "HEAD"}:
            return Answer(error(405, WHY[405], [ALLOW]), request)
        path, query = request.locate()
        try:
            if hidden(path):
                raise FileNotFoundError(errno.ENOENT, "hidden")
            file = self._find(path + INDEX if path.endswith(b"/") else path)
        except IsADirectoryError:
            if path.endswith(b"/"):  # the index is one
                return self._answer_error(404, request)
            return self._redirect(f"{quote(path)}/{query}", request)
        except OSError as failure:
            return self._answer_error(self._status(path, failure), request)
        answer = Answer(Response(200, file.headers, file.body), request)
        self._remember(request, answer, file)
        return answer

    def _answer_error(self, status: int, request: Request) -> Answer:
        return Answer(error(status, WHY[status]), request)

    def _redirect(self, location: str, request: Request) -> Answer:
        response = error(301, "This is a folder: its address ends with a slash.", [("Location", location)])
        return Answer(response, request)

    def _status(self, path: bytes, failure: OSError) -> int:
        """The status that tells of `failure` to find `path`."""
        status = STATUS.get(failure.errno or 0, 500)
        if status == 500:
            log.error("cannot read %r: %s", os.fsdecode(self._root + path), failure.strerror)
        if status == 404 and path.endswith(b"/") and not hidden(path) and self._is_folder(path):
            return 403  # there is no index, and the folder's other names are nobody's business
        return status

    def _is_folder(self, path: bytes) -> bool:
        try:
            os.close(self._open(path))
        except OSError as failure:
            return isinstance(failure, IsADirectoryError)
        return False

    def _find(self, path: bytes) -> File:
        """The regular file at `path` below the root, remembered or looked up anew. OSError if there is none to be had."""
        file = self._files.get(path)
        if file is None or not file.confirm(self._clock.wake):
            self._files.drop(path)
            file = self._load(path)
            if file.steady:
                self._files.put(path, file)
        return file

    def _load(self, path: bytes) -> File:
        fd = self._open(path)
        opened = OpenFile(fd, os.close)
        before = os.fstat(fd)
        if before.st_size > SMALL:
            return File(self._root + path, before, FileSlice(opened, 0, before.st_size), self._clock)
        content = read_all(fd, before.st_size)
        file = File(self._root + path, before, content, self._clock)
        if signature(os.fstat(fd)) != file.signature or len(content) != before.st_size:
            file.steady = False  # it was being written meanwhile
        return file

    def _open(self, path: bytes) -> int:
        """A descriptor of the regular file at `path`, wherever links lead inside the root."""
        place = os.open(self._root + path, os.O_PATH | os.O_CLOEXEC)
        try:
            mode = os.fstat(place).st_mode
            way = b"/proc/self/fd/%d" % place
            if not self._inside(os.readlink(way)):
                raise FileNotFoundError(errno.ENOENT, "outside the root")
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, "a folder")
            if not stat.S_ISREG(mode):
                raise PermissionError(errno.EACCES, "not a regular file")
            return os.open(way, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(place)

    def _inside(self, landed: bytes) -> bool:
        """Whether a place that the kernel names is one that may be served."""
        if not (landed + b"/").startswith(self._landing):
            # Perhaps the root is a link that has been moved, as deployments do: look where it leads now.
            self._landing = os.path.realpath(self._root or b"/").rstrip(b"/") + b"/"
            if not (landed + b"/").startswith(self._landing):
                return False
        return not hidden(b"/" + landed[len(self._landing) :])

    def _remember(self, request: Request, answer: Answer, file: File) -> None:
        """Keep the answer to a request that came a second time: one that never comes again must not drive out others."""
        if not file.steady or request.length or request.version == (0, 9) or "authorization" in request.fields:
            return
        sighted = hash(request.head)
        if sighted in self._sighted:
            self._answers.put(request.head, Remembered(request, answer, file))
        else:
            if len(self._sighted) >= SIGHTED:
                self._sighted.clear()
            self._sighted.add(sighted)


def hidden(path: bytes) -> bool:
    """Whether `path` has an empty segment, or one that begins with a dot; /.well-known/ (RFC 8615) is not hidden."""
    if b"/." not in path and b"//" not in path:
        return False
    segments = path.split(b"/")[1:]
    if segments[0] == b".well-known":
        del segments[0]
    return any(segment.startswith(b".") for segment in segments) or b"" in segments[:-1]


def content_type(path: bytes) -> str:
    """The media type that a name's ending stands for, text with its charset."""
    _, dot, ending = path.rpartition(b"/")[2].rpartition(b".")
    kind = TYPES.get("." + ending.decode("latin-1").lower(), "application/octet-stream") if dot else None
    if kind is None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def signature(status: os.stat_result) -> tuple[int, int, int, int, int]:
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
