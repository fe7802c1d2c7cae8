"""TLS: a transport that encrypts, and a connection that begins with a handshake (RFC 8446, RFC 5246).

A listener with TLS uses these classes in place of the plain ones; without one this module, and with it OpenSSL, is not even
imported. The handshake is the last preamble, under the head deadline. After it the protocol sees the same bytes as without TLS,
and `Peer.secure` is true.

- OpenSSL works in memory, see tls_engine.py.
- Ciphertext that the socket does not take is in `Transport.unsent`: handshakes, alerts and key updates as well as data. Until
  it has left, the connection is not read.
- The end is announced by close_notify, in both directions. A FIN without one is taken as well: HTTP and Telnet know where
  their messages end.
- A handshake takes as long as ten requests. Those that begin wait in a queue, which has early turns of the loop, one after the
  other: three for the oldest, one for the newest. The first one of a wake does not wait if nobody does.
- A client that speaks without TLS is answered without TLS, by `ServiceSpec.refuse_plain`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from select import EPOLLIN
from typing import Any

from rawservers.core.connection import NEVER, Connection
from rawservers.core.output import DONTWAIT, Output
from rawservers.core.peer import Clock
from rawservers.core.phases import Introduction, Phase
from rawservers.core.protocol import Chunk, Closing, Deadline
from rawservers.core.tls_engine import CAUTIOUS_SIZE, Buffers, Engine
from rawservers.core.transfer import HANGUP_ONLY, INPUT, RECEIVE_SIZE
from rawservers.core.transport import Transport

PREAMBLE, CLOSED = Phase.PREAMBLE, Phase.CLOSED
RESET, HEAD = Closing.RESET, Deadline.HEAD

HANDSHAKE_RECORD = 22  # ContentType of the first record of a client, and its first byte (RFC 8446 §5.1)
CLIENT_HELLO = 1  # HandshakeType, behind the five bytes of the record's header (RFC 8446 §4)
PIECE = 1 << 16  # bytes of plaintext encrypted for one send
GONE_PER_TURN = 32  # handshakes in a turn, if the clients of all but the last have gone: that takes some microseconds each
SPARED_TIME = 1.0  # seconds for which a handshake that waits is not closed in favour of a new connection, or by a stop
COMPACT_SIZE = 256  # waiting handshakes, from which on those are dropped that are closed already
SEND_QUOTA = 1 << 18  # bytes sent in one turn, fewer than without TLS: encrypting them takes longer
MORE = int(socket.MSG_MORE)  # the only flag that means something in TLS: there is no urgent data


class SharedTLS(Buffers):
    """What all connections of a listener share, in one thread: besides buffers, handshakes that wait."""

    def __init__(self, context: ssl.SSLContext, clock: Clock) -> None:
        super().__init__(context, clock)
        self.waiting: deque[TLSConnection] = deque()  # the newest at its end
        self.compact_size, self.is_serving = COMPACT_SIZE, False  # of `waiting`; whether a turn is asked for, for any of them
        self.turn = 0  # the number of the last one
        self._served_at = 0.0  # clock.now of the last wake in which one did not wait

    def is_first(self, now: float) -> bool:
        """Whether a handshake that begins in the wake of `now` need not wait: it is the first one, and nobody waits."""
        former, self._served_at = self._served_at, now
        return former != now and not self.waiting


class TLSTransport(Transport):
    """A socket with TLS. shared: of its listener; arguments: those of a plain one.

    is_plain: nothing is encrypted: before `start`, and if the peer then speaks without TLS; is_pending: `recv` returns what
    epoll does not know of: input that was pushed back, or b"", after close_notify; is_shaking: input is for `shake`, and not
    for `recv`; has_hello: the handshake has begun, and goes on with the next `shake`.
    """

    __slots__ = (
        "_early", "_has_eof", "_held", "_room", "engine", "has_hello", "is_pending", "is_plain", "is_shaking", "shared",
        "unsent",
    )  # fmt: skip
    send_quota = SEND_QUOTA

    def __init__(self, shared: SharedTLS, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.shared = shared
        self.engine: Engine | None = None  # made with the first input: until then a connection costs no more than a plain one
        self._early = b""  # input that `recv` returns first
        self._held = b""  # ciphertext that waits for more, which is sent at once
        self._room = CAUTIOUS_SIZE  # bytes of the next receive, 0 for all that there is room for: so much after one with data
        self._has_eof = self.has_hello = self.is_pending = self.is_shaking = False
        self.is_plain = True
        self.unsent = b""

    @property
    def is_open(self) -> bool:
        """Whether the handshake is complete."""
        return self.engine is not None and self.engine.is_open

    def start(self, data: bytes) -> None:
        """Expect a handshake from here on, which begins with input that was received already."""
        self.is_plain, self.is_shaking, self._early = False, True, data

    def push_back(self, data: bytes) -> None:
        """Take back what `recv` has returned."""
        self._early, self.is_pending = data, bool(data) or self._has_eof

    def shake(self) -> bytes | None:
        """Receive, and take the handshake as far as that goes. None: more is to come, or `has_hello`.

        Else the plaintext behind it, if it is complete; all input, if it `is_plain`; or b"", after a FIN. Raises OSError.
        """
        shared = self.shared
        data: bytes | memoryview = self._early
        if data:
            self._early = b""
        else:
            try:
                data = shared.received[: self.recv_into(shared.received, CAUTIOUS_SIZE, DONTWAIT)]
            except BlockingIOError:
                return None
        if not data:
            return b""
        if self.engine is None:
            if data[0] != HANDSHAKE_RECORD:
                self.is_plain = True
                return bytes(data)
            if len(data) > 5 and data[5] != CLIENT_HELLO:  # junk, for which no engine is made
                raise ssl.SSLError(0, "no ClientHello")
            if not self.has_hello:
                self.has_hello, self._early = True, bytes(data)
                return None
            self.has_hello = False
            if error := self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # it has gone meanwhile
                raise OSError(error, os.strerror(error))
            self.engine = Engine(shared)
        plaintext = self._decrypt(self.engine, data)
        self._has_eof = self.engine.eof
        return plaintext if self.engine.is_open else None

    def recv(self, size: int, flags: int = 0) -> bytes:
        """All plaintext of one receive; up to RECEIVE_SIZE bytes more than that, with what came before. size: without TLS."""
        if self.is_pending:
            early, self._early = self._early, b""
            self.is_pending = self._has_eof
            return early
        engine, received = self.engine, self.shared.received
        if engine is None or not engine.is_open:  # without TLS, or lingering
            return super().recv(size, flags)
        count = self.recv_into(received, self._room, flags)
        plaintext = self._decrypt(engine, received[:count]) if count else b""
        self._room = 0 if plaintext else CAUTIOUS_SIZE
        self._has_eof = self.is_pending = engine.eof or not count
        if plaintext or self._has_eof:
            return plaintext
        raise BlockingIOError

    def _decrypt(self, engine: Engine, data: bytes | memoryview) -> bytes:
        """The plaintext of this ciphertext. What OpenSSL answers by itself is sent at once, but for the end of a handshake
        with plaintext behind it, whose response follows.

        A client that has nothing to read waits with its next packet until the kernel acknowledges the last one (Nagle).
        """
        was_open = engine.is_open
        plaintext = b""
        try:
            plaintext = engine.receive(data)
        finally:
            if engine.output:
                self._held += engine.output
                engine.output = b""
                if was_open or not plaintext:
                    self.release()
        return plaintext

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:  # type: ignore[override]
        """Encrypt `data`, at most PIECE bytes of it, and send it. What the socket does not take is `unsent`.

        With MSG_MORE it is held until what follows, which may be `notify`: so both are one send.
        """
        if self.engine is None:
            return super().send(data, flags)
        if self.unsent:
            self.flush()
        if len(data) > PIECE:
            data = memoryview(data)[:PIECE]
        self._held += self.engine.send(data)
        if not flags & MORE:
            self.release()
        return len(data)

    def send_file(self, fd: int, offset: int, count: int) -> int:
        if self.engine is None:
            return super().send_file(fd, offset, count)
        if self.unsent:
            self.flush()
        return self.send(os.pread(fd, min(count, PIECE), offset))

    def flush(self) -> None:
        while self.unsent:
            self.unsent = self.unsent[super().send(self.unsent, DONTWAIT) :]

    def release(self) -> None:
        """Send what is held. Raises OSError, but waits for nothing."""
        if not self._held:
            return
        held, self._held = self._held, b""
        sent = 0
        if not self.unsent:
            try:
                sent = Transport.send(self, held, DONTWAIT)
            except BlockingIOError:
                sent = 0
        if sent < len(held):
            self.unsent += held[sent:]

    def notify(self) -> None:
        """Announce the end of the output by close_notify, once. Raises OSError, but waits for nothing."""
        if self.engine is not None and self.engine.is_open:
            self.engine.close()
            self._held += self.engine.output
            self.engine.output = b""
        self.release()

    def at_mark(self) -> bool:
        return True

    def push(self) -> None:
        self.release()
        super().push()

    def reset(self) -> None:
        super().reset()
        if self.engine is not None:
            self.engine.is_open = False  # no close_notify: the output is not complete

    def close(self) -> None:
        if self.is_open:
            with contextlib.suppress(OSError):  # the peer has gone
                self.notify()
        super().close()


class Handshake(Introduction):
    """The protocol of a connection until its transport has plaintext."""

    def end(self) -> Sequence[Chunk]:
        self.closing = Closing.CLOSE
        return ()

    def expire(self) -> Sequence[Chunk]:
        self._reject("no TLS handshake in time")
        return ()


class TLSConnection(Connection):
    """A connection over a TLSTransport: a handshake, then the conversation."""

    __slots__ = ()
    _sock: TLSTransport

    @property
    def has_begun_handshake(self) -> bool:
        return self._sock.engine is not None

    def begin(self, rest: bytes = b"") -> None:
        """Begin with the handshake."""
        self._recv_size = RECEIVE_SIZE
        self._sock.start(rest)
        self._enter(PREAMBLE, Handshake(self, (), self._begin_conversation, self.drain))
        self.ready(EPOLLIN)

    def _begin_conversation(self, rest: bytes) -> None:
        self.secure = not self._sock.is_plain
        if self._sock.is_plain:
            self._service = self._service.for_plain()
        self._sock.push_back(rest)
        super().begin()
        if rest and self._phase is not CLOSED:  # the end of the handshake, if nothing was sent behind it
            try:
                self._sock.release()
            except OSError as error:
                self._abort(error)

    def ready(self, events: int, data: bytes | None = None) -> None:
        sock = self._sock
        if sock.is_shaking and self._output is None:
            return self._shake_hands(events)
        Connection.ready(self, events, data)  # super() would take longer
        if sock.unsent or (sock.is_pending and not self._eof_received):
            self._update_interest()

    def _shake_hands(self, events: int) -> None:
        """Receive, and take the handshake as far as that goes; or begin to receive for the conversation."""
        sock = self._sock
        if self._phase is not PREAMBLE:
            sock.is_shaking = False
            return self.ready(events) if sock.is_pending else self._update_interest()  # all that has come was received
        if self._turn_events:  # it waits for its turn: more input is left alone until then
            return self._handle_other(events) if self._events == HANGUP_ONLY else super()._update_interest()
        try:
            data = sock.shake()
            if sock.has_hello:
                if not sock.shared.is_first(self.clock.now):
                    return self._join_handshakes()
                data = sock.shake()
        except OSError as error:
            return self._abort(error)
        if data is None:
            if self._events != INPUT or sock.unsent:
                self._update_interest()
        elif data or sock.is_open:
            self._protocol.receive(data)
        else:
            self._take_eof()

    def _abort(self, error: OSError) -> None:
        self.counters.rejected += self._phase is PREAMBLE and isinstance(error, ssl.SSLError)
        super()._abort(error)

    def _update_interest(self) -> None:
        sock = self._sock
        if sock.engine is not None and sock.engine.is_greedy:
            self._greedy = True  # so that others do not wait for it
        if self._output is None and sock.unsent and self._phase is not CLOSED:
            self._output = Output(sock, self.counters, self._report, self._response_sent, 0)
        super()._update_interest()
        if sock.is_pending and self._phase is not CLOSED and self._wants_read():
            self._join_turn_queue()

    def _join_handshakes(self) -> None:
        """Wait for a turn of the loop in which this handshake is the newest, or the oldest. Its socket is watched as before."""
        shared, self._turn_events = self._sock.shared, EPOLLIN
        if len(shared.waiting) >= shared.compact_size:
            shared.waiting = deque(each for each in shared.waiting if each._phase is not CLOSED)
            shared.compact_size = max(COMPACT_SIZE, 2 * len(shared.waiting))
        shared.waiting.append(self)
        due = self.timer_started + (self._service.deadlines.get(HEAD) or NEVER)
        if due < self._timer_due:
            self._timer_due = due
            self._timer = self._loop.call_at(due, self, self._check_deadline, self._timer)
        if not shared.is_serving:
            shared.is_serving = True
            self._loop.call_in_early_turn(self, self._serve_one)

    def _check_deadline(self) -> None:
        if self._sock.has_hello and self._phase is PREAMBLE and self._is_overdue():  # its turn has not come
            self._protocol.expire()
            return self.close()
        super()._check_deadline()

    @property
    def waits_for(self) -> Deadline:
        return HEAD if self._sock.has_hello else super().waits_for

    def has_unread(self) -> bool:
        if self._sock.has_hello and self.clock.now < self.timer_started + SPARED_TIME:
            return True  # it is not the client that is slow; but a crowd of them may not take the places of all others
        return super().has_unread()

    def _serve_one(self) -> None:
        """Give this turn to the oldest handshake that waits; every fourth one to the newest.

        So those who come behind a crowd are served at once, and nobody waits for as long as others come.
        """
        shared = self._sock.shared
        shared.turn += 1
        is_newest = not shared.turn % 4
        for _ in range(min(len(shared.waiting), GONE_PER_TURN)):
            chosen = shared.waiting.pop() if is_newest else shared.waiting.popleft()
            self._loop.call_isolated(chosen, chosen._take_turn)
            if chosen._phase is not CLOSED or chosen._sock.engine is not None:
                break
        shared.is_serving = bool(shared.waiting)
        if shared.waiting:
            self._loop.call_in_early_turn(shared.waiting[0], shared.waiting[0]._serve_one)

    def _wants_read(self) -> bool:
        return not self._sock.unsent and super()._wants_read()

    def hang_up(self) -> None:
        if self._protocol.closing is not RESET:
            try:
                self._sock.notify()
            except OSError as error:
                return self._abort(error)
            if self._sock.unsent:
                return self._update_interest()
        super().hang_up()
