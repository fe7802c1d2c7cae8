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
from rawservers.http.request import Refused, Request, parse, parse_simple
from rawservers.http.response import Answer, Response, Stamp, error, extent

# Attributes of an Enum class take a dictionary lookup in Python code (3.11).
KEEP = Closing.KEEP
HEAD, IDLE, TURN = Deadline.HEAD, Deadline.IDLE, Deadline.TURN

STEPS = 64  # of work that one call may do, about half a millisecond
LOOKUP_STEPS = 1  # for an answer that is remembered
ANSWER_STEPS = 8  # for any other
BYTES_PER_STEP = 512  # of a head that is long


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


Refuse: TypeAlias = Callable[[Refused, Request | None, str], Answer]


def refuse(refusal: Refused, request: Request | None, line: str) -> Answer:
    """The answer to a request that is refused: `request`, if so much was understood, else one with this request line."""
    return Answer(error(refusal.status, refusal.why), None, line)


class Conversation(Protocol):
    """HTTP with one peer.

    requests: how many answers the connection may give (0: any number); refuse: makes the answer to what is refused.
    """

    __slots__ = (
        "_at_rest",
        "_began",
        "_body",
        "_buffer",
        "_called",
        "_clock",
        "_counters",
        "_kept",
        "_left",
        "_missed",
        "_peer",
        "_promise",
        "_reader",
        "_recall",
        "_refuse",
        "_request",
        "_service",
        "_stamp",
        "_steps",
        "closing",
        "waiting",
    )

    closable_when_idle = True

    def __init__(self, peer: Peer, service: Service, requests: int = 0, refuse: Refuse = refuse) -> None:
        self.closing = KEEP
        self.waiting = HEAD
        self._peer = peer
        self._clock = peer.clock
        self._counters = peer.counters
        self._refuse = refuse
        self._service = service
        self._recall = service.recall
        self._stamp = service.stamp
        self._left = requests  # answers that the connection may still give; 0: any number
        self._at_rest = False  # nothing is under way, and any number of answers may follow
        self._buffer = bytearray()  # input not yet answered
        self._missed = 0  # bytes at its front that were looked up already, whole, and are not known
        self._reader: HeadReader | None = None  # of the buffer, from the first head on that is not looked up whole
        self._began = 0.0  # when the first of it came
        self._kept = 0.0  # when an answer last left the connection open
        self._request: Request | None = None  # one whose body is awaited, or whose answer is
        self._body = bytearray()
        self._promise: Future[Response] | None = None
        self._steps = 0  # of work that the present call has done
        self._called = 0  # the same in functions

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        clock = self._clock
        stamp = self._stamp
        if self._at_rest and stamp.epoch == clock.epoch:
            chunks = stamp.said.get(data)
            if chunks is not None:
                self._counters.cache_hits += 1
                return chunks
        self._at_rest = False
        if not self._buffer and self._request is None and self.closing is KEEP:
            self._began = clock.now
            answer = self._recall(data)
            if answer is not None:
                self._counters.cache_hits += 1
                chunks = self._say(answer)
                if answer.epoch == clock.epoch and len(chunks) == 2 and answer.keep and self.closing is KEEP:
                    stamp.said[data] = chunks  # a small one, which holds no descriptor
                answer.epoch = clock.epoch
                return chunks
            self._missed = len(data)
        self._buffer += data
        return self._proceed()

    def resume(self) -> Sequence[Chunk]:
        return self._proceed()

    def end(self) -> Sequence[Chunk]:
        self._at_rest = False
        if self.closing is KEEP:
            self.closing = Closing.CLOSE
        return ()

    def expire(self) -> Sequence[Chunk]:
        self._at_rest = False
        self.closing = Closing.LINGER
        if not self._buffer and self._request is None:
            return ()
        return self._say(self._refused(Refused(408, "The request took too long to arrive."), b""), self._began)

    def drain(self) -> Sequence[Chunk]:
        self._at_rest = False
        self._left = 1
        if not self._buffer and self._request is None:
            self.waiting = IDLE
        return ()

    def connection_lost(self) -> None:
        self._request = self._promise = None  # which would wake us

    def _proceed(self) -> Sequence[Chunk]:
        """Answer what is in the buffer, until more must come, the connection is to end, or enough has been said."""
        clock = self._clock
        chunks: list[Chunk] = []
        said = 0
        self._steps = self._called = 0
        if self.waiting is TURN:
            self.waiting = HEAD if self._buffer else IDLE
        while (self._buffer or self._request) and self.closing is KEEP:
            if said > HIGH_WATER or self._steps + self._called >= STEPS:
                break
            answer = self._next_answer(chunks)
            if answer is None:
                break
            more = self._say(answer, self._began if self._began < clock.now else 0.0)
            said += extent(more[:-1])
            chunks += more
            self._steps += len(more) - 2  # each further piece, of a multipart answer say, is a system call
            self._began = clock.now
            clock.epoch += 1  # the request behind this one may be younger than what was looked up so far
        rests = self._steps >= STEPS or (self._buffer and (said > HIGH_WATER or self._called))
        if rests and self.waiting is not Deadline.NONE and self.closing is KEEP:
            self.waiting = TURN
        clock.work += self._steps + self._called
        return tuple(chunks)

    def _next_answer(self, chunks: list[Chunk]) -> Answer | None:
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
                answer = self._recall(head) if len(head) != self._missed else None
                self._missed = 0
                if answer is not None:
                    self._counters.cache_hits += 1
                    return answer
                self._steps += ANSWER_STEPS + len(head) // BYTES_PER_STEP
                self._request = self._parse(head)
                self._await_body(self._request, chunks)
            return self._respond(self._request)
        except Refused as refusal:
            self.closing = Closing.LINGER
            return self._refused(refusal, head)

    def _refused(self, refusal: Refused, head: bytes) -> Answer:
        """The last answer: to the request under way, or to this head, or to what there is of one."""
        self._counters.answers += 1
        self._counters.bad_requests += 1
        line = self._request.line if self._request else first_line(head or bytes(self._buffer))
        return self._refuse(refusal, self._request, line)

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
            chunks += (b"HTTP/1.1 100 Continue\r\n\r\n", ResponseEnd(None))

    def _respond(self, request: Request) -> Answer | None:
        """The answer to `request`; None while its body is incomplete or its answer only promised."""
        if self._promise is None:
            if len(self._body) < request.length:
                missing = request.length - len(self._body)
                self._body += self._buffer[:missing]
                del self._buffer[:missing]
                self.waiting = Deadline.BODY
                if len(self._body) < request.length:
                    return None
            request.body = bytes(self._body)
            answer = self._service.respond(request)
            self._called += request.steps
            if isinstance(answer, Answer):
                return self._finished(answer)
            self._promise = answer
            self.waiting = Deadline.NONE  # for nothing from the peer
            answer.add_done_callback(lambda promise: self._peer.wake())
        if not self._promise.done():
            return None
        return self._finished(self._service.answer(request, self._promise))

    def _finished(self, answer: Answer) -> Answer:
        self._counters.answers += 1
        self._request = self._promise = None
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

    def _say(self, answer: Answer, since: float = 0.0) -> tuple[*tuple[bytes | FileSlice, ...], ResponseEnd]:
        """The chunks of `answer`; decides what becomes of the connection after it."""
        clock = self._clock
        stamp = self._stamp
        if stamp.epoch != clock.epoch:
            stamp.renew(clock)
        if self._left != 1 and (answer.keep or (answer.silent and self._is_reused())):
            if self._left:
                self._left -= 1
            self.waiting = IDLE
            self._at_rest = not self._left and not self._buffer
            self._kept = clock.now
            lines = stamp.keep
            answered = answer.kept or answer.end(True, lines)
        else:
            if self.closing is KEEP:
                self.closing = Closing.LINGER if self._buffer else Closing.CLOSE
            self._buffer.clear()
            lines = stamp.close if answer.before else b""
            answered = answer.closed or answer.end(False, lines)
        if since:
            answered = ResponseEnd(answered.record, since)
        body = answer.content.body
        if type(body) is bytes:
            return b"".join((answer.before, lines, answer.behind, body)), answered
        head = answer.before + lines + answer.behind
        pieces = (head, *body) if isinstance(body, tuple) else (head, body)
        return *pieces, answered

    def _is_reused(self) -> bool:
        """Whether the present request began after an answer that kept the connection: its client knows what that means.

        curl is such a client. It falls back to HTTP/1.0 once it has seen HTTP/1.0, and then says nothing of persistence.
        """
        return 0.0 < self._kept < self._began
