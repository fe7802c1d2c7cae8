"""Waiting for something to happen. Every wait has a deadline."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

DEADLINE = 20.0


def until(condition: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    """Poll until `condition` holds."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        select.select([], [], [], 0.01)
