"""Health checks: whether a load balancer is to send clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rawservers.http.request import Request
from rawservers.http.response import TEXT, PreparedResponse, Response, UnloggedRecord


class Health(NamedTuple):
    """path: decoded, b"" for none; is_stopping: whether a stop was announced."""

    path: bytes
    is_stopping: Callable[[], bool]

    def respond(self, request: Request) -> PreparedResponse:
        """200, or 503 before a stop. It is neither logged nor stored by caches."""
        status, text, more = (503, b"stopping\n", [("Retry-After", "1")]) if self.is_stopping() else (200, b"ok\n", [])
        response = Response(status, [("Content-Type", TEXT), ("Cache-Control", "no-store"), *more], text)
        prepared = PreparedResponse(response, request)
        record = prepared.record
        prepared.record = UnloggedRecord(record.line, record.status, record.head_size, record.body_size)
        return prepared


NO_HEALTH = Health(b"", lambda: False)
