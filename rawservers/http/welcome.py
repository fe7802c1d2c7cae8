"""The welcome page: what the server is, and how to talk to the listeners that it has.

It stands in place of a site whose document root is the bundled folder. Nothing else in that folder is served.
"""

from __future__ import annotations

import errno
import shlex
from collections.abc import Iterable
from concurrent.futures import Future
from html import escape
from typing import Any

from rawservers.http.request import Request
from rawservers.http.response import PreparedResponse, Response
from rawservers.http.site import Site, is_cacheable
from rawservers.settings import ListenConfig, read_data

PLACE = "<!-- listeners -->"  # of the lines about the listeners, in the template
MAX_LISTENERS = 20  # that are named
EVERYWHERE = ("0.0.0.0", "[::]")  # noqa: S104  # hosts that stand for all addresses; a client needs one
LINES = {
    "http": ("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | ", "shows this page as the bytes that it is."),
    "telnet": ("", "and type: each line comes back."),
}


class WelcomeSite(Site):
    """listeners: those of the server, with their bound addresses."""

    def __init__(self, *site: Any, listeners: Iterable[ListenConfig]) -> None:
        super().__init__(*site)
        self._listeners = [each for each in listeners if each.service in LINES][:MAX_LISTENERS]
        self._template = read_data("welcome/index.html")  # read before the process drops its privileges

    def _serve(self, path: bytes, request: Request) -> PreparedResponse | Future[Response]:
        if path not in {b"/", b"/index.html"}:
            raise FileNotFoundError(errno.ENOENT, "no such page")
        fields = [("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-cache")]
        lines = "\n".join(f"<p>{line(each, request.host)}</p>" for each in self._listeners)
        response = Response(200, self._with_site_headers(request, fields), self._template.replace(PLACE, lines).encode())
        prepared = PreparedResponse(response, request)
        if is_cacheable(request, response, self._clock.time):
            self._cache.store(request, prepared, ())
        return prepared


def line(listener: ListenConfig, host: str) -> str:
    """How to talk to this listener, in HTML. host: of the request, for a listener on all addresses."""
    before, after = LINES[listener.service]
    if listener.address.startswith("unix:"):
        command = f"nc -U {shlex.quote(listener.address.removeprefix('unix:'))}"
    else:
        name, _, port = listener.address.rpartition(":")
        name = (host or "127.0.0.1") if name in EVERYWHERE else name
        command = f"{'telnet' if listener.service == 'telnet' else 'nc'} {shlex.quote(name.strip('[]'))} {port}"
    return f"<code>{escape(before + command)}</code> {after}"
