"""Honest clients beside hostile ones: python3 -m bench.faults [--clients N] [--seconds S] [--rounds N] [KIND]...

For each kind of attack (`hostile.py`) a new server, whose one worker has a processor for itself, serves honest clients
(`honest.py`) while the attack goes on; all clients are on the other processors. Three things are asked: how long the honest
ones had to wait, whether the worker has lived through it, and how long a single wake of its loop took, for which all others
wait.
The exit status is 1 if a bar was missed. With several rounds each figure is that of the worst.

The kind "calm" has no hostile clients, and shows what the honest ones meet by themselves; "all" is every kind at once;
"multitude" is 10,000 idle connections, 1,000 silent sessions and 2,000 slow heads, for two workers. A run of all of them, with
nginx beside where it can be, is written to bench/faults.md.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from bench import honest, hostile
from bench.compare import make_certificate, noting
from bench.honest import PATIENCE, Record, percentile
from bench.hostile import ALL_CLIENTS, CLIENTS, LARGE, LISTED, Done, Kind
from bench.install import ROOT, forget_python_settings, interpreter
from bench.load import Failed
from bench.process import TICK, cpu_seconds, raise_descriptor_limit, resident, sockets, tree
from bench.report import MIB, Verdict, setting, table
from bench.servers import HTTP, NGINX, OURS, Peer, Place, Running, free_port, running, strange

CALM, ALL, MULTITUDE = "calm", "all", "multitude"
# Who else is attacked in this way, for comparison.
BESIDE = dict.fromkeys(
    (
        "pipelined-get",
        "pipelined-404",
        "ranges",
        "slow-heads",
        "slow-readers",
        "slow-bodies",
        "long-heads",
        "idle",
        "connect-storm",
    ),
    NGINX,
)
RESULTS = ROOT / "bench" / "faults.md"
HEAD = """# Attacks

`python3 -m bench.faults` has made this file.
"""
SETTLED = 15.0  # seconds after an attack for what is left of it to be closed: longer than a head or a lingering close may take
OLD = 1_000_000_000  # when the files were last changed: long ago
LONG = 0.02  # seconds of processor time that no wake may take
SLOW = 0.25  # seconds that the 99th percentile of an honest client may take
MARGIN = 30.0  # seconds for a client's process to say something, beyond the time that it was given
SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")  # of Prometheus' text form

_fork = multiprocessing.get_context("fork")


class Honest(NamedTuple):
    """What an honest client met. answered: exchanges that came to a good end; failed: those that did not; renewed: connections
    that were closed while idle; the rest in seconds, with a failure as infinitely long; None: there was no exchange."""

    answered: int
    failed: int
    renewed: int
    median: float | None
    p99: float | None
    longest: float | None

    @classmethod
    def of(cls, record: Record) -> Honest:
        failed = record.failed.total()
        times = record.seconds + [math.inf] * failed  # or to fail would make the others' times look good
        figures = [percentile(times, percent) for percent in (50, 99, 100)]
        return cls(len(record.seconds), failed, record.renewed, *figures)

    def worst(self, other: Honest) -> Honest:
        pairs = zip(self[1:], other[1:], strict=True)
        return Honest(min(self.answered, other.answered), *(greater(*pair) for pair in pairs))  # type: ignore[arg-type]


class Wakes(NamedTuple):
    """Of the worker's loop, as the server tells it; None: it does not. total: their number; long: how many took more than LONG
    of processor time; cpu, wall: the longest, seconds; long_wall: how many took more than LONG by the clock."""

    total: float | None = None
    long: float | None = None
    cpu: float | None = None
    long_wall: float | None = None
    wall: float | None = None

    def worst(self, other: Wakes) -> Wakes:
        return Wakes(*(greater(*pair) for pair in zip(self, other, strict=True)))


class Holdings(NamedTuple):
    """What the workers held before an attack, at its end, and once it is over. memory: resident, bytes; sockets: open ones."""

    memory: tuple[int, int, int] = (0, 0, 0)
    sockets: tuple[int, int, int] = (0, 0, 0)

    @property
    def left(self) -> int:
        """Sockets that were not there before."""
        return max(0, self.sockets[2] - self.sockets[0])

    @property
    def per_connection(self) -> float:
        """Bytes of memory for each socket of the attack."""
        return (self.memory[1] - self.memory[0]) / max(1, self.sockets[1] - self.sockets[0])

    def worst(self, other: Holdings) -> Holdings:
        return Holdings(*(tuple(map(max, *pair)) for pair in zip(self, other, strict=True)))  # type: ignore[arg-type]


@dataclass
class Outcome:
    """Of an attack. clients: the honest ones, by name; ended: workers that are no longer there; strange: lines on stderr that
    do not belong there; busy: the share of its processor that the server took; why: failures by their reason; load: the
    machine's load average meanwhile; note: why there is nothing else."""

    clients: dict[str, Honest] = field(default_factory=dict)
    ended: int = 0
    strange: list[str] = field(default_factory=list)
    wakes: Wakes = field(default_factory=Wakes)
    busy: float = 0.0
    done: Done = field(default_factory=Done)
    why: dict[str, int] = field(default_factory=dict)
    holdings: Holdings = field(default_factory=Holdings)
    load: float = 0.0
    note: str = ""

    def worst(self, other: Outcome) -> Outcome:
        """Each figure as bad as it is in one of both."""
        if not (self.clients and other.clients):
            return self if self.note else other
        return Outcome(
            {name: row.worst(other.clients[name]) for name, row in self.clients.items()},
            max(self.ended, other.ended),
            max(self.strange, other.strange, key=len),
            self.wakes.worst(other.wakes),
            max(self.busy, other.busy),
            Done(*map(min, self.done, other.done)),  # the least that it has stood
            {reason: max(self.why.get(reason, 0), other.why.get(reason, 0)) for reason in self.why | other.why},
            self.holdings.worst(other.holdings),
            max(self.load, other.load),
            self.note or other.note,
        )


