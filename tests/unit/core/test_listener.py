"""The listener: how much it accepts in a wake, and how a short connection is served."""

from __future__ import annotations

import errno
import resource
import select
import socket
from collections.abc import Sequence

import pytest

from rawservers.core import listener
from rawservers.core.bind import Endpoint, bind
from rawservers.core.listener import ACCEPT_STEPS, Listener, ListenerState
from rawservers.core.loop import STEPS_PER_CHECK, EventHandler, Loop
from rawservers.core.protocol import Chunk, Closing, Deadline
from tests.harness.core import Greedy, Pair, Recording, Running
from tests.harness.sockets import receive_all
from tests.harness.waiting import DEADLINE, until


def test_a_burst_is_accepted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """When its time is over, the others stay in the kernel's queue, which tells of them again."""
    monkeypatch.setattr(listener, "ACCEPT_TIME", -1.0)
    with Pair(Greedy) as pair:
        (server,) = bind(Endpoint("127.0.0.1", 0))
        listening = Listener(server, pair.connection._service, pair.loop, pair.connections)
        listening.open()
        socks = [socket.create_connection(server.sock.getsockname(), DEADLINE) for _ in range(30)]
        listening.ready(select.EPOLLIN)
        assert len(pair.connections) - 1 == STEPS_PER_CHECK // ACCEPT_STEPS + 1
        listening.ready(select.EPOLLIN)  # it goes on at the end of each wake, the next one first
        (go_on,) = pair.loop.at_wake_end
        go_on()
        assert len(pair.connections) - 1 == STEPS_PER_CHECK // ACCEPT_STEPS + 1
        while pair.loop.at_wake_end:
            pair.loop.clock.now += 1
            pair.loop.clock.work = 0
            before = len(pair.connections)
            pair.loop.at_wake_end[0]()
            assert len(pair.connections) - before <= STEPS_PER_CHECK // ACCEPT_STEPS + 1
        assert len(pair.connections) - 1 == 30
        for connection in pair.connections:
            connection.close()
        for sock in socks:
            sock.close()
        server.close()


