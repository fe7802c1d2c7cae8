"""One site: the mapping of request targets to files below a document root, and the responses from them.

In this order: method, redirects, file (or a directory's index, or its listing), precompressed variant, preconditions, range. If
a file cannot be served, the response is an error page, the site's own if there is one. Responses that change only with their
files are stored in the response cache.

A directory listing is slow, so its response is a future, made by the builder's thread. It is never cached.
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

from rawservers.http.cache import Dependency, FreshnessClock, ResponseCache
from rawservers.http.conditional import etag, not_modified, precondition, precondition_failed
from rawservers.http.dates import http_date, parse_date
from rawservers.http.files import DocumentRoot, File, FileCache, PathSnapshot, is_hidden
from rawservers.http.listing import builder, html, json
from rawservers.http.negotiation import prefers_json, rank_codings
from rawservers.http.ranges import partial_content, range_not_satisfiable, requested_ranges
from rawservers.http.request import HTTPError, Request, path_or_none
from rawservers.http.response import Headers, PreparedResponse, Response, check_headers, error_response
from rawservers.settings import SiteConfig

log = logging.getLogger("rawservers")

ALLOWED_METHODS = "GET, HEAD, OPTIONS"
CODINGS = {b".br": "br", b".zst": "zstd", b".gz": "gzip"}  # content codings by file name suffix, the best compression first
COMPRESSIBLE = re.compile(r"text/|.*(?:json|javascript|xml|wasm|font/ttf|font/otf|icon)")
TYPES = mimetypes.common_types | mimetypes.types_map | {
    ".avif": "image/avif",
    ".br": "application/octet-stream",
    ".bz2": "application/x-bzip2",
    ".gz": "application/gzip",  # a type, not a coding: clients must not decompress .tar.gz on the way
    ".js": "text/javascript",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xz": "application/x-xz",
    ".zst": "application/zstd",
}  # fmt: skip

ERRNO_STATUS = {errno.EACCES: 403, errno.EPERM: 403, errno.EMFILE: 503, errno.ENFILE: 503, errno.ENOMEM: 503}
ERRNO_STATUS |= dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EISDIR), 404)
MESSAGES = {
    403: "You do not have permission to read this page.",
    404: "There is no page at this address.",
    405: "This page can only be read.",
    500: "The file could not be read.",
    503: "The server is overloaded. Please try again in a moment.",
}


class Site:
    """The responses from the files of one site.

    clock, cache, file_cache, listings: shared by all sites. Raises ValueError for a malformed header in `config`,
    and OSError if the templates of listings cannot be read.
    """

    def __init__(
        self,
        config: SiteConfig,
        clock: FreshnessClock,
        cache: ResponseCache,
        file_cache: FileCache,
        listings: builder.Builder = builder.default_builder,
    ) -> None:
        self._config = config
        self._clock = clock
        self._cache = cache
        self._types = TYPES | dict(config.types)
        self._headers = [(re.compile(translate(pattern)), name, value) for pattern, name, value in config.headers]
        self._pages = dict(config.error_pages)
        self._root = DocumentRoot(config.root, clock, self._suffixes, file_cache)
        self._builder = listings
        check_headers([(name, value) for _, name, value in config.headers])
        check_headers([("Location", target) for _, target in config.redirects])
        if config.listing:
            html.template()  # read it before the process drops its privileges

    def respond(self, request: Request) -> PreparedResponse | Future[Response]:
        """The response to `request`, or a future of one, for `prepare`. Raises HTTPError if the target is malformed."""
        if request.method == "OPTIONS" and request.target == "*":
            return PreparedResponse(Response(204, [("Allow", ALLOWED_METHODS)]), request)
        if request.method not in {"GET", "HEAD", "OPTIONS"}:
            return self._error(405, request, [("Allow", ALLOWED_METHODS)])
        path = request.decode_target()
        if request.method == "OPTIONS":
            return PreparedResponse(Response(204, self._with_site_headers(path, [("Allow", ALLOWED_METHODS)])), request)
        location = self._redirect_target(path, request.query)
        if location is not None:
            return self._redirect(location, request)
        try:
            return self._serve(path, request)
        except IsADirectoryError:
            return self._redirect(f"{quote(path)}/{request.query}", request)
        except OSError as failure:
            return self._os_error(failure, request)

    def prepare(self, request: Request, future: Future[Response]) -> PreparedResponse:
        """The response of a future that is done."""
        failure = future.exception(timeout=0)  # not raised: it is shared, and each raise would lengthen its traceback
        if failure is None:
            return PreparedResponse(future.result(), request)
        if isinstance(failure, OSError):
            return self._os_error(failure, request)
        log.error("listing of %s failed", request.target, exc_info=failure)
        return self._error(500, request)

    # Files

    def _serve(self, path: bytes, request: Request) -> PreparedResponse | Future[Response]:
        """The response from the file or directory at `path`. Raises OSError; IsADirectoryError if the path lacks its slash."""
        absent: list[Dependency] = []
        if path.endswith(b"/"):
            for name in self._config.index:
                index = path + fsencode(name)
                try:
                    file = self._root.find(index)
                except (FileNotFoundError, IsADirectoryError):
                    absent.append(self._root.snapshot(index))
                else:
                    return self._file_response(index, file, request, absent)
            return self._listing(path, request)
        return self._file_response(path, self._root.find(path), request, absent)

    def _file_response(self, path: bytes, file: File, request: Request, absent: list[Dependency]) -> PreparedResponse:
        """The response from `file`, by the request's header fields. absent: names that must not exist for it to stay valid."""
        chosen, coding = self._negotiate(path, file, request)
        tag = etag(chosen.modified_ns, chosen.size)
        if coding:
            tag = f'{tag[:-1]}-{coding}"'
        headers = [("Content-Type", self._type(path))]
        if coding:
            headers.append(("Content-Encoding", coding))
        if any(variant.signature for variant in file.variants):
            headers.append(("Vary", "Accept-Encoding"))
        now = self._clock.time
        headers += [
            ("Last-Modified", http_date(min(chosen.modified, now))),  # never later than Date (RFC 9110 §8.8.2.1)
            ("ETag", tag),
            ("Accept-Ranges", "bytes"),
        ]
        if self._config.max_age is not None:
            headers.append(("Cache-Control", f"max-age={self._config.max_age}"))
        headers = self._with_site_headers(request.decode_target(), headers)
        response = conditional_response(request, chosen, tag, headers, now)
        if response.status in {412, 416}:
            return self._error(response.status, request, response.headers, response)
        prepared = PreparedResponse(response, request)
        if is_cacheable(request, response, now) and file.cacheable and chosen.cacheable:
            if prepared.content is response:
                prepared.content = chosen
            self._cache.store(request, prepared, {file, chosen, *absent})
        return prepared

    def _negotiate(self, path: bytes, file: File, request: Request) -> tuple[File, str]:
        """The file and "", or its best accepted precompressed variant and its content coding (RFC 9110 §12.5.3)."""
        accepted = request.fields.get("accept-encoding")
        if not accepted or not any(variant.signature for variant in file.variants):
            return file, ""
        suffixes = {
            coding: suffix
            for variant, (suffix, coding) in zip(file.variants, CODINGS.items(), strict=True)
            if variant.signature and not is_older(variant, file)  # an older variant has outdated content
        }
        for coding in rank_codings(accepted, suffixes):
            with suppress(OSError):
                return self._root.find(path + suffixes[coding]), coding
        return file, ""

    def _suffixes(self, path: bytes) -> tuple[bytes, ...]:
        """The suffixes of the precompressed variants that may be sent in place of the file at `path`."""
        return tuple(CODINGS) if self._config.precompressed and COMPRESSIBLE.match(self._type(path)) else ()

    def _type(self, path: bytes) -> str:
        """The media type by the file name's extension; text types with a charset."""
        _, dot, extension = path.rpartition(b"/")[2].rpartition(b".")
        kind = self._types.get("." + extension.decode("latin-1").lower()) if dot else None
        if kind is None:
            return "application/octet-stream"
        return f"{kind}; charset=utf-8" if kind.startswith("text/") and "charset" not in kind else kind

    def _with_site_headers(self, path: bytes, headers: Headers) -> list[tuple[str, str]]:
        """`headers` with those that the site's configuration sets for `path`."""
        fields = list(headers)
        text = fsdecode(path)
        for pattern, name, value in self._headers:
            if pattern.match(text):
                fields = [field for field in fields if field[0].lower() != name.lower()]
                fields.append((name, value))
        return fields

    # Listings, redirects, errors

    def _listing(self, path: bytes, request: Request) -> PreparedResponse | Future[Response]:
        """The directory's listing; to a HEAD request, its header fields at once. Raises OSError."""
        if not self._root.is_directory(path):
            raise FileNotFoundError(errno.ENOENT, "no such directory")
        if not self._config.listing:
            return self._error(403, request)
        vary = ("Vary", "Accept")
        if prefers_json(request.fields.get("accept", "")):
            form = json.render
            headers = [("Content-Type", "application/json"), vary]
        else:
            form = html.render
            headers = [
                ("Content-Type", "text/html; charset=utf-8"),
                vary,
                ("Content-Security-Policy", html.content_security_policy()),
            ]
        fields = self._with_site_headers(path, headers)
        if request.method == "HEAD":
            self._root.check_readable(path)
            return PreparedResponse(Response(200, fields), request, sized=False)

        def build() -> Response:
            entries = builder.throttled(self._root.list_directory(path))
            return Response(200, fields, builder.joined(builder.throttled(form(path, entries))))

        try:
            return self._builder.submit((self, path, form), build)
        except builder.Busy:
            return self._error(503, request, [("Retry-After", "1")])

    def _redirect_target(self, path: bytes, query: str) -> str | None:
        """The redirect target for `path`, if there is one."""
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

    def _redirect(self, location: str, request: Request) -> PreparedResponse:
        message = "This page has moved to another address."
        headers = self._with_site_headers(request.decode_target(), [("Location", location)])
        return PreparedResponse(error_response(301, message, headers), request)

    def _os_error(self, failure: OSError, request: Request) -> PreparedResponse:
        """The response when a file or directory cannot be opened or read."""
        status = ERRNO_STATUS.get(failure.errno or 0, 500)
        if status == 500:
            log.error("cannot read %r: %s", fsdecode(request.decode_target()), failure.strerror)
        return self._fallback(request) if status == 404 else self._error(status, request)

    def _fallback(self, request: Request) -> PreparedResponse:
        """The response when there is no such file: the configured fallback, or 404."""
        path = request.decode_target()
        fallback = self._config.fallback
        if fallback is None or is_hidden(path) or b"." in path.rpartition(b"/")[2]:
            return self._error(404, request)
        try:
            file = self._root.find(fsencode(fallback))
        except OSError as failure:
            log.error("cannot read the fallback %s: %s", fallback, failure.strerror)
            return self._error(404, request)
        return self._file_response(fsencode(fallback), file, request, [self._root.snapshot(path)])

    def respond_to_error(self, failure: HTTPError, line: str) -> PreparedResponse:
        """The response to a malformed request with the request line `line`."""
        return PreparedResponse(self._error_page(failure.status) or error_response(failure.status, failure.message), None, line)

    def _error(
        self, status: int, request: Request, headers: Headers = (), response: Response | None = None
    ) -> PreparedResponse:
        """An error response: the site's own page, else `response`, else the built-in page."""
        fields = self._with_site_headers(path_or_none(request) or b"/", headers)
        return PreparedResponse(
            self._error_page(status, fields) or response or error_response(status, MESSAGES[status], fields), request
        )

    def _error_page(self, status: int, headers: Headers = ()) -> Response | None:
        """The response with the site's own page for `status`, if there is one."""
        page = self._pages.get(status)
        if page is None:
            return None
        try:
            file = self._root.find(fsencode(page))
        except OSError as failure:
            log.error("cannot read the error page %s: %s", page, failure.strerror)
            return None
        own = [field for field in headers if field[0].lower() != "content-type"]
        return Response(status, [("Content-Type", self._type(fsencode(page))), *own], file.body)


