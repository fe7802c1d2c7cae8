"""One site: the mapping of request targets to files below a document root, and the responses from them.

In this order: method, redirects, file (or a directory's index, or its listing), precompressed variant, preconditions, range. If
a file cannot be served, the response is an error page, the site's own if there is one. Responses that change only with their
files are stored in the response cache.

A directory listing is slow, so its response is a future, made by the builder's thread. It is never cached.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from fnmatch import translate
from os import fsdecode, fsencode

from rawservers.http.auth import UNPROTECTED, Protection
from rawservers.http.cache import Dependency, FreshnessClock, ResponseCache
from rawservers.http.conditional import YEAR_1980, etag, not_modified, precondition
from rawservers.http.dates import http_date, parse_date
from rawservers.http.escapes import percent_encode
from rawservers.http.files import SECOND, DocumentRoot, File, FileCache, is_hidden
from rawservers.http.health import NO_HEALTH, Health
from rawservers.http.negotiation import accepts_html, rank_codings
from rawservers.http.ranges import partial_content, requested_ranges
from rawservers.http.request import Request
from rawservers.http.response import Headers, PreparedResponse, Response, as_private, check_headers, error_response
from rawservers.http.target import slash_location
from rawservers.settings import SiteConfig, read_data

log = logging.getLogger("rawservers")

METHODS = ("GET", "HEAD", "OPTIONS")
ALLOW = [("Allow", ", ".join(METHODS))]
CODINGS = {b".br": "br", b".zst": "zstd", b".gz": "gzip"}  # content codings by file name suffix, the best compression first
AUTHORITY = r"((?:[^/?#]+:)?//[^/?#]+)?/?"  # a URL without a path, or "/"
COMPRESSIBLE = re.compile(
    r"(?:text|message)/|.*(?:json|javascript|xml|yaml|toml|wasm|sql|rtf|postscript|x-sh|x-tex|[ot]tf|collection|fontobject|icon|bmp)\b"
)
OTHER_TYPE = "application/octet-stream"
# By the ending, or by the whole name of a file without one. Not those of the mimetypes module, which differ between systems.
MEDIA_TYPES = read_data("http/media_types.txt")


def with_charset(kind: str) -> str:
    """The media type, with a charset if it is a text type without one."""
    return f"{kind}; charset=utf-8" if kind.startswith("text/") and "charset" not in kind else kind


TYPES = {
    name: with_charset(kind) for kind, *names in map(str.split, re.findall("(?m)^[^#\n].*", MEDIA_TYPES)) for name in names
}

ERRNOS = {403: "EACCES EPERM", 404: "EINVAL EISDIR ELOOP ENAMETOOLONG ENOENT ENOTDIR", 503: "EAGAIN EMFILE ENFILE ENOMEM"}
ERRNO_STATUS = {getattr(errno, name): status for status, names in ERRNOS.items() for name in names.split()}
MESSAGES = {
    301: "This page has moved to another address.", 401: "This page needs a user name and a password.",
    403: "You do not have permission to read this page.",
    404: "There is no page at this address.", 405: "This page can only be read.",
    412: "This page has changed since you last saw it.", 416: "The requested range is not available.",
    500: "The file could not be read.", 503: "The server is overloaded. Please try again in a moment.",
}  # fmt: skip


class Site:
    """The responses from the files of one site.

    clock, cache, file_cache, health: shared by all sites; hosts: its host names; protection: of its paths. Raises ValueError
    for a malformed header in `config`, and OSError if the templates of listings cannot be read.
    """

    def __init__(
        self,
        config: SiteConfig,
        clock: FreshnessClock,
        cache: ResponseCache,
        file_cache: FileCache,
        protection: Protection = UNPROTECTED,
        health: Health = NO_HEALTH,
    ) -> None:
        self._config = config
        self.protection = protection
        self._health = health
        self.hosts = config.hosts
        self._clock = clock.loop_clock
        self._cache = cache
        self._types = TYPES | {name: with_charset(kind) for name, kind in config.types}
        self._headers = [(re.compile(translate(pattern)), name, value) for pattern, name, value in config.headers]
        self._redirects = [(fsencode(source), target) for source, target in config.redirects]
        self._pages = dict(config.error_pages)
        self._root = DocumentRoot(config.root, clock, self._suffixes, file_cache, protection.crosses)
        check_headers([header[1:] for header in config.headers] + [("Location", target) for _, target in config.redirects])
        self._listings = None
        if config.listing:
            from rawservers.http.listing.listings import Listings  # here, since few sites have some

            self._listings = Listings(self._root.list_directory)

    def max_body(self, request: Request) -> int | None:
        """The longest body accepted with `request`, in bytes; None: none is."""
        return None

    def respond(self, request: Request, future: Future[Response] | None = None) -> PreparedResponse | Future[Response]:
        """The response to `request`, or a future of one; that of the future if there is one, which is done."""
        if future:
            return self._finish(request, future)
        if request.method not in METHODS:
            return self.page(405, request, ALLOW)
        path = request.path_bytes
        if request.method == "OPTIONS":
            return PreparedResponse(Response(204, self._with_site_headers(request, ALLOW)), request)
        location = self._redirect_target(path, request.query)
        try:
            return self.page(301, request, [("Location", location)]) if location else self._serve(path, request)
        except IsADirectoryError:
            return self.page(301, request, [("Location", slash_location(request))])
        except OSError as failure:
            return self._os_error(failure, request)

    def page(self, status: int, request: Request, headers: Headers = (), message: str = "") -> PreparedResponse:
        """A response with a page about its status: the site's own one, else the built-in one, with `message` or the usual."""
        home = ""
        if status == 404 and 404 not in self._pages and self._has_home(request.path_bytes):
            headers = [*without("Vary", headers), ("Vary", "Accept")]
            home = home_link(request.target) if accepts_html(request.fields.get("accept", "")) else ""
        fields = without("Content-Type", self._with_site_headers(request, headers))
        response = error_response(status, message or MESSAGES[status], fields, home)
        if page := self._pages.get(status):
            try:
                body = self._root.find(fsencode(page)).body
                response = Response(status, [("Content-Type", self._type(fsencode(page))), *fields], body)
            except OSError as failure:
                log.error("cannot read the error page %s: %s", page, failure.strerror)
        return PreparedResponse(response, request)

    def _has_home(self, path: bytes) -> bool:
        """Whether there is something at "/" that an error page for `path` can link to."""
        if path == b"/" or self._config.listing:
            return path != b"/"
        for name in self._config.index:
            with suppress(OSError):
                self._root.find(b"/" + fsencode(name))
                return True
        return False

    def _finish(self, request: Request, future: Future[Response]) -> PreparedResponse:
        """The response of a future that is done."""
        failure = future.exception(timeout=0)  # not raised: it is shared, and each raise would lengthen its traceback
        if failure is None:
            return PreparedResponse(future.result(), request)
        if isinstance(failure, OSError):
            return self._os_error(failure, request)
        log.error("listing of %s failed", request.target, exc_info=failure)
        return self.page(500, request)

    # Files

    def _serve(self, path: bytes, request: Request) -> PreparedResponse | Future[Response]:
        """The response from the file or directory at `path`. Raises OSError; IsADirectoryError if the path lacks its slash."""
        if not path.endswith(b"/"):
            return self._file_response(path, request)
        absent: list[Dependency] = []
        for index in [path + fsencode(name) for name in self._config.index]:
            try:
                return self._file_response(index, request, absent)
            except (FileNotFoundError, IsADirectoryError):
                absent.append(self._root.absence(index))
        return self._listing(path, request)

    def _file_response(
        self, path: bytes, request: Request, absent: Sequence[Dependency] = (), is_fallback: bool = False
    ) -> PreparedResponse:
        """The response from the file at `path`, by the request's header fields. Raises OSError if it cannot be opened.

        absent: names that must not exist for the response to stay valid. is_fallback: whether it stands for another path.
        """
        file = self._find(path, request)
        chosen, coding = self._negotiate(path, file, request) if file.variants else (file, "")
        now = self._clock.time
        tag = etag(chosen.version, coding)
        second = chosen.mtime_ns // SECOND
        fields = [
            ("Content-Type", self._type(path)),
            ("Content-Encoding", coding),
            ("Vary", ", ".join(["Accept"] * is_fallback + ["Accept-Encoding"] * bool(file.variants))),
            # Never later than Date (RFC 9110 §8.8.2.1). From a date before 1980, caches would derive a lifetime of years.
            ("Last-Modified", http_date(min(second, now)) if second >= YEAR_1980 else ""),
            ("ETag", tag),
            ("Accept-Ranges", "bytes"),
            ("Cache-Control", "" if self._config.max_age is None else f"max-age={self._config.max_age}"),
        ]
        headers = self._with_site_headers(request, [field for field in fields if field[1]])
        status = precondition(request, tag, chosen.modified, now)
        if status == 412:
            return self.page(412, request)
        spans = None if status else requested_ranges(request, chosen.size, tag, chosen.modified, now)
        if spans == []:
            return self.page(416, request, [("Content-Range", f"bytes */{chosen.size}")])
        if spans:
            if "if-range" in request.fields:  # its client has the other fields already (RFC 9110 §15.3.7)
                headers = without("Last-Modified", headers)
            request.steps = len(spans) - 1
            response = partial_content(headers, chosen.body, spans, chosen.size)
        else:
            response = not_modified(headers) if status else Response(200, headers, chosen.body)
        prepared = PreparedResponse(response, request)
        if is_cacheable(request, response, now) and file.cacheable and chosen.cacheable:
            if prepared.content is response:
                prepared.content = chosen
            dependencies = {file, *file.dependencies, chosen, *chosen.dependencies, *absent}
            self._cache.store(request, prepared, dependencies, exact=is_fallback and not is_route(request.path_bytes))
        return prepared

    def _find(self, path: bytes, request: Request) -> File:
        """The file at `path`, for a request that may be for another one. Raises OSError, also if others only may have it."""
        if self.protection.crosses(request.path_bytes, path):
            raise FileNotFoundError(errno.ENOENT, "protected by other users than the path that was asked for")
        return self._root.find(path)

    def _negotiate(self, path: bytes, file: File, request: Request) -> tuple[File, str]:
        """The file and "", or its best accepted precompressed variant and its content coding (RFC 9110 §12.5.3)."""
        suffixes = {CODINGS[suffix]: suffix for suffix, mtime_ns in file.variants.items() if not is_older(mtime_ns, file)}
        for coding in rank_codings(request.fields.get("accept-encoding", ""), suffixes):
            with suppress(OSError):
                return self._find(path + suffixes[coding], request), coding
        return file, ""

    def _suffixes(self, path: bytes) -> list[bytes]:
        """The suffixes of the precompressed variants that may be sent in place of the file at `path`."""
        return list(CODINGS) if self._config.precompressed and COMPRESSIBLE.match(self._type(path)) else []

    def _type(self, path: bytes) -> str:
        return media_type(path, self._types)

    def _with_site_headers(self, request: Request, headers: Headers) -> Headers:
        """`headers` with those that the site's configuration sets for the path of the request."""
        path = fsdecode(request.path_bytes or b"/")
        if request.user:
            headers = as_private(headers)
        for pattern, name, value in self._headers:
            if pattern.match(path):
                headers = [*without(name, headers), (name, value)]
        return headers

    # Listings, redirects, errors

    def _listing(self, path: bytes, request: Request) -> PreparedResponse | Future[Response]:
        """The directory's listing; to a HEAD request, its header fields at once. Raises OSError."""
        self._root.open_directory(path)  # closed at once: raises OSError
        if self._listings is None:
            return self.page(403, request)
        form, headers = self._listings.form(request.fields.get("accept", ""))
        fields = self._with_site_headers(request, headers)
        if request.method == "HEAD":
            return PreparedResponse(Response(200, fields), request, sized=False)
        return self._listings.submit(form, path, fields)

    def _redirect_target(self, path: bytes, query: str) -> str | None:
        """The redirect target for `path`, if there is one."""
        for source, target in self._redirects:
            prefix = source.removesuffix(b"*")
            if path == source or (prefix != source and path.startswith(prefix)):
                if target.endswith("*"):
                    target, rest = target[:-1], percent_encode(path[len(prefix) :])
                    if re.fullmatch(AUTHORITY, target):  # the rest is a path, not more of the host, nor "//" and another host
                        target, rest = target.removesuffix("/") + "/", rest.lstrip("/")
                    target += rest
                return target if "?" in target else target + query
        return None

    def _os_error(self, failure: OSError, request: Request) -> PreparedResponse:
        """The response when a file or directory cannot be opened or read: the configured fallback in place of 404."""
        path, fallback = request.path_bytes, self._config.fallback
        status = ERRNO_STATUS.get(failure.errno or 0, 500)
        if status == 404 and path == self._health.path:
            return self._health.respond(request)
        if status == 500:
            log.error("cannot read %r: %s", fsdecode(path), failure.strerror)
        if status == 404 and fallback:
            if not is_hidden(path) and (is_route(path) or accepts_html(request.fields.get("accept", ""))):
                try:
                    return self._file_response(fsencode(fallback), request, [self._root.absence(path)], is_fallback=True)
                except OSError as further:
                    log.error("cannot read the fallback %s: %s", fallback, further.strerror)
            return self.page(404, request, [("Vary", "Accept")])
        return self.page(status, request, [("Retry-After", "1")] if status == 503 else ())