def greater(one: float | None, other: float | None) -> float | None:
    """The greater; a figure that is missing once is missing."""
    return None if one is None or other is None else max(one, other)


def main() -> int:
    """The exit status: 1 if a bar was missed."""
    said = parse()
    forget_python_settings()
    raise_descriptor_limit()
    where = setting(said.rounds, said.seconds)
    processor, others = divide(sorted(os.sched_getaffinity(0)))
    os.sched_setaffinity(0, others)  # and so all that it starts, but for the server
    print("\n".join(f"- {name}: {value}" for name, value in where.items()))
    print(f"- the server on processor {processor}, all clients on {', '.join(map(str, sorted(others)))}\n", flush=True)
    found: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        base.chmod(0o755)  # nginx's worker is another user
        fill(base / "www")
        for name in said.kinds or names():
            for title, server in turns(name):
                for _ in range(said.rounds):
                    outcome = stand(name, server, base, processor, said.clients, said.seconds)
                    found[title] = found[title].worst(outcome) if title in found else outcome
                print(f"{title}: {summary(title, found[title])}", file=sys.stderr, flush=True)
    verdicts = [verdict for title, outcome in found.items() if title in names() for verdict in judge(title, outcome)]
    text = document(found, verdicts, said.rounds)
    print(text)
    if not said.kinds:
        RESULTS.write_text("\n".join((HEAD, *(f"- {name}: {value}" for name, value in where.items()), "", text)))
    return 0 if all(verdict.reached for verdict in verdicts) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python3 -m bench.faults", description="honest clients beside hostile ones")
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", help=f"some of: {', '.join(names())} (default: all of them in turn)"
    )
    parser.add_argument("--clients", type=int, help=f"hostile ones (default: {CLIENTS}, for all at once {ALL_CLIENTS})")
    parser.add_argument("--seconds", type=int, default=8, help="of each attack")
    parser.add_argument("--rounds", type=int, default=1, help="of each attack; the figures are those of the worst")
    said = parser.parse_args()
    if unknown := set(said.kinds) - set(names()):
        parser.error(f"no such kind: {', '.join(unknown)}")
    if said.seconds < 1 or said.rounds < 1 or (said.clients is not None and said.clients < 1):
        parser.error("there must be one at least")
    return said


def names() -> list[str]:
    return [CALM, *hostile.kinds(), ALL, MULTITUDE]


def turns(name: str) -> list[tuple[str, str]]:
    """Who is attacked in this way, and under which title. Bars are for the first."""
    beside = BESIDE.get(name)
    return [(name, OURS), *([(f"{name}, {beside}", beside)] if beside else [])]


