"""One accepted socket: receive, send, send files, back-pressure, deadlines, close.

A connection lives for one exchange or one session. It carries bytes between its socket and its protocol, and these are
its rules:

- Try now, wait only when refused. A new connection is read at once, an answer is sent at once; the epoll set hears of it
  only when the kernel says "not now" (EAGAIN). A short connection may never enter the set.
- Sockets stay in blocking mode and each call says MSG_DONTWAIT, which saves a system call per connection. Only sendfile
  has no such flag: before its first use the socket is made non-blocking.
- What is said waits in one queue, in order. Above HIGH_WATER bytes of it the connection is not read: a peer that does not
  take its answers cannot make us hold more of them.
- A protocol that rests (TURN) has its next turn from the loop's queue, once its output has left. From then on its connection is
  read in turn as well, not as soon as the kernel reports it, until a receive asks for so little that it need not rest. And who
  is sent much is sent it in turn, SEND_QUOTA bytes at a time.
- The peer's FIN ends its input, not our output. Our own can travel with our last words, if they are short: they wait for it.
- The deadline that runs is *send* while something is queued, else the one the protocol is `waiting` for. *send* restarts
  whenever another 64 KiB, or all the rest, has left; "idle" with whatever is heard or said; the others only when the
  protocol's waiting changes or it answers, so that trickling bytes gain nothing.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fcntl import ioctl
from typing import Any

from rawservers.core.limits import Connections, EvictionRank
from rawservers.core.loop import Loop
from rawservers.core.peer import Address, Counters, Peer, peer_address
from rawservers.core.protocol import HIGH_WATER, Chunk, Closing, Deadline, FileSlice, Protocol, ResponseEnd, Urgent

log = logging.getLogger("rawservers")

READABLE = select.EPOLLIN
READ = select.EPOLLIN | select.EPOLLPRI
WRITE = select.EPOLLOUT
PRIORITY = select.EPOLLPRI
READ_ONCE = READ | select.EPOLLONESHOT  # of a connection that is read in turn: the kernel then says it once
BROKEN = select.EPOLLHUP  # EPOLLHUP is always reported for a registered descriptor

# Plain ints: an operation on the enum's own members takes ten times as long.
DONTWAIT = int(socket.MSG_DONTWAIT)
DONTWAIT_MORE = int(socket.MSG_DONTWAIT | socket.MSG_MORE)
DONTWAIT_OOB = int(socket.MSG_DONTWAIT | socket.MSG_OOB)
FIONREAD = 0x541B  # <asm-generic/ioctls.h>
SIOCATMARK = 0x8905  # <asm-generic/sockios.h>; Python has no sockatmark()

RECEIVE_SIZE = 16384  # bytes asked of one recv: many requests or lines, and few enough that what they grow into is small
SMALL_SIZE = 478  # the same from a peer that has never said more at once: Python is quickest with objects of up to 512 bytes
COALESCE_LIMIT = 65536  # bytes of small answers joined for one send
SEND_QUOTA = 1 << 18  # bytes one connection may send at once, so that a fast reader of large files does not starve the others
# Attributes of an Enum class take a dictionary lookup in Python code (3.11).
KEEP = Closing.KEEP
IDLE, TURN, NONE = Deadline.IDLE, Deadline.TURN, Deadline.NONE

PROGRESS = 65536  # bytes that must leave within the send deadline
BYTES_PER_STEP = 512  # bytes of a large receive, or of a large answer, for a step of work
LARGE = 4096  # bytes of an answer up to which its sending is not counted
SENT_PER_STEP = 16384  # bytes of a queue, or of a file, whose sending takes a step of work
LINGER_BYTES = 16 << 20  # read and dropped after a refusal: a client that uploads 10 MB before it listens is still told


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What the connections of one listener have in common.

    name: for messages; start: how a conversation begins; deadlines: seconds for "head", "body", "idle", "send" and
    "linger" (0 or absent: no deadline); report: is handed each answer's record with the bytes sent and the seconds taken;
    banner: from the address that was bound, what is said of it at start-up; counters: what has been done so far.
    """

    name: str
    start: Callable[[Peer], Protocol]
    deadlines: Mapping[Deadline, float]
    report: Callable[[Peer, object, int, float], None]
    banner: Callable[[str], str] = str
    counters: Counters = field(default_factory=Counters)


