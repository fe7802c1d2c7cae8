"""A background thread for slow responses, with request coalescing.

A request submits a build under a key, and gets a future. A queued build is shared by all requests with the same key that come
before it begins. One that has begun is not shared: what it has read may have changed before the new request. So for each key
there is at most one build running and one queued, however many requests there are. Results are not cached.

The thread ends with the last build: an idle one would have to be told when the process ends, and a start takes little of the
time of a listing. As a daemon it does not keep the process alive.

Python runs one thread at a time. So the thread works in slices with a pause after each, and during a build the switch interval
of the interpreter is shortened, so that the event loop gets it back sooner.
"""

from __future__ import annotations

import errno
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from threading import Lock, Thread
from time import sleep
from typing import TypeVar

from rawservers.http.response import Body, Busy, Response

# Queued builds. One takes milliseconds, or seconds for the largest directories: the last client should not time out by then.
MAX_BUILDS = 16
# Requests that wait, in all. They share results, so the limit is not for memory: all requests that wait for a build are served
# in one iteration of the event loop.
MAX_REQUESTS = 256

SLICE = 128  # items without a pause: less than a millisecond, with names of usual length
PAUSE = 0.0005  # seconds: nearly as long as a slice, so that the event loop has about half of the time
# Seconds after which the interpreter switches to a waiting thread (sys.setswitchinterval), in case a slice takes longer. The
# event loop may have to wait after each system call, of which a request takes a handful. The default of 5 ms would add up.
SWITCH_INTERVAL = 0.0005

PIECE_SIZE = 65536  # minimum size in bytes of a piece of the body: large enough to be sent without being joined again

T = TypeVar("T")


class Build(Future[Response]):
    """The future of a build. function: what makes the response; requests: number of requests that share it."""

    def __init__(self, function: Callable[[], Response]) -> None:
        super().__init__()
        self.function = function
        self.requests = 0


class Builder:
    """The queue of builds, and the thread that runs them."""

    def __init__(self) -> None:
        self._lock = Lock()  # guards the attributes below
        self._waiting: OrderedDict[Hashable, Build] = OrderedDict()  # by key, oldest first
        self._requests = 0
        self._running = False  # whether there is a thread

    def submit(self, key: Hashable, function: Callable[[], Response]) -> Future[Response]:
        """The future of a call of `function` in the thread, or of a queued one with the same key. Raises Busy.

        The future is shared, and must not be cancelled. Its exception is what the function raised.
        """
        with self._lock:
            build = self._waiting.get(key) or Build(function)
            if self._requests >= MAX_REQUESTS or (not build.requests and len(self._waiting) >= MAX_BUILDS):
                raise Busy(errno.EAGAIN, "too many listings")
            if not self._running:
                try:
                    Thread(target=self._run, name="builder", daemon=True).start()
                except RuntimeError as failure:
                    raise Busy(errno.EAGAIN, "too many threads") from failure
            self._running = True
            self._waiting[key] = build
            build.requests += 1
            self._requests += 1
            return build

    def _run(self) -> None:
        """Run the queued builds, oldest first, until there is none."""
        usual = sys.getswitchinterval()
        while build := self._begin_next():
            sys.setswitchinterval(min(usual, SWITCH_INTERVAL))
            try:
                finish = partial(build.set_result, build.function())
            except BaseException as failure:  # the thread continues
                finish = partial(build.set_exception, failure)
            sys.setswitchinterval(usual)
            with self._lock:
                self._requests -= build.requests  # before the future is done, and more requests follow
            finish()
            del build, finish  # they would keep the result alive during the next build

    def _begin_next(self) -> Build | None:
        """The oldest queued build, which is shared no more from here on. None, and the thread is to end, if there is none."""
        with self._lock:
            self._running = bool(self._waiting)
            return self._waiting.popitem(last=False)[1] if self._running else None


def throttled(items: Iterable[T]) -> Iterator[T]:
    """The same items, with a pause after each SLICE of them."""
    for count, item in enumerate(items, 1):
        yield item
        if count % SLICE == 0:
            sleep(PAUSE)


def joined(fragments: Iterable[bytes]) -> Body:
    """The body made of these fragments, joined to pieces of about PIECE_SIZE: each join is short, and few chunks are sent."""
    pieces = []
    piece = bytearray()
    for fragment in fragments:
        piece += fragment
        if len(piece) >= PIECE_SIZE:
            pieces.append(bytes(piece))
            piece.clear()
    if piece or not pieces:
        pieces.append(bytes(piece))
    return pieces[0] if len(pieces) == 1 else tuple(pieces)


default_builder = Builder()
