"""The scoreboard, in which workers count: never read half written, whoever dies, and believed only as far as it can be."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rawservers.daemon import control
from rawservers.daemon.scoreboard import (
    BUFFER_SIZE,
    HEARTBEAT,
    INTEGER,
    NAME,
    SLOT_SIZE,
    Metrics,
    Scoreboard,
    Slot,
    make_status,
)
from rawservers.status import FORMATS, Status


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
    made = Scoreboard()
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


def test_what_the_supervisor_publishes_is_never_half_written(scoreboard: Scoreboard) -> None:
    scoreboard.count("reloads_begun")
    slot = Slot(scoreboard._memory, 0)
    with another_process(scoreboard.publish):
        seen = {slot.read().counters["server.reloads_begun"] for _ in range(20_000)}
    assert seen == {1}


def test_a_sum_never_falls_when_somebody_ends(scoreboard: Scoreboard) -> None:
    most = 0

    def look() -> None:
        nonlocal most
        before, most = most, scoreboard.total().counters["answers"]
        assert before <= most

    with another_process(look):
        for _ in range(1000):
            slot = scoreboard.allocate()
            slot.write_heartbeat(1, 1.0)
            slot.write(Metrics(Counter(answers=1)))
            scoreboard.release(slot, 1)
    assert scoreboard.total().counters == {"answers": 1000}
    assert scoreboard.total().gauges["server.workers"] == 0


def test_the_connections_of_a_worker_end_with_it(scoreboard: Scoreboard) -> None:
    slot = scoreboard.allocate()
    slot.publish(Metrics(Counter({"http.answers": 1}), Counter({"http.idle": 5}), Counter({"wall us": 7})))
    assert scoreboard.total().gauges["http.idle"] == 5
    scoreboard.release(slot, os.getpid())
    total = scoreboard.total()
    assert (total.counters["http.answers"], total.gauges["http.idle"], total.maxima["wall us"]) == (1, 0, 7)


# What any worker may have written

HOSTILE = [
    b"",
    b"\xff\xfe",
    b"1",
    b"1 a",
    b"\n\n",
    b"1 a\n\n",
    b"\n\n\n\n\n\n",
    b"1 a\n\n\n\n5",
    b"1\n\n\n\n",
    b"a\n\n\n\n",
    b" a\n\n\n\n",
    b"1.5 a\n\n\n\n",
    b"True a\n\n\n\n",
    b"-1 a\n\n\n\n",
    b"+1 a\n\n\n\n",
    b"1_0 a\n\n\n\n",
    b"nan a\n\n\n\n",
    b"0x1 a\n\n\n\n",
    "\u0661 a\n\n\n\n".encode(),
    b"10000000000000000000 a\n\n\n\n",
    b"1" + b"0" * 6000 + b" a\n\n\n\n",
    b"1 \n\n\n\n",
    b"1 a\r1 b\x00\n\n\n\n",
    b"1 a\tb\n\n\n\n",
    b"1 \xed\xa0\x80\n\n\n\n",
    b'1 http",x="\n\n\n\n',
    b"1 server.reloads\n\n\n\n",
    b"\n\n2000 server.slots\n\n",
    b"\n" * 8000,
    b"1 " * 4000,
]


def overwrite(scoreboard: Scoreboard, number: int, text: bytes, length: int | None = None, sequence: int = 0) -> None:
    """Put this into a slot, past the code that keeps what is written in order."""
    begin = number * SLOT_SIZE + HEARTBEAT.size
    buffer = INTEGER.pack(len(text) if length is None else length) + text
    memory = scoreboard._memory
    memory[begin : begin + INTEGER.size] = INTEGER.pack(sequence)
    for each in (0, 1):
        start = begin + INTEGER.size + each * BUFFER_SIZE
        memory[start : start + len(buffer)] = buffer


def shown(scoreboard: Scoreboard) -> Status:
    """The status, in all formats."""
    made = make_status(scoreboard.total(), 1000.0)
    for _, _, render in FORMATS.values():
        render(made).encode()
    return made


def answers(scoreboard: Scoreboard) -> dict[str, int]:
    """The answers of each service that is shown."""
    return {service: counters["answers"] for service, counters in shown(scoreboard).counters.items()}


@pytest.fixture
def two(scoreboard: Scoreboard) -> tuple[Scoreboard, Slot, Slot]:
    """With two workers, who have answered three requests each."""
    slots = [scoreboard.allocate() for _ in range(2)]
    for pid, slot in enumerate(slots, 1):
        slot.write_heartbeat(pid, 1.0)
        slot.write(Metrics(Counter({"http.answers": 3})))
    return scoreboard, slots[0], slots[1]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:30].decode("latin-1"))
def test_a_malformed_slot_is_left_out(two: tuple[Scoreboard, Slot, Slot], text: bytes) -> None:
    scoreboard, bad, _ = two
    overwrite(scoreboard, bad.number, text)
    assert bad.read() == Metrics()
    assert answers(scoreboard) == {"http": 3}
    scoreboard.release(bad, 1)
    assert answers(scoreboard) == {"http": 3}
    assert scoreboard.allocate().number == bad.number


@pytest.mark.parametrize("sequence", [-1, 0, 1, -(1 << 63), (1 << 63) - 1])
@pytest.mark.parametrize("length", [-(1 << 63), -1, 0, 1, 8000, 1 << 40, (1 << 63) - 1])
def test_a_length_or_a_sequence_number_may_be_anything(two: tuple[Scoreboard, Slot, Slot], length: int, sequence: int) -> None:
    scoreboard, bad, _ = two
    overwrite(scoreboard, bad.number, b"5 http.answers\n\n\n\n", length, sequence)
    assert answers(scoreboard)["http"] in {3, 8}
    bad.write(Metrics(Counter({"http.answers": 4})))
    assert bad.read().counters == {"http.answers": 4}


def test_random_bytes_anywhere(two: tuple[Scoreboard, Slot, Slot]) -> None:
    scoreboard, *_ = two
    chance = random.Random(1)
    for _ in range(500):
        start = chance.randrange(3 * SLOT_SIZE if chance.random() < 0.5 else 200)
        data = chance.randbytes(chance.choice((1, 8, 16, 60)))
        scoreboard._memory[start : start + len(data)] = data
        shown(scoreboard)
        scoreboard.release(scoreboard.allocate(), 7)
        assert scoreboard.server.gauges["server.slots"] == 4
    scoreboard.publish()
    assert Slot(scoreboard._memory, 0).heartbeat[0] == os.getpid()


@pytest.mark.parametrize("heartbeat", [(-1, float("nan")), (1 << 62, float("inf")), (0, 0.0), (3, -1e300)])
def test_a_slot_belongs_to_whom_it_was_given(two: tuple[Scoreboard, Slot, Slot], heartbeat: tuple[int, float]) -> None:
    """A worker that writes that its slot is free does not make it so."""
    scoreboard, bad, good = two
    bad.write_heartbeat(*heartbeat)
    shown(scoreboard)
    assert scoreboard.allocate().number not in {bad.number, good.number}


def test_what_a_worker_writes_over_slot_0_is_not_believed(two: tuple[Scoreboard, Slot, Slot]) -> None:
    scoreboard, _, last = two
    scoreboard.count("reloads_begun")
    scoreboard.release(last, 2)
    for text in (*HOSTILE, b"7 server.reloads\n\n9000000 server.slots\n1 server.started_ms\n\n"):
        overwrite(scoreboard, 0, text)
        shown(scoreboard)
    scoreboard.publish()
    assert answers(scoreboard) == {"http": 6}
    assert scoreboard.server.counters["server.reloads_begun"] == 1


def test_metrics_that_would_not_fit_are_not_merged(scoreboard: Scoreboard) -> None:
    for number in range(30):
        slot = scoreboard.allocate()
        slot.write(Metrics(Counter({f"{number}name{each}": 1 << 62 for each in range(100)})))
        scoreboard.release(slot, 1)
        slot = scoreboard.allocate()
        slot.write(Metrics(Counter({"huge": 1 << 62})))
        scoreboard.release(slot, 1)
    assert len(scoreboard.server.dump()) < BUFFER_SIZE
    assert scoreboard.total().counters["huge"] == 1 << 62


def test_nobody_can_take_the_memory_away(scoreboard: Scoreboard) -> None:
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if NAME in os.readlink(entry):
                with open(entry, "r+b") as file, pytest.raises(PermissionError):
                    file.truncate(0)
                return
    raise AssertionError


def test_a_memory_of_that_name_that_is_something_else(scoreboard: Scoreboard) -> None:
    pid = os.getpid()
    assert control.supervisor_slot(pid).heartbeat[0] == pid
    Slot(scoreboard._memory, 0).write_heartbeat(pid + 1, 0.0)
    fds = [os.memfd_create(NAME) for _ in range(2)]
    os.write(fds[1], b"short")
    with pytest.raises(ProcessLookupError, match="not a rawservers supervisor"):
        control.supervisor_slot(pid)
    for fd in fds:
        os.close(fd)


def test_no_more_is_read_than_a_buffer_holds() -> None:
    read: list[int] = []

    class Watched(bytearray):
        def __getitem__(self, place: Any) -> Any:
            found = super().__getitem__(place)
            read.append(len(found))
            return found

    slot = Slot(Watched(4 * SLOT_SIZE), 1)  # type: ignore[arg-type]
    for length in (1 << 40, -5):
        for each in (0, 1):
            begin = SLOT_SIZE + HEARTBEAT.size + INTEGER.size + each * BUFFER_SIZE
            slot._memory[begin : begin + INTEGER.size] = INTEGER.pack(length)
        read.clear()
        assert slot.read() == Metrics()
        assert max(read) < BUFFER_SIZE


def test_what_does_not_fit_is_not_written(two: tuple[Scoreboard, Slot, Slot]) -> None:
    scoreboard, first, _ = two
    for _ in range(2):
        first.write(Metrics(Counter({f"name{number}": 1 for number in range(10_000)})))
    assert first.read().counters == {"http.answers": 3}
    assert answers(scoreboard) == {"http": 6}