class Connection:
    """An event handler of the loop. It is in `connections` from its beginning to its close."""

    __slots__ = (
        "_answer_sent",
        "_bytes_since_progress",
        "_clock",
        "_connections",
        "_counters",
        "_eof_received",
        "_events",
        "_fd",
        "_greedy",
        "_head_offset",
        "_loop",
        "_nonblocking",
        "_protocol",
        "_queue",
        "_recv_size",
        "_resume_pending",
        "_service",
        "_sock",
        "_turn_events",
        "_unsent",
        "_waiting",
        "peer",
        "service",
        "timer_started",
    )

    def __init__(
        self, sock: socket.SocketType, address: Address, service: ServiceSpec, loop: Loop, connections: Connections[Connection]
    ) -> None:
        self._sock = sock
        self._fd = sock.fileno()  # -1 once closed
        self._service = service
        self.service = service.name
        self._counters = service.counters
        self._loop = loop
        self._clock = loop.clock
        self._connections = connections
        self.peer = Peer(address, loop.clock, self._local, self._schedule_resume, counters=service.counters)
        self._protocol = NOT_BEGUN
        self._recv_size = SMALL_SIZE  # bytes asked of the next recv
        self._queue = EMPTY
        self._unsent = 0  # bytes in the queue
        self._head_offset = 0  # bytes of the queue's first chunk that have left
        self._answer_sent = 0  # bytes of the present answer's earlier chunks, all of which have left
        self._bytes_since_progress = 0  # bytes that have left since the send deadline was restarted
        self._events = 0  # what the epoll set watches for
        self._nonblocking = False
        self._eof_received = False  # the peer has said its last byte
        self._resume_pending = False  # the protocol is to be asked for more, when the queue has left and its turn has come
        self._turn_events = 0  # events of the kernel, or 1, while it stands in the loop's queue of turns
        self._greedy = False  # the protocol had to rest: the connection is read in turn
        self._waiting = Deadline.NONE
        self.timer_started = self._clock.now  # when the deadline that runs was started
        connections.add(self)

    def __repr__(self) -> str:
        return f"{self._service.name} connection from {self.peer.address[0]} port {self.peer.address[1]}"

    # The life of a connection, in order

    def begin(self) -> None:
        """Start the conversation, say its greeting, and see whether the peer has already spoken."""
        self._protocol = protocol = self._service.start(self.peer)
        self._waiting = protocol.waiting
        if protocol.greeting or protocol.closing is not KEEP:
            self._queue_and_flush((protocol.greeting,))
        if self._wants_read():
            self.ready(READABLE)
        else:
            self._update_interest()

    def ready(self, events: int) -> None:
        """The loop's call: the kernel says that trying again is worth while."""
        urgent = False
        if events != READABLE or self._events > READ:  # else, as usual, the peer has spoken, and nothing is under way
            if self._events == READ_ONCE:
                self._events = 0  # as the kernel has it
                return self._join_turn_queue(events)
            if events & WRITE or not self._wants_read():
                return self._write(events)
            urgent = events & PRIORITY != 0 and not self._at_mark()
        try:
            data = self._sock.recv(self._recv_size, DONTWAIT)
            if len(data) >= SMALL_SIZE:
                if self._recv_size == SMALL_SIZE:
                    data = self._recv_rest(data, urgent)
                self._clock.work += len(data) // BYTES_PER_STEP
        except BlockingIOError:
            return self._update_interest()
        except OSError as error:
            return self._abort(error)
        if not data:
            self._eof_received = True
            return self._queue_and_flush(self._protocol.end())
        protocol = self._protocol
        chunks = protocol.receive(data, urgent)
        answered: Any  # ResponseEnd, but mypy does not see that
        if chunks and not self._queue:
            # Usually there is one piece of output, or one answer, so small that the kernel takes it whole. Try now.
            said = chunks[0]
            count = len(chunks)
            if type(said) is bytes and (count == 1 or (count == 2 and type(answered := chunks[1]) is ResponseEnd)):
                flags = DONTWAIT if protocol.closing is KEEP else DONTWAIT_MORE  # with the FIN, which follows at once
                try:
                    sent = self._sock.send(said, flags)
                except OSError:
                    sent = 0  # the queue will meet the same error, and knows what to do
                self._counters.sent += sent
                if sent == len(said) <= HIGH_WATER:
                    if count == 1:
                        self._answer_sent += sent
                    else:
                        if self._answer_sent or answered.started_at:
                            self._answer_sent += sent
                            self._report(answered)
                        else:
                            self._service.report(self.peer, answered.record, sent, 0.0)
                        if sent > LARGE:
                            self._clock.work += sent // BYTES_PER_STEP
                    self.timer_started = self._clock.now
                    self._waiting = waiting = protocol.waiting
                    if flags != DONTWAIT or self._events != READ or waiting is not IDLE:
                        self._update_interest()
                    return
                self._head_offset = sent
        self._queue_and_flush(chunks)

    def _recv_rest(self, data: bytes, urgent: bool) -> bytes:
        """`data` and the rest of the burst, up to RECEIVE_SIZE bytes, which each recv asks for from now on."""
        self._recv_size = RECEIVE_SIZE
        if urgent:
            return data  # the mark may come next
        try:
            return data + self._sock.recv(RECEIVE_SIZE - len(data), DONTWAIT)
        except BlockingIOError:
            return data

    def _write(self, events: int) -> None:
        if self._queue or self._resume_pending or not events & BROKEN:
            self._flush_and_update()  # on a broken connection, too: sending is how to learn what has broken it
        else:
            self._abort(ConnectionResetError(errno.ECONNRESET, "the peer has broken off"))

    def _queue_and_flush(self, chunks: Sequence[Chunk]) -> None:
        """Send `chunks`, which the protocol has just returned, and then do as it wishes."""
        waiting = self._protocol.waiting
        if not self._queue and (chunks or waiting is IDLE or waiting != self._waiting):
            self.timer_started = self._clock.now
        self._waiting = waiting
        if chunks:
            self._enqueue(chunks)
            self._flush_and_update()
        elif (
            self._events != READ
            or self._protocol.closing is not KEEP
            or self._queue
            or self._eof_received
            or waiting is TURN
            or waiting is NONE
        ):
            self._update_interest()
        # else all was said, and the set watches for the peer's next words already

    def _enqueue(self, chunks: Sequence[Chunk]) -> None:
        if not self._queue:
            self._queue = deque()
            self._unsent = -self._head_offset
        self._unsent += sum(map(length, chunks))
        now = self._clock.now
        for chunk in chunks:
            self._queue.append(ResponseEnd(chunk.record, now) if type(chunk) is ResponseEnd and not chunk.started_at else chunk)

    def _flush_and_update(self) -> None:
        """Send what is queued, as far as the kernel takes it, but no more than SEND_QUOTA: the rest is sent in turn."""
        sent = self._flush(SEND_QUOTA)
        self._clock.work += 1 + sent // SENT_PER_STEP
        if sent >= SEND_QUOTA and self._queue:
            self._join_turn_queue(1)
        self._update_interest()

    def _flush(self, quota: int) -> int:
        """Send from the queue until it is empty, the kernel says "not now", or `quota` bytes have left; how many did."""
        total = 0
        try:
            self._account(0)
            while self._queue and total < quota:
                sent = self._send_some(quota)
                total += sent
                self._account(sent)
        except BlockingIOError:
            pass
        except OSError as error:
            self._abort(error)
        return total

    def _send_some(self, quota: int) -> int:
        first = self._queue[0]
        if type(first) is FileSlice:
            return self._send_file(first, quota)
        parts: list[bytes | memoryview] = []
        size = 0
        urgent = -1  # the last part that is
        flags = DONTWAIT
        for chunk in self._queue:
            if type(chunk) is ResponseEnd:
                continue
            if type(chunk) is FileSlice:
                flags = DONTWAIT_MORE  # the head travels in one packet with the beginning of the file
                break
            if size >= COALESCE_LIMIT:
                break
            if type(chunk) is Urgent:
                urgent = len(parts)
            size += len(chunk)
            parts.append(chunk)
        if self._head_offset:
            parts[0] = memoryview(parts[0])[self._head_offset :]
        if urgent >= 0 and self._sock.family != socket.AF_UNIX:
            # TCP has one urgent pointer, which names the last byte that was marked: earlier marks go without saying.
            if urgent == 0:
                return self._sock.send(parts[0], DONTWAIT_OOB)
            del parts[urgent:]
            flags = DONTWAIT
        return self._sock.send(parts[0] if len(parts) == 1 else b"".join(parts), flags)

    def _send_file(self, piece: FileSlice, quota: int) -> int:
        if not self._nonblocking:
            self._sock.setblocking(False)
            self._nonblocking = True
        left = piece.count - self._head_offset
        sent = os.sendfile(self._fd, piece.file.fd, piece.offset + self._head_offset, min(left, quota))
        if sent == 0 and left:  # never pad: the short body tells the peer
            log.warning("a file has shrunk while it was sent to %s", self.peer.address[0])
            raise OSError(errno.EIO, "the file has shrunk")
        return sent

    def _account(self, sent: int) -> None:
        """`sent` more bytes have left: take what is done off the queue, and report the answers that end there."""
        self._counters.sent += sent
        self._unsent -= sent
        self._bytes_since_progress += sent
        left = self._head_offset + sent
        queue = self._queue
        while queue:
            chunk = queue[0]
            if type(chunk) is ResponseEnd:
                self._report(chunk)
            else:
                size = length(chunk)
                if left < size:
                    break
                left -= size
                self._answer_sent += size
            queue.popleft()
        else:
            self._queue = EMPTY
        self._head_offset = left
        if self._bytes_since_progress >= PROGRESS or not self._queue:
            self.timer_started = self._clock.now
            self._bytes_since_progress = 0

    def _report(self, answered: ResponseEnd) -> None:
        sent, self._answer_sent = self._answer_sent, 0
        taken = self._clock.now - answered.started_at if answered.started_at else 0.0
        self._service.report(self.peer, answered.record, sent, taken)

    def _update_interest(self) -> None:
        """Nothing more can be done in this wake: watch for what comes next, or come to the end."""
        if self._fd < 0:
            return
        if self._protocol.waiting is TURN and self._protocol.closing is KEEP:
            self._resume_pending = self._greedy = True
        if self._resume_pending and not self._queue:
            self._join_turn_queue(1)
        if self._turn_events:
            if not self._events:
                return  # it will be seen soon enough if it breaks
            events = BROKEN
        elif self._queue:
            events = WRITE | READ if self._wants_read() else WRITE
        elif self._protocol.closing is not KEEP:
            return self._shutdown_write()
        elif self._wants_read():
            events = READ_ONCE if self._greedy else READ
        else:
            events = BROKEN
        if events != self._events:
            self._events = events
            self._loop.watch(self._fd, self, events)

    def _join_turn_queue(self, events: int) -> None:
        """Stand in the loop's queue of turns, for what the kernel has reported, or for more of the protocol's output."""
        if not self._turn_events:
            self._loop.call_in_turn(self, self._take_turn)
        self._turn_events |= events

    def _take_turn(self) -> None:
        events, self._turn_events = self._turn_events, 0
        if self._fd < 0:
            return
        if self._queue:
            self._flush_and_update()
        elif self._resume_pending:
            self._resume_pending = False
            self._queue_and_flush(self._protocol.resume())
        else:
            self._greedy = False  # unless it has to rest again
            self.ready(events)

    def _wants_read(self) -> bool:
        """Whether to poll for input."""
        return (
            self._fd >= 0
            and not self._eof_received
            and not self._resume_pending
            and self._unsent < HIGH_WATER
            and self._protocol.closing is KEEP
            and self._protocol.waiting is not TURN
            and self._protocol.waiting is not NONE
        )

    # The end

    def close(self) -> None:
        """Let go of everything. What was not sent is reported as lost."""
        if self._fd < 0:
            return
        self._loop.discard(self._fd)
        self._fd = -1
        self._connections.discard(self)
        self._sock.close()
        self._answer_sent += self._head_offset
        queue, self._queue = self._queue, EMPTY
        for chunk in queue:
            if type(chunk) is ResponseEnd:
                self._report(chunk)
        self._replace_protocol(NOT_BEGUN)
        self.peer.detach()  # or each of us would hold the other, until the garbage collector comes round

    failed = close  # after an exception there is nothing better to do

    def _abort(self, error: OSError) -> None:
        """The network, or the peer's end of it, has failed: that ends this connection and is no concern of the others."""
        log.debug("%r lost: %s", self, error.strerror or error)
        self.close()

    def _shutdown_write(self) -> None:
        """All is said: say FIN, and hear the peer out, for a while, if it has said more than was wanted or is about to.

        To close with input unread, or still to come, makes the kernel send a RST, and a RST wipes out what has not left, or
        was not read by the peer. So the FIN comes first, and with it all that is said.
        """
        if self._eof_received or type(self._protocol) is Lingering:
            return self.close()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            return self._abort(error)
        if self._protocol.closing is Closing.CLOSE and not self.has_unread():
            return self.close()
        self._replace_protocol(Lingering())
        self._waiting = Deadline.LINGER
        self.timer_started = self._clock.now
        self._update_interest()

    def _replace_protocol(self, successor: Protocol) -> None:
        """The conversation is over."""
        protocol, self._protocol = self._protocol, successor
        try:
            protocol.connection_lost()
        except Exception:
            log.exception("unexpected error at the end of %r", self)

    def has_unread(self) -> bool:
        """Whether the peer has said something that was not heard."""
        return ioctl(self._fd, FIONREAD, b"\0\0\0\0") != b"\0\0\0\0"

    # Time

    def tick(self) -> None:
        """Look whether the deadline that runs has passed; if so, what follows from it happens in turn."""
        if self._is_overdue():
            self._loop.call_in_turn(self, self._time_out)

    def _is_overdue(self) -> bool:
        limit = self._service.deadlines.get(Deadline.SEND if self._queue else self._protocol.waiting, 0)
        return bool(limit) and self._clock.now - self.timer_started >= limit

    def _time_out(self) -> None:
        if self._fd < 0 or not self._is_overdue():  # any more
            return
        self.timer_started = self._clock.now
        if self._queue:
            self._reset()
            self._abort(TimeoutError(errno.ETIMEDOUT, "the peer does not take what is sent"))
        else:
            self._queue_and_flush(self._protocol.expire())

    def drain(self) -> None:
        """The server is stopping: tell the protocol."""
        self._queue_and_flush(self._protocol.drain())

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return self._protocol.waiting is IDLE and not (self._queue or self._resume_pending or self._turn_events)

    @property
    def state(self) -> str:
        """What it is doing, in one word: one of STATES, "sending" or "busy"."""
        if self._queue:
            return "sending"
        return "busy" if self._resume_pending else STATES.get(self._protocol.waiting, "busy")

    @property
    def eviction_rank(self) -> EvictionRank | None:
        """In which order it may be closed to make room; None if it may not be."""
        waiting = self._protocol.waiting
        if (
            self._queue
            or self._resume_pending
            or self._turn_events
            or (waiting is IDLE and not self._protocol.closable_when_idle)
        ):
            return None
        return EVICTION_RANKS.get(waiting)

    def hang_up(self) -> None:
        """Say FIN to a peer that waits for nothing."""
        self._shutdown_write()

    def _reset(self) -> None:
        # A plain close would leave the unsent bytes to the kernel, for as long as it has patience.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    # What the protocol may ask of its peer

    def _local(self) -> Address:
        return peer_address(self._sock.getsockname())

    def _schedule_resume(self) -> None:
        self._loop.call_soon_threadsafe(self, self._resume)

    def _resume(self) -> None:
        if self._fd < 0:
            return
        self._resume_pending = True
        if not self._queue:
            self._join_turn_queue(1)

    def _at_mark(self) -> bool:
        """Whether the next byte is the one that was sent as urgent (recv never reads across it)."""
        return ioctl(self._fd, SIOCATMARK, b"\0\0\0\0") != b"\0\0\0\0"


