"""Expectations, each with a sequence of replies: how answers are sent, and what becomes of the connection.

    server.expect_request("/a").reset().then.delay(0.1).respond_with_data("at last")

Modifiers (`delay`, `trickle`, `cut_after`) say how a reply is sent; an ending (`reset`, `close`, `hang`, `raw`, or one of the
service: `respond...`) says what. Each reply has one ending; `then` begins the next one. The last reply is used again and again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from math import inf
from typing import Any, ClassVar, Literal, Self, TypeAlias

from rawservers.core.protocol import Chunk, Closing, FileSlice, ResponseEnd
from rawservers.testing.scripted import Pause, Step, split_interim

Text: TypeAlias = str | bytes  # str: sent as UTF-8
Ending: TypeAlias = Literal["keep", "close", "reset", "hang"]

ENDINGS: dict[Ending, Step] = {"close": Closing.CLOSE, "reset": Closing.RESET, "hang": Pause(inf)}


class Reply:
    """One reply of a sequence.

    content:  what the service makes an answer of; no business of this module
    raw:      bytes in place of the answer; None: the answer
    delay:    seconds before its first byte
    size, every: send so many bytes at a time, with so many seconds between; size 0: all at once
    cut:      bytes of the body that are sent; None: all
    ending:   what becomes of the connection afterwards; "keep": what the conversation makes of it
    """

    __slots__ = ("content", "cut", "delay", "ending", "every", "fields", "is_complete", "raw", "size")

    def __init__(self) -> None:
        self.content: Any = None
        self.raw: bytes | None = None
        self.delay = self.every = 0.0
        self.size = 0
        self.cut: int | None = None
        self.ending: Ending = "keep"
        self.fields: dict[str, str] = {}  # header fields in place of the server's own
        self.is_complete = False  # it has its ending

    def needs_script(self) -> bool:
        """Whether it is anything but the plain answer."""
        return any((self.delay, self.size, self.fields, self.raw is not None, self.cut is not None, self.ending != "keep"))

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """The head and the body of the answer `data`."""
        return b"", data

    def steps(self, chunks: Sequence[Chunk]) -> Iterator[Step]:
        """The script of this reply: the steps that the answer `chunks` becomes."""
        interim, answer = split_interim(chunks)
        yield from interim
        data = self.raw
        if data is None:
            head, body = self.split(b"".join(map(read_chunk, answer)))
            data = head + (body if self.cut is None else body[: self.cut])
        if self.delay:
            yield Pause(self.delay)
        size = self.size or len(data) or 1
        for start in range(0, len(data), size):
            if start:
                yield Pause(self.every)
            yield data[start : start + size]
        if self.ending == "keep":
            yield from [chunk for chunk in answer if isinstance(chunk, ResponseEnd)]
        else:
            yield ENDINGS[self.ending]


class Expectation:
    """Base class of expected requests and lines. All methods but those that end a reply may come in any order.

    used: how often it has been.
    """

    make_reply: ClassVar[type[Reply]] = Reply

    def __init__(self, is_ordered: bool = False, is_oneshot: bool = False) -> None:
        self.is_ordered, self.is_oneshot = is_ordered, is_oneshot
        self._replies = [self.make_reply()]
        self.used = 0

    # Modifiers

    def delay(self, seconds: float) -> Self:
        """Send the first byte after `seconds`."""
        self._replies[-1].delay = at_least(0, seconds)
        return self

    def trickle(self, size: int, every: float = 0.0) -> Self:
        """Send `size` bytes at a time, head included, and the next after `every` seconds (0: in the next turn)."""
        reply = self._replies[-1]
        reply.size, reply.every = at_least(1, size), at_least(0, every)
        return self

    def cut_after(self, size: int, ending: Ending = "close") -> Self:
        """Send `size` bytes of the body, then close the connection, reset it, or hang."""
        reply = self._replies[-1]
        reply.cut, reply.ending = at_least(0, size), known(ending)
        return self

    # Endings

    def reset(self) -> Self:
        """Reset the connection (RST) without an answer."""
        return self.raw(b"", "reset")

    def close(self) -> Self:
        """Close the connection (FIN) without an answer."""
        return self.raw(b"", "close")

    def hang(self) -> Self:
        """Neither answer nor close."""
        return self.raw(b"", "hang")

    def raw(self, data: Text, ending: Ending = "close") -> Self:
        """Send exactly these bytes, or this text in UTF-8, in place of an answer.

        ending: then "close" the connection, "reset" it, "hang", or "keep" it as usual.
        """
        data, ending = encoded(data), known(ending)
        self._complete(None)
        reply = self._replies[-1]
        reply.raw, reply.ending = data, ending
        return self

    def _complete(self, content: object) -> Self:
        """End the reply. Raises ValueError if it has an ending."""
        reply = self._replies[-1]
        if reply.is_complete:
            raise ValueError("a second answer or fault in one reply: the next comes after `then`, as in .reset().then.close()")
        reply.content, reply.is_complete = content, True
        return self

    @property
    def then(self) -> Self:
        """The same expectation, whose next methods are about the next reply. Raises ValueError if the last has no ending."""
        if not self._replies[-1].is_complete:
            raise ValueError("`then` comes after an answer, such as respond...(), or a fault in its place, such as reset()")
        self._replies.append(self.make_reply())
        return self

    # Use

    def take_reply(self) -> Reply:
        """The next reply of the sequence."""
        reply = self._replies[min(self.used, len(self._replies) - 1)]
        self.used += 1
        return reply

    def describe(self) -> str:
        """What is expected, as text for a message."""
        raise NotImplementedError

    @property
    def is_missing(self) -> bool:
        """Whether it is ordered or for once only, and not used up."""
        return (self.is_ordered or self.is_oneshot) and self.used < len(self._replies)


def read_chunk(chunk: Chunk) -> bytes:
    """The bytes of a chunk, those of a file included."""
    if isinstance(chunk, FileSlice):
        return os.pread(chunk.file.fd, chunk.count, chunk.offset)
    return chunk if isinstance(chunk, bytes) else b""


def encoded(text: object) -> bytes:
    """Text as UTF-8; bytes as they are. Raises TypeError for anything else."""
    if isinstance(text, str):
        return text.encode()
    if not isinstance(text, bytes):
        raise TypeError(f"expected text or bytes, not {text!r}")
    return text


def at_least(minimum: int, number: Any) -> Any:
    """`number`. Raises ValueError if it is less than `minimum`, TypeError if it is none."""
    if not isinstance(number, int | float):
        raise TypeError(f"expected a number, not {number!r}")
    if number < minimum:
        raise ValueError(f"expected a number of {minimum} or more, not {number}")
    return number


def known(ending: Ending) -> Ending:
    """`ending`. Raises ValueError if there is none of that name."""
    if ending != "keep" and ending not in ENDINGS:
        raise ValueError(f"unknown ending {ending!r} (known: keep, {', '.join(ENDINGS)})")
    return ending
