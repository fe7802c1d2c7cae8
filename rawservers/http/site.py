"""One tree of documents: which file a target names, and how it is served.

In this order: the method, the redirects, the file (or a folder's index, or its listing), the precompressed neighbour that the
client would rather have, the preconditions, the range. What goes wrong with a file is answered by a page, of the site's own
if it has one. The answers that time alone does not change are remembered with the files they came from.

A listing takes its time, so it is only promised here, and made beside the loop, by the builder's thread. It is never
remembered.
"""

from __future__ import annotations

import errno
import logging
import mimetypes
import re
from concurrent.futures import Future
from contextlib import suppress
from fnmatch import translate
from os import fsdecode, fsencode
from urllib.parse import quote

from rawservers.core.peer import Clock
from rawservers.http.cache import Answers, Source
from rawservers.http.conditional import etag, not_modified, precondition, precondition_failed
from rawservers.http.dates import http_date, parse_date
from rawservers.http.files import File, Files, Memory, Seen, hidden
from rawservers.http.listing import builder, html, json
from rawservers.http.negotiation import prefers_json, rank_codings
from rawservers.http.ranges import partial, ranges, unsatisfiable
from rawservers.http.request import Refused, Request, located
from rawservers.http.response import Answer, Headers, Response, check_headers, error
from rawservers.settings import SiteConfig

log = logging.getLogger("rawservers")

METHODS = "GET, HEAD, OPTIONS"
CODINGS = {b".br": "br", b".zst": "zstd", b".gz": "gzip"}  # neighbours by ending, the smallest first
COMPRESSIBLE = re.compile(r"text/|.*(?:json|javascript|xml|wasm|font/ttf|font/otf|icon)")
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
STATUS |= dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EISDIR), 404)
WHY = {
    403: "You may not read this.",
    404: "There is nothing here by that name.",
    405: "Files can be read, not written.",
    500: "The file cannot be read.",
    503: "The server is busy, or short of descriptors or memory; try again in a moment.",
}


