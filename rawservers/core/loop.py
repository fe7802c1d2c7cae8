"""One epoll set, one clock, one tick a second.

The loop maps a descriptor to its handler and knows nothing else: not what is read there, nor by whom. One turn of it is a
*wake*: ask the kernel which descriptors are ready, read the clock once, let each handler do its share, once a second
tick, and let those who gather work (the access log) do it. Nobody waits anywhere but in `poll`, so everything a handler
does must be quick: try now, and come back when the kernel says that it is worth trying again.

Who asks for little never waits behind who asks for much. A wake handles what the kernel reported for a few milliseconds, and
keeps the rest for the next one; then it gives those that have rested their turns (`in_turn`), in order, for a few more. While
somebody waits for a turn the kernel is asked without waiting.

The set is level-triggered: a handler that does only a part of what there is to do is simply told again at the next wake.
An event may be out of date by the time it is handled (the descriptor closed, its number taken by another connection in
the same wake); that does no harm, since a handler only ever tries, and takes "not now" for an answer.

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

from rawservers.core.peer import Clock
from rawservers.core.wakes import LONG, SHORT, WakeTimes

log = logging.getLogger("rawservers")

TICK = 1.0  # seconds; the resolution of every deadline
EVENTS_PER_WAKE = 256  # so that a wake stays short (a few ms) however many connections are ready
EVENTS_TIME = 0.004  # seconds of a wake for what the kernel reported
TURNS_TIME = 0.001  # seconds of a wake for turns, at the least; more if what the kernel reported took less
WORK = 64  # steps between two looks at the time: half a millisecond, or less
FEW = 8  # events that make no long wake, unless one of them does


class EventHandler(Protocol):
    """Callbacks of a registered descriptor. service: the name of the service whose work it does, "" for none."""

    service: str

    def ready(self, events: int) -> None:
        """The kernel reports `events` (select.EPOLL*). Never block."""

    def failed(self) -> None:
        """A callback of this handler has raised, which was logged: release what it holds."""


class Loop:
    """at_tick, after_poll: callbacks, called once a second and at the end of each wake; times: durations of the wakes so far.

    Do not remove from `after_poll` during a wake: replace the list.
    """

    service = ""

    def __init__(self) -> None:
        self.clock = Clock()
        self.times = WakeTimes()
        self.at_tick: list[Callable[[], None]] = []
        self.after_poll: list[Callable[[], None]] = []
        self.backlogs = 0  # listeners that go on in `after_poll`, which takes long: measure the processor time
        self._handlers: dict[int, EventHandler] = {}
        self._new: dict[int, EventHandler] = {}  # those that are no handlers before the next poll, see `watch`
        self._watched: dict[int, int] = {}
        self._epoll = select.epoll()
        self._running = False
        self._next_tick = 0.0
        self._ahead = 0.0  # how far the system's time is ahead of the monotonic clock
        self._signals: dict[int, Callable[[], None]] = {}
        self._woken = False
        self._soon: deque[tuple[EventHandler, Callable[[], None]]] = deque()
        self._turns: deque[tuple[EventHandler, Callable[[], None]]] = deque()
        self._used: dict[str, float] = {}  # seconds of the present wake by service, as far as several took part
        self._used_until = 0.0  # when that was last brought up to date; not in this wake, if before clock.now
        self._pipe, self._wake_up = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.watch(self._pipe, self, select.EPOLLIN)
        self._set_clock()

    # What to watch

    def watch(self, fd: int, handler: EventHandler, events: int) -> None:
        """Have `handler.ready` called when `events` (select.EPOLL*) are ready on `fd`; with events 0, no longer.

        With EPOLLONESHOT: once, until `watch` is called again. A new handler gets no event that was reported earlier: its
        descriptor may have the number of one that was closed in this wake.
        """
        watched = self._watched.get(fd)
        if events == 0:
            if watched is not None:
                self._epoll.unregister(fd)
                self.discard(fd)
        elif watched is None:
            self._epoll.register(fd, events)
            self._new[fd] = handler
            self._watched[fd] = events
        elif watched != events or events & select.EPOLLONESHOT:
            self._epoll.modify(fd, events)
            self._watched[fd] = events

    def discard(self, fd: int) -> None:
        """`fd` is closed, or about to be: the kernel takes it out of the set by itself, which saves a call."""
        if self._watched.pop(fd, None) is not None:
            self._handlers.pop(fd, None)
            self._new.pop(fd, None)

    def call_soon_threadsafe(self, handler: EventHandler, step: Callable[[], None]) -> None:
        """Call `step`, on behalf of `handler`, in the next wake. The only method that other threads may call."""
        self._soon.append((handler, step))
        if not self._woken:  # one wake-up serves all that is there by the time it is read
            self._woken = True
            with contextlib.suppress(OSError):  # the pipe is full: it will wake anyway; or closed: nobody is left to wake
                os.write(self._wake_up, b"\0")

    def in_turn(self, handler: EventHandler, step: Callable[[], None]) -> None:
        """Append `step`, on behalf of `handler`, to the queue of turns."""
        self._turns.append((handler, step))

    def is_late(self) -> bool:
        """Whether the wake has used EVENTS_TIME, so that other reported events are left to the next one. Reads the clock."""
        self.clock.work = 0
        return time.monotonic() > self.clock.now + EVENTS_TIME

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
        handlers = self._handlers
        new = self._new
        clock = self.clock
        turns = self._turns
        monotonic = time.monotonic
        left: list[tuple[int, int]] | None = None  # what the last wake had no time for
        resting = False  # somebody waits for a turn
        short, short_seconds = 0, 0.0
        self._running = True
        self._set_clock()
        while self._running:
            if left is None:
                if new:  # handlers from here on
                    handlers.update(new)
                    new.clear()
                timeout = self._next_tick - clock.now
                ready = poll(timeout if timeout > 0.0 and not resting else 0.0, EVENTS_PER_WAKE)
            else:
                ready, left = left, None
            began = clock.now = monotonic()
            clock.time = began + self._ahead
            clock.epoch += 1
            if resting or len(ready) > FEW:
                self.times.mark()
            service = None  # the one whose work has been done since the last charge
            for fd, events in ready:
                try:
                    handler = handlers[fd]
                except KeyError:  # closed by what was handled before it
                    continue
                if handler.service is not service:
                    if service is not None:
                        self._charge(service)
                    service = handler.service
                try:
                    handler.ready(events)
                except Exception:
                    self._failed(handler)
                if clock.work > WORK and self.is_late():
                    left = ready[ready.index((fd, events)) + 1 :] or None
                    break
            if began >= self._next_tick:
                self._charge(service)
                self.times.add_short(short, short_seconds)
                short, short_seconds = 0, 0.0
                self._tick()
                service = None
            if turns:
                self._charge(service)
                resting = self._give_turns(began + EVENTS_TIME)
                service = None
            else:
                resting = False
            for callback in self.after_poll:
                try:
                    callback()
                except Exception:
                    self._failed(self)
            seconds = monotonic() - began
            if seconds < SHORT:
                short += 1
                short_seconds += seconds
            else:
                resting = resting or self.backlogs > 0  # so that the next one is measured as well
                self._note_long(service, seconds)
        self.times.add_short(short, short_seconds)

    def _give_turns(self, end: float) -> bool:
        """One after the other, until `end`, but for TURNS_TIME at the least; whether somebody still waits for one."""
        clock = self.clock
        end = max(end, self._used_until + TURNS_TIME)
        while self._turns and self._used_until < end:
            handler, step = self._turns.popleft()
            clock.epoch += 1  # what is heard now may be younger than what was looked up so far
            self.call_isolated(handler, step)
            self._charge(handler.service)
        return bool(self._turns)

    def _charge(self, service: str | None) -> None:
        """All since the last charge was done for `service`, or for the loop itself."""
        now = time.monotonic()
        if self._used_until < self.clock.now:  # the first charge of this wake
            self._used_until = self.clock.now
            self._used.clear()
        service = service or ""
        self._used[service] = self._used.get(service, 0.0) + now - self._used_until
        self._used_until = now

    def _note_long(self, service: str | None, seconds: float) -> None:
        """A wake that was not short has ended; what was done since the last charge was for `service`."""
        self.times.add(seconds)
        if seconds >= LONG:
            self._charge(service)
            self.times.blame(seconds, max(self._used, key=self._used.__getitem__))

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

    def call_isolated(self, handler: EventHandler, step: Callable[[], None]) -> None:
        """Call `step` on behalf of `handler`: if it raises, that is logged and `handler.failed` is called."""
        try:
            step()
        except Exception:
            self._failed(handler)

    def _failed(self, handler: EventHandler) -> None:
        log.exception("unexpected error in %r, which is dropped", handler)
        try:
            handler.failed()
        except Exception:
            log.exception("unexpected error in %r, which has failed", handler)

    def _tick(self) -> None:
        self._set_clock()
        self._used_until = self.clock.now  # the clock has moved on, but it is the same wake
        for callback in self.at_tick:
            self.call_isolated(self, callback)

    def _set_clock(self) -> None:
        # The two clocks are compared once a tick, so that a wake needs to read only one of them.
        self.clock.now = time.monotonic()
        self.clock.time = time.time()
        self._ahead = self.clock.time - self.clock.now
        self._next_tick = self.clock.now + TICK

    # The loop's own handler: the pipe

    def ready(self, events: int) -> None:
        numbers = os.read(self._pipe, 4096)
        self._woken = False  # before looking: what is added from here on writes a wake-up of its own
        for number in dict.fromkeys(numbers):  # a signal that came many times came once
            callback = self._signals.get(number)
            if callback is not None:
                self.call_isolated(self, callback)
        for _ in range(len(self._soon)):
            handler, step = self._soon.popleft()
            self.call_isolated(handler, step)

    def failed(self) -> None:
        pass  # what failed was a signal's callback; the pipe itself stays
