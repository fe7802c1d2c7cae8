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
from rawservers.http.cache import Answers
from rawservers.http.request import Refused, Request, located
from rawservers.http.response import Answer, Response, Stamp, check_headers, error
from rawservers.http.site import Site
from rawservers.settings import Function

log = logging.getLogger("rawservers")

CALL_STEPS = 1000  # of work that a call of a function counts for, as nobody knows what it does: one for each turn


class Router:
    """sites: host names and the site that has them, the default one first; functions: the beginnings of paths, and who
    answers for them, the longest first; body_limit: bytes of body that a function takes; server_header: whether answers have
    one. `conversation.Service` says more.
    """

    def __init__(
        self,
        sites: Sequence[tuple[Sequence[str], Site]],
        functions: Sequence[tuple[str, Function]],
        answers: Answers,
        body_limit: int,
        server_header: bool = True,
    ) -> None:
        self.stamp = Stamp(server_header)
        self.recall = answers.recall
        self._default = sites[0][1]
        self._sites = {host.lower().rstrip("."): site for hosts, site in sites for host in hosts}
        self._functions = sorted(((fsencode(prefix), function) for prefix, function in functions), key=lambda row: -len(row[0]))
        self._body_limit = body_limit

    def room(self, request: Request) -> int:
        """How many bytes of body may come with `request`: none where a file answers."""
        return self._body_limit if self._function(request) else 0

    def respond(self, request: Request) -> Answer | Future[Response]:
        """The answer to `request`, or a promise of what `answer` makes one of. Raises Refused."""
        function = self._function(request)
        if function is None:
            return self._site(request).respond(request)
        request.steps = CALL_STEPS
        try:
            response = function(request)
        except Exception:
            log.exception("the function for %s has failed", request.target)
            return self._failed(request)
        return response if isinstance(response, Future) else self._checked(request, response)

    def answer(self, request: Request, promise: Future[Response]) -> Answer:
        """The answer that a promise, now done, has become."""
        if self._function(request) is None:
            return self._site(request).answer(request, promise)
        try:
            response = promise.result(timeout=0)
        except BaseException:  # its thread's: CancelledError is not an Exception
            log.exception("the function for %s has failed", request.target)
            return self._failed(request)
        return self._checked(request, response)

    def refuse(self, refusal: Refused, request: Request | None, line: str) -> Answer:
        """The answer to a request that is refused, from the site it is for: the default one, while nobody can tell."""
        return (self._site(request) if request else self._default).refuse(refusal, line)

    def _site(self, request: Request) -> Site:
        located(request)  # an absolute target names the host anew
        return self._sites.get(request.host.rstrip("."), self._default)

    def _function(self, request: Request) -> Function | None:
        if self._functions:
            path = located(request) or b""
            for prefix, function in self._functions:
                if path.startswith(prefix):
                    return function
        return None

    def _checked(self, request: Request, response: object) -> Answer:
        try:
            if not isinstance(response, Response):
                raise TypeError(f"not a Response: {response!r}")
            if not 200 <= response.status <= 599:
                raise ValueError(f"not the status of an answer: {response.status}")
            check_headers(response.headers)
            if not isinstance(response.body, bytes | FileSlice):
                raise TypeError(f"not a body: {response.body!r}")
            return Answer(response, request)
        except (TypeError, ValueError, AttributeError):
            log.exception("the function for %s gave what cannot be sent", request.target)
            return self._failed(request)

    def _failed(self, request: Request) -> Answer:
        return Answer(error(500, "Something went wrong here."), request)