class Site:
    """Answers requests from the files of one site. `clock` is the loop's; `answers` and `files` remember, and `builds` makes
    the listings, for all sites.

    ValueError for a header that cannot be sent.
    """

    def __init__(
        self,
        config: SiteConfig,
        clock: Clock,
        answers: Answers,
        files: Memory,
        builds: builder.Builder = builder.of_this_process,
    ) -> None:
        self._config = config
        self._clock = clock
        self._answers = answers
        self._types = TYPES | dict(config.types)
        self._headers = [(re.compile(translate(pattern)), name, value) for pattern, name, value in config.headers]
        self._pages = dict(config.error_pages)
        self._files = Files(config.root, clock, self._endings, files)
        self._builder = builds
        check_headers([(name, value) for _, name, value in config.headers])
        check_headers([("Location", target) for _, target in config.redirects])
        if config.listing:
            html.template()  # read now, while it can be: later the process may have less rights

    def respond(self, request: Request) -> Answer | Future[Response]:
        """The answer to `request`, or a promise of what `answer` makes one of. Raises Refused if its target is malformed."""
        if request.method == "OPTIONS" and request.target == "*":
            return Answer(Response(204, [("Allow", METHODS)]), request)
        if request.method not in {"GET", "HEAD", "OPTIONS"}:
            return self._fail(405, request, [("Allow", METHODS)])
        path = request.locate()
        if request.method == "OPTIONS":
            return Answer(Response(204, self._dressed(path, [("Allow", METHODS)])), request)
        location = self._redirected(path, request.query)
        if location is not None:
            return self._redirect(location, request)
        try:
            return self._serve(path, request)
        except IsADirectoryError:
            return self._redirect(f"{quote(path)}/{request.query}", request)
        except OSError as failure:
            return self._unreadable(failure, request)

    def answer(self, request: Request, promise: Future[Response]) -> Answer:
        """The answer that a promise, now done, has become."""
        failure = promise.exception(timeout=0)  # not raised: it is shared, and would grow with each one who does
        if failure is None:
            return Answer(promise.result(), request)
        if isinstance(failure, OSError):
            return self._unreadable(failure, request)
        log.error("the listing for %s has failed", request.target, exc_info=failure)
        return self._fail(500, request)

    # Files

    def _serve(self, path: bytes, request: Request) -> Answer | Future[Response]:
        """What the file or folder at `path` answers. OSError if it cannot be had; IsADirectoryError for want of a slash."""
        absent: list[Source] = []
        if path.endswith(b"/"):
            for name in self._config.index:
                index = path + fsencode(name)
                try:
                    file = self._files.find(index)
                except (FileNotFoundError, IsADirectoryError):
                    absent.append(self._files.look(index))
                else:
                    return self._send(index, file, request, absent)
            return self._list(path, request)
        return self._send(path, self._files.find(path), request, absent)

    def _send(self, path: bytes, file: File, request: Request, absent: list[Source]) -> Answer:
        """The file itself, as the request's fields would have it; `absent`: what must not be there for it to be the one."""
        chosen, coding = self._negotiate(path, file, request)
        tag = etag(chosen.modified_ns, chosen.size)
        if coding:
            tag = f'{tag[:-1]}-{coding}"'
        headers = [("Content-Type", self._type(path))]
        if coding:
            headers.append(("Content-Encoding", coding))
        if any(neighbour.signature for neighbour in file.neighbours):
            headers.append(("Vary", "Accept-Encoding"))
        now = self._clock.time
        headers += [
            ("Last-Modified", http_date(min(chosen.modified, now))),  # never later than Date (RFC 9110 §8.8.2.1)
            ("ETag", tag),
            ("Accept-Ranges", "bytes"),
        ]
        if self._config.max_age is not None:
            headers.append(("Cache-Control", f"max-age={self._config.max_age}"))
        headers = self._dressed(request.locate(), headers)
        response = conditional(request, chosen, tag, headers, now)
        if response.status == 412 or response.status == 416:
            return self._fail(response.status, request, response.headers, response)
        answer = Answer(response, request)
        if is_lasting(request, response, now) and file.steady and chosen.steady:
            if answer.content is response:
                answer.content = chosen
            self._answers.remember(request, answer, {file, chosen, *absent})
        return answer

    def _negotiate(self, path: bytes, file: File, request: Request) -> tuple[File, str]:
        """The file, or its precompressed neighbour, and the neighbour's coding (RFC 9110 §12.5.3)."""
        accepted = request.fields.get("accept-encoding")
        if not accepted or not any(neighbour.signature for neighbour in file.neighbours):
            return file, ""
        endings = {
            coding: ending
            for neighbour, (ending, coding) in zip(file.neighbours, CODINGS.items(), strict=True)
            if neighbour.signature and not is_older(neighbour, file)  # an older one was made from what the file once was
        }
        for coding in rank_codings(accepted, endings):
            with suppress(OSError):
                return self._files.find(path + endings[coding]), coding
        return file, ""

    def _endings(self, path: bytes) -> tuple[bytes, ...]:
        """The endings of the neighbours that may be sent in place of the file at `path`."""
        return tuple(CODINGS) if self._config.precompressed and COMPRESSIBLE.match(self._type(path)) else ()

    def _type(self, path: bytes) -> str:
        """The media type that a name's ending stands for, text with its charset."""
        _, dot, ending = path.rpartition(b"/")[2].rpartition(b".")
        kind = self._types.get("." + ending.decode("latin-1").lower()) if dot else None
        if kind is None:
            return "application/octet-stream"
        return f"{kind}; charset=utf-8" if kind.startswith("text/") and "charset" not in kind else kind

    def _dressed(self, path: bytes, headers: Headers) -> list[tuple[str, str]]:
        """`headers` with those that the site adds for `path`."""
        dressed = list(headers)
        text = fsdecode(path)
        for pattern, name, value in self._headers:
            if pattern.match(text):
                dressed = [field for field in dressed if field[0].lower() != name.lower()]
                dressed.append((name, value))
        return dressed

    # Folders, redirects, errors

    def _list(self, path: bytes, request: Request) -> Answer | Future[Response]:
        """The folder's listing; for a HEAD the header fields alone, which take no time."""
        if not self._files.is_folder(path):
            raise FileNotFoundError(errno.ENOENT, "no such folder")
        if not self._config.listing:
            return self._fail(403, request)
        vary = ("Vary", "Accept")
        if prefers_json(request.fields.get("accept", "")):
            form = json.render
            headers = [("Content-Type", "application/json"), vary]
        else:
            form = html.render
            headers = [("Content-Type", "text/html; charset=utf-8"), vary, ("Content-Security-Policy", html.policy())]
        dressed = self._dressed(path, headers)
        if request.method == "HEAD":
            self._files.check_folder(path)
            return Answer(Response(200, dressed), request, sized=False)

        def build() -> Response:
            entries = builder.paced(self._files.entries(path))
            return Response(200, dressed, builder.gathered(builder.paced(form(path, entries))))

        try:
            return self._builder.submit((self, path, form), build)
        except builder.Busy:
            return self._fail(503, request, [("Retry-After", "1")])

    def _redirected(self, path: bytes, query: str) -> str | None:
        """Where the table of redirects sends `path`, if it does."""
        for source, target in self._config.redirects:
            rest = ""
            if source.endswith("*") and path.startswith(fsencode(source[:-1])):
                rest = quote(path[len(fsencode(source)) - 1 :])
            elif path != fsencode(source):
                continue
            if target.endswith("*"):
                rest = rest.lstrip("/") if target == "/*" else rest  # "//" would lead to another host
                target = target[:-1] + rest
            return target + query if "?" not in target else target
        return None

    def _redirect(self, location: str, request: Request) -> Answer:
        why = "What you are looking for has another address."
        headers = self._dressed(request.locate(), [("Location", location)])
        return Answer(error(301, why, headers), request)

    def _unreadable(self, failure: OSError, request: Request) -> Answer:
        """The answer when a file or folder cannot be had."""
        status = STATUS.get(failure.errno or 0, 500)
        if status == 500:
            log.error("cannot read %r: %s", fsdecode(request.locate()), failure.strerror)
        return self._fall_back(request) if status == 404 else self._fail(status, request)

    def _fall_back(self, request: Request) -> Answer:
        """The answer when there is no such file."""
        path = request.locate()
        fallback = self._config.fallback
        if fallback is None or hidden(path) or b"." in path.rpartition(b"/")[2]:
            return self._fail(404, request)
        try:
            file = self._files.find(fsencode(fallback))
        except OSError as failure:
            log.error("cannot read the fallback %s: %s", fallback, failure.strerror)
            return self._fail(404, request)
        return self._send(fsencode(fallback), file, request, [self._files.look(path)])

    def refuse(self, refusal: Refused, line: str) -> Answer:
        """The answer to a request that nobody could understand, but for this request line."""
        return Answer(self._page(refusal.status) or error(refusal.status, refusal.why), None, line)

    def _fail(self, status: int, request: Request, headers: Headers = (), response: Response | None = None) -> Answer:
        """An error, told by the site's own page if it has one."""
        dressed = self._dressed(located(request) or b"/", headers)
        return Answer(self._page(status, dressed) or response or error(status, WHY[status], dressed), request)

    def _page(self, status: int, headers: Headers = ()) -> Response | None:
        """The site's own page for `status`, if it has one."""
        page = self._pages.get(status)
        if page is None:
            return None
        try:
            file = self._files.find(fsencode(page))
        except OSError as failure:
            log.error("cannot read the error page %s: %s", page, failure.strerror)
            return None
        own = [field for field in headers if field[0].lower() != "content-type"]
        return Response(status, [("Content-Type", self._type(fsencode(page))), *own], file.body)


