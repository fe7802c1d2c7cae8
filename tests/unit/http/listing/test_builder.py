"""The builder of listings, a thread beside the loop: built once for all who ask in time, within bounds, and not kept."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from threading import Event, Semaphore
from typing import Any

import pytest

from rawservers.core.protocol import FileSlice, OpenFile
from rawservers.http.listing import builder
from rawservers.http.listing.builder import PIECE_SIZE, SLICE, Builder, joined, throttled
from rawservers.http.response import Busy, Response
from tests.harness.waiting import DEADLINE, until


class Work:
    """Builds that are held until they are let go; each answers with its number."""

    def __init__(self) -> None:
        self.builds = 0
        self._begun = Semaphore(0)
        self._go = Semaphore(0)

    def __call__(self) -> Response:
        self.builds += 1
        number = self.builds
        self._begun.release()
        assert self._go.acquire(timeout=DEADLINE)
        return Response(200, body=b"%d" % number)

    def await_begin(self) -> None:
        assert self._begun.acquire(timeout=DEADLINE)

    def let_go(self, count: int = 1) -> None:
        self._go.release(count)


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.let_go(1000)


def nothing() -> Response:
    return Response(204)


def test_who_asks_before_a_build_begins_shares_it(work: Work) -> None:
    builds = Builder()
    first = builds.submit("key", work)
    work.await_begin()
    later = [builds.submit("key", work) for _ in range(10)]
    other = builds.submit("other", nothing)
    assert len({id(future) for future in [first, *later, other]}) == 3
    work.let_go()
    work.await_begin()
    last = builds.submit("key", work)
    work.let_go(2)
    assert [future.result(DEADLINE).body for future in [first, *later, last]] == [b"1", *[b"2"] * 10, b"3"]
    assert other.result(DEADLINE).status == 204
    assert work.builds == 3


def test_so_many_builds_wait(work: Work) -> None:
    builds = Builder()
    under_way = builds.submit(-1, work)
    work.await_begin()
    futures = [builds.submit(key, nothing) for key in range(builder.MAX_BUILDS)]
    for key in ("one more", -1):
        with pytest.raises(Busy):
            builds.submit(key, nothing)
    assert builds.submit(0, nothing) is futures[0]
    work.let_go()
    for future in (under_way, *futures):
        future.result(DEADLINE)
    assert builds.submit("one more", nothing).result(DEADLINE).status == 204


def test_so_many_requests_wait(work: Work) -> None:
    builds = Builder()
    under_way = builds.submit("key", work)
    work.await_begin()
    shared = {builds.submit("key", work) for _ in range(builder.MAX_REQUESTS - 1)}
    assert len(shared) == 1
    for key in ("key", "other"):
        with pytest.raises(Busy):
            builds.submit(key, nothing)
    work.let_go()
    under_way.result(DEADLINE)
    builds.submit("other", nothing)  # there is room for one
    with pytest.raises(Busy):
        builds.submit("other", nothing)
    work.let_go()
    shared.pop().result(DEADLINE)
    for _ in range(3):
        assert builds.submit("key", nothing).result(DEADLINE).status == 204


@pytest.mark.parametrize("failure", [OSError(13, "as told"), ZeroDivisionError("as told"), MemoryError(), SystemExit(1)])
def test_a_build_that_fails_is_the_concern_of_those_who_asked(failure: BaseException, work: Work) -> None:
    threads: list[threading.Thread] = []

    def fail() -> Response:
        threads.append(threading.current_thread())
        raise failure

    def succeed() -> Response:
        threads.append(threading.current_thread())
        return Response(204)

    builds = Builder()
    builds.submit("held", work)
    work.await_begin()
    failed, fine = builds.submit("key", fail), builds.submit("other", succeed)
    work.let_go()
    assert failed.exception(DEADLINE) is failure
    assert fine.result(DEADLINE).status == 204
    assert threads[0] is threads[1]


def test_there_is_a_thread_only_while_there_is_work(work: Work) -> None:
    before = set(threading.enumerate())
    builds = Builder()
    assert set(threading.enumerate()) <= before
    for _ in range(3):
        future = builds.submit("key", work)
        work.await_begin()
        (thread,) = set(threading.enumerate()) - before
        assert thread.daemon
        work.let_go()
        future.result(DEADLINE)
        thread.join(DEADLINE)
        assert not thread.is_alive()
        assert not builds._running


def test_a_system_without_a_thread_to_spare_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    builds = Builder()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        for _ in range(builder.MAX_BUILDS + 1):
            with pytest.raises(Busy):
                builds.submit("key", nothing)
    assert builds.submit("key", nothing).result(DEADLINE).status == 204


def test_nothing_is_kept(work: Work) -> None:
    dropped = Event()

    def build() -> Response:
        return Response(200, body=FileSlice(OpenFile(-1, lambda fd: dropped.set()), 0, 0))

    builds = Builder()
    builds.submit("first", work)
    future = builds.submit("key", build)
    builds.submit("next", work)
    work.let_go()
    assert future.result(DEADLINE).status == 200
    assert not dropped.is_set()
    work.await_begin()
    work.await_begin()  # the thread has gone on
    del future
    assert dropped.wait(DEADLINE)


def test_the_interpreter_is_handed_over_sooner_during_a_build() -> None:
    def fail() -> Response:
        seen.append(sys.getswitchinterval())
        raise ZeroDivisionError

    # Those of earlier tests change it as well, until they end.
    until(
        lambda: not any(thread.name == "builder" for thread in threading.enumerate()),
        "no other thread of a builder",
        2 * DEADLINE,
    )
    seen: list[float] = []
    usual = sys.getswitchinterval()
    builds = Builder()
    assert builds.submit("key", fail).exception(DEADLINE)
    assert seen == [pytest.approx(builder.SWITCH_INTERVAL)]
    assert sys.getswitchinterval() == usual


def test_a_build_rests_after_each_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0
    rested = [0]
    monkeypatch.setattr(builder, "sleep", lambda seconds: rested.append(taken))
    for step in throttled(iter(range(10 * SLICE + 5))):
        assert step == taken
        taken += 1
    assert [later - earlier for earlier, later in pairwise(rested)] == [SLICE] * 10
    assert list(throttled([])) == []


@pytest.mark.parametrize(
    "sizes", [[], [0], [1] * 5, [PIECE_SIZE - 1], [PIECE_SIZE], [PIECE_SIZE - 1, 1, 1], [3000] * 200, [10 * PIECE_SIZE, 1]]
)
def test_pieces(sizes: list[int]) -> None:
    fragments = [b"%c" % (number % 251) * size for number, size in enumerate(sizes)]
    body: Any = joined(iter(fragments))
    pieces = body if isinstance(body, tuple) else (body,)
    assert b"".join(pieces) == b"".join(fragments)
    assert isinstance(body, bytes) is (len(pieces) == 1)
    for piece in pieces[:-1]:
        assert PIECE_SIZE <= len(piece) < PIECE_SIZE + max(sizes)


def test_many_threads_ask() -> None:
    """Each gets an answer that was begun after it asked, whoever else asks, and whether there is a thread or not."""
    builds = Builder()
    asked = [0] * 8
    stale: list[int] = []

    def build() -> Response:
        return Response(200, body=bytes(asked))

    def ask(number: int) -> None:
        for count in range(1, 201):
            asked[number] = count
            body = builds.submit("key", build).result(DEADLINE).body
            assert isinstance(body, bytes)
            if body[number] != count:
                stale.append(count)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert (asked, stale) == ([200] * len(asked), [])
    until(lambda: not builds._running, "the thread's end")
