"""This server under several Pythons: python3 -m bench --python PATH --python PATH ... [--rounds N] [--seconds S] [WORK]...

The first one is what the others are compared with. All run side by side and take turns, as the peers do.
"""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.compare import Rows
from bench.footprint import first_answer
from bench.report import MIB, median, rate, table
from bench.servers import OURS
from bench.works import WORKS, Bar, Work

DEFAULT = ("kept", "each", "header", "zipf", "tls", "echo", "echo16")  # works
STARTS = 5
NAME = "import platform, sysconfig as s; print(platform.python_version() + 't' * bool(s.get_config_var('Py_GIL_DISABLED')))"
HEAD = """# Pythons

`python3 -m bench --python PATH --python PATH ...` has made this file.

{where}

The same server under each Python, one worker process each; medians. The first column has the figures, the others their ratio to
the first: for throughput more is better; for CPU, memory and the start less is. Only Pythons that are built alike can be
compared: Debian's are with profile-guided optimization, pyenv's are without, unless asked for.
"""


def named(paths: Sequence[str]) -> dict[str, str]:
    """The paths by the version of each. ValueError: it cannot be run, or is there twice."""
    found: dict[str, str] = {}
    for path in paths:
        try:
            name = subprocess.run([path, "-c", NAME], capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError) as error:
            raise ValueError(f"{path} is no Python that runs: {error}") from error
        if name in found:
            raise ValueError(f"{path} and {found[name]} are both Python {name}")
        found[name] = path
    return found


def among(work: Work, pythons: Mapping[str, str]) -> Work:
    """The same work for our server under each."""
    ours = work.peers[OURS]
    peers = {name: ours._replace(python=path) for name, path in pythons.items()}
    return work._replace(peers=peers, bars=tuple(Bar(name, 1.0) for name in peers))


def starts(base: Path, pythons: Mapping[str, str]) -> dict[str, float]:
    """Seconds from the start to the first answer, the median."""
    first = [first_answer(base, python=path) for path in pythons.values()]  # compiles
    assert all(first)
    return {name: statistics.median(first_answer(base, python=path) for _ in range(STARTS)) for name, path in pythons.items()}


def document(where: str, found: Mapping[str, Rows], started: Mapping[str, float]) -> str:
    """bench/pythons.md."""
    rows = []
    for name, each in found.items():
        unit = WORKS[name].unit
        rows.append(line(f"{WORKS[name].title}, {unit}", {python: median(each[python]) for python in started}, unit))
    for name, each in found.items():
        cpu = {python: 1000 * (median(each[python], "cpu") or 0.0) for python in started}
        rows.append(line(f"{WORKS[name].title}, CPU µs", cpu))
    for name, each in [*found.items()][:1]:
        rows.append(line(f"{WORKS[name].title}, memory in MiB", {python: each[python].pss / MIB for python in started}))
    rows.append(line("start to first answer, ms", {python: 1000 * seconds for python, seconds in started.items()}))
    notes = [f"- {python}: {row.note}\n" for each in found.values() for python, row in each.items() if row.note]
    return "\n".join([HEAD.format(where=where), table(("", *started), rows) + "\n", *notes])


def line(title: str, figures: Mapping[str, float | None], unit: str = "") -> tuple[str, ...]:
    """The first figure, and the ratios of the others to it."""
    first, *others = figures.values()
    shown = "" if not first else rate(first, unit) if unit else f"{first:.1f}"
    return (title, shown, *(f"{other / first:.2f}" if first and other else "" for other in others))