def test_two_listeners_share_the_time_of_a_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one of them takes the other has not got in the same wake; then it comes first in the next."""
    now = [1000.0]

    def monotonic() -> float:
        now[0] += 0.002  # each look at the time
        return now[0]

    with Pair(Greedy) as pair:
        service = pair.connection._service
        servers = [bind(Endpoint("127.0.0.1", 0))[0] for _ in range(2)]
        listening = [Listener(server, service, pair.loop, pair.connections) for server in servers]
        socks = [socket.create_connection(server.sock.getsockname(), DEADLINE) for server in servers for _ in range(200)]
        monkeypatch.setattr("rawservers.core.listener.time.monotonic", monotonic)
        accepted: list[Listener] = []
        accept = Listener._accept

        def noted(self: Listener) -> None:
            accepted.append(self)
            accept(self)

        monkeypatch.setattr(Listener, "_accept", noted)
        for each in listening:
            each.open()
            pair.loop.clock.now = now[0]
            each.ready(select.EPOLLIN)
        assert len(pair.loop.at_wake_end) == 2
        accepted.clear()
        for _ in range(4):
            pair.loop.clock.now = now[0]
            for callback in pair.loop.at_wake_end:
                callback()
            assert now[0] - pair.loop.clock.now <= listener.WAKE_TIME + 0.003
        assert set(accepted) == set(listening)  # neither is forgotten
        monkeypatch.undo()
        for connection in pair.connections:
            connection.close()
        for sock in socks:
            sock.close()
        for server in servers:
            server.close()


def test_a_full_listener_makes_room_as_soon_as_a_connection_is_idle() -> None:
    class Worker(Recording):
        waiting = Deadline.NONE
        closable_when_idle = True

        def resume(self) -> Sequence[Chunk]:
            self.waiting = Deadline.IDLE
            return (b"done",)

    with Running(Worker) as running:
        running.connections._max_total = 1
        with running.connect() as first, running.connect() as second:
            until(lambda: len(running.begun) == 1, "the first is accepted")
            until(lambda: running.listener._state is ListenerState.FULL, "there is no room")
            running.begun[0].peer.wake()  # type: ignore[attr-defined]
            assert receive_all(first) == b"done"  # then it is idle, and closed for the second
            until(lambda: len(running.begun) == 2, "the second is accepted")
            second.close()


def test_a_short_connection_never_enters_the_epoll_set(monkeypatch: pytest.MonkeyPatch) -> None:
    class Short(Recording):
        def receive(self, data: bytes, urgent: bool = False) -> Sequence[Chunk]:
            self.closing = Closing.CLOSE
            return (data,)

    watched: list[int] = []
    watch = Loop.watch

    def note(loop: Loop, fd: int, source: object, events: int) -> None:
        watched.append(fd)
        watch(loop, fd, source, events)  # type: ignore[arg-type]

    running = Running(Short)
    monkeypatch.setattr(Loop, "watch", note)
    with running.connect() as sock:
        sock.sendall(b"here before it is accepted")
        with running:
            assert receive_all(sock) == b"here before it is accepted"
            assert watched == [running.server.sock.fileno()]


def test_a_backlog_is_accepted_from_however_slow_all_wakes_are() -> None:
    with Pair(Greedy) as pair:
        (server,) = bind(Endpoint("127.0.0.1", 0))
        listening = Listener(server, pair.connection._service, pair.loop, pair.connections)
        listening.open()
        listening._enter(ListenerState.BACKLOG)
        with socket.create_connection(server.sock.getsockname(), DEADLINE):
            pair.loop.clock.now -= 1  # the wake takes a second
            listening._accepted_at = pair.loop.clock.now
            listening._wake_ended()
            assert len(pair.connections) == 1
            listening._accepted_at -= 1
            listening._wake_ended()
            assert len(pair.connections) == 2
        for connection in pair.connections:
            connection.close()
        server.close()


def test_no_connection_is_closed_for_one_that_is_not_there() -> None:
    class Idle(Recording):
        closable_when_idle = True

    with Pair(Idle) as pair:
        pair.connections._max_total = 1
        (server,) = bind(Endpoint("127.0.0.1", 0))
        listening = Listener(server, pair.connection._service, pair.loop, pair.connections)
        listening._enter(ListenerState.FULL)
        listening._retry()
        assert len(pair.connections) == 1
        with socket.create_connection(server.sock.getsockname(), DEADLINE):
            listening._retry()
            assert len(pair.connections) == 0
        server.close()


def test_without_a_descriptor_only_a_connection_that_is_there_makes_room() -> None:
    """accept(2) takes a descriptor before it looks whether there is a connection."""

    class Idle(Recording):
        closable_when_idle = True

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Pair(Idle) as pair:
        (server,) = bind(Endpoint("127.0.0.1", 0))
        listening = Listener(server, pair.connection._service, pair.loop, pair.connections)
        listening.open()
        with socket.socket() as client:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            try:
                listening.tick()
                assert (listening._state, len(pair.connections)) == (ListenerState.ACCEPTING, 1)
                client.connect(server.sock.getsockname())
                listening.tick()
                assert (listening._state, len(pair.connections)) == (ListenerState.PAUSED, 0)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        listening.close()
        server.close()


def test_an_epoll_set_without_room_for_the_listener(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As after max_user_watches, at the first attempt and at a later one: it tries again."""
    full = [True]
    watch = Loop.watch

    def crowded(self: Loop, fd: int, handler: EventHandler, events: int) -> None:
        if full[0] and events and isinstance(handler, Listener):
            raise OSError(errno.ENOSPC, "No space left on device")
        watch(self, fd, handler, events)

    with Pair(Greedy) as pair:
        (server,) = bind(Endpoint("127.0.0.1", 0))
        monkeypatch.setattr(Loop, "watch", crowded)
        listening = Listener(server, pair.connection._service, pair.loop, pair.connections)
        listening.open()
        for _ in range(2):
            assert listening._state is ListenerState.PAUSED
            assert listening._timer in pair.loop._timers
            listening._retry()
        full[0] = False
        listening._retry()
        assert listening._state is ListenerState.ACCEPTING
        listening.close()
    line = f"cannot accept on {listening!r}: no space left on device; pausing"
    assert caplog.messages == [line] * 3
