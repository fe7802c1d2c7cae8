"""One HTTP connection: requests in, responses out, in order.

The fast path comes first. Clients repeat requests byte for byte, so the bytes of one receive are looked up whole in the
response cache (`Responder.lookup`); a hit needs no parsing. The chunks of a request that comes more than once in one freshness
epoch, from any client, are sent again as they are (`EpochCache`). All other requests take the slow path: collect input until a
head is complete, cut it off, parse it, read the body, and get a response (`Responder.respond`).

A call does at most STEPS of work. Then the conversation takes a turn (Deadline.TURN), even if no input is left, so that a
client with many requests is read in turn with the others.

A body that is made while it is sent (`Stream`) is continued in turns, each after all earlier output has left. Its request stays
the present one until the end.

After a malformed request the connection is closed, and what follows is discarded: the boundaries of requests are lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from rawservers.core.peer import Peer
from rawservers.core.protocol import HIGH_WATER, Chunk, Closing, Deadline, FileSlice, Protocol, ResponseEnd
from rawservers.http.chunked import ChunkedBody
from rawservers.http.epoch_cache import EpochCache
from rawservers.http.forwarded import PROXY_FIELDS, TrustedProxies
from rawservers.http.framing import BLANK_LINES, TLS_HANDSHAKE, cut_head
from rawservers.http.request import HTTPError, Request, parse
from rawservers.http.response import CommonHeaders, PreparedResponse, Response, body_length
from rawservers.http.stream import Stream, StreamError
from rawservers.http.target import decode_target

# Attributes of an Enum class take a dictionary lookup in Python code (3.11).
KEEP, CLOSE, LINGER, RESET = Closing
HEAD, IDLE, TURN, NONE = Deadline.HEAD, Deadline.IDLE, Deadline.TURN, Deadline.NONE

STEPS = 64  # of work in one call, about half a millisecond
LOOKUP_STEPS = 1  # for a response from the cache
ANSWER_STEPS = 8  # for any other response
BYTES_PER_STEP = 512  # of a long request head

TOO_LATE = HTTPError(503, "The response was not ready in time. Please try again later.")


class Responder:
    """The source of a conversation's responses.

    lookup(head, recheck): the cached response to a request of exactly these bytes, if it is fresh. recheck: whether the request
    may be younger than the wake's poll, so that no earlier stat counts. server_header: whether to send a Server field. version:
    of the status line of responses to HTTP/1.1 requests, 1.0 or 1.1. encoded_slash: as for `decode_target`. trusted_proxies: if
    there are any.
    """

    def __init__(
        self,
        lookup: Callable[[bytes, bool], PreparedResponse | None],
        server_header: bool = True,
        version: str = "1.0",
        encoded_slash: bool = False,
        trusted_proxies: TrustedProxies | None = None,
    ) -> None:
        self.lookup = lookup
        self.trusted_proxies = trusted_proxies
        self.version = f"HTTP/{version}".encode()
        self.encoded_slash = encoded_slash
        self.common_headers = CommonHeaders(server_header)
        self.epoch_cache = EpochCache()

    def identify(self, request: Request, peer: Peer) -> None:
        """Set the peer of `request`, from which it has come, its client, and its scheme."""
        request.peer = peer
        request.client, scheme = peer.address, ""
        if self.trusted_proxies:
            request.forwarded = {name: request.fields[name] for name in PROXY_FIELDS if name in request.fields} or None
            request.client, scheme = self.trusted_proxies.origin(peer.address, request.fields)
        request.scheme = scheme or ("https" if peer.secure else "http")

    def max_body(self, request: Request) -> int | None:
        """The longest body accepted with `request`, in bytes; None: nobody takes a body."""
        raise NotImplementedError

    def respond(self, request: Request, future: Future[Response] | None = None) -> PreparedResponse | Future[Response]:
        """The response to `request` with its body, or a future of one. Raises nothing.

        future: one returned before that is done, for which this is called again.
        """
        raise NotImplementedError

    def respond_to_error(self, failure: HTTPError, request: Request) -> PreparedResponse:
        """The error response to `request`, of which only the line is known if its head is malformed."""
        raise NotImplementedError


class Conversation(Protocol):
    """HTTP with one client. max_requests: number of responses after which the connection is closed; 0: no limit."""

    __slots__ = (
        "_buffer", "_chunked", "_clock", "_common_headers", "_counters", "_epoch_cache", "_future", "_handler_steps",
        "_kept_alive_at", "_lookup", "_peer", "_request", "_requests_left", "_responder", "_scanned", "_started_at",
        "_stream", "_stream_end", "closing", "steps", "waiting",
    )  # fmt: skip

    closable_when_idle = True
    _chunked: ChunkedBody  # of the present request; not set for any other, so that others pay nothing
    _stream_end: tuple[Closing, ResponseEnd]  # what comes after the stream

    def __init__(self, peer: Peer, responder: Responder, max_requests: int = 0) -> None:
        self.closing = KEEP
        self.waiting = HEAD
        self.steps = 0  # of work done in the present call, without handlers
        self._handler_steps = 0  # of work done in the present call by handlers
        self._peer = peer
        self._clock = peer.clock
        self._counters = peer.counters
        self._responder = responder
        self._lookup = responder.lookup
        self._epoch_cache = responder.epoch_cache
        self._common_headers = responder.common_headers
        self._requests_left = max_requests  # until the connection is closed; 0: no limit
        self._buffer = bytearray()  # input not yet processed
        self._scanned = 0  # bytes of the buffer in which no whole head was found
        self._started_at = 0.0  # when the first byte of the present request arrived
        self._kept_alive_at = 0.0  # when a response last left the connection open
        self._request: Request | None = None  # that waits for its body or its response
        self._future: Future[Response] | None = None
        self._stream: Stream | None = None  # the body that is being sent

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        clock = self._clock
        epoch_cache = self._epoch_cache
        if epoch_cache.epoch == clock.epoch and self.waiting is IDLE and self.closing is KEEP and not self._requests_left:
            chunks = epoch_cache.chunks.get(data)
            if chunks is not None:
                self._counters.cache_hits += 1
                return chunks
        looked_up = 0
        if not self._buffer and self._request is None and self.closing is KEEP:
            self._started_at = clock.now
            response = self._lookup(data, False)
            if response is not None:
                self._counters.cache_hits += 1
                chunks = self._serialize(response)
                if response.epoch != clock.epoch:
                    response.epoch = clock.epoch
                elif response.keep_alive and len(chunks) == 2 and not self._requests_left:
                    epoch_cache.add(data, chunks, clock.epoch)
                return chunks
            looked_up = len(data)
        self._buffer += data
        return self.resume(looked_up)

    def end(self) -> Sequence[Chunk]:
        if self.closing is KEEP:
            self.closing = CLOSE
        return ()

    def expire(self) -> Sequence[Chunk]:
        if self._stream is not None:  # it pauses
            return ()
        if self._future is not None and self._future.done():
            return self.resume()
        self.closing = LINGER
        failure = TOO_LATE if self._future is not None else HTTPError(408, "The request did not arrive in time.")
        return self._serialize(self._error_response(failure, b"")) if self._buffer or self._request else ()

    def drain(self) -> Sequence[Chunk]:
        self._requests_left = 1
        if not self._buffer and self._request is None:
            self.waiting = IDLE
        return ()

    def connection_lost(self) -> ResponseEnd | None:
        if self._stream is None:
            return None
        self._stream.close()
        return self._stream_end[1]

    def resume(self, looked_up: int = 0) -> Sequence[Chunk]:
        """Process the buffer until input is missing, the connection is to be closed, or the limits of a call are reached.

        looked_up: length of the receive whose cache lookup failed; a head of this length is not looked up again.
        """
        chunks: list[Chunk] = []
        queued = self.steps = self._handler_steps = 0
        recheck = True  # what is in the buffer may be younger than the wake's poll
        if self.waiting is TURN:
            self.waiting = HEAD if self._buffer else IDLE
        while (self._buffer or self._request) and self.closing is KEEP:
            if queued > HIGH_WATER or self.steps + self._handler_steps >= STEPS:
                break
            if self._stream and not self._continue_stream(self._stream, chunks):
                break
            hits = self._counters.cache_hits
            response = self._next_response(chunks, looked_up, recheck)
            if response is None:
                break
            recheck = self._counters.cache_hits == hits  # a handler may have changed files
            more = self._serialize(response)
            if type(response.content.body) is Stream:
                end = ResponseEnd(more[-1].record, self._started_at)
                self._stream, self._stream_end = response.content.body, (self.closing, end)
                self.closing, self.waiting = KEEP, TURN
                chunks.append(more[0])
                continue
            queued += body_length(more[:-1])
            chunks += more
            self.steps += len(more) - 2  # each further chunk, as of a multipart response, is a system call
            self._started_at = self._clock.now
            looked_up = 0
        rests = self.steps >= STEPS or (self._buffer and (queued > HIGH_WATER or self._handler_steps))
        if rests and self.waiting is not NONE and self.closing is KEEP:
            self.waiting = TURN
        self.steps += self._handler_steps
        return tuple(chunks)

    def _next_response(self, chunks: list[Chunk], looked_up: int, recheck: bool) -> PreparedResponse | None:
        """The response to the first request in the buffer; None if the request is incomplete or its response not ready.

        recheck: see Responder.
        """
        head = b""
        try:
            if self._request is None:
                head = cut_head(self._buffer, self._scanned)
                self._scanned = 0 if head else len(self._buffer)
                if not head:
                    self.waiting = HEAD
                    return None
                self.steps += LOOKUP_STEPS
                response = self._lookup(head, recheck) if len(head) != looked_up else None
                if response is not None:
                    self._counters.cache_hits += 1
                    return response
                self.steps += ANSWER_STEPS + len(head) // BYTES_PER_STEP
                request = self._request = parse(head)
                self._responder.identify(request, self._peer)
                if request.version == (1, 1):
                    request.response_version = self._responder.version
                decode_target(request, self._responder.encoded_slash)
                self._check_body(request, chunks)
            response = self._respond(self._request)
            if response is not None:
                self._counters.answers += 1
                self._future = None
                if self._request.discards_body:  # not before: the response may have to be waited for
                    self.closing = LINGER
                if type(response.content.body) is not Stream:
                    self._request = None
            return response
        except HTTPError as failure:
            self.closing = LINGER
            return self._error_response(failure, head)

    def _error_response(self, failure: HTTPError, head: bytes) -> PreparedResponse:
        """The response after which the connection is closed: to the present request, the malformed `head`, or part of one."""
        request = self._request
        if request is None:
            first = BLANK_LINES.sub(b"", head or self._buffer, count=1).partition(b"\n")[0]
            line = "(TLS handshake)" if first[:1] == TLS_HANDSHAKE else first.removesuffix(b"\r").decode("latin-1")
            # Its method, since the client of a malformed HEAD request expects no body either.
            request = Request(head, line, line.partition(" ")[0], "", (1, 0))
        request.keep_alive = False
        self._counters.answers += 1
        self._counters.bad_requests += failure is not TOO_LATE
        return self._responder.respond_to_error(failure, request)

    def _check_body(self, request: Request, chunks: list[Chunk]) -> None:
        """Check the length of the body; send 100 Continue if asked for (RFC 9110 §10.1.1). Raises HTTPError."""
        if not request.length:
            return
        max_body = self._responder.max_body(request)
        if max_body is None:  # the body is discarded by lingering, so that it is never parsed as a request
            request.keep_alive = False
            request.discards_body = True
            request.length = 0
            return
        if request.length > max_body:
            raise HTTPError(413, f"The request body is longer than {max_body} bytes.")
        if request.length < 0:
            self._chunked = ChunkedBody(max_body)
        if request.version == (1, 1) and request.fields.get("expect", "").lower() == "100-continue":
            chunks += (b"HTTP/1.1 100 Continue\r\n\r\n", ResponseEnd(None))

    def _decode_body(self, request: Request) -> bool:
        """Decode what has arrived of a chunked body; set it in the request if it is complete. Raises HTTPError."""
        self.steps += self._chunked.decode(self._buffer, STEPS - self.steps)
        if self._chunked.complete:
            request.body = bytes(self._chunked.data)
            request.length = len(request.body)
            del self._chunked
        return request.length >= 0

    def _respond(self, request: Request) -> PreparedResponse | None:
        """The response to `request`; None while its body is incomplete or its future pending."""
        if self._future is None:
            if len(self._buffer) < request.length or (request.length < 0 and not self._decode_body(request)):
                self.waiting = Deadline.BODY
                return None
            if not request.body:
                request.body = bytes(self._buffer[: request.length])
                del self._buffer[: request.length]
        elif not self._future.done():
            return None
        response = self._responder.respond(request, self._future)
        self._handler_steps += request.steps
        if isinstance(response, PreparedResponse):
            return response
        self._future = response
        self.waiting = NONE  # no input is read meanwhile
        peer = self._peer  # not `self`, which refers to the future: without the cycle it is freed with its connection
        response.add_done_callback(lambda future: peer.wake())
        return self._respond(request)

    def _continue_stream(self, stream: Stream, chunks: list[Chunk]) -> bool:
        """Append the next pieces of the stream. Returns whether it has ended, and another request may be looked at."""
        now = self._clock.now
        if now < stream.due:  # woken by something else
            return False
        closing, end = self._stream_end
        queued = 0
        while queued <= HIGH_WATER and self.steps < STEPS:
            try:
                piece = stream.next_piece()
            except StreamError:
                piece, closing = None, RESET  # so that the client does not take it for complete
            if isinstance(piece, bytes):
                chunks += (piece,) if piece else ()
                queued += len(piece)
                self.steps += 1 + len(piece) // BYTES_PER_STEP
            elif piece is None:
                self._stream = self._request = None
                self._started_at = now
                self.closing, self.waiting = closing, HEAD if self._buffer else IDLE
                chunks += (stream.end if closing is not RESET else b"", end)
                return closing is KEEP and bool(self._buffer)
            else:
                self.waiting, stream.due = NONE, now + piece
                self._peer.call_later(piece)
                return False
        self.waiting = TURN
        return False

    def _serialize(self, response: PreparedResponse) -> tuple[*tuple[bytes | FileSlice, ...], ResponseEnd]:
        """The chunks of the response. Sets `closing` and `waiting` for what follows it."""
        clock = self._clock
        common = self._common_headers
        if not common.begin <= clock.time < common.end:
            common.refresh(int(clock.time))
        if self._requests_left != 1 and (response.keep_alive or (response.keep_alive is None and self._is_reused())):
            if self._requests_left:
                self._requests_left -= 1
            self.waiting = IDLE
            self._kept_alive_at = clock.now
            lines = common.keep_alive_lines
            end = response.end_keepalive
            if end is None:  # quicker than `or`, which looks for a truth value or a length of its own
                end = response.make_end(True, lines)
        else:
            if self.closing is KEEP:
                self.closing = LINGER if self._buffer else CLOSE
            self._buffer.clear()
            lines = common.close_lines if response.status_line else b""
            end = response.end_close or response.make_end(False, lines)
        if self._started_at < clock.now:
            end = ResponseEnd(end.record, self._started_at)
        body = response.content.body
        if type(body) is bytes:
            return b"".join((response.status_line, lines, response.header_tail, body)), end
        head = response.status_line + lines + response.header_tail
        pieces: tuple[bytes | FileSlice, ...] = (head,)
        if isinstance(body, tuple | FileSlice):
            pieces += body if isinstance(body, tuple) else (body,)
        return *pieces, end

    def _is_reused(self) -> bool:
        """Whether the request began after a response with "Connection: keep-alive", so that its client understands persistence.

        curl is such a client: after an HTTP/1.0 response it sends HTTP/1.0 requests without a Connection field.
        """
        return 0.0 < self._kept_alive_at < self._started_at
