"""How the cost grows: python3 -m bench growth [--rounds N] [--seconds S]

Requests per second, processor time per request and memory against what there is more and more of, beside nginx. No cost may
grow faster than what causes it: the exponent, the slope in a logarithmic diagram, is at most one, with some room for noise.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.compare import Row, Rows, compare
from bench.report import MIB, Verdict, median, rate, table
from bench.servers import NGINX, OURS, Peer, Place, nginx, ours_http, ours_roomy
from bench.works import OLD, Bar, Work

BOUND = 1.2  # of an exponent
GROWN = 1.25  # times the least; what is below it is noise rather than growth
MOST_FILES = 100_000
PER_FOLDER = 1000
REQUESTS = 131_072  # in a sequence before it begins again
HEAD = """# How the cost grows

`python3 -m bench growth` has made this file.

{where}

![Requests, processor time and memory](growth.svg)

Medians of the rounds; one worker process each, access logs on, `wrk` with 64 connections unless another number is the subject.
It makes its connections within the measurement, which shows where they are thousands.
CPU is in microseconds per request. Memory is PSS after the warm-up. The exponent is the slope of CPU, and of memory, in a
logarithmic diagram, above the least figure: 0 does not grow, 1 grows in proportion. Growth by less than a quarter is none.
"""
COSTS: dict[str, Callable[[Row], float]] = {
    "CPU": lambda row: 1000 * (median(row, "cpu") or 0.0),
    "memory": lambda row: row.pss / MIB,
}


class Sweep(NamedTuple):
    """amounts: of `unit`, which there are more and more of; work: for an amount, once base/sequence or the like is there;
    judged: whether the exponents have a bound: more workers are no cost; alone: one server after another, since the client has
    not the descriptors for both; times: as long a measurement, where the client takes a second to connect."""

    title: str
    unit: str
    amounts: tuple[int, ...]
    work: Callable[[int, Path], Work]
    judged: bool = True
    alone: bool = False
    times: int = 1


Points = dict[int, Rows]


# The works


def both(**fields: Any) -> Work:
    """For this server and nginx, with nothing but what is said."""
    peers = {OURS: Peer(ours_roomy), NGINX: Peer(nginx, "nginx")}
    return Work("", bars=(Bar(NGINX, 1.0),))._replace(**{"peers": peers} | fields)


def idle(count: int, base: Path) -> Work:
    return both(peers={OURS: Peer(ours_roomy, idle=count), NGINX: Peer(nginx, "nginx", count)})


def busy(count: int, base: Path) -> Work:
    return both(connections=count)


def files(count: int, base: Path) -> Work:
    """All are asked for as often."""
    (base / "sequence").write_text("".join(f"{path(number * count // REQUESTS)}\n" for number in shuffled(REQUESTS)))
    return both(path=path(0), script="sequence.lua", warm=4 if count > PER_FOLDER else 1)


def entries(count: int, base: Path) -> Work:
    listed = {
        OURS: Peer(lambda place: [*ours_roomy(place), "--listing"]),
        NGINX: Peer(lambda place: nginx(place, "autoindex on;"), "nginx"),
    }
    return both(path=f"/{count}-entries/", peers=listed, connections=4)


def head(size: int, base: Path) -> Work:
    return both(headers=("X-Filler: " + "x" * size,))


def different_head(size: int, base: Path) -> Work:
    return head(size, base)._replace(script="differing.lua")


def pipelined(count: int, base: Path) -> Work:
    return both(script="pipelined.lua", argument=str(count))


def workers(count: int, base: Path) -> Work:
    def ours(place: Place) -> list[object]:
        return [*ours_http(place), "--workers", count]

    return both(peers={OURS: Peer(ours), NGINX: Peer(lambda place: nginx(place, workers=count), "nginx")})


SWEEPS = {
    "idle": Sweep("Idle connections beside 64 busy ones", "idle connections", (1, 10, 100, 1000, 10_000), idle, alone=True),
    "busy": Sweep("Busy connections", "busy connections", (1, 10, 100, 1000, 10_000), busy, times=2),
    "files": Sweep("Files of 1 KiB, asked for in turn", "files", (1, 10, 100, 1000, 10_000, MOST_FILES), files),
    "entries": Sweep("Entries of a listed folder", "entries", (1, 10, 100, 1000, 10_000), entries),
    "head": Sweep("Bytes of a head, always the same", "bytes more", (64, 1024, 7680), head),
    "different": Sweep("Bytes of a head that differs", "bytes more", (64, 1024, 7680), different_head),
    "pipelined": Sweep("Requests sent at once (pipelined)", "requests at once", (1, 4, 16, 64), pipelined),
    "workers": Sweep("Worker processes", "workers", (1, 2, 4), workers, judged=False),
}


def path(number: int) -> str:
    return f"/set/{number // PER_FOLDER}/{number % PER_FOLDER}"


def shuffled(count: int) -> list[int]:
    """All numbers below `count`, each once, in an order that jumps but is always the same."""
    return [number * 40_503 % count for number in range(count)]  # odd, and `count` is a power of two


def fill(www: Path) -> None:
    """Make the files and folders that the sweeps ask for."""
    (www / "set").mkdir(parents=True)
    (www / "1k").write_bytes(os.urandom(1 << 10))
    for number in range(MOST_FILES):
        if number % PER_FOLDER == 0:
            (www / path(number)[1:]).parent.mkdir()
        (www / path(number)[1:]).write_bytes(b"x" * 1024)
    for count in SWEEPS["entries"].amounts:
        (www / f"{count}-entries").mkdir()
        for number in range(count):
            (www / f"{count}-entries" / f"file-{number:05}").touch()
    for found in www.rglob("*"):
        os.utime(found, (OLD, OLD))


def run(sweep: Sweep, base: Path, rounds: int, seconds: int) -> Points:
    """Let all do the work at each amount; base/www is what `fill` made."""
    points: Points = {}
    for amount in sweep.amounts:
        work = sweep.work(amount, base)
        groups = [{name: peer} for name, peer in work.peers.items()] if sweep.alone else [work.peers]
        points[amount] = {}
        for peers in groups:
            points[amount] |= compare(work._replace(peers=peers), base, rounds, seconds * sweep.times)
    return points


# What is made of it


def exponent(amounts: Sequence[float], costs: Sequence[float]) -> float:
    """Of the growth above the least cost, from there on: the slope of the logarithms, by least squares.

    0 if nothing is `GROWN` times the least. The fixed part is subtracted, or it would hide what is worse than linear. If only
    one cost has grown, it is the least slope that there can be: the one before it may have grown by as much as is not seen.
    """
    least = min(range(len(costs)), key=costs.__getitem__)
    above = [(amount - amounts[least], cost - costs[least]) for amount, cost in zip(amounts, costs, strict=True)][least + 1 :]
    unseen = (GROWN - 1) * costs[least]
    grown = [(math.log(amount), math.log(cost)) for amount, cost in above if cost >= unseen]
    if len(grown) == 1:
        before = [amount for amount, cost in above if cost < unseen and math.log(amount) < grown[0][0]]
        if not before:
            return math.log(max(costs[least:]) / costs[least], amounts[least + 1] / amounts[least])
        grown.append((math.log(before[-1]), math.log(unseen)))
    return statistics.linear_regression(*zip(*grown, strict=True)).slope if grown else 0.0


def curve(points: Points, name: str, cost: Callable[[Row], float | None]) -> tuple[list[int], list[float]]:
    """The amounts at which this server answered, and a figure of each."""
    found = {amount: cost(rows[name]) or 0.0 for amount, rows in points.items() if name in rows and median(rows[name])}
    return list(found), list(found.values())


def verdicts(sweep: Sweep, points: Points) -> list[Verdict]:
    """On the exponent of each cost of ours."""
    return [judge(sweep, points, what) for what in COSTS] if sweep.judged else []


def judge(sweep: Sweep, points: Points, what: str) -> Verdict:
    """What failed at one amount has no exponent."""
    amounts, costs = curve(points, OURS, COSTS[what])
    whole = len(amounts) == len(sweep.amounts) and not any(rows[OURS].note or rows[OURS].failed for rows in points.values())
    found = exponent(amounts, costs) if len(amounts) > 1 and all(costs) else None
    figure = None if found is None else f"{found:.2f}{'' if whole else ', with failures'}"
    reached = found is not None and whole and found <= BOUND
    return Verdict(f"{what}: {sweep.title}", "", figure, f"at most {BOUND:g}", reached)


def section(sweep: Sweep, points: Points) -> str:
    header = (sweep.unit, "requests/s", "nginx", "ratio", "CPU", "nginx", "memory MiB", "nginx", "failed")
    return f"## {sweep.title}\n\n{table(header, [line(amount, rows) for amount, rows in points.items()])}\n"


def line(amount: int, rows: Rows) -> tuple[str, ...]:
    pair = rows[OURS], rows[NGINX]
    notes = "; ".join(f"{name}: {row.note}" for name, row in rows.items() if row.note)
    rates = [median(row) for row in pair]
    figures = [
        *("" if found is None else rate(found, "requests/s") for found in rates),
        f"{rates[0] / rates[1]:.2f}" if rates[0] and rates[1] else "",
        *(f"{COSTS['CPU'](row):.1f}" if row.cpu else "" for row in pair),
        *(f"{COSTS['memory'](row):.1f}" if row.pss else "" for row in pair),
        f"{rows[OURS].failed:,}",
    ]
    return (f"{amount:,}{f' ({notes})' * bool(notes)}", *figures)


def document(where: str, found: Mapping[str, Points], judged: Sequence[Verdict]) -> str:
    """bench/growth.md."""
    rows = [(verdict.what, verdict.figure or "", verdict.bar, verdict.said) for verdict in judged]
    bars = f"## Exponents\n\n{table(('', 'found', 'bar', 'reached'), rows)}\n"
    return "\n".join([HEAD.format(where=where), bars, *(section(SWEEPS[name], points) for name, points in found.items())])
