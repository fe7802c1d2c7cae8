"""rawservers and its peers, side by side: python3 -m bench [--rounds N] [--seconds S] [--against TREE] [WORK]...

The machines this runs on are shared and noisy, so a figure alone says little. What counts are medians over several rounds, in
each of which every server has its turn, and their ratios. What is needed is installed: system packages with apt where this
runs as root, Python packages into .venv-bench. Without any WORK it does them all and puts the results into bench/results.md,
bench/results.json and bench/results.svg; `chart` draws those anew from the .json. With --against it is this checkout and
another one that are compared, and nothing is written: `against.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import against, chart
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
    section,
    setting,
    verdicts,
)
from bench.works import WORKS, fill

FILE = ROOT / "bench" / "results"
ALL = (*WORKS, "memory", "fresh")


def main() -> int:
    """The exit status: 1 if a bar was not reached, or the other checkout is faster."""
    said = parse()
    if said.against:
        return 0 if against.run(said.against, said.works, said.rounds, said.seconds) else 1
    enter_environment()
    if said.works == ["chart"]:
        results = Results.from_data(json.loads(FILE.with_suffix(".json").read_text()))
    else:
        results = do(said.works or list(ALL), said.rounds, said.seconds)
        print(bars_section(results))
    if not said.works or said.works == ["chart"]:
        write(results)
    return 0 if all(verdict.reached for verdict in verdicts(results)) else 1


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python3 -m bench", description="rawservers and its peers, side by side")
    add = parser.add_argument
    default = f"default: all; with --against: {' '.join(against.DEFAULT)}"
    add("works", nargs="*", metavar="WORK", help=f"some of: {', '.join(ALL)} ({default}); or chart")
    add("--rounds", type=int, help=f"default: 5; with --against: {against.ROUNDS}")
    add("--seconds", type=int, help=f"of each measurement (default: 2; with --against: {against.SECONDS})")
    add("--against", type=checkout, metavar="TREE", help="compare this checkout with another one, in paired rounds")
    said = parser.parse_args(arguments)
    rounds, seconds, known = (against.ROUNDS, against.SECONDS, set(WORKS)) if said.against else (5, 2, set(ALL))
    said.rounds, said.seconds = said.rounds or rounds, said.seconds or seconds
    if (unknown := set(said.works) - known) and (said.against or said.works != ["chart"]):
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


def do(works: list[str], rounds: int, seconds: int) -> Results:
    """Do `works`, and print what each gave."""
    raise_descriptor_limit()
    results = Results(setting(rounds, seconds))
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        base.chmod(0o755)  # nginx's worker is another user
        fill(base / "www")
        prepare(base)
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


def write(results: Results) -> None:
    FILE.with_suffix(".json").write_text(json.dumps(results.to_data(), indent=1) + "\n")
    FILE.with_suffix(".md").write_text(document(results))
    try:
        chart.draw(results, FILE.with_suffix(".svg"))
    except ImportError as error:
        print(f"no chart: {error}")


if __name__ == "__main__":
    sys.exit(main())
