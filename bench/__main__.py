"""rawservers and its peers, side by side: python3 -m bench [--rounds N] [--seconds S] [WORK]...

The machines this runs on are shared and noisy, so a figure alone says little. What counts are medians over several rounds, in
each of which every server has its turn, and their ratios. What is needed is installed: system packages with apt where this
runs as root, Python packages into .venv-bench. Without any WORK it does them all and puts the results into bench/results.md,
bench/results.json and bench/results.svg; `chart` draws those anew from the .json, which keeps the last run on each kind of
processor. `latency` and `growth` are runs of their own, with files of their own: `latency.py`, `growth.py`. With --python PATH
it is this server under several Pythons: `pythons.py`. With --against TREE it is this checkout and another one that are
compared, and nothing is written: `against.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import against, chart, growth, latency, pythons
from bench.compare import compare, prepare
from bench.footprint import weigh
from bench.fresh import watch
from bench.install import ROOT, enter_environment
from bench.process import raise_descriptor_limit
from bench.report import (
    Results,
    bars_section,
    document,
    footprint_section,
    freshness_section,
    listed,
    section,
    setting,
    verdicts,
)
from bench.works import WORKS, fill

FOLDER = ROOT / "bench"
FILE = FOLDER / "results"
ALL = (*WORKS, "memory", "fresh")
ALONE = ("chart", "latency", "growth")  # what is done by itself
ROUNDS = {"latency": 5, "growth": 3}


def main() -> int:
    """The exit status: 1 if a bar was not reached, or the other checkout is faster."""
    said = parse()
    if said.against:
        return 0 if against.run(said.against, said.works, said.rounds, said.seconds) else 1
    enter_environment()
    if said.works == ["latency"]:
        return measure_latency(said.rounds, said.seconds)
    if said.works == ["growth"]:
        return measure_growth(said.rounds, said.seconds)
    if said.python:
        return compare_pythons(said.python, said.works, said.rounds, said.seconds)
    runs = kept_runs()
    if said.works != ["chart"]:
        runs = replaced(runs, do(said.works or list(ALL), said.rounds, said.seconds))
        print(bars_section(runs[0]))
    if not said.works or said.works == ["chart"]:
        write(runs)
    return 0 if all(verdict.reached for verdict in verdicts(runs[0])) else 1


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python3 -m bench", description="rawservers and its peers, side by side")
    add = parser.add_argument
    default = f"default: all; with --against: {' '.join(against.DEFAULT)}; with --python: {' '.join(pythons.DEFAULT)}"
    add("works", nargs="*", metavar="WORK", help=f"some of: {', '.join(ALL)} ({default}); or one of: {', '.join(ALONE)}")
    add("--rounds", type=int, help=f"default: 5; of growth: {ROUNDS['growth']}; with --against: {against.ROUNDS}")
    add("--seconds", type=int, help=f"of each measurement (default: 2; of growth, and with --against: {against.SECONDS})")
    add("--against", type=checkout, metavar="TREE", help="compare this checkout with another one, in paired rounds")
    add("--python", action="append", metavar="PATH", help="compare this server under these Pythons, once for each of them")
    said = parser.parse_args(arguments)
    rounds, seconds, known = (against.ROUNDS, against.SECONDS, set(WORKS)) if said.against else (5, 2, set(ALL))
    if alone := len(said.works) == 1 and said.works[0] in ALONE and not (said.against or said.python):
        rounds, seconds = ROUNDS.get(said.works[0], rounds), 1 if said.works == ["growth"] else seconds
    said.rounds, said.seconds = said.rounds or rounds, said.seconds or seconds
    if (unknown := set(said.works) - (set(WORKS) if said.python else known)) and not alone:
        parser.error(f"no such work: {', '.join(unknown)}")
    if said.against and said.rounds < against.MIN_ROUNDS:
        parser.error(f"--against takes {against.MIN_ROUNDS} rounds at least, or there is no interval")
    return said


def checkout(text: str) -> Path:
    """A type of argument: the path of a checkout of this project."""
    path = Path(text).resolve()
    if not (path / "rawservers" / "__main__.py").is_file():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of this project: there is no rawservers/__main__.py in it")
    return path


@contextlib.contextmanager
def place(fill: Callable[[Path], None] = fill) -> Iterator[Path]:
    """A folder with what is served and what the clients need."""
    raise_descriptor_limit()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        base.chmod(0o755)  # nginx's worker is another user
        fill(base / "www")
        prepare(base)
        yield base


def do(works: list[str], rounds: int, seconds: int) -> Results:
    """Do `works`, and print what each gave."""
    results = Results(setting(rounds, seconds))
    with place() as base:
        for name in works:
            if name == "memory":
                results.footprint = weigh(base)
                print(footprint_section(results.footprint), flush=True)
            elif name == "fresh":
                results.freshness = watch(base)
                print(freshness_section(results.freshness), flush=True)
            else:
                results.works[name] = compare(WORKS[name], base, rounds, seconds)
                print(section(WORKS[name], results.works[name]), flush=True)
    return results


def kept_runs() -> list[Results]:
    """The last run on each kind of processor, the newest first."""
    return [Results.from_data(data) for data in json.loads(FILE.with_suffix(".json").read_text())]


def replaced(runs: list[Results], new: Results) -> list[Results]:
    """`new`, and the runs on other kinds of processor."""
    return [new, *(run for run in runs if run.processor != new.processor)]


def write(runs: list[Results]) -> None:
    FILE.with_suffix(".json").write_text(json.dumps([run.to_data() for run in runs], indent=1) + "\n")
    FILE.with_suffix(".md").write_text(document(runs[0], runs[1:]))
    with drawing():
        chart.draw(runs[0], FILE.with_suffix(".svg"))


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        print(f"no chart: {error}")


def measure_latency(rounds: int, seconds: int) -> int:
    sections = []
    with place() as base:
        for pace in latency.PACES:
            sections.append(latency.section(pace, latency.measure(pace, base, rounds, seconds)))
            print(sections[-1], flush=True)
    (FOLDER / "latency.md").write_text(latency.document(listed(setting(rounds, seconds)), sections))
    return 0


def measure_growth(rounds: int, seconds: int) -> int:
    found = {}
    with place(growth.fill) as base:
        for name, sweep in growth.SWEEPS.items():
            found[name] = growth.run(sweep, base, rounds, seconds)
            print(growth.section(sweep, found[name]), flush=True)
    judged = [verdict for name, points in found.items() for verdict in growth.verdicts(growth.SWEEPS[name], points)]
    (FOLDER / "growth.md").write_text(growth.document(listed(setting(rounds, seconds)), found, judged))
    with drawing():
        chart.draw_growth(found, FOLDER / "growth.svg")
    return 0 if all(verdict.reached for verdict in judged) else 1


def compare_pythons(paths: Sequence[str], works: Sequence[str], rounds: int, seconds: int) -> int:
    named, found = pythons.named(paths), {}
    with place() as base:
        started = pythons.starts(base, named)
        for name in works or pythons.DEFAULT:
            found[name] = compare(pythons.among(WORKS[name], named), base, rounds, seconds)
    said = pythons.document(listed(setting(rounds, seconds)), found, started)
    print(said)
    if not works:
        (FOLDER / "pythons.md").write_text(said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
