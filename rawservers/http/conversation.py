"""One HTTP connection: requests in, answers out, in order.

The short way first. Clients repeat themselves, so the bytes that one receive brought are looked up whole among the requests
that were answered before (`recall`); a hit needs no parsing. What is asked for more than once within one wake of the loop, by
whatever clients, need not even be looked up and put together again (`Stamp.said`). What is not recalled goes the long way:
gather until a head is complete, cut it off, check it, have it answered (`respond`).

A call answers so many requests as STEPS of work allow. Then the conversation rests, until its turn comes again: even if there
is nothing left, so that whoever asks for much is heard in turn.

A request that cannot be understood is refused, and a refusal is the last word: nothing behind it is looked at, since nobody
can say where the next request would begin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol as Interface
from typing import TypeAlias

from rawservers.core.peer import Peer
from rawservers.core.protocol import HIGH_WATER, Chunk, Closing, Deadline, FileSlice, Protocol, ResponseEnd
from rawservers.http.framing import HeadReader, first_line
from rawservers.http.request import HTTPError, Request, parse, parse_simple
from rawservers.http.response import CommonHeaders, PreparedResponse, Response, body_length, error_response

# Attributes of an Enum class take a dictionary lookup in Python code (3.11).
KEEP = Closing.KEEP
HEAD, IDLE, TURN = Deadline.HEAD, Deadline.IDLE, Deadline.TURN

STEPS = 64  # of work that one call may do, about half a millisecond
LOOKUP_STEPS = 1  # for an answer that is remembered
ANSWER_STEPS = 8  # for any other
BYTES_PER_STEP = 512  # of a head that is long


class Responder(Interface):
    """What answers the requests of a conversation.

    recall(data): the answer to a request whose bytes are exactly `data`, if it is known and still true. room(request): how
    many bytes of body may come with `request`. respond(request): its answer, once the body is there, or a promise of it, of
    which answer(request, promise) makes one. respond may raise Refused, and nothing else.
    """

    common_headers: CommonHeaders

    @property
    def lookup(self) -> Callable[[bytes], PreparedResponse | None]: ...
    def max_body(self, request: Request) -> int: ...
    def respond(self, request: Request) -> PreparedResponse | Future[Response]: ...
    def prepare(self, request: Request, future: Future[Response]) -> PreparedResponse: ...


ErrorResponder: TypeAlias = Callable[[HTTPError, Request | None, str], PreparedResponse]


def respond_to_error(failure: HTTPError, request: Request | None, line: str) -> PreparedResponse:
    """The answer to a request that is refused: `request`, if so much was understood, else one with this request line."""
    return PreparedResponse(error_response(failure.status, failure.message), None, line)


class Conversation(Protocol):
    """HTTP with one peer.

    requests: how many answers the connection may give (0: any number); refuse: makes the answer to what is refused.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_clock",
        "_common_headers",
        "_counters",
        "_epoch_cacheable",
        "_future",
        "_handler_steps",
        "_kept_alive_at",
        "_looked_up",
        "_lookup",
        "_on_error",
        "_peer",
        "_reader",
        "_request",
        "_requests_left",
        "_responder",
        "_started_at",
        "_steps",
        "closing",
        "waiting",
    )

    closable_when_idle = True

    def __init__(
        self, peer: Peer, responder: Responder, max_requests: int = 0, respond_to_error: ErrorResponder = respond_to_error
    ) -> None:
        self.closing = KEEP
        self.waiting = HEAD
        self._peer = peer
        self._clock = peer.clock
        self._counters = peer.counters
        self._on_error = respond_to_error
        self._responder = responder
        self._lookup = responder.lookup
        self._common_headers = responder.common_headers
        self._requests_left = max_requests  # answers that the connection may still give; 0: any number
        self._epoch_cacheable = False  # nothing is under way, and any number of answers may follow
        self._buffer = bytearray()  # input not yet answered
        self._looked_up = 0  # bytes at its front that were looked up already, whole, and are not known
        self._reader: HeadReader | None = None  # of the buffer, from the first head on that is not looked up whole
        self._started_at = 0.0  # when the first of it came
        self._kept_alive_at = 0.0  # when an answer last left the connection open
        self._request: Request | None = None  # one whose body is awaited, or whose answer is
        self._body = bytearray()
        self._future: Future[Response] | None = None
        self._steps = 0  # of work that the present call has done
        self._handler_steps = 0  # the same in functions

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        clock = self._clock
        common = self._common_headers
        if self._epoch_cacheable and common.epoch == clock.epoch:
            chunks = common.epoch_cache.get(data)
            if chunks is not None:
                self._counters.cache_hits += 1
                return chunks
        self._epoch_cacheable = False
        if not self._buffer and self._request is None and self.closing is KEEP:
            self._started_at = clock.now
            answer = self._lookup(data)
            if answer is not None:
                self._counters.cache_hits += 1
                chunks = self._serialize(answer)
                if answer.epoch == clock.epoch and len(chunks) == 2 and answer.keep_alive and self.closing is KEEP:
                    common.epoch_cache[data] = chunks  # a small one, which holds no descriptor
                answer.epoch = clock.epoch
                return chunks
            self._looked_up = len(data)
        self._buffer += data
        return self._proceed()

    def resume(self) -> Sequence[Chunk]:
        return self._proceed()

    def end(self) -> Sequence[Chunk]:
        self._epoch_cacheable = False
        if self.closing is KEEP:
            self.closing = Closing.CLOSE
        return ()

    def expire(self) -> Sequence[Chunk]:
        self._epoch_cacheable = False
        self.closing = Closing.LINGER
        if not self._buffer and self._request is None:
            return ()
        return self._serialize(
            self._error_response(HTTPError(408, "The request took too long to arrive."), b""), self._started_at
        )

    def drain(self) -> Sequence[Chunk]:
        self._epoch_cacheable = False
        self._requests_left = 1
        if not self._buffer and self._request is None:
            self.waiting = IDLE
        return ()

    def connection_lost(self) -> None:
        self._request = self._future = None  # which would wake us

    def _proceed(self) -> Sequence[Chunk]:
        """Answer what is in the buffer, until more must come, the connection is to end, or enough has been said."""
        clock = self._clock
        chunks: list[Chunk] = []
        queued = 0
        self._steps = self._handler_steps = 0
        if self.waiting is TURN:
            self.waiting = HEAD if self._buffer else IDLE
        while (self._buffer or self._request) and self.closing is KEEP:
            if queued > HIGH_WATER or self._steps + self._handler_steps >= STEPS:
                break
            answer = self._next_response(chunks)
            if answer is None:
                break
            more = self._serialize(answer, self._started_at if self._started_at < clock.now else 0.0)
            queued += body_length(more[:-1])
            chunks += more
            self._steps += len(more) - 2  # each further piece, of a multipart answer say, is a system call
            self._started_at = clock.now
            clock.epoch += 1  # the request behind this one may be younger than what was looked up so far
        rests = self._steps >= STEPS or (self._buffer and (queued > HIGH_WATER or self._handler_steps))
        if rests and self.waiting is not Deadline.NONE and self.closing is KEEP:
            self.waiting = TURN
        clock.work += self._steps + self._handler_steps
        return tuple(chunks)

    def _next_response(self, chunks: list[Chunk]) -> PreparedResponse | None:
        """To the first request in the buffer; None if it is not complete yet, or its answer not ready."""
        head = b""
        try:
            if self._request is None:
                found = self._read_head()
                if found is None:
                    self.waiting = HEAD
                    return None
                head = found
                self._steps += LOOKUP_STEPS
                answer = self._lookup(head) if len(head) != self._looked_up else None
                self._looked_up = 0
                if answer is not None:
                    self._counters.cache_hits += 1
                    return answer
                self._steps += ANSWER_STEPS + len(head) // BYTES_PER_STEP
                self._request = self._parse(head)
                self._check_body(self._request, chunks)
            return self._respond(self._request)
        except HTTPError as failure:
            self.closing = Closing.LINGER
            return self._error_response(failure, head)

    def _error_response(self, failure: HTTPError, head: bytes) -> PreparedResponse:
        """The last answer: to the request under way, or to this head, or to what there is of one."""
        self._counters.answers += 1
        self._counters.bad_requests += 1
        line = self._request.line if self._request else first_line(head or bytes(self._buffer))
        return self._on_error(failure, self._request, line)

    def _parse(self, head: bytes) -> Request:
        return parse_simple(head) or parse(head)

    def _check_body(self, request: Request, chunks: list[Chunk]) -> None:
        """See whether anybody takes the body of `request`, and tell a peer that waits to be told (RFC 9110 §10.1.1)."""
        if not request.length:
            return
        max_body = self._responder.max_body(request)
        if max_body and request.length > max_body:
            raise HTTPError(413, f"The body is longer than {max_body} bytes.")
        if not max_body:  # nobody takes the body, and it must not be taken for a request
            request.keep_alive = request.connection_unspecified = False
            self.closing = Closing.LINGER
            request.length = 0
        elif request.version == (1, 1) and request.fields.get("expect", "").lower() == "100-continue":
            chunks += (b"HTTP/1.1 100 Continue\r\n\r\n", ResponseEnd(None))

    def _respond(self, request: Request) -> PreparedResponse | None:
        """The answer to `request`; None while its body is incomplete or its answer only promised."""
        if self._future is None:
            if len(self._body) < request.length:
                missing = request.length - len(self._body)
                self._body += self._buffer[:missing]
                del self._buffer[:missing]
                self.waiting = Deadline.BODY
                if len(self._body) < request.length:
                    return None
            request.body = bytes(self._body)
            answer = self._responder.respond(request)
            self._handler_steps += request.steps
            if isinstance(answer, PreparedResponse):
                return self._finish(answer)
            self._future = answer
            self.waiting = Deadline.NONE  # for nothing from the peer
            answer.add_done_callback(lambda future: self._peer.wake())
        if not self._future.done():
            return None
        return self._finish(self._responder.prepare(request, self._future))

    def _finish(self, answer: PreparedResponse) -> PreparedResponse:
        self._counters.answers += 1
        self._request = self._future = None
        self._body = bytearray()
        return answer

    def _read_head(self) -> bytes | None:
        """One whole head off the buffer; None while it is incomplete. Raises Refused."""
        reader = self._reader
        if reader is None:
            reader = self._reader = HeadReader(self._buffer)
        head = reader.read()
        if reader.skipped:
            self._clock.epoch += 1  # the kernel may have reported the empty lines alone: the request is younger
            reader.skipped = 0
        return head

    def _serialize(
        self, answer: PreparedResponse, started_at: float = 0.0
    ) -> tuple[*tuple[bytes | FileSlice, ...], ResponseEnd]:
        """The chunks of `answer`; decides what becomes of the connection after it."""
        clock = self._clock
        common = self._common_headers
        if common.epoch != clock.epoch:
            common.refresh(clock)
        if self._requests_left != 1 and (answer.keep_alive or (answer.connection_unspecified and self._is_reused())):
            if self._requests_left:
                self._requests_left -= 1
            self.waiting = IDLE
            self._epoch_cacheable = not self._requests_left and not self._buffer
            self._kept_alive_at = clock.now
            lines = common.keep_alive_lines
            end = answer.end_keepalive or answer.make_end(True, lines)
        else:
            if self.closing is KEEP:
                self.closing = Closing.LINGER if self._buffer else Closing.CLOSE
            self._buffer.clear()
            lines = common.close_lines if answer.status_line else b""
            end = answer.end_close or answer.make_end(False, lines)
        if started_at:
            end = ResponseEnd(end.record, started_at)
        body = answer.content.body
        if type(body) is bytes:
            return b"".join((answer.status_line, lines, answer.header_tail, body)), end
        head = answer.status_line + lines + answer.header_tail
        pieces = (head, *body) if isinstance(body, tuple) else (head, body)
        return *pieces, end

    def _is_reused(self) -> bool:
        """Whether the present request began after an answer that kept the connection: its client knows what that means.

        curl is such a client. It falls back to HTTP/1.0 once it has seen HTTP/1.0, and then says nothing of persistence.
        """
        return 0.0 < self._kept_alive_at < self._started_at
