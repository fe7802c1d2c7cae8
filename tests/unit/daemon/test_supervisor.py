"""Workers as the supervisor sees them: which one is taken for stuck, and what counts of one that has ended."""

from __future__ import annotations

import math
import signal
import socket
from types import SimpleNamespace

import pytest

from rawservers.daemon import supervisor
from rawservers.daemon.child import Child
from rawservers.daemon.transitions import NO_GENERATION, EventKind, ServerState, WorkerState
from rawservers.daemon.worker import READY
from rawservers.settings import Config


def some_child(stuck_time: float, heartbeat: float) -> Child:
    """One that was forked long ago."""
    child = Child.__new__(Child)
    child.resources = SimpleNamespace(config=Config(stuck_time=stuck_time))  # type: ignore[assignment]
    child.slot = SimpleNamespace(heartbeat=(1, heartbeat))  # type: ignore[assignment]
    child.heard_at = 0.0
    return child


@pytest.mark.parametrize(
    ("stuck_time", "silence", "gap", "stuck"),
    [
        (10, 0.0, 1.0, False),
        (10, 10.9, 1.0, False),  # a word was due a second after its last one, and then its time begins
        (10, 11.1, 1.0, True),
        (10, 100.0, 5.1, False),  # the supervisor has been asleep as well
        (2, 3.1, 1.1, True),
        (2, 3.1, 1.6, False),
        (0, 1e6, 1.0, False),
    ],
)
def test_who_is_stuck(stuck_time: float, silence: float, gap: float, stuck: bool) -> None:
    child = some_child(stuck_time, heartbeat=1e6 - silence)
    assert child.is_stuck(1e6, gap) == stuck


@pytest.mark.parametrize("heartbeat", [math.nan, math.inf, -math.inf, 1e300, -1e300, 1e6 + 100, 0.0])
def test_a_heartbeat_of_no_time_does_not_protect(heartbeat: float) -> None:
    child = some_child(10, heartbeat=1e6 - 1)
    assert not child.is_stuck(1e6, 1.0)
    child.slot = SimpleNamespace(heartbeat=(1, heartbeat))  # type: ignore[assignment]
    assert not child.is_stuck(1e6 + 9.9, 1.0)  # nor does it harm
    assert child.is_stuck(1e6 + 10.1, 1.0)


def test_what_a_worker_has_said_counts_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of both the supervisor hears of first. Otherwise a worker that was ready would have failed to start."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ends = [(1, signal.SIGKILL.value), (0, 0)]
    monkeypatch.setattr(supervisor.os, "waitpid", lambda *_: ends.pop(0))
    heard: list[EventKind] = []
    shell = supervisor.Supervisor.__new__(supervisor.Supervisor)
    shell._state = ServerState(workers={1: WorkerState(NO_GENERATION)})
    shell._scoreboard = SimpleNamespace(release=lambda *_: None)  # type: ignore[assignment]
    loop = SimpleNamespace(watch=lambda *_: None)
    report = lambda kind, pid: heard.append(kind)  # noqa: E731
    shell._handle = report  # type: ignore[assignment, method-assign]
    shell._children = {1: Child(1, None, SimpleNamespace(), ours, loop, report)}  # type: ignore[arg-type]
    theirs.send(READY)
    theirs.close()
    shell.handle_chld()
    assert heard == [EventKind.READY, EventKind.KILLED]
    assert shell._children == {}
