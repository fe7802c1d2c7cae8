"""Who answers a request: a function, by the beginning of its path, or a site, by its host name.

**Answers in code.** A function takes a Request and gives a Response:

    def hello(request: Request) -> Response:
        return Response(200, [("Content-Type", "text/plain; charset=utf-8")], b"hello\\n")

    serve(Config(functions=(("/hello", hello),)))

It is called in the loop, so it must be quick. What takes time belongs in a thread: a function may return a Future of a
Response (what the submit of a concurrent.futures.ThreadPoolExecutor gives), and the others are served meanwhile. A function
that raises, or gives what is no response, costs its request a 500 and the log a traceback. It is handed every method, with the
body of a request up to `body_limit` bytes; a longer one is answered by 413 for it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from os import fsencode

from rawservers.core.protocol import FileSlice
from rawservers.http.cache import ResponseCache
from rawservers.http.request import HTTPError, Request, path_or_none
from rawservers.http.response import CommonHeaders, PreparedResponse, Response, check_headers, error_response
from rawservers.http.site import Site
from rawservers.settings import Handler

log = logging.getLogger("rawservers")

HANDLER_STEPS = 1000  # of work that a call of a function counts for, as nobody knows what it does: one for each turn


class Router:
    """sites: host names and the site that has them, the default one first; functions: the beginnings of paths, and who
    answers for them, the longest first; body_limit: bytes of body that a function takes; server_header: whether answers have
    one. `conversation.Service` says more.
    """

    def __init__(
        self,
        sites: Sequence[tuple[Sequence[str], Site]],
        handlers: Sequence[tuple[str, Handler]],
        cache: ResponseCache,
        body_limit: int,
        server_header: bool = True,
    ) -> None:
        self.common_headers = CommonHeaders(server_header)
        self.lookup = cache.lookup
        self._default = sites[0][1]
        self._sites = {host.lower().rstrip("."): site for hosts, site in sites for host in hosts}
        self._handlers = sorted(((fsencode(prefix), handler) for prefix, handler in handlers), key=lambda row: -len(row[0]))
        self._body_limit = body_limit

    def max_body(self, request: Request) -> int:
        """How many bytes of body may come with `request`: none where a file answers."""
        return self._body_limit if self._handler(request) else 0

    def respond(self, request: Request) -> PreparedResponse | Future[Response]:
        """The answer to `request`, or a promise of what `answer` makes one of. Raises Refused."""
        handler = self._handler(request)
        if handler is None:
            return self._site(request).respond(request)
        request.steps = HANDLER_STEPS
        try:
            response = handler(request)
        except Exception:
            log.exception("the function for %s has failed", request.target)
            return self._internal_error(request)
        return response if isinstance(response, Future) else self._validate(request, response)

    def prepare(self, request: Request, future: Future[Response]) -> PreparedResponse:
        """The answer that a promise, now done, has become."""
        if self._handler(request) is None:
            return self._site(request).prepare(request, future)
        try:
            response = future.result(timeout=0)
        except BaseException:  # its thread's: CancelledError is not an Exception
            log.exception("the function for %s has failed", request.target)
            return self._internal_error(request)
        return self._validate(request, response)

    def respond_to_error(self, failure: HTTPError, request: Request | None, line: str) -> PreparedResponse:
        """The answer to a request that is refused, from the site it is for: the default one, while nobody can tell."""
        return (self._site(request) if request else self._default).respond_to_error(failure, line)

    def _site(self, request: Request) -> Site:
        path_or_none(request)  # an absolute target names the host anew
        return self._sites.get(request.host.rstrip("."), self._default)

    def _handler(self, request: Request) -> Handler | None:
        if self._handlers:
            path = path_or_none(request) or b""
            for prefix, handler in self._handlers:
                if path.startswith(prefix):
                    return handler
        return None

    def _validate(self, request: Request, response: object) -> PreparedResponse:
        try:
            if not isinstance(response, Response):
                raise TypeError(f"not a Response: {response!r}")
            if not 200 <= response.status <= 599:
                raise ValueError(f"not the status of an answer: {response.status}")
            check_headers(response.headers)
            if not isinstance(response.body, bytes | FileSlice):
                raise TypeError(f"not a body: {response.body!r}")
            return PreparedResponse(response, request)
        except (TypeError, ValueError, AttributeError):
            log.exception("the function for %s gave what cannot be sent", request.target)
            return self._internal_error(request)

    def _internal_error(self, request: Request) -> PreparedResponse:
        return PreparedResponse(error_response(500, "Something went wrong here."), request)
