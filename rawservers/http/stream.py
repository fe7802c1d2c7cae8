"""A response body that is made while it is sent: slow answers, countdowns and live pages, without a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

# What the iterator of a body gives: bytes or text to send, or a number, the seconds to wait before it is asked again.
Item: TypeAlias = bytes | str | float


class StreamError(Exception):
    """The iterator of a body has failed: the response stays incomplete."""


class Stream:
    """A body of unknown length.

    It is asked for another item once all earlier output has left, so that it uses little memory however slow the client is.
    is_chunked: whether it is sent in chunks (RFC 9112 §7.1); otherwise the end of the connection is its end. on_failure: called
    for an exception of the iterator. due: on the loop's clock, when a pause ends.
    """

    __slots__ = ("_items", "due", "is_chunked", "on_failure")

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self.is_chunked = False
        self.on_failure: Callable[[Exception], None] = lambda failure: None
        self.due = 0.0

    def next_piece(self) -> bytes | float | None:
        """What to send for the next item; or seconds to wait; None at the end. Raises StreamError."""
        try:
            item = next(self._items)
            if isinstance(item, int | float):
                return max(0.0, item)
            piece = item.encode() if isinstance(item, str) else bytes(memoryview(item))
        except StopIteration:
            return None
        except Exception as failure:
            self.on_failure(failure)
            raise StreamError from failure
        # An empty chunk would be the last one.
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self.is_chunked and piece else piece

    @property
    def end(self) -> bytes:
        """What is sent at the end."""
        return b"0\r\n\r\n" if self.is_chunked else b""

    def close(self) -> None:
        """Close the iterator, if it is a generator: its `finally` clauses run."""
        try:
            getattr(self._items, "close", lambda: None)()
        except Exception as failure:
            self.on_failure(failure)
