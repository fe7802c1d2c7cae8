"""One HTTP connection: requests in, answers out, in order.

The short way first. Clients repeat themselves to the byte, so the bytes that one receive brought are looked up whole among
the requests that were answered before (`recall`); a hit needs no parsing. What is not recalled goes the long way: gather
until a head is complete, cut it off, check it, have it answered (`respond`).

A request that cannot be understood is refused, and a refusal is the last word: nothing behind it is looked at, since nobody
can say where the next request would begin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol as Interface

from rawservers.core.protocol import HIGH_WATER, Answered, Chunk, Closing, Peer, Protocol
from rawservers.http.request import HEAD_LIMIT, LINE_LIMIT, Refused, Request, check_line, parse, parse_simple
from rawservers.http.response import Answer, Response, Stamp, error, extent

KEEP = Closing.KEEP
BLANK_LIMIT = 4  # empty lines ignored before a request line; RFC 9112 §2.2 asks for one at the least
BLANK_LINES = re.compile(rb"(?:\r?\n)*")
HEAD_END = re.compile(rb"\n\r?\n")


class Service(Interface):
    """What answers the requests of a conversation.

    recall(data): the answer to a request whose bytes are exactly `data`, if it is known and still true. room(request): how
    many bytes of body may come with `request`. respond(request): its answer, once the body is there, or a promise of it, of
    which answer(request, promise) makes one. respond may raise Refused, and nothing else.
    """

    stamp: Stamp

    @property
    def recall(self) -> Callable[[bytes], Answer | None]: ...
    def room(self, request: Request) -> int: ...
    def respond(self, request: Request) -> Answer | Future[Response]: ...
    def answer(self, request: Request, promise: Future[Response]) -> Answer: ...


class Conversation(Protocol):
    """HTTP with one peer. requests: how many answers the connection may give (0: any number)."""

    __slots__ = (
        "_began",
        "_body",
        "_buffer",
        "_kept",
        "_left",
        "_peer",
        "_promise",
        "_recall",
        "_request",
        "_scanned",
        "_service",
        "_stamp",
        "closing",
        "waiting",
    )

    expendable = True

    def __init__(self, peer: Peer, service: Service, requests: int = 0) -> None:
        self.closing = KEEP
        self.waiting = "head"
        self._peer = peer
        self._service = service
        self._recall = service.recall
        self._stamp = service.stamp
        self._left = requests  # answers this connection may still give; never reaches 0 if it began there
        self._buffer = b""  # input not yet answered
        self._scanned = 0  # bytes of it known to hold no end of a head
        self._began = 0.0  # when the first of it came
        self._kept = 0.0  # when an answer last left the connection open
        self._request: Request | None = None  # one whose body is awaited, or whose answer is
        self._body = bytearray()
        self._promise: Future[Response] | None = None

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        if not self._buffer and self._request is None and self.closing is KEEP:
            self._began = self._peer.clock.now
            answer = self._recall(data)
            if answer is not None:
                return self._say(answer)
        self._buffer += data
        return self._proceed()

    def resume(self) -> Sequence[Chunk]:
        return self._proceed()

    def end(self) -> Sequence[Chunk]:
        if self.closing is KEEP:
            self.closing = Closing.CLOSE
        return ()

    def expire(self) -> Sequence[Chunk]:
        self.closing = Closing.LINGER
        if not self._buffer and self._request is None:
            return ()
        line = self._request.line if self._request else self._buffer.partition(b"\n")[0].decode("latin-1")
        return self._say(Answer(error(408, "The request took too long to arrive."), None, line), self._began)

    def drain(self) -> Sequence[Chunk]:
        self._left = 1
        if not self._buffer and self._request is None:
            self.waiting = "idle"
        return ()

    def _proceed(self) -> Sequence[Chunk]:
        """Answer what is in the buffer, until more must come, the connection is to end, or enough has been said."""
        clock = self._peer.clock
        chunks: list[Chunk] = []
        said = 0
        while (self._buffer or self._request) and self.closing is KEEP and said <= HIGH_WATER:
            answer = self._next_answer(chunks)
            if answer is None:
                break
            more = self._say(answer, self._began if self._began < clock.now else 0.0)
            said += len(more[0]) + extent(answer.pieces)
            chunks += more
            self._began = clock.now
            clock.wake += 1  # the request behind this one may be younger than what was looked up so far
        return tuple(chunks)

    def _next_answer(self, chunks: list[Chunk]) -> Answer | None:
        """To the first request in the buffer; None if it is not complete yet, or its answer not ready."""
        head = self._buffer
        try:
            if self._request is None:
                found = self._cut_head()
                if found is None:
                    self.waiting = "head"
                    return None
                head = found
                answer = self._recall(head)
                if answer is not None:
                    return answer
                self._request = self._parse(head)
                self._await_body(self._request, chunks)
            return self._respond(self._request)
        except Refused as refusal:
            self.closing = Closing.LINGER
            line = self._request.line if self._request else first_line(head)
            return Answer(error(refusal.status, refusal.why), None, line)

    def _parse(self, head: bytes) -> Request:
        return parse_simple(head) or parse(head)

    def _await_body(self, request: Request, chunks: list[Chunk]) -> None:
        """See whether anybody takes the body of `request`, and tell a peer that waits to be told (RFC 9110 §10.1.1)."""
        if not request.length:
            return
        room = self._service.room(request)
        if room and request.length > room:
            raise Refused(413, f"The body is longer than {room} bytes.")
        if not room:  # nobody takes the body, and it must not be taken for a request
            request.keep = request.silent = False
            self.closing = Closing.LINGER
            request.length = 0
        elif request.version == (1, 1) and request.fields.get("expect", "").lower() == "100-continue":
            chunks += (b"HTTP/1.1 100 Continue\r\n\r\n", Answered(None))

    def _respond(self, request: Request) -> Answer | None:
        """The answer to `request`; None while its body is incomplete or its answer only promised."""
        if self._promise is None:
            if len(self._body) < request.length:
                missing = request.length - len(self._body)
                self._body += self._buffer[:missing]
                self._buffer = self._buffer[missing:]
                self.waiting = "body"
                if len(self._body) < request.length:
                    return None
            request.body = bytes(self._body)
            answer = self._service.respond(request)
            if isinstance(answer, Answer):
                return self._finished(answer)
            self._promise = answer
            self.waiting = ""  # for nothing from the peer
            answer.add_done_callback(lambda promise: self._peer.wake())
        if not self._promise.done():
            return None
        return self._finished(self._service.answer(request, self._promise))

    def _finished(self, answer: Answer) -> Answer:
        self._request = self._promise = None
        self._body = bytearray()
        return answer

    def _cut_head(self) -> bytes | None:
        """Take one whole head off the buffer: None while it is incomplete, Refused if it never will be a good one.

        Whatever shows in a part of a head is judged in the order in which it arrives, so that the answer is the same however
        the head was cut into packets.
        """
        buffer = self._buffer
        start = _skip_blank_lines(buffer)
        line_end = buffer.find(b"\n", start) + 1
        if (line_end or len(buffer)) - start > LINE_LIMIT:
            raise Refused(414, f"The request line is longer than {LINE_LIMIT} bytes.")
        if not line_end:
            return None
        if parse_simple(buffer[start:line_end]):
            return self._cut_simple(start, line_end)
        end = HEAD_END.search(buffer, max(line_end - 1, self._scanned - 2))
        size = (end.end() if end else len(buffer)) - start
        if end is None or size > HEAD_LIMIT:
            check_line(buffer[start:line_end])
            if size > HEAD_LIMIT:
                raise Refused(431, f"The request head is longer than {HEAD_LIMIT} bytes.")
            self._scanned = len(buffer)
            return None
        return self._cut(start, end.end())

    def _cut_simple(self, start: int, line_end: int) -> bytes:
        if self._buffer[line_end:] not in {b"", b"\n", b"\r\n"}:
            raise Refused(400, "The request line names no version.")
        head = self._cut(start, line_end)
        self._buffer = b""
        return head

    def _cut(self, start: int, end: int) -> bytes:
        head = self._buffer[start:end]
        self._buffer = self._buffer[end:]
        self._scanned = 0
        return head

    def _say(self, answer: Answer, since: float = 0.0) -> tuple[bytes, *tuple[Chunk, ...]]:
        """The chunks of `answer`, of which the first is its head; decides what becomes of the connection after it."""
        stamp = self._stamp
        if stamp.wake != self._peer.clock.wake:
            stamp.renew(self._peer.clock)
        self._left -= 1
        answered = answer.answered
        if self._left and (answer.keep or (answer.silent and self._is_reused())):
            self.waiting = "idle"
            self._kept = self._peer.clock.now
            head = answer.before + stamp.keep + answer.behind
            if not answer.keep:
                answered = answer.ended(keep=True)
        else:
            if self.closing is KEEP:
                self.closing = Closing.LINGER if self._buffer else Closing.CLOSE
            self._buffer = b""
            head = answer.before + stamp.close + answer.behind if answer.before else answer.behind
            answered = answer.ended(keep=False)
        if since:
            answered = Answered(answered.record, since)
        if not answer.pieces:
            return head, answered
        rest: tuple[Chunk, ...] = (*answer.pieces, answered)
        return head, *rest

    def _is_reused(self) -> bool:
        """Whether the present request began after an answer that kept the connection: its client knows what that means.

        curl is such a client. It falls back to HTTP/1.0 once it has seen HTTP/1.0, and then says nothing of persistence.
        """
        return 0.0 < self._kept < self._began


def _skip_blank_lines(buffer: bytes) -> int:
    """Where the request line begins. Raises Refused as soon as it cannot be one."""
    blank = BLANK_LINES.match(buffer)
    start = blank.end() if blank else 0
    if buffer.count(b"\n", 0, start) > BLANK_LIMIT:
        raise Refused(400, "There are too many empty lines before the request.")
    if buffer[start : start + 1] not in TOKEN_BYTES and buffer[start:] != b"\r":
        raise Refused(400, "This is not an HTTP request.")
    return start


def first_line(head: bytes) -> str:
    """The request line of a head that may be no good one, as far as it goes."""
    try:
        start = _skip_blank_lines(head)
    except Refused:
        start = 0
    return head[start:].partition(b"\n")[0].removesuffix(b"\r").decode("latin-1")


TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # `in`: or nothing
