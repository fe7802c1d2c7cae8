"""This checkout against another one: python3 -m bench --against TREE [--rounds N] [--seconds S] [WORK]...

Both servers of a work, each run by the code of its own checkout on the Python that runs this, are up all the time and take
turns: one, the other; the other, the one; and so on. So a machine that becomes slower or faster meanwhile slows or speeds both.
Each round gives a ratio, this checkout to the other. Printed are the median of the ratios and its confidence interval, which
tells a difference from noise.
"""

from __future__ import annotations

import bisect
import itertools
import math
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.compare import Row, Rows, compare, prepare
from bench.install import COMMANDS, forget_python_settings, install_commands
from bench.process import raise_descriptor_limit
from bench.report import align, rate, table
from bench.servers import OURS
from bench.works import WORKS, Bar, Work, fill

OTHER = "the other"
DEFAULT = ("kept", "each", "header", "zipf", "echo", "echo16")  # works
ROUNDS, SECONDS = 20, 1
MIN_ROUNDS = 6  # of fewer not even the least and the most ratio make an interval
CONFIDENCE = 0.95
HEADER = (
    "work  ", "this/other", "95 % interval ", "CPU this/other", "95 % interval ", "this, per s", "other, per s",
    "verdict      ",
)  # fmt: skip


class Interval(NamedTuple):
    """A median, and the bounds between which the true one lies with a probability of `CONFIDENCE` at least."""

    median: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Of a throughput, divided by another's."""
        return "slower" if self.high < 1 else "faster" if self.low > 1 else "no difference"


def interval(figures: Sequence[float]) -> Interval:
    """The median with its confidence interval, by order statistics.

    How many of the figures are below the true median is binomial with p = 1/2, whatever their distribution is: of 20, the sixth
    from either end is a bound. Raises ValueError for fewer than `MIN_ROUNDS`.
    """
    ordered, count = sorted(figures), len(figures)
    at_most = itertools.accumulate(math.comb(count, below) / 2**count for below in range(count))
    rank = bisect.bisect_right(list(at_most), (1 - CONFIDENCE) / 2)
    if rank == 0:
        raise ValueError(f"{count} figures are too few for an interval")
    return Interval(statistics.median(ordered), ordered[rank - 1], ordered[-rank])


def ratios(rows: Rows, of: str) -> Interval:
    """Of the rates, or of "cpu": this checkout's by the other's, round by round."""
    ours, others = (rows[name].cpu if of == "cpu" else rows[name].rates for name in (OURS, OTHER))
    return interval([our / other for our, other in zip(ours, others, strict=True)])


def trouble(row: Row) -> str:
    """Why a server's figures are none; empty if they are."""
    if row.note or row.failed:
        return row.note or f"{row.failed:,} requests failed"
    return "" if all(row.rates) and all(row.cpu) else "a round without an answer"


def judge(name: str, rows: Rows) -> tuple[tuple[str, ...], bool]:
    """A line of the table, and whether this checkout did it all, and is not slower."""
    if found := "; ".join(f"{who}: {why}" for who, row in rows.items() if (why := trouble(row))):
        return (name, *[""] * (len(HEADER) - 2), found), False
    speed, cpu = ratios(rows, "rate"), ratios(rows, "cpu")
    figures = (text for each in (speed, cpu) for text in (f"{each.median:.3f}", f"{each.low:.3f} to {each.high:.3f}"))
    medians = (rate(statistics.median(rows[who].rates), WORKS[name].unit) for who in (OURS, OTHER))
    return (name, *figures, *medians, speed.verdict), speed.verdict != "slower"


def between(work: Work, tree: Path) -> Work:
    """The same work for two: this checkout, and the one in `tree`."""
    ours = work.peers[work.bars[0].subject]
    return work._replace(peers={OURS: ours, OTHER: ours._replace(cwd=tree)}, bars=(Bar(OTHER, 1.0),))


def run(tree: Path, works: Sequence[str], rounds: int, seconds: int) -> bool:
    """Do the works (default: `DEFAULT`) and print what each gave; whether this checkout is not slower in any."""
    forget_python_settings()
    os.environ["PYTHONHASHSEED"] = "0"  # or one server may be the luckier one all the time
    install_commands({name: COMMANDS[name] for name in ("wrk", "gcc")})
    raise_descriptor_limit()
    print(f"this checkout against {tree}: {rounds} rounds of {seconds} s each\n\n{table(HEADER, ())}", flush=True)
    well = True
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        fill(base / "www")
        prepare(base)
        for name in works or DEFAULT:
            line, passed = judge(name, compare(between(WORKS[name], tree), base, rounds, seconds))
            print(align(line, [len(title) for title in HEADER]), flush=True)
            well = well and passed
    return well
