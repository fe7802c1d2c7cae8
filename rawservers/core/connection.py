"""An accepted socket: receive, send, send files, back-pressure, deadlines, close.

A connection lives for one exchange or one session. It carries bytes between its socket and its protocol:

- Try first, wait on EAGAIN. A new connection is read at once, a response is sent at once; the socket is registered with epoll
  only after EAGAIN. A short connection may never be registered.
- Sockets stay in blocking mode, and each call has MSG_DONTWAIT, which saves a system call per connection. sendfile(2) has no
  such flag: the socket is made non-blocking before its first use.
- Output waits in one queue, in order. With more than HIGH_WATER bytes in it the connection is not read, so a peer that does not
  read its responses cannot make them pile up.
- A protocol with more to do than one call may (see protocol.py; a step is a few microseconds of work) waits for its TURN. It is
  called from the loop's queue of turns, once its output has left. From then on the
  connection is also read in turn, until a call finishes without using up its steps. Large output is sent in turn as well,
  SEND_QUOTA bytes at a time.
- The peer's FIN ends its input, not our output. Our FIN travels with the last bytes of output, if they are few (MSG_MORE).
- Deadlines: SEND while output is queued, else the one in `protocol.waiting`. SEND restarts whenever another 64 KiB, or all the
  rest, has left; IDLE with all input and output; the others only when `waiting` changes or output is returned, so that input
  that arrives byte by byte does not extend them.
"""

from __future__ import annotations

import contextlib
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

INPUT_EVENT = select.EPOLLIN
INPUT_INTEREST = select.EPOLLIN | select.EPOLLPRI
WRITE = select.EPOLLOUT
PRIORITY = select.EPOLLPRI
READ_ONCE = INPUT_INTEREST | select.EPOLLONESHOT  # for a connection that is read in turn: reported once
HANGUP_ONLY = select.EPOLLHUP  # EPOLLHUP is always reported for a registered descriptor
CALL_DUE = 1  # in `_turn_events`: output, or a call of `resume`, is due (the value of EPOLLIN: at worst, a read is tried)

# Plain ints: an operation on the enum's own members takes ten times as long.
DONTWAIT = int(socket.MSG_DONTWAIT)
DONTWAIT_MORE = int(socket.MSG_DONTWAIT | socket.MSG_MORE)
DONTWAIT_OOB = int(socket.MSG_DONTWAIT | socket.MSG_OOB)
FIONREAD = 0x541B  # <asm-generic/ioctls.h>
SIOCATMARK = 0x8905  # <asm-generic/sockios.h>; Python has no sockatmark()

RECEIVE_SIZE = 16384  # bytes of one recv: many requests or lines, and few enough that their output stays small
SMALL_SIZE = 478  # bytes of one recv until a peer has sent more at once: Python allocates objects of up to 512 bytes faster
COALESCE_LIMIT = 65536  # bytes of small responses joined for one send
SEND_QUOTA = (
    1 << 18
)  # bytes that a connection sends in one turn, so that a fast reader of large files does not starve the others

# Attributes of an Enum class take a dictionary lookup in Python code (3.11).
KEEP = Closing.KEEP
IDLE, TURN, NONE = Deadline.IDLE, Deadline.TURN, Deadline.NONE

