"""The event loop: one epoll set, one clock, one heap of timers, one tick a second.

The loop maps a file descriptor to its handler and knows nothing else. One iteration is called a *wake*:

1. epoll_wait(2) reports which descriptors are ready; the clock is read once;
2. the handler of each ready descriptor runs, for EVENTS_TIME at most; events that are left over are handled in the next wake;
3. once a second, the `at_tick` callbacks run (counters); timers that are due join the queue of turns;
4. the queue of turns is served, in order, for the rest of EVENTS_TIME and at least TURNS_TIME. A turn is a call that was put
   off because its connection had used up its share of work (`call_in_turn`). Every other turn is of a queue of its own for new
   clients (`call_in_early_turn`). With turns queued, the poll does not wait;
5. the `at_wake_end` callbacks run (the access log is written).

A handler must never block: it tries a non-blocking call, and on EAGAIN it returns, and is called when the descriptor is ready.

epoll is level-triggered: a handler that reads only a part of the input is called again in the next wake. An event may be stale
when it is handled (the descriptor was closed, and its number reused, earlier in the same wake); since handlers only make
non-blocking attempts, a stale event does no harm.

Signal handlers and other threads only write to a pipe in the epoll set; their callbacks run in the loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any, Protocol, TypeAlias

from rawservers.core.errors import is_of_system, os_error_text
from rawservers.core.peer import Clock
from rawservers.core.wakes import SHORT, WakeTimes

log = logging.getLogger("rawservers")

TICK = 1.0  # seconds
TIMERS_PER_WAKE = 1024  # that join the queue of turns in one wake
EVENTS_PER_WAKE = 256  # so that a wake stays short (a few ms) however many connections are ready
EVENTS_TIME = 0.004  # seconds of a wake for the events that the kernel reported
TURNS_TIME = 0.002  # seconds of a wake for turns, at the least
STEPS_PER_CHECK = 64  # steps of work after which the time is read again: half a millisecond, or less
FEW_EVENTS = 8  # so few events make no long wake, unless one of them is slow by itself

Callback: TypeAlias = Callable[[], None]
Call: TypeAlias = "tuple[EventHandler, Callback]"  # a call to make on behalf of a handler


class EventHandler(Protocol):
    """Callbacks of a registered descriptor. service: the name of the service it works for, "" for none."""

    service: str

    def ready(self, events: int) -> None:
        """The kernel reports `events` (select.EPOLL*). Must not block."""

    def failed(self) -> None:
        """A callback of this handler has raised, which was logged: release its resources. By default it stays."""
        return None


class Loop(EventHandler):
    """The event loop of one process.

    at_tick, at_wake_end: callbacks, called at each tick and at the end of each wake. Do not remove from `at_wake_end` during a
    wake: replace the list. times: durations of all wakes.
    """

    service = ""

    def __init__(self) -> None:
        self.clock = Clock()
        self.times = WakeTimes()
        self.at_tick: list[Callback] = []
        self.at_wake_end: list[Callback] = []
        self._handlers: dict[int, EventHandler] = {}
        self._new_handlers: dict[int, EventHandler] = {}  # registered since the last poll, see `watch`
        self._epoll = select.epoll()
        self._running = True
        self._timers: dict[int, Call] = {}  # by number
        self._schedule: list[tuple[float, int]] = []  # a heap: when a timer is due, and its number; cancelled ones included
        self._last_timer = 0
        self._next_tick = self._next_due = 0.0  # when the tick is due; when the tick or the first timer is
        self._wall_offset = 0.0  # wall clock minus monotonic clock, in seconds
        self._signals: dict[int, Callback] = {}
        self._former: dict[int, Any] = {}  # handlers of these signals, and the wake-up descriptor, before `on_signal`
        self._former_wakeup_fd = -1
        self._wakeup_sent = False
        self._threadsafe_calls: deque[Call] = deque()
        self._turns: deque[Call] = deque()
        self._early_turns: deque[Call] = deque()  # of clients that have had none yet
        self._was_early = False  # the last turn
        self._pipe_read, self._pipe_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.watch(self._pipe_read, self, select.EPOLLIN)
        self._set_clock()

    def __repr__(self) -> str:
        return "the event loop"

    # Registration

    def watch(self, fd: int, handler: EventHandler, events: int) -> None:
        """Call `handler.ready` when any of `events` (select.EPOLL*) occurs on `fd`; with events 0, no longer. Raises OSError.

        With EPOLLONESHOT: once, until `watch` is called again. A new handler gets no event that was reported earlier: its
        descriptor may have the number of one that was closed in this wake.
        """
        known = fd in self._handlers or fd in self._new_handlers
        if events and known:
            self._epoll.modify(fd, events)
        elif events:
            self._epoll.register(fd, events)
            self._new_handlers[fd] = handler
        elif known:
            self._epoll.unregister(fd)
            self.discard(fd)

    def discard(self, fd: int) -> None:
        """Forget `fd`, which is closed, or about to be: closing removes it from the epoll set without a system call of ours."""
        self._handlers.pop(fd, None)
        self._new_handlers.pop(fd, None)

    def call_soon_threadsafe(self, handler: EventHandler, call: Callback) -> None:
        """Make `call` on behalf of `handler` in the next wake. The only method that other threads may use."""
        self._threadsafe_calls.append((handler, call))
        if not self._wakeup_sent:  # one byte in the pipe serves all calls that are queued when it is read
            self._wakeup_sent = True
            with contextlib.suppress(OSError):  # the pipe is full, so the loop wakes anyway; or closed, as the loop is
                os.write(self._pipe_write, b"\0")

    def call_in_turn(self, handler: EventHandler, call: Callback) -> None:
        """Append `call`, on behalf of `handler`, to the queue of turns."""
        self._turns.append((handler, call))

    def call_in_early_turn(self, handler: EventHandler, call: Callback) -> None:
        """The same for a client that has had nothing yet: it need not wait for all those who ask for more and more."""
        self._early_turns.append((handler, call))

    def is_late(self) -> bool:
        """Whether EVENTS_TIME of this wake is used up, so that further events are left to the next one. Reads the time."""
        self.clock.work = 0
        return time.monotonic() > self.clock.now + EVENTS_TIME

    def call_at(self, when: float, handler: EventHandler, call: Callback, replaced: int = 0) -> int:
        """A timer: make `call` on behalf of `handler` in turn, once clock.now is `when`. Returns a number for `cancel`.

        replaced: the number of a timer to cancel.
        """
        self._timers.pop(replaced, None)
        number = self._last_timer = self._last_timer + 1
        self._timers[number] = handler, call
        if len(self._schedule) > 2 * len(self._timers) + 64:  # most are cancelled
            self._schedule = [entry for entry in self._schedule if entry[1] in self._timers]
            heapify(self._schedule)
        heappush(self._schedule, (when, number))
        self._next_due = min(self._next_due, when)
        return number

    def cancel(self, timer: int) -> None:
        """Cancel a timer, if its call was not made yet."""
        self._timers.pop(timer, None)

    def tick_within(self, seconds: float) -> None:
        """Make the next tick at most `seconds` from now."""
        self._next_tick = min(self._next_tick, self.clock.now + seconds)
        self._next_due = min(self._next_due, self._next_tick)

    def on_signal(self, number: int, callback: Callback) -> None:
        """Call `callback` from the loop after signal `number`, until `close`. In the main thread only."""
        if not self._signals:  # CPython writes the number into the pipe
            self._former_wakeup_fd = signal.set_wakeup_fd(self._pipe_write, warn_on_full_buffer=False)
        self._signals[number] = callback
        self._former[number] = signal.signal(number, lambda *_: None)

    # Running

    def run(self) -> None:
        """Run wakes until `stop`."""
        poll, monotonic, clock, short = self._epoll.poll, time.monotonic, self.clock, self.times.short
        handlers, new_handlers, turns, early_turns = self._handlers, self._new_handlers, self._turns, self._early_turns
        left: list[tuple[int, int]] | None = None  # events that the last wake had no time for
        while self._running:
            if new_handlers and not left:  # they have events from this poll on
                handlers.update(new_handlers)
                new_handlers.clear()
            timeout = self._next_due - clock.now
            ready, left = left or poll(timeout if timeout > 0.0 and not (turns or early_turns) else 0.0, EVENTS_PER_WAKE), None
            began = clock.now = monotonic()
            clock.time = began + self._wall_offset
            clock.epoch += 1
            if turns or early_turns or len(ready) > FEW_EVENTS:
                self.times.read_cpu()
            service = None  # the service that has worked since the last charge
            for fd, events in ready:
                try:
                    handler = handlers[fd]
                except KeyError:  # closed by an earlier handler
                    continue
                if handler.service is not service:
                    if service is not None:
                        self.times.charge(service, began)
                    service = handler.service
                try:
                    handler.ready(events)
                except Exception:
                    self._failed(handler)
                if clock.work > STEPS_PER_CHECK and self.is_late():
                    left = ready[ready.index((fd, events)) + 1 :] or None
                    break
            if began >= self._next_due or turns or early_turns:
                self._run_due(service, began)
                service = None
            for callback in self.at_wake_end:
                try:
                    callback()
                except Exception:
                    self._failed(self)
            if (seconds := monotonic() - began) < SHORT:
                short[0], short[1] = short[0] + 1, short[1] + seconds
            else:
                self.times.add(seconds, service, began)

    def _run_due(self, service: str | None, began: float) -> None:
        """Run what is due after the events of the wake that began then. service: the last to work on them."""
        charge = self.times.charge
        charge(service, began)
        if began >= self._next_tick:
            self.times.add_short()
            self._set_clock()
            for callback in self.at_tick:
                self.call_isolated(self, callback)
        schedule = self._schedule
        for _ in range(TIMERS_PER_WAKE):
            if not schedule or schedule[0][0] > began:
                break
            if timer := self._timers.pop(heappop(schedule)[1], None):
                self._turns.append(timer)
        self._next_due = min(self._next_tick, schedule[0][0]) if schedule else self._next_tick
        now = charge(None, began)
        end = max(began + EVENTS_TIME, now + TURNS_TIME)
        turns, early_turns = self._turns, self._early_turns
        while (turns or early_turns) and now < end:
            self._was_early = bool(early_turns) and not (turns and self._was_early)
            handler, call = (early_turns if self._was_early else turns).popleft()
            self.clock.epoch += 1  # input that is read now may be younger than what was checked so far
            self.call_isolated(handler, call)
            now = charge(handler.service, began)

    def stop(self) -> None:
        """Return from `run` at the end of this wake."""
        self._running = False
        self.times.add_short()

    def close(self) -> None:
        """Close the loop's own descriptors. Signals are handled as before."""
        if self._signals:
            for number, handler in self._former.items():
                signal.signal(number, handler or signal.SIG_DFL)
            signal.set_wakeup_fd(self._former_wakeup_fd)
        self._epoll.close()
        os.close(self._pipe_read)
        fd, self._pipe_write = self._pipe_write, -1  # a thread must not write into whatever reuses the number
        os.close(fd)

    def call_isolated(self, handler: EventHandler, call: Callback) -> None:
        """Make `call` on behalf of `handler`. An exception is logged, and `handler.failed` is called."""
        try:
            call()
        except Exception:
            self._failed(handler)

    def _failed(self, handler: EventHandler) -> None:
        if is_of_system(error := sys.exception()):
            log.error("error in %r: %s", handler, os_error_text(error))
        else:
            log.exception("unexpected error in %r", handler)
        try:
            handler.failed()
        except Exception:
            log.exception("unexpected error while dropping %r", handler)

    def _set_clock(self) -> None:
        """Compare the two clocks: once a tick, so that a wake reads only one of them."""
        self.clock.now, self.clock.time = time.monotonic(), time.time()
        self._wall_offset = self.clock.time - self.clock.now
        self._next_tick = self.clock.now + TICK
        self._next_due = min(self._next_due, self._next_tick)

    # The loop's own handler: the pipe

    def ready(self, events: int) -> None:
        """Run the callbacks of signals and the calls of other threads."""
        numbers = os.read(self._pipe_read, 4096)
        self._wakeup_sent = False  # before looking: a call that is added from here on writes a byte of its own
        for number in dict.fromkeys(numbers):  # the same signal several times counts once
            if callback := self._signals.get(number):
                self.call_isolated(self, callback)
        for _ in range(len(self._threadsafe_calls)):
            self.call_isolated(*self._threadsafe_calls.popleft())
