"""A worker: what its garbage collector looks at, and what it does when nobody gives orders any more."""

from __future__ import annotations

import gc
import itertools
import select
import socket
from types import SimpleNamespace

import pytest

from rawservers.daemon import worker
from rawservers.daemon.scoreboard import Scoreboard
from rawservers.daemon.startup import Resources
from rawservers.settings import Config, ListenConfig
from tests.harness.waiting import DEADLINE


def test_what_has_lived_through_a_look_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("collect", "freeze", "unfreeze"):
        monkeypatch.setattr(f"rawservers.daemon.worker.gc.{name}", lambda *_, name=name: calls.append(name))
    monkeypatch.setattr(worker, "collections_done", itertools.count(1))
    for _ in range(worker.FULL_COLLECTION - 1):
        worker.collect_garbage()
    assert calls == ["collect", "freeze"] * (worker.FULL_COLLECTION - 1)
    calls.clear()
    worker.collect_garbage()
    worker.collect_garbage()
    assert calls == ["unfreeze", "collect", "freeze", "collect", "freeze"]


def test_a_tick_finds_few_objects_however_many_are_made_in_a_second() -> None:
    before, thresholds = gc.get_freeze_count(), gc.get_threshold()
    gc.callbacks.append(worker.freeze_survivors)
    gc.set_threshold(700, 10, 1000)
    try:
        kept = [[number] for number in range(100_000)]
        young = gc.get_objects(0) + gc.get_objects(1) + gc.get_objects(2)
    finally:
        gc.callbacks.remove(worker.freeze_survivors)
        gc.set_threshold(*thresholds)
    assert gc.get_freeze_count() > before + 90_000
    assert len(young) < 10_000 < len(kept)
    gc.unfreeze()
    gc.collect()


def test_a_supervisor_that_has_gone_without_listening() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    told: list[str] = []
    orphan = worker.Worker.__new__(worker.Worker)
    orphan.loop = SimpleNamespace(stop=lambda: told.append("stop at once"))  # type: ignore[assignment]
    orphan._supervisor = theirs
    theirs.send(worker.READY)
    ours.close()  # with a word unread, which the other end hears as ECONNRESET
    with theirs:
        orphan.ready(select.EPOLLIN)
    assert told == ["stop at once"]


def test_who_is_accepted_in_the_end_is_closed_too() -> None:
    resources = Resources.prepare(Config(listen=(ListenConfig("telnet", "127.0.0.1:0"),), access_log="off"), {})
    scoreboard = Scoreboard()
    ended = worker.Worker(resources, scoreboard, scoreboard.allocate())
    (server,) = resources.servers
    with socket.create_connection(server.sock.getsockname(), DEADLINE) as sock:
        ended.loop.stop()
        ended.run()
        assert len(ended._connections) == 0
        assert sock.recv(1) == b""
    resources.access_log = -1
    resources.close()
    scoreboard.close()
