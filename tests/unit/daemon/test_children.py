"""Workers as the supervisor sees them: which one is taken for stuck."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest

from rawservers.daemon import children
from rawservers.settings import Config


@pytest.mark.parametrize(
    ("stuck_time", "silence", "gap", "aborted"),
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
def test_who_is_stuck(stuck_time: float, silence: float, gap: float, aborted: bool) -> None:
    signals: list[int] = []
    child = SimpleNamespace(
        pid=1,
        generation=SimpleNamespace(config=Config(stuck_time=stuck_time)),
        slot=SimpleNamespace(heartbeat=(1, 1e6 - silence)),
        abort_sent=False,
        silence_excused_until=0.0,
        kill=signals.append,
    )
    children.Child.check_heartbeat(child, 1e6, gap)  # type: ignore[arg-type]
    assert (signals == [signal.SIGABRT]) == aborted
