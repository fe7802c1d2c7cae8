"""A worker: what its garbage collector looks at, and what it does when nobody gives orders any more."""

from __future__ import annotations

import itertools
import select
import socket
from types import SimpleNamespace

import pytest

from rawservers.daemon import worker


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