def conditional_response(request: Request, file: File, tag: str, headers: list[tuple[str, str]], now: float) -> Response:
    """The 200 response with `headers` and the content of `file`, or the 304, 412, 206 or 416 that the request asks for."""
    status = precondition(request, tag, int(file.modified), now)
    if status == 304:
        return not_modified(headers)
    if status == 412:
        return precondition_failed()
    spans = requested_ranges(request, file.size, tag, int(file.modified), now)
    if spans is None:
        return Response(200, headers, file.body)
    return partial_content(headers, file.body, spans, file.size) if spans else range_not_satisfiable(file.size)


def is_older(variant: PathSnapshot, file: File) -> bool:
    """Whether the variant is older than the file. Some compressors copy the file's time without the fraction of a second."""
    whole = variant.modified == int(variant.modified)
    return variant.modified < (int(file.modified) if whole else file.modified)


def is_cacheable(request: Request, response: Response, now: float) -> bool:
    """Whether the response depends on nothing but the bytes of the request and the state of files."""
    fields = request.fields
    if response.status not in {200, 304} or request.length or request.version == (0, 9):
        return False
    if not fields.keys().isdisjoint({"authorization", "range", "if-range"}):
        return False
    since = fields.get("if-modified-since")
    return since is None or (parse_date(since, now) or 0) <= now
