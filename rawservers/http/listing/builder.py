"""What would take the loop too long, done beside it by one thread, once for all who ask at the same time.

Who asks for a thing names it by a key, and gets a promise. A build that waits for its turn is shared by everybody who asks
for the same before it begins. One that has begun is not: what it has read by then may have changed before the question came.
So there is at most one build under way for a key, and one waiting, however many ask; and nothing is kept afterwards.

Python runs one thread at a time. The thread here therefore works in slices, and rests after each of them; and while there is
a build, whoever else wants the interpreter need not wait for as long as is usual before it is handed over.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from threading import Condition, Thread
from typing import TypeVar

from rawservers.http.response import Body, Response

# Builds that may wait. One takes milliseconds, or seconds for the largest of folders: who came last should still be there.
MAX_BUILDS = 16
# Requests that may wait, in all. Each holds a connection, and a reference to the answer, so it is not about memory: when an
# answer is there, all who waited for it are served in the same wake of the loop.
MAX_REQUESTS = 256
IDLE_TIME = 5.0  # seconds without work after which the thread ends

SLICE = 128  # steps without a rest: less than a millisecond, with names of the usual length
PAUSE = 0.0005  # seconds: nearly as long as a slice, so that the loop has about half of the time
# Seconds after which a thread that waits for the interpreter is handed it, should a slice take longer. The loop may have to
# wait after each of its system calls, of which a request takes a handful; the usual 5 ms would add up.
SWITCH_INTERVAL = 0.0005

PIECE_SIZE = 65536  # bytes, at the least, of a piece of an answer: so many are sent at once without being copied again

T = TypeVar("T")


class Busy(Exception):
    """There is so much to build already that nothing can be promised."""


class Build:
    """One that is waiting, or under way. requests: how many share it."""

    __slots__ = ("build", "future", "requests")

    def __init__(self, build: Callable[[], Response]) -> None:
        self.build = build
        self.future: Future[Response] = Future()
        self.requests = 0


class Builder:
    """The builds of one process, and the thread that does them, which is there only as long as it is needed.

    idle: seconds without work after which it ends.
    """

    def __init__(self, idle: float = IDLE_TIME) -> None:
        self._idle = idle
        self._condition = Condition()  # of what follows
        self._waiting: dict[Hashable, Build] = {}  # in the order in which they were asked for
        self._requests = 0
        self._thread: Thread | None = None

    def submit(self, key: Hashable, build: Callable[[], Response]) -> Future[Response]:
        """A promise of what `build` will return, called in the thread from now on, or what another of the same key will.

        Whoever has the promise must not cancel it. Raises Busy.
        """
        with self._condition:
            if self._requests >= MAX_REQUESTS:
                raise Busy
            waiting = self._waiting.get(key)
            if waiting is None:
                if len(self._waiting) >= MAX_BUILDS:
                    raise Busy
                self._start()
                waiting = self._waiting[key] = Build(build)
                self._condition.notify()
            waiting.requests += 1
            self._requests += 1
            return waiting.future

    def _start(self) -> None:
        """See that there is a thread."""
        if self._thread is None:
            thread = Thread(target=self._run, name="builder", daemon=True)
            try:
                thread.start()
            except RuntimeError as failure:  # the system has none left
                raise Busy from failure
            self._thread = thread

    def _run(self) -> None:
        while self._do_next():
            pass

    def _do_next(self) -> bool:
        """Do the build that has waited longest; False if there was none for a while. A call of its own, which keeps nothing."""
        with self._condition:
            if not self._waiting:
                self._condition.wait(self._idle)
            if not self._waiting:
                self._thread = None
                return False
            build = self._waiting.pop(next(iter(self._waiting)))  # from here on, who asks for the same needs another one
        result = run(build.build)
        with self._condition:
            self._requests -= build.requests  # before anybody hears of it, and asks for more
        if isinstance(result, Response):
            build.future.set_result(result)
        else:
            build.future.set_exception(result)
        return True


def run(build: Callable[[], Response]) -> Response | BaseException:
    """What a build returns, or raises: the thread has to go on."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_INTERVAL))
    try:
        return build()
    except BaseException as failure:
        return failure
    finally:
        sys.setswitchinterval(before)


def throttled(steps: Iterable[T]) -> Iterator[T]:
    """The same, with a rest after each SLICE of them."""
    for count, step in enumerate(steps, 1):
        yield step
        if count % SLICE == 0:
            pause()


def pause() -> None:
    time.sleep(PAUSE)


def joined(fragments: Iterable[bytes]) -> Body:
    """A body of these fragments, joined to pieces that are large enough to be sent at once, and small enough to be quick."""
    pieces = []
    parts = []
    size = 0
    for fragment in fragments:
        parts.append(fragment)
        size += len(fragment)
        if size >= PIECE_SIZE:
            pieces.append(b"".join(parts))
            parts.clear()
            size = 0
    if parts or not pieces:
        pieces.append(b"".join(parts))
    return pieces[0] if len(pieces) == 1 else tuple(pieces)


default_builder = Builder()
