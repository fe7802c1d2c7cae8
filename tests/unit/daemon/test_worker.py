"""A worker's garbage collector: when it looks at what, and what it never looks at again."""

from __future__ import annotations

import pytest

from rawservers.core.peer import Clock
from rawservers.daemon.worker import GarbageCollector


def test_what_has_lived_through_a_look_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("collect", "freeze", "unfreeze", "set_threshold"):
        monkeypatch.setattr(f"rawservers.daemon.worker.gc.{name}", lambda *_, name=name: calls.append(name))
    clock = Clock(now=100.0)
    collector = GarbageCollector(clock)
    collector()
    clock.now += GarbageCollector.EVERY - 1
    collector()
    assert calls == ["set_threshold", "collect", "freeze", "collect", "freeze"]
    clock.now += 1
    collector()
    assert calls[5:] == ["unfreeze", "collect", "freeze"]
