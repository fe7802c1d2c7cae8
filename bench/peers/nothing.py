"""An application that is never asked: granian serves files before it comes to one."""

from __future__ import annotations

from typing import Any


async def app(scope: Any, protocol: Any) -> None:
    protocol.response_empty(404, [])
