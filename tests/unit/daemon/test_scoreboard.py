"""The scoreboard, the memory in which workers count: it is never read half written, whoever dies."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rawservers.daemon.scoreboard import SLOT_SIZE, Metrics, Scoreboard, Slot


@contextlib.contextmanager
def another_process(work: Callable[[], object]) -> Iterator[int]:
    """One that does `work` all the time; it ends when killed, or if that raises."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            while True:
                work()
        os._exit(1)
    yield pid
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.fixture
def scoreboard() -> Iterator[Scoreboard]:
    made = Scoreboard(0.0)
    yield made
    made.close()


def test_who_is_killed_while_writing_leaves_what_was_there(scoreboard: Scoreboard) -> None:
    metrics = Metrics(Counter({f"name{number}": 10**9 for number in range(20)}))
    slot = scoreboard.allocate()
    slot.write(metrics)
    for _ in range(30):
        with another_process(lambda: slot.write(metrics)):
            select.select([], [], [], 0.005)  # it has begun, or not
        assert slot.read() == metrics


def test_what_changes_while_it_is_read_is_read_again() -> None:
    class Meddling(bytearray):
        """Memory into which somebody writes, once, just before it is read."""

        has_meddled = False

        def __getitem__(self, place: Any) -> Any:
            if not self.has_meddled:
                self.has_meddled = True
                slot.write(Metrics(Counter(answers=1)))
                slot.write(Metrics(Counter(answers=10**6)))
            return super().__getitem__(place)

    slot = Slot(Meddling(SLOT_SIZE), 0)  # type: ignore[arg-type]
    slot.write(Metrics(Counter(answers=0)))
    assert slot.read().counters == {"answers": 10**6}


def test_a_sign_of_life_is_never_half_written(scoreboard: Scoreboard) -> None:
    """It would be taken for one of long ago, and its worker for stuck."""
    slot = scoreboard.allocate()
    slot.write_heartbeat(4711, 1e6)
    with another_process(lambda: slot.write_heartbeat(4711, 1e6)):
        seen = {slot.heartbeat for _ in range(50_000)}
    assert seen == {(4711, 1e6)}


def test_what_is_noted_is_never_half_written(scoreboard: Scoreboard) -> None:
    scoreboard.publish(reloads_begun=3, reloads=2, reloads_failed=1, slots=7)
    noted = scoreboard.info
    with another_process(scoreboard.publish):
        seen = {scoreboard.server_info for _ in range(20_000)}
    assert seen == {noted}


def test_a_sum_never_falls_when_somebody_ends(scoreboard: Scoreboard) -> None:
    most = 0

    def look() -> None:
        nonlocal most
        before, most = most, scoreboard.total().counters["answers"]
        assert before <= most

    with another_process(look):
        for _ in range(1000):
            slot = scoreboard.allocate()
            slot.assign(1, 1.0)
            slot.write(Metrics(Counter(answers=1)))
            scoreboard.release(slot, 1)
    assert scoreboard.total().counters == {"answers": 1000}
    assert not list(scoreboard.slots())
