"""An accepted socket: phases, readiness, back-pressure, deadlines, close. transfer.py receives and sends.

A connection lives for one exchange or one session. It carries bytes between its socket and its protocol:

- The socket is registered with epoll only after EAGAIN. A short connection may never be registered.
- With more than HIGH_WATER bytes of unsent output it is not read, lest responses pile up for a peer that does not read.
- A protocol with more to do than one call may (see protocol.py; a step is a few microseconds of work) waits for its TURN. It is
  called from the loop's queue of turns, once its output has left. From then on the connection is also read in turn, until a
  call finishes without using up its steps. Large output is sent in turn as well, the transport's `send_quota` at a time.
- Deadlines: SEND while output is unsent, else the one in `protocol.waiting`. SEND restarts whenever another 64 KiB, or all the
  rest, has left; IDLE with all input and output; the others only when `waiting` changes or output is returned, not with input.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from select import EPOLLIN, EPOLLOUT

from rawservers.core.loop import Loop
from rawservers.core.output import DONTWAIT, FileError, Output
from rawservers.core.peer import Address, peer_address
from rawservers.core.phases import Introduction, Lingering, Phase, Preambles
from rawservers.core.protocol import HIGH_WATER, Closing, Deadline, Protocol, ServiceSpec
from rawservers.core.transfer import HANGUP_ONLY, INPUT, READ_ONCE, SMALL_SIZE, Transfer
from rawservers.core.transport import Transport

log = logging.getLogger("rawservers")

# Attributes of an Enum class take a dictionary lookup in Python code (3.11).
KEEP, CLOSE, RESET = Closing.KEEP, Closing.CLOSE, Closing.RESET
SEND, TURN, NONE = Deadline.SEND, Deadline.TURN, Deadline.NONE
ACCEPTED, PREAMBLE, OPEN, LINGERING, CLOSED = Phase

NEVER = float("inf")


class Connection(Transfer):
    """An event handler of the loop: one accepted socket, its protocol object, and all that this protocol sees of both.

    service: its name; accepted_at: when it was accepted. Its state, besides that of `Transfer`:

    _rest:           input received before the conversation began: by `hear`, or left over by the preambles
    _turn_events:    while in the queue of turns: the events to handle then
    _resume_pending: `protocol.resume` is to be called when the output has left and the turn has come
    _greedy:         the protocol has used up its steps: the connection is read in turn
    """

    __slots__ = (
        "_greedy", "_loop", "_on_close", "_phase", "_rest", "_resume_pending", "_resume_timer", "_timer", "_timer_due",
        "_turn_events", "accepted_at", "service",
    )  # fmt: skip

    def __init__(
        self, sock: Transport, address: Address, service: ServiceSpec, loop: Loop, on_close: Callable[[Connection], None]
    ) -> None:
        """on_close: called once, as soon as it is closed."""
        self.address = address  # this and the next three in place of a call of Peer.__init__
        self.clock = loop.clock
        self.counters = service.counters
        self.secure = False
        self.host, self.service, self._service = address[0], service.name, service
        self._sock, self._loop, self._on_close = sock, loop, on_close
        self._phase, self._protocol, self._waiting = ACCEPTED, NO_PROTOCOL, NONE
        self._recv_size, self._rest, self._timer_due = SMALL_SIZE, b"", NEVER
        self._output = None
        self._eof_received = self._resume_pending = self._greedy = False
        self._events = self._turn_events = self._response_sent = 0
        self._timer = self._resume_timer = 0  # numbers of the loop's timers
        self.accepted_at = self.timer_started = loop.clock.now

    @property
    def has_begun_handshake(self) -> bool:
        """Whether the peer has begun a TLS handshake."""
        return False

    def __repr__(self) -> str:
        return f"{self.service} connection from {self.address[0]} port {self.address[1]}"

    def introduce(self, preambles: Preambles) -> None:
        """Begin with preambles, and afterwards with the conversation."""
        self._enter(PREAMBLE, Introduction(self, preambles, self.begin, self.drain))
        self.ready(EPOLLIN)

    def begin(self, rest: bytes = b"") -> None:
        """Begin with the conversation. rest: input that the preambles have left over."""
        self.clock.epoch += 1  # this peer's input may be younger than the wake's poll
        self._rest = rest
        self._start_protocol()
        if not rest and self._phase is OPEN and self._wants_read():
            self.ready(EPOLLIN)
        else:
            self._update_interest()

    def hear(self) -> None:
        """Receive what has arrived, before `begin_heard`. A peer that has gone by then costs no conversation."""
        try:
            data = self._sock.recv(SMALL_SIZE, DONTWAIT)
            self._rest = self._recv_rest(data, False) if len(data) == SMALL_SIZE else data
        except BlockingIOError:
            return
        except OSError as error:
            return self._abort(error)
        if not data:
            self._eof_received = True
            self.close()

    def begin_heard(self) -> None:
        """Begin with the conversation, after `hear`, in a freshness epoch that is younger than what was received."""
        if self._phase is CLOSED:
            return
        data, self._rest = self._rest, b""
        self._start_protocol()
        if data and self._phase is OPEN and self._wants_read():
            return self.ready(EPOLLIN, data)
        self._rest = data
        self._update_interest()

    def _start_protocol(self) -> None:
        """Start the conversation, and send its greeting."""
        protocol = self._service.start(self)
        self._enter(OPEN, protocol)
        if protocol.greeting or protocol.closing is not KEEP:
            self._queue_and_flush((protocol.greeting,))

    def _enter(self, phase: Phase, protocol: Protocol) -> None:
        """Change the phase, and the protocol with it; of the former one only `connection_lost` is called any more."""
        self._phase = phase
        former, self._protocol = self._protocol, protocol
        if protocol.waiting is not self._waiting:
            self._waiting = protocol.waiting
            self.timer_started = self.clock.now
        if former is not NO_PROTOCOL:
            try:
                if end := former.connection_lost():
                    self._output = self._output or Output(self._sock, self.counters, self._report, self._response_sent, 0)
                    self._output.add((end,), self.clock.now)
            except Exception:
                log.exception("unexpected error at the end of %r", self)

    def _handle_other(self, events: int) -> None:
        """Events other than input that can be read now."""
        if self._events == READ_ONCE:
            self._events = 0  # EPOLLONESHOT has disabled it
            self._join_turn_queue(events)
        elif self._output is not None or self._resume_pending or not events & HANGUP_ONLY:
            self._flush()  # on a broken connection, too: the next send says what has happened
        else:
            self._abort(ConnectionResetError("connection reset by peer"))

    def _update_interest(self) -> None:
        """Watch for the events that matter next, and their deadline, or begin to close. The last step of each call."""
        protocol, output = self._protocol, self._output
        if self._phase is CLOSED:
            return
        if protocol.waiting is TURN and protocol.closing is KEEP:
            self._resume_pending = self._greedy = True
        if output is None and (self._resume_pending or (self._rest and self._wants_read())):
            self._join_turn_queue()
        if self._turn_events:
            if not self._events:
                return  # epoll reports nothing for it; its turn will find an error
            events = HANGUP_ONLY
        elif output is not None:
            events = EPOLLOUT | INPUT if self._wants_read() and not self._rest else EPOLLOUT
        elif protocol.closing is not KEEP:
            return self.hang_up()
        elif self._wants_read():
            events = READ_ONCE if self._greedy else INPUT
        else:
            events = HANGUP_ONLY
        if events != self._events:
            self._events = events
            self._loop.watch(self._sock.fileno(), self, events)
        due = self.timer_started + (self._service.deadlines.get(protocol.waiting if output is None else SEND) or NEVER)
        if due < self._timer_due:
            self._timer_due = due
            self._timer = self._loop.call_at(due, self, self._check_deadline, self._timer)

    def _join_turn_queue(self, events: int = EPOLLIN) -> None:
        """Join the loop's queue of turns. events: to handle then; without any at worst a read is tried."""
        if not self._turn_events:
            self._loop.call_in_turn(self, self._take_turn)
        self._turn_events |= events

    def _take_turn(self) -> None:
        events, self._turn_events = self._turn_events, 0
        if self._phase is CLOSED:
            return
        if self._output is not None:
            self._flush()
        elif self._resume_pending:
            self._resume_pending = False
            self._queue_and_flush(self._protocol.resume())
        elif self._rest and self._wants_read():
            rest, self._rest = self._rest, b""
            self._queue_and_flush(self._protocol.receive(rest))
        else:
            self._greedy = False  # until it uses up its steps again
            self.ready(events)

    def _wants_read(self) -> bool:
        """Whether to poll for input."""
        if self._eof_received or self._resume_pending or (self._output is not None and self._output.unsent >= HIGH_WATER):
            return False
        protocol = self._protocol
        return protocol.closing is KEEP and protocol.waiting is not TURN and protocol.waiting is not NONE

    def close(self) -> None:
        """Close the socket. Responses that were not sent, or not whole, are reported with the bytes that were."""
        if self._phase is CLOSED:
            return
        self._loop.discard(self._sock.fileno())
        self._on_close(self)
        self._sock.close()
        if self._timer or self._resume_timer:
            self._loop.cancel(self._timer)
            self._loop.cancel(self._resume_timer)
        self._enter(CLOSED, NO_PROTOCOL)
        output, self._output = self._output, None
        if output is not None:
            output.abandon()

    def close_in_child(self) -> None:
        self._sock.close()  # a copy: the connection is that of the parent process

    failed = evict = close  # after an exception; in favour of a new connection

    def _abort(self, error: OSError) -> None:
        """Close after an error of the network, of the peer, or of a file."""
        level = logging.WARNING if isinstance(error, FileError) else logging.DEBUG
        log.log(level, "%r lost: %s", self, error.strerror or error)
        self.close()

    def hang_up(self) -> None:
        """All output has left. Reset; or send a FIN, then close, or linger, if the peer has sent more than was read, or may.

        Closing with input unread, or still to come, makes the kernel send a RST, which discards output that the peer has not
        read yet.
        """
        closing = self._protocol.closing
        if closing is RESET:
            try:
                self._sock.push()
                self._sock.reset()
            except OSError as error:
                return self._abort(error)
            return self.close()
        if self._eof_received or self._phase is LINGERING:
            return self.close()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            return self._abort(error)
        if closing is CLOSE and not self._sock.has_unread():
            return self.close()
        self._enter(LINGERING, Lingering())
        self._update_interest()

    def has_unread(self) -> bool:
        """Whether there is input that was not read yet."""
        return self._sock.has_unread()

    def drain(self) -> None:
        """Tell the protocol that the server is stopping."""
        self._queue_and_flush(self._protocol.drain())

    def _is_overdue(self) -> bool:
        """Whether the running deadline is over."""
        limit = self._service.deadlines.get(self._protocol.waiting if self._output is None else SEND) or NEVER
        return self.clock.now >= self.timer_started + limit

    def _check_deadline(self) -> None:
        """The timer's call. A deadline that was restarted meanwhile gets a timer now: so most restarts cost nothing."""
        self._timer_due = NEVER
        if self._phase is CLOSED:
            return
        if self._is_overdue() and self._output is None and self._wants_read():
            self.ready(EPOLLIN)  # input may have come in time, if the loop was late
        if self._phase is not CLOSED and not self._turn_events and self._is_overdue():
            self._expire()
        self._update_interest()

    def _expire(self) -> None:  # the running deadline is over
        self.timer_started = self.clock.now
        if self._output is not None:
            self._sock.reset()
            return self._abort(TimeoutError("send timed out"))
        self._queue_and_flush(self._protocol.expire())

    @property
    def waits_for(self) -> Deadline:
        """What it waits for: SEND, its TURN, or what the protocol waits for."""
        if self._output is not None:
            return SEND
        return TURN if self._resume_pending or self._turn_events else self._protocol.waiting

    @property
    def closable_when_idle(self) -> bool:
        return self._protocol.closable_when_idle

    @property
    def local(self) -> Address:
        return peer_address(self._sock.getsockname())

    def wake(self) -> None:
        self._loop.call_soon_threadsafe(self, self._resume)

    def call_later(self, seconds: float) -> None:
        if self._phase is not CLOSED:
            self._resume_timer = self._loop.call_at(self.clock.now + seconds, self, self._resume, self._resume_timer)

    def _resume(self) -> None:
        if self._phase is not CLOSED:
            self._resume_pending = True
            if self._output is None:
                self._join_turn_queue()


NO_PROTOCOL = Protocol()