def divide(processors: Sequence[int]) -> tuple[int, set[int]]:
    """The server's, and the clients'; the same if there is only one."""
    return processors[0], set(processors[1:] or processors)


def fill(www: Path) -> None:
    """Make the site."""
    for folder in ("dir", "few", "many"):
        (www / folder).mkdir(parents=True)
    files = {"f.txt": honest.CONTENT, "empty": b"", "large": os.urandom(LARGE), "packed.txt": b"x" * 1000}
    files |= {"packed.txt.gz": b"x" * 100, "dir/index.html": b"<p>index", "dir/g.txt": b"g", "few/one": b""}
    files |= {f"many/{number:04}": b"" for number in range(LISTED)}
    for name, content in files.items():
        (www / name).write_bytes(content)
        os.utime(www / name, (OLD, OLD))
    make_certificate(www.parent)


# One attack


def crowd_of(name: str, clients: int | None) -> list[Kind]:
    """The hostile clients of an attack."""
    if name == CALM:
        return []
    if name == MULTITUDE:
        return hostile.multitude()
    if name == ALL:
        return hostile.together(list(hostile.kinds()), clients or ALL_CLIENTS)
    kind = hostile.kinds()[name]
    return [kind] * (kind.clients or clients or CLIENTS)


def stand(name: str, server: str, base: Path, processor: int, clients: int | None, seconds: int) -> Outcome:
    """Let a new server stand an attack."""
    found = Outcome()
    config = hostile.kinds()[name].config if name in hostile.kinds() else ""
    options: list[object] = []
    if name == MULTITUDE:
        config, options = hostile.MULTITUDE_CONFIG, ["--workers", 2]
    telnet, https = free_port(), free_port()
    peer = HTTP[server] if server != OURS else Peer(lambda place: [*ours(place, telnet, config, https), *options])
    with noting(found), running(server, held(peer, processor), base) as process:
        ports = {"http": process.place.port} | ({"telnet": telnet, "https": https} if server == OURS else {})
        measure(found, process, ports, crowd_of(name, clients), seconds)
        found.strange = strange((process.place.own / "output").read_text(errors="replace")) if server == OURS else []
    return found


def ours(place: Place, telnet: int, config: str, https: int = 0) -> list[object]:
    path = place.own / "rawservers.toml"
    path.write_text(f'[[listen]]\nservice = "status"\naddress = "unix:{place.own}/status"\n\n{config}')
    services = ["--listing", "--http", place.port, "--telnet", telnet]
    if https:
        services += ["--https", https, "--certificate", place.certificate, "--key", place.key]
    return [interpreter(), "-m", "rawservers", place.www, *services, "--access-log", place.own / "access", "-c", path]


def held(peer: Peer, processor: int) -> Peer:
    """The same, held to one processor, with all that it forks."""

    def command(place: Place) -> list[object]:
        return ["taskset", "-c", processor, *peer.command(place)]

    return peer._replace(command=command)


def measure(found: Outcome, server: Running, ports: dict[str, int], crowd: Sequence[Kind], seconds: int) -> None:
    """Attack the server, with honest clients beside."""
    workers = set(tree(server.pid)) - {server.pid}
    calling = [name for name, client in honest.CLIENTS.items() if client.service in ports]
    with contextlib.ExitStack() as stack:

        def start(target: Callable[..., None], *said: object) -> Connection:
            """The pipe to a new process, which is ready."""
            pipe = stack.enter_context(apart(target, *said))
            hear(pipe, MARGIN)
            return pipe

        def look() -> tuple[int, int]:
            return sum(map(resident, tree(server.pid))), sum(map(sockets, tree(server.pid)))

        friends = {name: start(honest.ask, name, ports[honest.CLIENTS[name].service], seconds) for name in calling}
        enemies = start(hostile.attack, crowd, ports, seconds + PATIENCE) if crowd else None
        first = look()
        before, begin = processor_time(server.pid), time.monotonic()
        if enemies:
            enemies.send("begin")
        for pipe in friends.values():
            pipe.send("begin")
        records: dict[str, Record] = {name: hear(pipe, seconds + PATIENCE + MARGIN) for name, pipe in friends.items()}
        second = look()
        found.load = os.getloadavg()[0]
        found.busy = (processor_time(server.pid) - before) / (time.monotonic() - begin)
        if enemies:
            enemies.send("end")
            found.done = hear(enemies, MARGIN)
    until = time.monotonic() + SETTLED
    while (third := look())[1] > first[1] and time.monotonic() < until:
        time.sleep(0.1)
    found.holdings = Holdings(*zip(first, second, third, strict=True))  # type: ignore[arg-type]
    found.ended = len(workers - set(tree(server.pid)))
    found.clients = {name: Honest.of(record) for name, record in records.items()}
    for record in records.values():
        for reason, count in record.failed.items():
            found.why[reason] = found.why.get(reason, 0) + count
    if server.name == OURS:
        time.sleep(1.2)  # a worker notes its figures once a second
        found.wakes = wakes(ask_status(server.place.own / "status"))


