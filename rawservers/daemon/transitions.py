"""What the supervisor does next: a pure function of its state and an event.

`transition` gives the next state, and the actions that go with it. The state is immutable, and the time comes with the event.
`supervisor.py` makes events of signals, of replies and of the tick, and carries out the actions.

A start is a reload without an old generation. A reload that is requested begins when no other is under way. Its steps:

    preparation  the configuration is read, which may take a while, sockets are bound, the log is opened
    start        new workers are forked while the old ones serve: theirs is the `next` generation
    hand-over    all new workers are ready: theirs is the `current` generation, and the old workers retire. Ends when none of
                 them accepts any more, or after START_TIME

A failure before the hand-over discards the new generation, and the old one keeps serving; without an old one the server exits.

Workers retire for as long as they have connections, through several reloads: up to MAX_RETIRING times as many as a generation
has. After a hand-over the oldest of those beyond that are told to stop, and the next reload waits for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, IntEnum
from math import inf
from typing import Any, NamedTuple

RESPAWN_DELAY = 0.1, 5.0  # seconds between two forks, lowest and highest; doubled while workers exit before they are ready
START_TIME = 30.0  # seconds for the workers of a new generation to become ready, and for the old ones to stop accepting
MAX_RETIRING = 4  # workers that retire, in relation to those of the largest generation
KILL_DELAY = 2.0  # seconds to SIGKILL, from SIGABRT (for the stack dump), from STOPPING_NOW, or from the end of drain_time


class WorkerPhase(IntEnum):
    """In order: a worker never goes back. From RETIRING on it has a command to exit."""

    STARTING, READY, RETIRING, RETIRED, STOPPING, STOPPING_NOW = range(6)


class Generation(NamedTuple):
    """number: its name; size: of workers; drain_time: for their graceful stop, in seconds, 0.0 for no limit."""

    number: int
    size: int
    drain_time: float


NO_GENERATION = Generation(-1, 0, 0.0)  # in events and actions that are about none


class WorkerState(NamedTuple):
    """kill_at: monotonic time of its SIGKILL, if it has not exited by then."""

    generation: Generation
    phase: WorkerPhase = WorkerPhase.STARTING
    kill_at: float = inf

    @property
    def is_active(self) -> bool:
        """Whether it has no command to exit."""
        return self.phase < WorkerPhase.RETIRING


class EventKind(Enum):
    """RELOAD, STOP: were requested. TICK: time has passed. PREPARED, REJECTED: results of PREPARE. FORKED, FORK_FAILED: results
    of FORK. READY, RETIRED: replies of a worker. STUCK: its heartbeats have ceased. EXITED, KILLED: it has exited, or been
    killed by SIGKILL."""

    RELOAD, STOP, TICK, PREPARED, REJECTED, FORKED, FORK_FAILED, READY, RETIRED, STUCK, EXITED, KILLED = range(12)


class ServerEvent(NamedTuple):
    """now: monotonic time; pid: of the worker; generation: the one that was prepared, or forked for."""

    kind: EventKind
    now: float
    pid: int = 0
    generation: Generation = NO_GENERATION


class ActionKind(Enum):
    """PREPARE: begin a reload, and prepare its generation. FORK: a worker for this generation. CLOSE: the log of a generation,
    and its server sockets that no other one uses. COMMAND: send a worker the command for its new phase. ABORT, KILL: send it
    SIGABRT, since it is stuck, or SIGKILL. COMPLETE, FAIL: the start or reload is complete, or has failed. STOP: the stop has
    begun. EXIT: all workers have exited."""

    PREPARE, FORK, CLOSE, COMMAND, ABORT, KILL, COMPLETE, FAIL, STOP, EXIT = range(10)


class Action(NamedTuple):
    """reason: of FAIL."""

    kind: ActionKind
    pid: int = 0
    generation: Generation = NO_GENERATION
    phase: WorkerPhase = WorkerPhase.STARTING
    reason: str = ""


def transition(state: ServerState, event: ServerEvent) -> tuple[ServerState, tuple[Action, ...]]:
    """The next state, and the actions, in order. FORK comes last; its result must be the next event."""
    state = state._replace(now=event.now, actions=()).handle(event).settle()
    return state, state.actions


class ServerState(NamedTuple):
    """At the start: with the first generation as `next`.

    workers: those that have not exited, by process id; current: the generation that serves; next: the one that is started;
    handover: whether a hand-over is under way; preparing: whether PREPARE has no result yet; reload_deadline: of the start and
    the hand-over; exit_status: None until a stop begins; fork_at: no fork before; now, actions: of the last transition."""

    workers: Mapping[int, WorkerState] = {}
    current: Generation | None = None
    next: Generation | None = None
    handover: bool = False
    reload_requested: bool = False
    preparing: bool = False
    reload_deadline: float = inf
    exit_status: int | None = None
    respawn_delay: float = RESPAWN_DELAY[0]
    forked_at: float = -inf
    fork_at: float = -inf
    now: float = -inf
    actions: tuple[Action, ...] = ()

    def handle(self, event: ServerEvent) -> ServerState:
        """What the event itself changes."""
        kind, now, pid, generation = event
        worker = self.workers.get(pid) or WorkerState(generation)
        match kind, worker.phase:
            case EventKind.RELOAD, _:
                return self._replace(reload_requested=True)
            case EventKind.STOP, _:
                return self.stop(0) if self.exit_status is None else self.command(WorkerPhase.STOPPING_NOW, self.workers)
            case EventKind.TICK, _:
                return self.act(ActionKind.KILL, (pid for pid, worker in self.workers.items() if worker.kill_at < now))
            case EventKind.PREPARED, _:
                state = self._replace(preparing=False)
                if state.exit_status is not None:
                    return state.close(generation)
                return state._replace(next=generation, reload_deadline=now + START_TIME)
            case EventKind.REJECTED, _:
                state = self._replace(preparing=False)
                return state.fail("invalid configuration") if state.exit_status is None else state
            case EventKind.FORKED, _:
                return self._replace(forked_at=now).change({pid: worker})
            case EventKind.FORK_FAILED, _:
                state = self.back_off()
                return state.fail("cannot start all workers") if self.current and generation == self.next else state
            case (EventKind.READY, WorkerPhase.STARTING) | (EventKind.RETIRED, WorkerPhase.RETIRING):
                return self.change({pid: worker._replace(phase=WorkerPhase(worker.phase + 1))})
            case EventKind.RETIRED, WorkerPhase.READY:  # by itself, on SIGTERM
                return self.free_place().command(WorkerPhase.STOPPING, [pid])
            case EventKind.STUCK, _ if worker.kill_at > now + KILL_DELAY:  # else it was aborted, or is about to be killed
                return self.change({pid: worker._replace(kill_at=now + KILL_DELAY)}).act(ActionKind.ABORT, [pid])
            case EventKind.EXITED | EventKind.KILLED, phase:
                state = self._replace(workers={other: self.workers[other] for other in self.workers if other != pid})
                if phase is WorkerPhase.READY:
                    return state.free_place()
                if phase is WorkerPhase.STARTING:
                    state = state.back_off()
                    failed = kind is EventKind.EXITED or worker.kill_at < inf  # else it was killed by somebody else
                    return state.fail("a worker failed to start") if failed and worker.generation == self.next else state
                return state
        return self

    def settle(self) -> ServerState:
        """Take each step of a stop or reload whose condition is met; then fork a worker, if one is missing."""
        state = self
        if state.exit_status is not None:
            return state if state.workers else state.act(ActionKind.EXIT)
        if state.next and state.ready(state.next) >= state.next.size:
            state = state.hand_over(state.next)
        elif state.next and state.now > state.reload_deadline:
            state = state.fail("the new workers did not become ready in time")
        if state.handover:
            retiring = any(worker.phase is WorkerPhase.RETIRING for worker in state.workers.values())
            if not retiring or state.now > state.reload_deadline:  # one that hangs finds the command in its socket later
                state = state._replace(handover=False).act(ActionKind.COMPLETE, generation=state.current)
                state = state.command(WorkerPhase.STOPPING, state.retiring()[: -state.max_retiring()])
        is_busy = state.next or state.handover or state.preparing
        if state.reload_requested and not is_busy and len(state.former()) <= state.max_retiring():
            # The new configuration may remove the cause of failures, so the delay ends.
            state = state._replace(reload_requested=False, respawn_delay=RESPAWN_DELAY[0], fork_at=state.now)
            return state._replace(preparing=True).act(ActionKind.PREPARE)
        for generation in filter(None, (state.current, state.next)):
            if len(state.active(generation)) < generation.size and state.now >= state.fork_at:
                return state.act(ActionKind.FORK, generation=generation)
        return state

    # Steps

    def hand_over(self, generation: Generation) -> ServerState:
        """Make this generation the current one, and retire the workers of the old one."""
        state = self._replace(current=generation, next=None, handover=True).close(self.current)
        return state.command(WorkerPhase.RETIRING, state.former())

    def fail(self, reason: str) -> ServerState:
        """Discard the new generation. The old one keeps serving; without one, stop."""
        state = self.act(ActionKind.FAIL, reason=reason)
        if not self.current:
            return state.stop(1)
        new = [pid for pid, worker in self.workers.items() if worker.generation == self.next]
        return state.command(WorkerPhase.STOPPING_NOW, new).close(self.next)._replace(next=None)

    def stop(self, exit_status: int) -> ServerState:
        """Begin a graceful stop."""
        state = self._replace(exit_status=exit_status, next=None).act(ActionKind.STOP)
        return state.close(self.current).close(self.next).command(WorkerPhase.STOPPING, self.workers)

    def command(self, phase: WorkerPhase, pids: Iterable[int]) -> ServerState:
        """Send the command for this phase to those of these workers that have not come as far."""
        chosen = {pid: self.workers[pid] for pid in pids if self.workers[pid].phase < phase}
        for pid, (generation, _, kill_at) in chosen.items():
            limit = {WorkerPhase.STOPPING: generation.drain_time or inf, WorkerPhase.STOPPING_NOW: 0.0}.get(phase, inf)
            chosen[pid] = WorkerState(generation, phase, min(kill_at, self.now + limit + KILL_DELAY))
        return self.change(chosen).act(ActionKind.COMMAND, chosen, phase=phase)

    def close(self, generation: Generation | None) -> ServerState:
        return self.act(ActionKind.CLOSE, generation=generation) if generation else self

    def free_place(self) -> ServerState:
        """A worker that was ready has left its place: it is taken at once, unless the last fork was a moment ago."""
        return self._replace(respawn_delay=RESPAWN_DELAY[0], fork_at=self.forked_at + RESPAWN_DELAY[0])

    def back_off(self) -> ServerState:
        """Double the delay before the next fork, once for all workers that fail meanwhile."""
        if self.now < self.fork_at:
            return self
        delay = min(2 * self.respawn_delay, RESPAWN_DELAY[1])
        return self._replace(respawn_delay=delay, fork_at=self.now + delay)

    def act(self, kind: ActionKind, pids: Iterable[int] = (0,), **details: Any) -> ServerState:
        """Append an action, or one for each of these workers."""
        return self._replace(actions=self.actions + tuple(Action(kind, pid, **details) for pid in pids))

    # Workers

    def change(self, workers: Mapping[int, WorkerState]) -> ServerState:
        """Add these workers, or replace those of the same process ids."""
        return self._replace(workers={**self.workers, **workers})

    def active(self, generation: Generation) -> list[WorkerPhase]:
        """The phases of the workers of this generation that have no command to exit."""
        return [worker.phase for worker in self.workers.values() if worker.is_active and worker.generation == generation]

    def ready(self, generation: Generation) -> int:
        """The number of workers of this generation that serve."""
        return self.active(generation).count(WorkerPhase.READY)

    def former(self) -> list[int]:
        """The workers that are not of the current generation."""
        return [pid for pid, worker in self.workers.items() if worker.generation != self.current]

    def retiring(self) -> list[int]:
        """The workers that retire, or have retired and have connections, the oldest first."""
        phases = (WorkerPhase.RETIRING, WorkerPhase.RETIRED)
        return [pid for pid, worker in self.workers.items() if worker.phase in phases]

    def max_retiring(self) -> int:
        return MAX_RETIRING * max([worker.generation.size for worker in self.workers.values()], default=0)
