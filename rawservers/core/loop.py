"""One epoll set, one clock, one tick a second.

The loop maps a descriptor to its source and knows nothing else: not what is read there, nor by whom. One turn of it is a
*wake*: ask the kernel which descriptors are ready, read the clock once, let each source do its share, once a second
tick, and let those who gather work (the access log) do it. Nobody waits anywhere but in `poll`, so everything a source
does must be quick: try now, and come back when the kernel says that it is worth trying again.

The set is level-triggered: a source that does only a part of what there is to do is simply told again at the next wake.
An event may be out of date by the time it is handled (the descriptor closed, its number taken by another connection in
the same wake); that does no harm, since a source only ever tries, and takes "not now" for an answer.

Signals and other threads reach the loop through a pipe: they never act, they only wake it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from rawservers.core.protocol import Clock

log = logging.getLogger("rawservers")

TICK = 1.0  # seconds; the resolution of every deadline
EVENTS_PER_WAKE = 256  # so that a wake stays short (a few ms) however many connections are ready


class Source(Protocol):
    """What a descriptor in the set belongs to."""

    def ready(self, events: int) -> None:
        """The kernel reports `events` (select.EPOLL*). Never block."""

    def failed(self) -> None:
        """An exception came out of something done for this source, and has been logged: let go of what it holds."""


class Loop:
    """`at_tick` and `at_wake` hold what is called once a second and at the end of each wake."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.at_tick: list[Callable[[], None]] = []
        self.at_wake: list[Callable[[], None]] = []
        self._sources: dict[int, Source] = {}
        self._watched: dict[int, int] = {}
        self._epoll = select.epoll()
        self._running = False
        self._next_tick = 0.0
        self._ahead = 0.0  # how far the system's time is ahead of the monotonic clock
        self._signals: dict[int, Callable[[], None]] = {}
        self._woken = False
        self._soon: deque[tuple[Source, Callable[[], None]]] = deque()
        self._pipe, self._wake_up = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.watch(self._pipe, self, select.EPOLLIN)
        self._set_clock()

    # What to watch

    def watch(self, fd: int, source: Source, events: int) -> None:
        """Have `source.ready` called when `events` come true on `fd`; with no events, no longer."""
        watched = self._watched.get(fd)
        if events == 0:
            if watched is not None:
                self._epoll.unregister(fd)
                self.forget(fd)
        elif watched is None:
            self._epoll.register(fd, events)
            self._sources[fd] = source
            self._watched[fd] = events
        elif watched != events:
            self._epoll.modify(fd, events)
            self._watched[fd] = events

    def forget(self, fd: int) -> None:
        """`fd` is closed, or about to be: the kernel takes it out of the set by itself, which saves a call."""
        self._sources.pop(fd, None)
        self._watched.pop(fd, None)

    def soon(self, source: Source, step: Callable[[], None]) -> None:
        """Call `step`, on behalf of `source`, in the next wake. The one method that other threads may call."""
        self._soon.append((source, step))
        if not self._woken:  # one wake-up serves all that is there by the time it is read
            self._woken = True
            with contextlib.suppress(OSError):  # the pipe is full: it will wake anyway; or closed: nobody is left to wake
                os.write(self._wake_up, b"\0")

    def tick_within(self, seconds: float) -> None:
        """Let the next tick come no later than that."""
        self._next_tick = min(self._next_tick, self.clock.now + seconds)

    def on_signal(self, number: int, callback: Callable[[], None]) -> None:
        """Call `callback` from the loop, not from a handler, after signal `number`. In the main thread only."""
        self._signals[number] = callback
        signal.set_wakeup_fd(self._wake_up, warn_on_full_buffer=False)  # CPython writes the number into the pipe
        signal.signal(number, lambda *_: None)

    # Running

    def run(self) -> None:
        """Wake after wake, until `stop`."""
        poll = self._epoll.poll
        sources = self._sources
        clock = self.clock
        monotonic = time.monotonic
        self._running = True
        self._set_clock()
        while self._running:
            ready = poll(max(0.0, self._next_tick - clock.now), EVENTS_PER_WAKE)
            clock.now = monotonic()
            clock.time = clock.now + self._ahead
            clock.wake += 1
            for fd, events in ready:
                try:
                    source = sources[fd]
                except KeyError:  # closed by what was handled before it in this wake
                    continue
                try:
                    source.ready(events)
                except Exception:
                    self._failed(source)
            if clock.now >= self._next_tick:
                self._tick()
            for callback in tuple(self.at_wake):  # one of them may be there for this wake only
                self.guard(self, callback)

    def stop(self) -> None:
        """End `run` after the present wake."""
        self._running = False

    def close(self) -> None:
        """Give back the loop's own descriptors."""
        if self._signals:
            signal.set_wakeup_fd(-1)
            for number in self._signals:
                signal.signal(number, signal.SIG_DFL)
        self._epoll.close()
        os.close(self._pipe)
        fd, self._wake_up = self._wake_up, -1  # a thread that is late must not write into whatever has its number next
        os.close(fd)

    def guard(self, source: Source, step: Callable[[], None]) -> None:
        """Do something for `source` outside its `ready`, at the same risk: an exception costs that source alone."""
        try:
            step()
        except Exception:
            self._failed(source)

    def _failed(self, source: Source) -> None:
        log.exception("unexpected error in %r, which is dropped", source)
        source.failed()

    def _tick(self) -> None:
        self._set_clock()
        for callback in self.at_tick:
            self.guard(self, callback)

    def _set_clock(self) -> None:
        # The two clocks are compared once a tick, so that a wake needs to read only one of them.
        self.clock.now = time.monotonic()
        self.clock.time = time.time()
        self._ahead = self.clock.time - self.clock.now
        self._next_tick = self.clock.now + TICK

    # The loop's own source: the pipe

    def ready(self, events: int) -> None:
        for number in dict.fromkeys(os.read(self._pipe, 4096)):  # a signal that came many times came once
            callback = self._signals.get(number)
            if callback is not None:
                callback()
        self._woken = False  # before looking: what is added from here on writes a wake-up of its own
        for _ in range(len(self._soon)):
            source, step = self._soon.popleft()
            self.guard(source, step)

    def failed(self) -> None:
        pass  # what failed was a signal's callback; the pipe itself stays