@contextlib.contextmanager
def apart(target: Callable[..., None], *said: object) -> Iterator[Connection]:
    """A process of its own that is given a pipe to us as well, and ended afterwards."""
    ours, theirs = _fork.Pipe()
    process: BaseProcess = _fork.Process(target=target, args=(*said, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.join(1)
        process.kill()
        process.join()
        ours.close()


def hear(pipe: Connection, seconds: float) -> Any:
    """What the process at the other end says next. Failed: nothing."""
    with contextlib.suppress(EOFError):
        if pipe.poll(seconds):
            return pipe.recv()
    raise Failed("a client's process has failed")


def processor_time(pid: int) -> float:
    """Seconds, of the tree of `pid`, and of those in it that have ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return cpu_seconds(pid) + (int(fields[13]) + int(fields[14])) * TICK
    return 0.0


# What the server says of its wakes


def ask_status(path: Path) -> str:
    """In Prometheus' text form; empty if it does not answer."""
    command = [interpreter(), "-m", "rawservers", "--status", f"unix:{path}", "--format", "prometheus"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=MARGIN, check=False).stdout
    return ""


def samples(text: str) -> dict[str, float]:
    """By name, and for buckets by name and bound; summed over all other labels, but for what ends in _max_seconds."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        match = SAMPLE.fullmatch(line)
        if match is None:
            continue
        name, labels, number = match[1], match[2] or "", float(match[3])
        if bound := re.search(r'\ble="([^"]+)"', labels):
            name += f" {float(bound[1]):g}"
        found[name] = max(found.get(name, 0.0), number) if name.endswith("_max_seconds") else found.get(name, 0.0) + number
    return found


def wakes(text: str) -> Wakes:
    """What is told of the wakes in the status."""
    found = samples(text)

    def over(name: str) -> float | None:
        count, within = found.get(f"{name}_seconds_count"), found.get(f"{name}_seconds_bucket {LONG:g}")
        return None if count is None or within is None else count - within

    cpu, wall = "rawservers_wake_cpu", "rawservers_wake_duration"
    longest_cpu, longest_wall = found.get(f"{cpu}_max_seconds"), found.get(f"{wall}_max_seconds")
    return Wakes(found.get(f"{cpu}_seconds_count"), over(cpu), longest_cpu, over(wall), longest_wall)


# Verdicts and tables


def judge(title: str, found: Outcome) -> Iterator[Verdict]:
    """On each bar. What was not measured does not reach it."""
    for name in honest.CLIENTS:
        row = found.clients.get(name)
        failed = None if row is None else f"{row.failed:,}"
        yield Verdict(f"{title}: failures", name, failed, "0", row is not None and row.failed == 0)
        p99 = None if row is None else row.p99
        said = None if p99 is None else f"{milliseconds(p99)} ms".replace("never ms", "never")
        yield Verdict(f"{title}: p99", name, said, f"under {SLOW * 1000:g} ms", p99 is not None and p99 < SLOW)
    long = found.wakes.long
    bound = f"wakes over {LONG * 1000:g} ms of CPU"
    yield Verdict(f"{title}: {bound}", "", number(long), "0", long == 0)
    measured = bool(found.clients)
    ended, lines = (f"{found.ended:,}", f"{len(found.strange):,}") if measured else (None, None)
    left = f"{found.holdings.left:,}" if found.clients else None
    yield Verdict(f"{title}: sockets left", "", left, "0", left == "0")
    yield Verdict(f"{title}: workers ended", "", ended, "0", measured and not found.ended)
    yield Verdict(f"{title}: strange lines on stderr", "", lines, "0", measured and not found.strange)


def number(figure: float | None, scale: float = 1.0, digits: int = 0) -> str | None:
    return None if figure is None else f"{figure * scale:,.{digits}f}"


def milliseconds(figure: float | None) -> str:
    return "never" if figure == math.inf else number(figure, 1000, 1) or "-"


def summary(title: str, found: Outcome) -> str:
    """For whoever waits for the rest, in a line."""
    if title not in names():
        return found.note or "done"
    missed = [verdict for verdict in judge(title, found) if not verdict.reached]
    return found.note or f"{len(missed)} bars missed" + (", the worker was ended" if found.ended else "")


def document(found: dict[str, Outcome], verdicts: Sequence[Verdict], rounds: int) -> str:
    worst = f"Each figure is that of the worst of {rounds} rounds.\n\n" if rounds > 1 else "Figures of one round.\n\n"
    rows: list[tuple[str, ...]]
    header: tuple[str, ...]
    header = ("honest clients", "answered", "failed", "closed while idle", "median ms", "p99 ms", "longest ms")
    rows = [client_row(title, name, row) for title, outcome in found.items() for name, row in outcome.clients.items()]
    parts = [f"## Honest clients\n\n{worst}{table(header, rows)}\n"]
    header = (
        "server",
        "worker",
        "strange lines",
        "wakes",
        "over 20 ms CPU",
        "longest CPU ms",
        "over 20 ms",
        "longest ms",
        "busy",
    )
    rows = [server_row(title, outcome) for title, outcome in found.items()]
    parts.append(f"## Server\n\n{table(header, rows)}\n")
    header = ("held", "sockets before", "meanwhile", "after", "memory before MiB", "meanwhile", "after", "load average")
    rows = [
        (
            title,
            *(f"{n:,}" for n in outcome.holdings.sockets),
            *(f"{n / MIB:,.1f}" for n in outcome.holdings.memory),
            f"{outcome.load:.1f}",
        )
        for title, outcome in found.items()
    ]
    parts.append(f"## What it held\n\n{table(header, rows)}\n")
    header = ("hostile clients", "sent MB", "received MB", "connections")
    rows = [
        (title, *(f"{n / 1e6:,.2f}" for n in outcome.done[:2]), f"{outcome.done.connected:,}")
        for title, outcome in found.items()
    ]
    parts.append(f"## Hostile clients\n\n{table(header, rows)}\n")
    if said := [line for title, outcome in found.items() for line in remarks(title, outcome)]:
        parts.append("## Remarks\n\n" + "\n".join(said) + "\n")
    missed = [(v.what, v.against, v.figure or "-", v.bar, v.said) for v in verdicts if not v.reached]
    parts.append(f"## Bars\n\n{len(verdicts) - len(missed)} of {len(verdicts)} are reached.\n")
    if missed:
        parts.append(table(("missed", "client", "found", "bar", "reached"), missed) + "\n")
    return "\n".join(parts)


def client_row(title: str, name: str, row: Honest) -> tuple[str, ...]:
    times = map(milliseconds, (row.median, row.p99, row.longest))
    return (f"{title}: {name}", f"{row.answered:,}", f"{row.failed:,}", f"{row.renewed:,}", *times)


def server_row(title: str, found: Outcome) -> tuple[str, ...]:
    if not found.clients:
        return (title, *["-"] * 8)
    seen = found.wakes
    figures = (number(seen.total), number(seen.long), milliseconds(seen.cpu), number(seen.long_wall), milliseconds(seen.wall))
    worker = "ended" if found.ended else "the same"
    return (title, worker, f"{len(found.strange):,}", *(figure or "-" for figure in figures), f"{found.busy:.0%}")


def remarks(title: str, found: Outcome) -> Iterator[str]:
    """Why something failed."""
    if found.note:
        yield f"- {title}: {found.note}"
    for reason, count in found.why.items():
        yield f"- {title}: {reason}, {count:,} times"
    if title == MULTITUDE and found.clients:
        yield f"- {title}: {found.holdings.per_connection / 1024:.1f} KiB of memory for each connection"
    if found.strange:
        yield f"- {title}: on stderr: {found.strange[0][:200]}"


if __name__ == "__main__":
    sys.exit(main())
