"""An oracle for hangs: the lines of Python that an input takes, which do not depend on the machine as times do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

# Lines that an input may take: so many, and so many for each of its bytes. FUZZ_LINES: another number, to see one that fails.
BASE, PER_BYTE = int(os.environ.get("FUZZ_LINES", "40000")), 250


class TooManyLines(BaseException):
    """More lines than an input may take. No `except Exception` on the way stops it."""


def counted(target: Callable[[bytes], object], data: bytes, limit: float) -> int:
    """The lines of the package that `target(data)` takes. Raises TooManyLines, and whatever the target raises."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if event == "call":
            return trace if "/rawservers/" in frame.f_code.co_filename else None
        count += event == "line"
        if count > limit:
            raise TooManyLines(f"{limit:,} lines for {len(data)} bytes")
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        target(data)
    finally:
        sys.settrace(former)
    return count


def bounded(target: Callable[[bytes], object], data: bytes) -> None:
    """Call the target. Raises TooManyLines for more than BASE, and PER_BYTE for each byte."""
    counted(target, data, BASE + PER_BYTE * len(data))
