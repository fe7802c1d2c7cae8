"""The supervisor's transitions: every order of signals, replies, failures and timeouts is walked through, breadth first.

States that differ only in process ids, in the numbers of generations, or in times that lie on the same side of now, are one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from math import inf
from typing import Any, NamedTuple

import pytest

from rawservers.daemon import transitions
from rawservers.daemon.transitions import Action, EventKind, Generation, ServerEvent, ServerState, WorkerState
from rawservers.daemon.transitions import ActionKind as Do
from rawservers.daemon.transitions import EventKind as On
from rawservers.daemon.transitions import WorkerPhase as Phase

PAST, FUTURE = -1.0, 100.0
FORMER = Generation(0, 0, 1.0)  # any that is neither the current nor the next one
RETIRE = {Phase.RETIRING, Phase.RETIRED}
NEW_PID = 99


class Node(NamedTuple):
    """A state in the normal form. result_of: the action whose result is the next event; opened: generations that are open."""

    state: ServerState
    result_of: Action | None = None
    opened: frozenset[Generation] = frozenset()
    has_exited: bool = False


class Step(NamedTuple):
    """An event that may come next. behaved: it needs neither a request nor a failure."""

    state: ServerState
    event: ServerEvent
    behaved: bool


def normal_form(node: Node) -> Node:
    """The one node for all that are alike."""
    state = node.state
    names = {}
    if state.current:
        names[state.current] = state.current._replace(number=1)
    if state.next:
        names[state.next] = state.next._replace(number=2)
    if state.exit_status is not None:  # nobody looks at generations any more
        state = state._replace(workers={pid: each._replace(generation=FORMER) for pid, each in state.workers.items()})
    workers = sorted(
        shared(names.get(generation) or former(generation), phase, side(kill_at))
        for generation, phase, kill_at in state.workers.values()
    )
    state = state._replace(
        workers=dict(enumerate(workers, 1)),
        current=names.get(state.current) if state.current else None,
        next=names.get(state.next) if state.next else None,
        reload_deadline=side(state.reload_deadline) if state.next or state.handover else inf,
        respawn_delay=transitions.RESPAWN_DELAY[0],
        forked_at=PAST,
        fork_at=side(state.fork_at),
        now=0.0,
        actions=(),
    )
    result_of = node.result_of
    if result_of and result_of.kind is Do.FORK:
        result_of = result_of._replace(generation=names[result_of.generation])
    return Node(state, result_of, frozenset(names.get(each, FORMER) for each in node.opened), node.has_exited)


shared = cache(WorkerState)  # a walk holds millions of workers, and there are some dozens that differ


@cache
def former(generation: Generation) -> Generation:
    return FORMER._replace(size=generation.size)


def side(time: float) -> float:
    return time if time == inf else FUTURE if time > 0 else PAST


def key(node: Node) -> tuple[Any, ...]:
    return (tuple(node.state.workers.values()), *node.state[1:], *node[1:])


def steps(node: Node, sizes: tuple[int, ...], mishap: str) -> Iterator[Step]:
    """Every event that may come next.

    mishap: "hang", or "leave" by themselves: what workers may do besides; "calm": they do not exit unless they are told to.
    """
    state = node.state

    def step(kind: EventKind, behaved: bool = True, pid: int = 0, generation: Generation = FORMER) -> Step:
        return Step(state, ServerEvent(kind, 0.0, pid, generation), behaved)

    if node.result_of:
        yield step(On.FORKED, True, NEW_PID, node.result_of.generation)
        yield step(On.FORK_FAILED, False, 0, node.result_of.generation)
    else:
        for size in sizes if state.preparing else ():
            yield step(On.PREPARED, generation=Generation(3, size, 1.0))
        if state.preparing:
            yield step(On.REJECTED)
        yield step(On.RELOAD, False)
        yield step(On.STOP, False)
        yield step(On.TICK)
        yield from timeouts(state)
        for pid, worker in state.workers.items():
            if state.workers.get(pid - 1) == worker:
                continue  # as the one before
            yield step(On.READY, worker.phase is Phase.STARTING, pid)
            left = any(each.phase is Phase.STOPPING for each in state.workers.values())
            if worker.phase is Phase.RETIRING or (mishap == "leave" and not left):  # one at a time: their number has no bound
                yield step(On.RETIRED, worker.phase is Phase.RETIRING, pid)
            told = worker.phase >= Phase.RETIRED or worker.kill_at < inf
            if mishap != "calm" or told:
                yield step(On.EXITED, told, pid)
            if mishap != "calm" and worker.phase is Phase.STARTING:  # later it does not matter why a worker has exited
                yield step(On.KILLED, False, pid)
            if mishap == "hang":
                yield step(On.STUCK, False, pid)


def timeouts(state: ServerState) -> Iterator[Step]:
    """A tick after which one of the times has passed that lie ahead."""
    tick = ServerEvent(On.TICK, 0.0)
    if state.fork_at > 0:
        yield Step(state._replace(fork_at=PAST), tick, True)
    if 0 < state.reload_deadline < inf:
        yield Step(state._replace(reload_deadline=PAST), tick, False)
    for pid, worker in state.workers.items():
        if 0 < worker.kill_at < inf and state.workers.get(pid - 1) != worker:
            yield Step(state._replace(workers={**state.workers, pid: worker._replace(kill_at=PAST)}), tick, False)


def take(node: Node, step: Step, largest: int) -> Node:
    """The node that the step leads to. Raises AssertionError if an invariant is broken."""
    event = step.event
    state, actions = transitions.transition(step.state, event)
    kinds = [action.kind for action in actions]
    results = [action for action in actions if action.kind is Do.FORK]
    assert results == list(actions[-1:]) or not results, "an action with a result is not the last one"
    alive = set(step.state.workers) | ({event.pid} if event.kind is On.FORKED else set())
    alive -= {event.pid} if event.kind in {On.EXITED, On.KILLED} else set()
    opened = set(node.opened)
    assert (Do.PREPARE in kinds) <= (not step.state.preparing or event.kind in {On.PREPARED, On.REJECTED}), (
        "step: two preparations"
    )
    if event.kind is On.PREPARED:
        opened.add(event.generation)
    for action in actions:
        if action.kind is Do.CLOSE:
            assert action.generation in opened, "a generation is closed that is not open"
            opened.remove(action.generation)
    check(state, alive, opened, largest)
    check_actions(step.state, state, actions)
    check_lives(step.state, state, event, largest)
    assert Do.EXIT not in kinds or not alive, "exit: workers are left"
    return normal_form(Node(state, results[0] if results else None, frozenset(opened), Do.EXIT in kinds))


def check(state: ServerState, alive: set[int], opened: set[Generation], largest: int) -> None:
    """What must be so in every state."""
    used = {generation for generation in (state.current, state.next) if generation}
    assert set(state.workers) == alive, "forgotten: a worker is not in the state, or has exited"
    assert opened == (used if state.exit_status is None else set()), "listener: open are others than those in use"
    assert bool(state.next) + state.handover + state.preparing <= 1, "step: two at the same time"
    for worker in state.workers.values():
        assert not worker.is_active or worker.generation in used, "forgotten: a worker of no generation has no command"
        assert worker.phase >= Phase.STOPPING or state.exit_status is None, "forgotten: a worker was not told to stop"
        assert worker.kill_at < inf or worker.phase < Phase.STOPPING, "way out: nobody kills it"
    for generation in used:
        assert len(state.active(generation)) <= generation.size, "bound: too many workers of a generation"
    most = transitions.MAX_RETIRING * largest
    retiring = [worker for worker in state.workers.values() if worker.phase in RETIRE]
    assert len(retiring) <= most + largest * state.handover, "bound: too many workers retire"
    old = [worker for worker in state.workers.values() if worker.generation not in used]
    assert len(old) <= most + 2 * largest + 1, "bound: too many workers of former generations"  # + next's, and one by itself


def check_actions(before: ServerState, after: ServerState, actions: tuple[Action, ...]) -> None:
    """Workers are told what the state says of them, and are killed only when it is time."""
    told = {action.pid: action.phase for action in actions if action.kind is Do.COMMAND}
    for pid, worker in after.workers.items():
        phase = before.workers[pid].phase if pid in before.workers else Phase.STARTING
        by_itself = (phase, worker.phase) in {(Phase.STARTING, Phase.READY), (Phase.RETIRING, Phase.RETIRED)}
        assert phase <= worker.phase, "phase: back"
        assert by_itself or worker.phase is phase or told.get(pid) is worker.phase, "command: a worker was not told"
        assert pid not in told or told[pid] is worker.phase, "command: a worker was told something else"
    for action in actions:
        if action.kind is Do.KILL:
            assert before.workers[action.pid].kill_at <= 0, "kill: before its time"


def check_lives(before: ServerState, after: ServerState, event: ServerEvent, largest: int) -> None:
    """A worker is told to stop for a reason, and a reload that fails harms nobody but its own workers."""
    told = {action.pid: action.phase for action in after.actions if action.kind is Do.COMMAND}
    if after.exit_status is None:
        stopped = {
            pid for pid, phase in told.items() if phase is Phase.STOPPING and (event.kind, event.pid) != (On.RETIRED, pid)
        }
        left = [pid for pid in before.workers if pid in after.workers and after.workers[pid].phase in RETIRE]
        assert not stopped or len(left) >= transitions.MAX_RETIRING, "lives: a worker that retires was told to stop too early"
        for pid in (pid for pid, phase in told.items() if phase is Phase.STOPPING_NOW):
            assert before.workers[pid].generation == before.next, "lives: a failed reload has ended another one's worker"
    idle = not (before.next or before.handover or before.preparing) and before.exit_status is None
    if event.kind is On.RELOAD and idle and len(before.former()) <= transitions.MAX_RETIRING:
        assert Do.PREPARE in {action.kind for action in after.actions}, "lives: a reload waits for workers that retire"
    if event.kind is On.KILLED and before.workers[event.pid].kill_at == inf and before.exit_status is None:
        assert after.exit_status is None, "lives: the server gives up since a worker was killed"


def is_goal(node: Node) -> bool:
    """Whether it has exited, or serves with all its workers and has nothing else to do."""
    state = node.state
    if node.has_exited or not state.current:
        return node.has_exited
    workers = state.workers.values()
    serves = len(workers) == state.current.size and all(worker.phase is Phase.READY for worker in workers)
    idle = not (state.next or state.handover or state.reload_requested or state.preparing) and state.exit_status is None
    return serves and idle and all(worker.kill_at == inf for worker in workers)


def explore(sizes: tuple[int, ...], mishap: str = "") -> int:
    """Walk through all states. The number of them. Raises AssertionError if an invariant is broken."""
    first = [Generation(1, size, 1.0) for size in sizes]
    queue = deque(normal_form(Node(ServerState(next=each), None, frozenset([each]))) for each in first)
    came_from: dict[Any, list[Any]] = {key(node): [] for node in queue}  # by behaved steps
    goals = []
    while queue:
        node = queue.popleft()
        if is_goal(node):
            goals.append(key(node))
        for step in steps(node, sizes, mishap) if not node.has_exited else ():
            target = take(node, step, max(sizes))
            name = key(target)
            if name not in came_from:
                came_from[name] = []
                queue.append(target)
            if step.behaved:
                came_from[name].append(key(node))
    saved = set(goals)
    while goals:
        new = set(came_from[goals.pop()]) - saved
        saved |= new
        goals += new
    for lost in came_from.keys() - saved:
        raise AssertionError(f"way out: none from {lost}")
    return len(came_from)


@pytest.mark.parametrize(
    ("sizes", "mishap", "most"),
    [
        ((1,), "hang", 1),
        pytest.param((1,), "", 2, marks=pytest.mark.slow),
        pytest.param((1,), "leave", 1, marks=pytest.mark.slow),
        pytest.param((2,), "calm", 1, marks=pytest.mark.slow),
        pytest.param((2,), "", 1, marks=pytest.mark.slow),
        pytest.param((1,), "", transitions.MAX_RETIRING, marks=pytest.mark.slow),
        pytest.param((1, 2), "", 1, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
        pytest.param((1, 3), "calm", 1, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
)
def test_every_order_of_events(monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], mishap: str, most: int) -> None:
    monkeypatch.setattr(transitions, "MAX_RETIRING", most)
    assert explore(sizes, mishap) > 400


# Mistakes that are noticed. Each takes the place of a method of ServerState, and is given the method.

Method = Callable[..., Any]


def handover_is_never_over(method: Method, state: ServerState) -> ServerState:
    settled: ServerState = method(state)
    return settled._replace(handover=settled.current is not None and not settled.next and not settled.preparing)


def handover_begins_early(method: Method, state: ServerState) -> ServerState:
    settled: ServerState = method(state)
    return settled._replace(handover=settled.next is not None)


def preparation_is_begun_again(method: Method, state: ServerState) -> ServerState:
    settled: ServerState = method(state)
    again = settled.preparing and state.reload_requested and settled.exit_status is None and not settled.actions
    return settled._replace(reload_requested=False).act(Do.PREPARE) if again else settled


def stop_forgets_what_is_prepared(method: Method, state: ServerState, event: ServerEvent) -> ServerState:
    late = event.kind is On.PREPARED and state.exit_status is not None
    return state if late else method(state, event)  # type: ignore[no-any-return]


def retired_worker_is_no_hindrance(method: Method, state: ServerState) -> list[int]:
    return [pid for pid in method(state) if state.workers[pid].phase is not Phase.RETIRED]


def retiring_workers_are_overlooked(method: Method, state: ServerState) -> list[int]:
    return []


def the_bound_is_low(method: Method, state: ServerState) -> int:
    return max(1, method(state) - 1)


def failure_ends_all_others(method: Method, state: ServerState, reason: str) -> ServerState:
    failed: ServerState = method(state, reason)
    return failed.command(Phase.STOPPING_NOW, failed.former()) if state.current else failed


def killed_is_failed(method: Method, state: ServerState, event: ServerEvent) -> ServerState:
    return method(state, event._replace(kind=On.EXITED) if event.kind is On.KILLED else event)


def old_workers_are_overlooked(method: Method, state: ServerState) -> list[int]:
    return []


def command_forgets_the_worker(method: Method, state: ServerState, phase: Phase, pids: Any) -> ServerState:
    sent: ServerState = method(state, phase, pids)
    return sent._replace(workers={pid: worker for pid, worker in sent.workers.items() if worker.phase < Phase.STOPPING_NOW})


def command_is_not_sent(method: Method, state: ServerState, phase: Phase, pids: Any) -> ServerState:
    sent: ServerState = method(state, phase, pids)
    return sent._replace(actions=state.actions)


def new_generation_is_closed(method: Method, state: ServerState, generation: Generation) -> ServerState:
    return state.close(generation) if state.current else method(state, generation)


def old_generation_stays_open(method: Method, state: ServerState, generation: Generation | None) -> ServerState:
    return state


def exit_does_not_wait(method: Method, state: ServerState) -> ServerState:
    return method(state) if state.exit_status is None else state.act(Do.EXIT)


def starting_workers_are_overlooked(method: Method, state: ServerState, generation: Generation) -> list[Phase]:
    return [phase for phase in method(state, generation) if phase is Phase.READY]


def kill_is_early(method: Method, state: ServerState, event: ServerEvent) -> ServerState:
    handled: ServerState = method(state, event)
    return handled.act(Do.KILL, state.workers) if event.kind is On.TICK else handled


def fork_is_not_the_last(method: Method, state: ServerState, kind: Do, *arguments: Any, **details: Any) -> ServerState:
    acted: ServerState = method(state, kind, *arguments, **details)
    return acted.act(Do.KILL) if kind is Do.FORK else acted


@pytest.mark.parametrize(
    ("name", "mistake", "noticed"),
    [
        pytest.param("settle", handover_is_never_over, "way out", marks=pytest.mark.slow),
        ("settle", handover_begins_early, "step"),
        ("settle", preparation_is_begun_again, "step"),
        ("handle", stop_forgets_what_is_prepared, "listener"),
        pytest.param("former", retired_worker_is_no_hindrance, "bound", marks=pytest.mark.slow),
        ("retiring", retiring_workers_are_overlooked, "bound"),
        ("max_retiring", the_bound_is_low, "lives"),
        ("fail", failure_ends_all_others, "lives"),
        ("handle", killed_is_failed, "lives"),
        ("former", old_workers_are_overlooked, "forgotten"),
        ("command", command_forgets_the_worker, "forgotten"),
        ("command", command_is_not_sent, "command"),
        ("hand_over", new_generation_is_closed, "listener"),
        ("close", old_generation_stays_open, "listener"),
        ("settle", exit_does_not_wait, "exit"),
        ("active", starting_workers_are_overlooked, "bound"),
        ("handle", kill_is_early, "kill"),
        ("act", fork_is_not_the_last, "an action with a result"),
    ],
)  # fmt: skip
def test_a_mistake_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str, mistake: Method, noticed: str) -> None:
    monkeypatch.setattr(transitions, "MAX_RETIRING", 2)
    method = getattr(ServerState, name)
    monkeypatch.setattr(ServerState, name, lambda *arguments, **more: mistake(method, *arguments, **more))
    with pytest.raises(AssertionError, match=f"^{noticed}"):
        explore((1,))


# Times


def after(state: ServerState, *events: ServerEvent) -> tuple[ServerState, list[Action]]:
    """The state after these events, and all actions."""
    taken: list[Action] = []
    for event in events:
        state, actions = transitions.transition(state, event)
        taken += actions
    return state, taken


ONE = Generation(0, 1, 10.0)
START = ServerState(next=ONE)


def test_the_delay_doubles_while_workers_exit_before_they_are_ready() -> None:
    state, _ = after(START, ServerEvent(On.FORKED, 0.0, 1, ONE), ServerEvent(On.READY, 0.0, 1))
    state, taken = after(state, ServerEvent(On.EXITED, 0.05, 1))
    assert taken == []
    delays, now = [], 0.05
    for pid in range(2, 10):
        ahead = state.fork_at - now
        state, taken = after(state, ServerEvent(On.TICK, state.fork_at - 0.001), ServerEvent(On.TICK, state.fork_at))
        assert taken == [Action(Do.FORK, generation=ONE)]
        now = state.now
        state, taken = after(state, ServerEvent(On.FORKED, now, pid, ONE), ServerEvent(On.EXITED, now, pid))
        delays.append(round(ahead, 3))
    assert delays == [0.05, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    state, taken = after(state, ServerEvent(On.RELOAD, now))
    assert taken == [Action(Do.PREPARE)]
    _, taken = after(state, ServerEvent(On.PREPARED, now, 0, Generation(1, 1, 0.0)))
    assert taken == [Action(Do.FORK, generation=ONE)]  # without a delay


@pytest.mark.parametrize(("drain_time", "kill_at"), [(10.0, 12.0), (0.0, inf)])
def test_when_a_worker_is_killed(drain_time: float, kill_at: float) -> None:
    generation = Generation(0, 1, drain_time)
    state, _ = after(ServerState(next=generation), ServerEvent(On.FORKED, 0.0, 1, generation))
    stopped, _ = after(state, ServerEvent(On.STOP, 0.0))
    assert stopped.workers[1].kill_at == kill_at
    hurried, _ = after(stopped, ServerEvent(On.STOP, 1.0), ServerEvent(On.STUCK, 1.5, 1))
    assert hurried.workers[1].kill_at == 3.0
    stuck, taken = after(stopped, ServerEvent(On.STUCK, 5.0, 1), ServerEvent(On.STUCK, 6.0, 1))
    assert taken == [Action(Do.ABORT, pid=1)]
    assert stuck.workers[1].kill_at == 7.0
    assert after(stuck, ServerEvent(On.TICK, 7.0))[1] == []
    assert after(stuck, ServerEvent(On.TICK, 7.1))[1] == [Action(Do.KILL, pid=1)]


def test_how_long_a_reload_waits() -> None:
    two = Generation(1, 1, 0.0)
    state, _ = after(START, ServerEvent(On.FORKED, 0.0, 1, ONE), ServerEvent(On.READY, 0.0, 1))
    events = [ServerEvent(On.RELOAD, 1.0), ServerEvent(On.PREPARED, 1.0, 0, two), ServerEvent(On.FORKED, 1.0, 2, two)]
    state, _ = after(state, *events, ServerEvent(On.TICK, 31.0))
    assert state.next == two
    late, taken = after(state, ServerEvent(On.TICK, 31.1))
    assert [action.kind for action in taken] == [Do.FAIL, Do.COMMAND, Do.CLOSE]
    assert late.current == ONE
    state, taken = after(state, ServerEvent(On.READY, 30.0, 2), ServerEvent(On.TICK, 31.1))  # the old one does not reply
    assert [action.kind for action in taken] == [Do.CLOSE, Do.COMMAND, Do.COMPLETE]
    assert state.current == two


def retiring(state: ServerState, generation: Generation, *pids: int) -> ServerState:
    """The state after a reload, in whose hand-over all workers have replied. pids: of the new workers."""
    state, _ = after(state, ServerEvent(On.RELOAD, 0.0), ServerEvent(On.PREPARED, 0.0, 0, generation))
    old = [pid for pid, worker in state.workers.items() if worker.is_active]
    for pid in pids:
        state, _ = after(state, ServerEvent(On.FORKED, 0.0, pid, generation), ServerEvent(On.READY, 0.0, pid))
    for pid in old:
        state, _ = after(state, ServerEvent(On.RETIRED, 0.0, pid))
    assert state.current == generation
    return state


def test_the_oldest_of_too_many_that_retire_are_told_to_stop() -> None:
    """Each reload takes effect at once. The bound goes by the largest generation."""
    state, _ = after(START, ServerEvent(On.FORKED, 0.0, 1, ONE), ServerEvent(On.READY, 0.0, 1))
    for number in range(1, 5):
        state = retiring(state, Generation(number, 1, 10.0), number + 1)
    assert [worker.phase for worker in state.workers.values()] == [Phase.RETIRED] * 4 + [Phase.READY]
    state = retiring(state, Generation(5, 1, 10.0), 6)
    assert [worker.phase for worker in state.workers.values()] == [Phase.STOPPING] + [Phase.RETIRED] * 4 + [Phase.READY]
    assert state.workers[1].kill_at == 12.0
    state, taken = after(state, ServerEvent(On.RELOAD, 0.0))
    assert taken == []
    state, taken = after(state, ServerEvent(On.RELOAD, 0.0), ServerEvent(On.EXITED, 0.0, 1))  # both are one
    assert taken == [Action(Do.PREPARE)]
    assert not state.reload_requested
    larger = Generation(6, 3, 10.0)
    state, _ = after(state, ServerEvent(On.PREPARED, 0.0, 0, larger))
    for pid in (7, 8, 9):
        state, _ = after(state, ServerEvent(On.FORKED, 0.0, pid, larger), ServerEvent(On.READY, 0.0, pid))
    state, _ = after(state, ServerEvent(On.RETIRED, 0.0, 6))
    assert [worker.phase for worker in state.workers.values()] == [Phase.RETIRED] * 5 + [Phase.READY] * 3


def test_a_place_is_taken_as_soon_as_its_worker_says_that_it_leaves() -> None:
    state, _ = after(START, ServerEvent(On.FORKED, 0.0, 1, ONE), ServerEvent(On.READY, 0.0, 1))
    state, taken = after(state, ServerEvent(On.RETIRED, 1.0, 1))
    assert taken == [Action(Do.COMMAND, pid=1, phase=Phase.STOPPING), Action(Do.FORK, generation=ONE)]
    assert state.workers[1].kill_at == 1.0 + ONE.drain_time + transitions.KILL_DELAY
    state, _ = after(state, ServerEvent(On.FORKED, 1.0, 2, ONE), ServerEvent(On.READY, 1.0, 2))
    state, taken = after(state, ServerEvent(On.RETIRED, 1.01, 2))
    assert [action.kind for action in taken] == [Do.COMMAND]  # but not a hundred times a second
    state, taken = after(state, ServerEvent(On.TICK, 1.2))
    assert taken == [Action(Do.FORK, generation=ONE)]


def test_a_worker_that_is_killed_before_it_is_ready_is_no_failure() -> None:
    state, taken = after(START, ServerEvent(On.FORKED, 0.0, 1, ONE), ServerEvent(On.KILLED, 0.0, 1))
    assert taken == []
    state, taken = after(state, ServerEvent(On.TICK, state.fork_at))
    assert taken == [Action(Do.FORK, generation=ONE)]
    events = [ServerEvent(On.FORKED, 1.0, 2, ONE), ServerEvent(On.STUCK, 2.0, 2), ServerEvent(On.KILLED, 5.0, 2)]
    state, taken = after(state, *events)  # by the supervisor, since it was stuck
    assert state.exit_status == 1