class Lingering(Protocol):
    """The conversation after the last word: hear the peer out, within bounds, and say nothing."""

    waiting = Deadline.LINGER

    def __init__(self) -> None:
        self._left = LINGER_BYTES

    def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
        self._left -= len(data)
        if self._left < 0:
            self.closing = Closing.CLOSE
        return ()

    def expire(self) -> Sequence[Chunk]:
        self.closing = Closing.CLOSE
        return ()


def length(chunk: Chunk) -> int:
    """How many bytes of the connection `chunk` takes."""
    if type(chunk) is FileSlice:
        return chunk.count
    if type(chunk) is ResponseEnd:
        return 0
    return len(chunk)


# What a connection does, for those who look on, by what its protocol waits for.
STATES = {Deadline.HEAD: "reading", Deadline.BODY: "reading", IDLE: "idle", Deadline.LINGER: "lingering"}
EVICTION_RANKS = {
    Deadline.HEAD: EvictionRank.HEAD,
    Deadline.BODY: EvictionRank.BODY,
    IDLE: EvictionRank.IDLE,
    Deadline.LINGER: EvictionRank.LINGERING,
}
EMPTY: deque[Chunk] = deque()  # the queue of all that have nothing queued; nobody adds to it
NOT_BEGUN = Protocol()
