"""The site of the welcome page, which stands in place of one whose document root is the bundled folder.

    GET  /         the page
    GET  /sockets  the table of sockets, for its script, as JSON
    POST /echo     the output of a fresh Telnet session for the bytes of the body

The last two are for the page's own script, and refused to a page of another site: by what its browser says of it, and since a
browser sends a body of that type to another site only if that allows it (CORS). The session of an echo lives in one call, and
is given all that was typed so far: so none is kept, and any worker can answer. Nothing else in that folder is served.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import Deadline
from rawservers.http.request import Request
from rawservers.http.response import PreparedResponse, Response
from rawservers.http.site import Site
from rawservers.settings import Config
from rawservers.sockets import Sockets
from rawservers.telnet.echo import EchoSession
from rawservers.welcome.page import Page, content_security_policy
from rawservers.welcome.table import table_for
from rawservers.welcome.visitor import visitor_of

PAGES = {b"/", b"/index.html"}
SOCKETS, ECHO = b"/sockets", b"/echo"
MAX_INPUT = 2048  # bytes of an echo
ECHO_STEPS = 1024  # of work for an echo: a few milliseconds
ECHO_TYPE = "application/octet-stream"
RENDER_STEPS = 200  # of work, for a page or a table
PRIVATE = [
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]

GetSockets = Callable[[], "Future[Sockets]"]


class WelcomeSite(Site):
    """config: of the server, with its bound addresses. get_sockets: the table of all workers."""

    def __init__(self, *site: Any, config: Config, get_sockets: GetSockets) -> None:
        super().__init__(*site)
        self._get_sockets, self._longest_line = get_sockets, config.longest_line
        self._page = Page(config.listen or ())  # read before the process drops its privileges

    def max_body(self, request: Request) -> int | None:
        return MAX_INPUT if self._is_echo(request) else None

    def respond(self, request: Request, future: Future[Any] | None = None) -> PreparedResponse | Future[Any]:
        if self._is_echo(request):
            return self._echo(request)
        return super().respond(request, future)

    def _serve(self, path: bytes, request: Request) -> PreparedResponse | Future[Any]:
        if path == SOCKETS and not is_same_origin(request):
            return self.page(403, request, message="This table is for the page of this server.")
        if path in PAGES or path == SOCKETS:
            return self._get_sockets()
        raise FileNotFoundError(errno.ENOENT, "no such page")

    def _finish(self, request: Request, future: Future[Any]) -> PreparedResponse:
        """The page or the table, as soon as that is made."""
        visitor = visitor_of(request)
        table = None if future.exception(timeout=0) else table_for(visitor, future.result())
        request.steps = RENDER_STEPS
        if request.path_bytes != SOCKETS:
            fields = [("Content-Type", "text/html; charset=utf-8"), ("Content-Security-Policy", content_security_policy())]
            return self._private(request, fields, self._page.render(request.head, visitor, table))
        if table is None:
            return self.page(500, request, message="The table could not be made.")
        import json

        return self._private(request, [("Content-Type", "application/json")], json.dumps(table._asdict()).encode())

    def _private(self, request: Request, fields: list[tuple[str, str]], body: bytes) -> PreparedResponse:
        """A response that is for this visitor, and nobody else's."""
        headers = self._with_site_headers(request, [*fields, *PRIVATE])
        return PreparedResponse(Response(200, headers, body), request)

    def _has_home(self, path: bytes) -> bool:
        return True

    # Echo

    def _is_echo(self, request: Request) -> bool:
        return request.path_bytes == ECHO and self._page.has_telnet

    def _echo(self, request: Request) -> PreparedResponse:
        """The output of a session for the body."""
        if request.method != "POST":
            return self.page(405, request, [("Allow", "POST")])
        if not is_same_origin(request) or request.fields.get("content-type", "").lower() != ECHO_TYPE:
            return self.page(403, request, message="This echo is for the page of this server.")
        session = EchoSession(Peer(("", 0), Clock()), longest_line=self._longest_line)
        output = [*session.receive(request.body)] if request.body else []
        while session.waiting is Deadline.TURN and session.steps < ECHO_STEPS:
            output += session.resume()
        request.steps = RENDER_STEPS + session.steps
        if session.waiting is Deadline.TURN:
            return self.page(413, request, message="That is too much work for the echo of a page.")
        said = b"".join([piece for piece in output if isinstance(piece, bytes)])
        return self._private(request, [("Content-Type", ECHO_TYPE)], said)


def is_same_origin(request: Request) -> bool:
    """Whether no page of another site has sent the request, as far as the browser says (Fetch Metadata, and RFC 6454 §7)."""
    origin, host = request.fields.get("origin"), request.fields.get("host", "")
    if request.fields.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return False
    return origin is None or (origin.partition("://")[2].lower() == host.lower() != "")