def conditional(request: Request, file: File, tag: str, headers: list[tuple[str, str]], now: float) -> Response:
    """The 200 with `headers` and the content of `file`, or the 304, 412, 206 or 416 that the request prefers to it."""
    status = precondition(request, tag, int(file.modified), now)
    if status == 304:
        return not_modified(headers)
    if status == 412:
        return precondition_failed()
    spans = ranges(request, file.size, tag, int(file.modified), now)
    if spans is None:
        return Response(200, headers, file.body)
    return partial(headers, file.body, spans, file.size) if spans else unsatisfiable(file.size)


def is_older(neighbour: Seen, file: File) -> bool:
    """Whether a neighbour was made before the file last changed; some compressors copy its time without the fraction."""
    whole = neighbour.modified == int(neighbour.modified)
    return neighbour.modified < (int(file.modified) if whole else file.modified)


def is_lasting(request: Request, response: Response, now: float) -> bool:
    """Whether the answer depends on nothing but the request's bytes and the files, time left aside."""
    fields = request.fields
    if response.status not in {200, 304} or request.length or request.version == (0, 9):
        return False
    if not fields.keys().isdisjoint({"authorization", "range", "if-range"}):
        return False
    since = fields.get("if-modified-since")
    return since is None or (parse_date(since, now) or 0) <= now
