"""Receiving and sending: the part of a connection that moves bytes between its socket and its protocol.

- Try first, wait on EAGAIN. A new connection is read at once, a response is sent at once.
- Sockets stay in blocking mode, and each call has MSG_DONTWAIT, which saves a system call per connection.
- The peer's FIN ends its input, not our output. Our FIN travels with the last bytes of output, if they are few (MSG_MORE).

What to wait for next, and when to close, is decided in connection.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from select import EPOLLHUP, EPOLLIN, EPOLLONESHOT, EPOLLOUT, EPOLLPRI

from rawservers.core.output import DONTWAIT, DONTWAIT_MORE, Output
from rawservers.core.peer import Peer
from rawservers.core.protocol import HIGH_WATER, Chunk, Closing, Deadline, Protocol, ResponseEnd, ServiceSpec
from rawservers.core.transport import Transport

INPUT = EPOLLIN | EPOLLPRI
READ_ONCE = INPUT | EPOLLONESHOT  # for a connection that is read in turn: reported once
HANGUP_ONLY = EPOLLHUP  # EPOLLHUP is always reported for a registered descriptor

RECEIVE_SIZE = 16384  # bytes of one recv: many requests or lines, and few enough that their output stays small
SMALL_SIZE = 478  # bytes of one recv until a peer has sent more at once: Python allocates objects of up to 512 bytes faster

# Attributes of an Enum class take a dictionary lookup in Python code (3.11).
KEEP, IDLE, TURN = Closing.KEEP, Deadline.IDLE, Deadline.TURN

BYTES_PER_STEP = 512  # bytes of a large receive, or of a large response, that count as a step of work
UNCOUNTED_SIZE = 4096  # bytes of output up to which its sending counts as no work
SENT_PER_STEP = 16384  # bytes sent from the queue, or from a file, that count as a step of work


class Transfer(Peer):
    """The base class of Connection, which sets the attributes:

    _sock, _protocol, _service: whose bytes are moved
    _events:         events that epoll reports; 0: not registered, or disabled by EPOLLONESHOT
    _waiting:        `protocol.waiting` after the last call; a TURN changes it only after output
    _recv_size:      maximum of the next recv, in bytes
    _output:         None: nothing is unsent
    _response_sent:  bytes of the present response that have left, while `_output` is None
    _eof_received:   the peer has sent a FIN
    timer_started:   when the running deadline was started
    """

    __slots__ = (
        "_eof_received", "_events", "_output", "_protocol", "_recv_size", "_response_sent", "_service", "_sock", "_waiting",
        "timer_started",
    )  # fmt: skip

    _sock: Transport
    _protocol: Protocol
    _service: ServiceSpec
    _output: Output | None
    _waiting: Deadline
    _recv_size: int
    _events: int
    _response_sent: int
    _eof_received: bool
    timer_started: float

    def ready(self, events: int, data: bytes | None = None) -> None:
        """Handle epoll events: receive, unless `data` was, and send the output at once, if it is one small piece, as usual."""
        urgent = False
        if events != EPOLLIN or self._events > INPUT:  # greater: EPOLLOUT, HANGUP_ONLY or READ_ONCE
            if self._events == READ_ONCE or events & EPOLLOUT or not self._wants_read():
                return self._handle_other(events)
            urgent = events & EPOLLPRI != 0 and not self._sock.at_mark()
        try:
            if data is None:
                data = self._sock.recv(self._recv_size, DONTWAIT)
            if len(data) >= SMALL_SIZE:
                if self._recv_size == SMALL_SIZE:
                    data = self._recv_rest(data, urgent)
                self.clock.work += len(data) // BYTES_PER_STEP
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                return self._abort(error)
        if not data:  # not in the `except`: a later error is no consequence of EAGAIN
            return self._update_interest() if data is None else self._take_eof()
        protocol, sent = self._protocol, 0
        chunks = protocol.receive(data, urgent)
        if chunks and self._output is None:
            output = chunks[0]
            end = chunks[1] if len(chunks) > 1 else None
            if type(output) is bytes and (end is None or (type(end) is ResponseEnd and len(chunks) == 2)):
                try:  # MSG_MORE: the FIN follows at once
                    sent = self._sock.send(output, DONTWAIT if protocol.closing is KEEP else DONTWAIT_MORE)
                except OSError:
                    sent = 0  # the queue will meet the same error, and handle it
                self.counters.sent += sent
                if sent == len(output) <= HIGH_WATER:
                    if protocol.steps or sent > UNCOUNTED_SIZE:
                        self._count_work(protocol, sent)
                    if end is None:
                        self._response_sent += sent
                    else:
                        seconds = self.clock.now - end.started_at if end.started_at else 0.0
                        self._service.report(self, end.record, self._response_sent + sent, seconds)
                        self._response_sent = 0
                    self.timer_started = self.clock.now
                    if self._waiting is IDLE is protocol.waiting and protocol.closing is KEEP and self._events == INPUT:
                        return
                    self._waiting = protocol.waiting
                    return self._update_interest()
        self._queue_and_flush(chunks, sent)

    def _take_eof(self) -> None:
        """The peer has sent a FIN."""
        self._eof_received = True
        self._queue_and_flush(self._protocol.end())

    def _recv_rest(self, data: bytes, urgent: bool) -> bytes:
        """Read the rest of a burst that begins with `data`; use RECEIVE_SIZE from now on."""
        self._recv_size = RECEIVE_SIZE
        if not urgent:  # else the mark of the urgent data may come next
            with contextlib.suppress(BlockingIOError):
                data += self._sock.recv(RECEIVE_SIZE - len(data), DONTWAIT)
        return data

    def _report(self, end: ResponseEnd, sent: int) -> None:
        """Report the end of a response of which `sent` bytes have left."""
        self._service.report(self, end.record, sent, self.clock.now - end.started_at)

    def _count_work(self, protocol: Protocol, sent: int) -> None:
        """Count the steps of the protocol, and those of sending so many bytes."""
        self.clock.work += protocol.steps + (sent // BYTES_PER_STEP if sent > UNCOUNTED_SIZE else 0)
        protocol.steps = 0

    def _queue_and_flush(self, chunks: Sequence[Chunk], sent: int = 0) -> None:
        """Queue and send what the protocol has returned, of which `sent` bytes have left; act on `waiting` and `closing`."""
        protocol = self._protocol
        self._count_work(protocol, sent)
        former = self._waiting
        if protocol.waiting is not TURN:  # a pause, which does not restart the deadline
            self._waiting = protocol.waiting
        if self._output is None and (chunks or self._waiting is not former or self._waiting is IDLE):
            self.timer_started = self.clock.now
        if chunks:
            if self._output is None:
                self._output = Output(self._sock, self.counters, self._report, self._response_sent, sent)
            self._output.add(chunks, self.clock.now)
        self._flush()

    def _flush(self) -> None:
        """Send unsent output, the transport's `send_quota` at most; the rest is sent in turn."""
        if (output := self._output) is not None:
            quota = self._sock.send_quota
            try:
                sent = output.flush(quota)
            except OSError as error:
                return self._abort(error)
            self.clock.work += -(-sent // SENT_PER_STEP)
            if output.has_progressed():
                self.timer_started = self.clock.now
            if output.has_left():
                self._output, self._response_sent = None, output.response_sent
            elif sent >= quota:
                self._join_turn_queue()
        self._update_interest()

    # Decided by the connection

    def _wants_read(self) -> bool:
        """Whether to poll for input."""
        raise NotImplementedError

    def _handle_other(self, events: int) -> None:
        """Events other than input that can be read now."""
        raise NotImplementedError

    def _join_turn_queue(self) -> None:
        """Send the rest in turn."""
        raise NotImplementedError

    def _update_interest(self) -> None:
        """The last step of each call: nothing more can be read or sent now."""
        raise NotImplementedError

    def _abort(self, error: OSError) -> None:
        """Close after an error."""
        raise NotImplementedError