PROGRESS = 65536  # bytes that must leave within the send deadline
BYTES_PER_STEP = 512  # bytes of a large receive, or of a large response, that count as a step of work
UNCOUNTED_SIZE = 4096  # bytes of a response up to which its sending counts as no work
SENT_PER_STEP = 16384  # bytes sent from the queue, or from a file, that count as a step of work
LINGER_BYTES = 16 << 20  # discarded while lingering: a client that uploads 10 MB before it reads still gets the error response


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A service: the settings that its connections share.

    name:      for messages and metrics
    start:     makes the protocol object of a new connection
    deadlines: in seconds; 0 or absent: no deadline
    report:    called at the end of each response with the peer, the record, the bytes sent and the seconds taken
    counters:  of all its connections
    """

    name: str
    start: Callable[[Peer], Protocol]
    deadlines: Mapping[Deadline, float]
    report: Callable[[Peer, object, int, float], None]
    counters: Counters = field(default_factory=Counters)


class Connection:
    """An event handler of the loop: one accepted socket and its protocol object.

    connections: the set that it belongs to until it is closed. timer_started: when the running deadline was started.
    """

    __slots__ = (
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
        "_response_sent",
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
        self._protocol = NO_PROTOCOL
        self._recv_size = SMALL_SIZE  # maximum of the next recv, in bytes
        self._queue = EMPTY
        self._unsent = 0  # bytes in the queue
        self._head_offset = 0  # bytes of the queue's first chunk that have left
        self._response_sent = 0  # bytes of this response that have left, without `_head_offset`
        self._bytes_since_progress = 0  # bytes that have left since the send deadline was restarted
        self._events = 0  # events that epoll reports; 0: not registered, or disabled by EPOLLONESHOT
        self._nonblocking = False
        self._eof_received = False
        self._resume_pending = False  # protocol.resume is to be called when the queue is empty and the turn has come
        self._turn_events = 0  # while in the queue of turns: the events that were reported, or CALL_DUE
        self._greedy = False  # the protocol has used up its steps: the connection is read in turn
        self._waiting = Deadline.NONE
        self.timer_started = self._clock.now
        connections.add(self)

    def __repr__(self) -> str:
        return f"{self._service.name} connection from {self.peer.address[0]} port {self.peer.address[1]}"

    # The life of a connection, in order

    def begin(self) -> None:
        """Start the protocol, send its greeting, and try to read."""
        self._protocol = protocol = self._service.start(self.peer)
        self._waiting = protocol.waiting
        if protocol.greeting or protocol.closing is not KEEP:
            self._queue_and_flush((protocol.greeting,))
        if self._wants_read():
            self.ready(INPUT_EVENT)
        else:
            self._update_interest()

    def ready(self, events: int) -> None:
        """Handle epoll events: receive, and send the output at once if it is small."""
        urgent = False
        if events != INPUT_EVENT or self._events > INPUT_INTEREST:  # greater: WRITE, HANGUP_ONLY or READ_ONCE
            if self._events == READ_ONCE or events & WRITE or not self._wants_read():
                return self._handle_other(events)
            urgent = events & PRIORITY != 0 and not self._at_mark()
        try:
            data = self._sock.recv(self._recv_size, DONTWAIT)
            if len(data) >= SMALL_SIZE:
                if self._recv_size == SMALL_SIZE:
                    data = self._recv_rest(data, urgent)
                self._clock.work += len(data) // BYTES_PER_STEP
        except OSError as error:
            return self._recv_failed(error)
        if not data:
            self._eof_received = True
            return self._queue_and_flush(self._protocol.end())
        protocol = self._protocol
        chunks = protocol.receive(data, urgent)
        if protocol.steps:
            self._count_steps(protocol)
        end: Any  # a ResponseEnd, but mypy does not see that
        if chunks and not self._queue:
            # Usually there is one piece of output, or one response, so small that the kernel takes it whole. Try it.
            output, count = chunks[0], len(chunks)
            if type(output) is bytes and (count == 1 or (count == 2 and type(end := chunks[1]) is ResponseEnd)):
                flags = DONTWAIT if protocol.closing is KEEP else DONTWAIT_MORE  # with the FIN, which follows at once
                try:
                    sent = self._sock.send(output, flags)
                except OSError:
                    sent = 0  # the queue will meet the same error, and handle it
                self._counters.sent += sent
                if sent == len(output) <= HIGH_WATER:
                    if count == 1:
                        self._response_sent += sent
                    elif sent > UNCOUNTED_SIZE or self._response_sent or end.started_at:
                        self._report_sent(end, sent)
                    else:
                        self._service.report(self.peer, end.record, sent, 0.0)
                    self.timer_started = self._clock.now
                    self._waiting = waiting = protocol.waiting
                    if flags != DONTWAIT or self._events != INPUT_INTEREST or waiting is not IDLE:
                        self._update_interest()
                    return
                self._head_offset = sent
        self._queue_and_flush(chunks)

    def _handle_other(self, events: int) -> None:
        """Events other than input that can be read now."""
        if self._events == READ_ONCE:
            self._events = 0  # EPOLLONESHOT has disabled it
            self._join_turn_queue(events)
        elif self._queue or self._resume_pending or not events & HANGUP_ONLY:
            self._flush_and_update()  # on a broken connection, too: the next send says what has happened
        else:
            self._abort(ConnectionResetError(errno.ECONNRESET, "connection reset by peer"))

    def _recv_rest(self, data: bytes, urgent: bool) -> bytes:
        """Read the rest of a burst that begins with `data`; use RECEIVE_SIZE from now on."""
        self._recv_size = RECEIVE_SIZE
        if not urgent:  # else the mark of the urgent data may come next
            with contextlib.suppress(BlockingIOError):
                data += self._sock.recv(RECEIVE_SIZE - len(data), DONTWAIT)
        return data

    def _recv_failed(self, error: OSError) -> None:
        if isinstance(error, BlockingIOError):
            self._update_interest()
        else:
            self._abort(error)

    def _report_sent(self, end: ResponseEnd, sent: int) -> None:
        """Report a response of which `sent` bytes have just left; large ones count as work."""
        self._response_sent += sent
        self._report(end)
        if sent > UNCOUNTED_SIZE:
            self._clock.work += sent // BYTES_PER_STEP

    def _count_steps(self, protocol: Protocol) -> None:
        self._clock.work += protocol.steps
        protocol.steps = 0

    def _queue_and_flush(self, chunks: Sequence[Chunk]) -> None:
        """Queue the output that the protocol has just returned, and send it; act on `waiting` and `closing`."""
        protocol = self._protocol
        if protocol.steps:
            self._count_steps(protocol)
        waiting = protocol.waiting
        if not self._queue and (chunks or waiting is IDLE or waiting != self._waiting):
            self.timer_started = self._clock.now
        self._waiting = waiting
        if chunks:
            self._enqueue(chunks)
            self._flush_and_update()
        elif (
            self._events != INPUT_INTEREST
            or protocol.closing is not KEEP
            or self._queue
            or self._eof_received
            or waiting is TURN
            or waiting is NONE
        ):
            self._update_interest()
        # else nothing is to be sent, and epoll watches for input already

    def _enqueue(self, chunks: Sequence[Chunk]) -> None:
        if not self._queue:
            self._queue = deque()
            self._unsent = -self._head_offset
        self._unsent += sum(map(length, chunks))
        now = self._clock.now
        for chunk in chunks:
            self._queue.append(ResponseEnd(chunk.record, now) if type(chunk) is ResponseEnd and not chunk.started_at else chunk)

    def _flush_and_update(self) -> None:
        """Send from the queue, SEND_QUOTA bytes at most; the rest is sent in turn."""
        sent = self._flush(SEND_QUOTA)
        self._clock.work += 1 + sent // SENT_PER_STEP
        if sent >= SEND_QUOTA and self._queue:
            self._join_turn_queue(CALL_DUE)
        self._update_interest()

    def _flush(self, quota: int) -> int:
        """Send from the queue until it is empty, EAGAIN, or `quota` bytes have left; gives the number of bytes sent."""
        total = 0
        try:
            self._account(0)  # remove what needs no sending: empty chunks, and one that `ready` has sent whole
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
        urgent = -1  # the index of the last urgent part
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
            # TCP has one urgent pointer, to the last urgent byte: earlier ones lose their mark.
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
        if sent == 0 and left:  # no padding: the short body shows the client that it is incomplete
            log.warning("file truncated while it was sent to %s", self.peer.address[0])
            raise OSError(errno.EIO, "file truncated while it was sent")
        return sent

    def _account(self, sent: int) -> None:
        """`sent` more bytes have left: remove finished chunks from the queue, and report the responses that end there."""
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
                self._response_sent += size
            queue.popleft()
        else:
            self._queue = EMPTY
        self._head_offset = left
        if self._bytes_since_progress >= PROGRESS or not self._queue:
            self.timer_started = self._clock.now
            self._bytes_since_progress = 0

    def _report(self, end: ResponseEnd) -> None:
        sent, self._response_sent = self._response_sent, 0
        seconds = self._clock.now - end.started_at if end.started_at else 0.0
        self._service.report(self.peer, end.record, sent, seconds)

    def _update_interest(self) -> None:
        """Watch for the events that matter next, or begin to close. The last step of each call."""
        if self._fd < 0:
            return
        if self._protocol.waiting is TURN and self._protocol.closing is KEEP:
            self._resume_pending = self._greedy = True
        if self._resume_pending and not self._queue:
            self._join_turn_queue(CALL_DUE)
        if self._turn_events:
            if not self._events:
                return  # epoll reports nothing for it; its turn will find an error
            events = HANGUP_ONLY
        elif self._queue:
            events = WRITE | INPUT_INTEREST if self._wants_read() else WRITE
        elif self._protocol.closing is not KEEP:
            return self._shutdown_write()
        elif self._wants_read():
            events = READ_ONCE if self._greedy else INPUT_INTEREST
        else:
            events = HANGUP_ONLY
        if events != self._events:
            self._events = events
            self._loop.watch(self._fd, self, events)

    def _join_turn_queue(self, events: int) -> None:
        """Join the loop's queue of turns. events: reported by the kernel, or CALL_DUE."""
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
            self._greedy = False  # until it uses up its steps again
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
        """Close the socket. Responses that were not sent, or not whole, are reported with the bytes that were."""
        if self._fd < 0:
            return
        self._loop.discard(self._fd)
        self._fd = -1
        self._connections.discard(self)
        self._sock.close()
        self._response_sent += self._head_offset
        queue, self._queue = self._queue, EMPTY
        for chunk in queue:
            if type(chunk) is ResponseEnd:
                self._report(chunk)
        self._replace_protocol(NO_PROTOCOL)
        self.peer.detach()  # breaks the reference cycle, so that both are freed at once

    failed = close  # after an exception

    def _abort(self, error: OSError) -> None:
        """Close after an error of the network or of the peer."""
        log.debug("%r lost: %s", self, error.strerror or error)
        self.close()

    def _shutdown_write(self) -> None:
        """All output has left: send a FIN, then close; or linger first, if the peer has sent more than was read, or may.

        Closing with input unread, or still to come, makes the kernel send a RST, which discards output that the peer has not
        read yet.
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
        """End the conversation: no method but `connection_lost` is called any more."""
        protocol, self._protocol = self._protocol, successor
        try:
            protocol.connection_lost()
        except Exception:
            log.exception("unexpected error at the end of %r", self)

    def has_unread(self) -> bool:
        """Whether the receive buffer holds input."""
        return ioctl(self._fd, FIONREAD, b"\0\0\0\0") != b"\0\0\0\0"

    # Time

    def tick(self) -> None:
        """Check the running deadline. If it has passed, it is handled in turn."""
        if self._is_overdue():
            self._loop.call_in_turn(self, self._time_out)

    def _is_overdue(self) -> bool:
        limit = self._service.deadlines.get(Deadline.SEND if self._queue else self._protocol.waiting, 0)
        return bool(limit) and self._clock.now - self.timer_started >= limit

    def _time_out(self) -> None:
        if self._fd < 0 or not self._is_overdue():  # it was restarted meanwhile
            return
        self.timer_started = self._clock.now
        if self._queue:
            self._reset()
            self._abort(TimeoutError(errno.ETIMEDOUT, "send timed out"))
        else:
            self._queue_and_flush(self._protocol.expire())

    def drain(self) -> None:
        """Tell the protocol that the server is stopping."""
        self._queue_and_flush(self._protocol.drain())

    @property
    def idle(self) -> bool:
        """Whether it waits for the next request, with nothing queued."""
        return self._protocol.waiting is IDLE and not (self._queue or self._resume_pending or self._turn_events)

    @property
    def state(self) -> str:
        """Its state, for the status service: "reading", "idle", "lingering", "sending" or "busy"."""
        if self._queue:
            return "sending"
        return "busy" if self._resume_pending else STATES.get(self._protocol.waiting, "busy")

    @property
    def eviction_rank(self) -> EvictionRank | None:
        """Its rank among the connections that may be closed to make room; None: it may not be closed."""
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
        """Close an idle connection gracefully: FIN first."""
        self._shutdown_write()

    def _reset(self) -> None:
        # close(2) would leave the unsent bytes to the kernel, which retransmits them for many minutes.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    # The peer's calls

    def _local(self) -> Address:
        return peer_address(self._sock.getsockname())

    def _schedule_resume(self) -> None:
        self._loop.call_soon_threadsafe(self, self._resume)

    def _resume(self) -> None:
        if self._fd < 0:
            return
        self._resume_pending = True
        if not self._queue:
            self._join_turn_queue(CALL_DUE)

    def _at_mark(self) -> bool:
        """Whether the next byte is the last urgent one (recv never reads across it)."""
        return ioctl(self._fd, SIOCATMARK, b"\0\0\0\0") != b"\0\0\0\0"


class Lingering(Protocol):
    """The protocol of a lingering connection: discards input, LINGER_BYTES at most."""

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
    """The number of bytes that `chunk` is on the wire."""
    if type(chunk) is FileSlice:
        return chunk.count
    if type(chunk) is ResponseEnd:
        return 0
    return len(chunk)


# States for the status service, by what the protocol waits for.
STATES = {Deadline.HEAD: "reading", Deadline.BODY: "reading", IDLE: "idle", Deadline.LINGER: "lingering"}
EVICTION_RANKS = {
    Deadline.HEAD: EvictionRank.HEAD,
    Deadline.BODY: EvictionRank.BODY,
    IDLE: EvictionRank.IDLE,
    Deadline.LINGER: EvictionRank.LINGERING,
}
EMPTY: deque[Chunk] = deque()  # the queue of connections without output; never changed
NO_PROTOCOL = Protocol()
