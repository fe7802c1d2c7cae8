"""Request routing: to a handler by path, or to a site by host name.

**Handlers.** A handler is a function that takes a Request and returns a Response:

    def hello(request: Request) -> Response:
        return Response(200, [("Content-Type", "text/plain; charset=utf-8")], b"hello\\n")

    serve(Config(handlers=(("/hello", hello),)))

A handler owns its path and all paths below it: the one for /hello is called for /hello, /hello/ and /hello/x, not for
/helloworld; that for / is called for every path. The one for /hello/ is not called for /hello, which is left to the files. The
path is normalised, see target.py; `Request.target` is as sent.

A handler runs in the event loop, so it must return quickly. Slow work belongs in a thread: a handler may return a Future of a
Response, as the submit method of a concurrent.futures.ThreadPoolExecutor does, and other requests are served meanwhile. A
future that is not done within `function_time` is given up: the response is 503, the connection is closed, and a late result is
dropped. If a handler raises, or returns anything else, the response is 500 and the traceback is logged.

A handler is called for every method, unless methods are named before its path: ("GET,POST /hello", hello). GET is also HEAD.
For other methods the response is 405, unless another handler of the same path takes them.

A handler is protected as the site that the request is for says (auth.py); if it says nothing about the path, as the first site
says. `Request.user` is the authenticated user.

A request body has at most `body_limit` bytes; for a longer one the response is 413, without a call of the handler. It is handed
over whole, whether the client sent it with a Content-Length or in chunks.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from os import PathLike, fsencode

from rawservers.http.auth import ProtectedPath, parse_credentials
from rawservers.http.cache import ResponseCache
from rawservers.http.conversation import TOO_LATE, Responder
from rawservers.http.files import open_body
from rawservers.http.forwarded import TrustedProxies
from rawservers.http.request import METHODS, HTTPError, Request, parse_host
from rawservers.http.response import BODILESS_STATUSES, Busy, PreparedResponse, Response, as_private, check_headers, with_type
from rawservers.http.site import Site, media_type
from rawservers.http.stream import Stream
from rawservers.settings import Config, Handler

log = logging.getLogger("rawservers")

HANDLER_STEPS = 1000  # of work that a call of a handler counts for: its cost is unknown, so one call per turn


class Router(Responder):
    """The Responder of the HTTP service.

    sites: the default site first. config: its `handlers`, of which the one with the longest path is called, `body_limit`,
    `server_header`, `http_version`, `encoded_slash` and `trusted_proxies`. Raises ValueError for a malformed host name or path.
    """

    def __init__(self, sites: Sequence[Site], config: Config, cache: ResponseCache) -> None:
        trusted = TrustedProxies(config.trusted_proxies) if config.trusted_proxies else None
        super().__init__(cache.lookup, config.server_header, config.http_version, config.encoded_slash, trusted)
        self._default = sites[0]
        self._sites = {parse_host(host): site for site in sites for host in site.hosts}
        by_path: defaultdict[str, dict[str, Handler]] = defaultdict(dict)
        for target, handler in config.handlers:
            names, _, path = ("", "", target) if target.startswith("/") else target.partition(" ")
            if not path.startswith("/"):
                raise ValueError(f"handlers: expected a path, as in '/a', 'POST /a' or 'GET,POST /a', not {target!r}")
            methods = names.split(",")
            if names and (unknown := set(methods) - METHODS):
                raise ValueError(f"handlers: unknown method {unknown.pop()!r} in {target!r}")
            by_path[path] |= dict.fromkeys(methods, handler)
            if "GET" in methods:
                by_path[path].setdefault("HEAD", handler)
        self._handlers = [
            (fsencode(path), fsencode(path.removesuffix("/") + "/"), by_path[path])  # itself, and what all below it begin with
            for path in sorted(by_path, key=len, reverse=True)
        ]
        self._body_limit = config.body_limit
        self._has_protection = any(site.protection.paths for site in sites)

    def max_body(self, request: Request) -> int | None:
        handlers = self._find(request)
        if self._protected(request, handlers) and not parse_credentials(request):
            return None
        if handlers:
            return self._body_limit if handler_for(request, handlers) else None
        return self._site(request).max_body(request)

    def respond(self, request: Request, future: Future[Response] | None = None) -> PreparedResponse | Future[Response]:
        handlers = self._find(request)
        if not request.user and (protected := self._protected(request, handlers)):
            refused = self._authenticate(protected, request, future)
            if refused is not None:
                return refused
            future = None
        if not handlers:
            return self._site(request).respond(request, future)
        handler = handler_for(request, handlers)
        if handler is None:
            return self._site(request).page(405, request, [("Allow", ", ".join(sorted(handlers)))])
        request.steps = 0 if future else HANDLER_STEPS
        caught = BaseException if future else Exception  # a SystemExit of another thread is an error of this request only
        try:
            response = future.result(timeout=0) if future else handler(request)
            return response if isinstance(response, Future) else prepare_valid(response, request)
        except caught:
            log.exception("handler for %s failed", request.target)
            return self._site(request).page(500, request, message="An internal error occurred. Please try again later.")

    def respond_to_error(self, failure: HTTPError, request: Request) -> PreparedResponse:
        if failure is TOO_LATE:
            log.error("no response for %s in time: http.function_time has passed", request.target)
        return self._site(request).page(failure.status, request, message=failure.message)

    def _protected(self, request: Request, handlers: Mapping[str, Handler]) -> ProtectedPath | None:
        """By whom the path of the request is protected; None: by nobody. handlers: those of the path."""
        if not self._has_protection:
            return None
        found = self._site(request).protection.find(request.path_bytes)
        if found is None and handlers:
            found = self._default.protection.find(request.path_bytes)
        return found if found and found.users else None

    def _authenticate(
        self, protected: ProtectedPath, request: Request, future: Future[Response] | None
    ) -> PreparedResponse | Future[Response] | None:
        """None if the request may pass; else the response, or a future, with which this is called again."""
        site = self._site(request)
        try:
            verified = site.protection.verify(protected, request, future)
        except Busy:
            return site.page(503, request, [("Retry-After", "1")])
        if isinstance(verified, Future):
            return verified
        return None if verified else site.page(401, request, [("WWW-Authenticate", protected.challenge)])

    def _site(self, request: Request) -> Site:
        return self._sites.get(request.host, self._default)

    def _find(self, request: Request) -> Mapping[str, Handler]:
        """The handlers of the longest path that owns that of the request, by method, "" for all others; {}: there are none."""
        path = request.path_bytes
        return next((handlers for own, below, handlers in self._handlers if path == own or path.startswith(below)), {})


def handler_for(request: Request, handlers: Mapping[str, Handler]) -> Handler | None:
    """The handler for the method of the request, if there is one."""
    return handlers.get(request.method) or handlers.get("")


def prepare_valid(response: object, request: Request) -> PreparedResponse:
    """The prepared response of a handler. Raises TypeError, ValueError or AttributeError if it cannot be sent."""
    if not isinstance(response, Response):
        raise TypeError(f"not a Response: {response!r}")
    if not 200 <= response.status <= 599:
        raise ValueError(f"not the status of a final response: {response.status}")
    check_headers(response.headers)
    if request.user:
        response = Response(response.status, as_private(response.headers), response.body)
    body = response.body
    if isinstance(body, PathLike):
        headers = with_type(response.headers, media_type(fsencode(body)))
        response = Response(response.status, headers, open_body(body))
    elif isinstance(body, Stream):
        body.on_failure = lambda failure: log.error("body for %s failed", request.target, exc_info=failure)
        if request.method == "HEAD" or response.status in BODILESS_STATUSES:
            body.close()
            return PreparedResponse(Response(response.status, response.headers), request, sized=False)
        body.is_chunked = request.response_version == b"HTTP/1.1"
        if not body.is_chunked:
            request.keep_alive = False
        return PreparedResponse(response, request, sized=False)
    return PreparedResponse(response, request)