def media_type(path: bytes, types: Mapping[str, str] = TYPES) -> str:
    """The media type by the file name's extension, or by a name without one; text types with a charset."""
    _, dot, extension = path.rpartition(b"/")[2].rpartition(b".")
    other = OTHER_TYPE if dot else types.get("", OTHER_TYPE)
    return types.get((dot + extension).decode("latin-1").lower(), other)


def home_link(target: str) -> str:
    """The URL of "/", relative to this target: it holds behind a proxy that adds a prefix."""
    return "../" * (target.partition("?")[0].count("/") - 1) or "./" if target.startswith("/") else "/"


def without(name: str, headers: Headers) -> Headers:
    """The header fields of other names."""
    return [field for field in headers if field[0].lower() != name.lower()]


def is_route(path: bytes) -> bool:
    """Whether a path without a file is one of an application, not an asset: its last segment has no dot."""
    return b"." not in path.rpartition(b"/")[2]


def is_older(mtime_ns: int, file: File) -> bool:
    """Whether a variant is older than the file. Some compressors copy the file's time without the fraction of a second."""
    return mtime_ns < (file.mtime_ns if mtime_ns % SECOND else file.mtime_ns // SECOND * SECOND)


def is_cacheable(request: Request, response: Response, now: float) -> bool:
    """Whether the response depends on nothing but the bytes of the request and the state of files."""
    fields = request.fields
    if response.status not in {200, 304} or request.version == (0, 9) or fields.keys() & {"authorization", "range", "if-range"}:
        return False
    return (parse_date(fields.get("if-modified-since", ""), now) or 0) <= now
