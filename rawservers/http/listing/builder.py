"""A background thread for slow responses, with request coalescing.

A request submits a build under a key, and gets a future. A queued build is shared by all requests with the same key that come
before it begins. One that has begun is not shared: what it has read may have changed before the new request. So for each key
there is at most one build running and one queued, however many requests there are. Results are not cached.

Python runs one thread at a time. So the thread works in slices with a pause after each, and during a build the switch interval
of the interpreter is shortened, so that the event loop gets it back sooner.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from threading import Condition, Thread
from typing import TypeVar

from rawservers.http.response import Body, Response

# Queued builds. One takes milliseconds, or seconds for the largest directories: the last client should not time out by then.
MAX_BUILDS = 16
# Requests that wait, in all. They share results, so the limit is not for memory: all requests that wait for a build are served
# in one iteration of the event loop.
MAX_REQUESTS = 256
IDLE_TIME = 5.0  # seconds without work after which the thread ends

SLICE = 128  # items without a pause: less than a millisecond, with names of usual length
PAUSE = 0.0005  # seconds: nearly as long as a slice, so that the event loop has about half of the time
# Seconds after which the interpreter switches to a waiting thread (sys.setswitchinterval), in case a slice takes longer. The
# event loop may have to wait after each system call, of which a request takes a handful. The default of 5 ms would add up.
SWITCH_INTERVAL = 0.0005

PIECE_SIZE = 65536  # minimum size in bytes of a piece of the body: large enough to be sent without being joined again

T = TypeVar("T")


class Busy(Exception):
    """Too many builds or requests are waiting."""


class Build:
    """A queued or running build. requests: number of requests that share it."""

    __slots__ = ("build", "future", "requests")

    def __init__(self, build: Callable[[], Response]) -> None:
        self.build = build
        self.future: Future[Response] = Future()
        self.requests = 0


class Builder:
    """The queue of builds, and the thread that runs them.

    idle: seconds without a build after which the thread ends; it is started again when needed.
    """

    def __init__(self, idle: float = IDLE_TIME) -> None:
        self._idle = idle
        self._condition = Condition()  # guards the attributes below
        self._waiting: dict[Hashable, Build] = {}  # by key, oldest first
        self._requests = 0
        self._thread: Thread | None = None

    def submit(self, key: Hashable, build: Callable[[], Response]) -> Future[Response]:
        """The future of a call of `build` in the thread, or of a queued one with the same key. Raises Busy.

        The future is shared, and must not be cancelled. Its exception is what the build raised.
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
        """Start the thread, if it is not running. Raises Busy."""
        if self._thread is None:
            thread = Thread(target=self._run, name="builder", daemon=True)
            try:
                thread.start()
            except RuntimeError as failure:  # the limit of threads is reached
                raise Busy from failure
            self._thread = thread

    def _run(self) -> None:
        while self._do_next():
            pass

    def _do_next(self) -> bool:
        """Run the oldest queued build. Returns False, and the thread ends, if there was none for `idle` seconds.

        A method of its own, so that no local variable of the thread keeps a result alive.
        """
        with self._condition:
            if not self._waiting:
                self._condition.wait(self._idle)
            if not self._waiting:
                self._thread = None
                return False
            build = self._waiting.pop(next(iter(self._waiting)))  # from here on, the same key is a new build
        result = run(build.build)
        with self._condition:
            self._requests -= build.requests  # before the futures are done, and more requests follow
        if isinstance(result, Response):
            build.future.set_result(result)
        else:
            build.future.set_exception(result)
        return True


def run(build: Callable[[], Response]) -> Response | BaseException:
    """The result of a build, or the exception that it raised. Raises nothing, so that the thread continues."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_INTERVAL))
    try:
        return build()
    except BaseException as failure:
        return failure
    finally:
        sys.setswitchinterval(before)


def throttled(items: Iterable[T]) -> Iterator[T]:
    """The same items, with a pause after each SLICE of them."""
    for count, item in enumerate(items, 1):
        yield item
        if count % SLICE == 0:
            pause()


def pause() -> None:
    time.sleep(PAUSE)


def joined(fragments: Iterable[bytes]) -> Body:
    """The body made of these fragments, joined to pieces of about PIECE_SIZE: each join is short, and few chunks are sent."""
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
