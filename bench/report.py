"""What was found, put down: tables in Markdown, which read well on a terminal too, and whether each bar is reached."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench.compare import Row, Rows
from bench.footprint import HELD, Footprint
from bench.fresh import Freshness
from bench.servers import OURS, STANDARD, versions
from bench.works import WORKS, Bar, Work

MIB = 1 << 20
START = 1.3  # of the time from the start of http.server to its first answer
MEMORY = 15  # MiB

HEAD = """# Results

`python3 -m bench` has made this file.

{where}

![Requests and lines per second](results.svg)

Medians, with the least and the most beside them; ratios are of medians. One worker process each, access logs on where there
are any, all on loopback, with wrk (one thread) and a C program for lines as clients. All servers of a work run side by side
and take turns, in an order that moves on from round to round; those that no bar names take part in every third. Each has a
second to warm up, and four where there are many files, which is enough for all of them to have been asked for. CPU is user
and system time of all the processes of a server; memory is theirs after the first run, with shared pages divided by those
who share them (PSS) and without (RSS). Where the client is busy all the time, a server might do more than it was asked for.
"""


@dataclass
class Results:
    """A run: where, when and how, and what each work gave."""

    setting: dict[str, str] = field(default_factory=dict)
    works: dict[str, Rows] = field(default_factory=dict)
    footprint: Footprint | None = None
    freshness: Freshness | None = None

    def to_data(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Results:
        works = {work: {name: Row(**row) for name, row in rows.items()} for work, rows in data["works"].items()}
        footprint = Footprint(**data["footprint"]) if data["footprint"] else None
        freshness = Freshness(**data["freshness"]) if data["freshness"] else None
        return cls(data["setting"], works, footprint, freshness)

    @property
    def processor(self) -> str:
        """Its plain name."""
        return re.sub(r"\(\w+\)| Processor\b.*| CPU\b.*", "", self.setting.get("machine", "").partition(",")[0]).strip()


class Verdict(NamedTuple):
    """figure: what was found, None if it was not; reached: whether that is good enough."""

    what: str
    against: str
    figure: str | None
    bar: str
    reached: bool

    @property
    def said(self) -> str:
        return "not measured" if self.figure is None else "yes" if self.reached else "**no**"


def setting(rounds: int, seconds: int) -> dict[str, str]:
    """Where and how this runs."""
    model = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{model[1] if model else platform.machine()}, {cores} cores, {memory} GiB, Linux {platform.release()}",
        "versions": ", ".join(
            f"{name} {version}" for name, version in ({"Python": platform.python_version()} | versions()).items()
        ),
        "rounds": f"{rounds} of {seconds} s",
    }


# Statistics


def median(row: Row | None, of: str = "rate") -> float | None:
    """Of the rates, or of "cpu"; None if there are none."""
    figures = [] if row is None else row.cpu if of == "cpu" else row.rates
    return statistics.median(figures) if figures else None


def ratio(rows: Rows, subject: str, against: str, of: str = "rate") -> float | None:
    """Of two medians."""
    upper, lower = median(rows.get(subject), of), median(rows.get(against), of)
    return upper / lower if upper is not None and lower else None


# Verdicts


def verdicts(results: Results) -> list[Verdict]:
    """On each bar of what was done, reached or not."""
    found = [judge(WORKS[name], rows, bar) for name, rows in results.works.items() for bar in WORKS[name].bars]
    if results.footprint:
        found += judge_footprint(results.footprint)
    if results.freshness:
        found.append(judge_freshness(results.freshness))
    return found


def judge(work: Work, rows: Rows, bar: Bar) -> Verdict:
    """A bar is not reached by a server that failed, be it once: what fails is fast."""
    found = ratio(rows, bar.subject, bar.against, bar.of)
    well = bar.subject in rows and not rows[bar.subject].failed and not rows[bar.subject].note
    what = work.title if bar.of == "rate" else f"CPU seconds per 1,000 requests: {work.title}"
    limit = f"{'at least' if bar.of == 'rate' else 'at most'} {bar.bound:g}"
    against = "itself without them" if bar.subject != OURS else bar.against
    figure = None if found is None else f"{found:.2f}{'' if well else ', with failures'}"
    return Verdict(what, against, figure, limit, found is not None and well and bar.reached(found))


def judge_footprint(found: Footprint) -> Iterator[Verdict]:
    """Of what was measured before something failed."""
    start = statistics.median(found.answer) / statistics.median(found.standard) if found.answer and found.standard else 0.0
    pss, each = found.pss / MIB, found.each / 1024
    rows = (
        ("start to first answer", STANDARD, start, f"{start:.2f}", START, ""),
        ("memory after its start, supervisor and worker", "", pss, f"{pss:.1f} MiB", MEMORY, " MiB"),
        ("memory per idle kept connection", "", each, f"{each:.2f} KiB", 2, " KiB"),
        ("memory per idle connection with TLS", "", found.each_tls / 1024, f"{found.each_tls / 1024:.2f} KiB", 18, " KiB"),
    )
    for what, against, figure, said, bound, unit in rows:
        yield Verdict(what, against, said if figure else None, f"at most {bound}{unit}", bool(figure) and figure <= bound)
    held = f"{found.held:,}" if found.held else None
    yield Verdict("idle connections held", "", held, f"{HELD:,}", found.held >= HELD)


def judge_freshness(found: Freshness) -> Verdict:
    stale, read = sum(found.stale.values()), sum(found.read.values())
    figure = f"{stale} of {read:,}" if stale or (read and not found.note) else None
    return Verdict("stale answers", "", figure, "0", stale == 0 and figure is not None)


# Tables


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown, its columns aligned: the first to the left, the others, which hold figures, to the right."""
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = [("-" * (width - 1) + ":") if number else "-" * width for number, width in enumerate(widths)]
    return "\n".join(align(row, widths) for row in (header, rule, *rows))


def align(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.rjust(width) if number else cell.ljust(width) for number, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return f"| {' | '.join(cells)} |"


def section(work: Work, rows: Rows) -> str:
    """A work, and how each server did it."""
    per = "CPU s per GiB" if work.unit == "bytes/s" else "CPU s per 1,000"
    unit = "GB/s" if work.unit == "bytes/s" else work.unit
    header = ("", unit, "from", "to", "rawservers is", per, "PSS MiB", "RSS MiB", "client busy", "failed")
    said = [line(work, rows, name) for name in rows]
    return f"## {work.title}\n\n{table(header, said)}\n"


def line(work: Work, rows: Rows, name: str) -> tuple[str, ...]:
    """What is said of one server."""
    row, middle, times = rows[name], median(rows[name]), ratio(rows, OURS, name)
    title = f"{name}: {row.note}" if row.note else name
    if middle is None:
        return (title, *[""] * 9)
    return (
        title,
        *(rate(figure, work.unit) for figure in (middle, min(row.rates), max(row.rates))),
        "" if name == OURS or times is None else f"{times:.2f} of it",
        f"{statistics.median(row.cpu):.4f}",
        f"{row.pss / MIB:.1f}",
        f"{row.rss / MIB:.1f}",
        f"{statistics.median(row.busy):.0%}",
        f"{row.failed:,}",
    )


def rate(figure: float, unit: str) -> str:
    return f"{figure / 1e9:.2f}" if unit == "bytes/s" else f"{figure:,.0f}"


def footprint_section(found: Footprint) -> str:
    rows = [
        ("start to first answer, median", f"{statistics.median(found.answer) * 1000:.0f} ms" if found.answer else ""),
        ("the same of http.server", f"{statistics.median(found.standard) * 1000:.0f} ms" if found.standard else ""),
        ("after its start, PSS", f"{found.pss / MIB:.1f} MiB"),
        ("after its start, RSS", f"{found.rss / MIB:.1f} MiB"),
        ("an empty Python, PSS", f"{found.empty_pss / MIB:.1f} MiB"),
        ("an empty Python, RSS", f"{found.empty_rss / MIB:.1f} MiB"),
        ("per idle kept connection", f"{found.each / 1024:.2f} KiB"),
        (f"idle connections held, of {HELD:,}", f"{found.held:,}"),
        ("per idle connection with TLS", f"{found.each_tls / 1024:.2f} KiB" if found.each_tls else "not measured"),
        ("the same of nginx", f"{found.nginx_tls / 1024:.2f} KiB" if found.nginx_tls else "not measured"),
    ]
    if found.note:
        rows.append((f"failed: {found.note}", ""))
    return f"## Start and memory\n\n{table(('', 'rawservers'), rows)}\n"


def freshness_section(found: Freshness) -> str:
    header = ("rewriting", "read back", "stale", "within the same tick")
    rows = [(way, f"{found.read[way]:,}", f"{found.stale[way]:,}", f"{found.twice[way]:,}") for way in found.read]
    if found.note:
        rows.append((f"failed: {found.note}", "", "", ""))
    return f"## Read back after a rewriting\n\n{table(header, rows)}\n"


def bars_section(results: Results) -> str:
    rows = [(v.what, v.against, v.figure or "", v.bar, v.said) for v in verdicts(results)]
    return f"## Bars\n\n{table(('', 'against', 'found', 'bar', 'reached'), rows)}\n"


def machines_section(runs: Sequence[Results]) -> str:
    """The figures of the bars on each kind of processor, side by side."""
    found = [{verdict[:2]: verdict for verdict in verdicts(run)} for run in runs]
    bars = {what: verdict.bar for each in reversed(found) for what, verdict in each.items()}
    header = ("", "against", "bar", *(f"{run.processor}, {run.setting.get('date')}" for run in runs))
    rows = [(*what, bars[what], *(missed(each[what]) if what in each else "" for each in found)) for what in bars]
    return f"## Kinds of processor\n\n{table(header, rows)}\n"


def missed(verdict: Verdict) -> str:
    """The figure of a verdict, in bold if the bar is missed."""
    return verdict.figure or "" if verdict.reached or not verdict.figure else f"**{verdict.figure}**"


def listed(setting: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in setting.items())


def document(results: Results, others: Sequence[Results] = ()) -> str:
    """bench/results.md. others: earlier runs, on other kinds of processor."""
    parts = [HEAD.format(where=listed(results.setting)), bars_section(results)]
    if others:
        parts.append(machines_section([results, *others]))
    parts += [section(WORKS[name], rows) for name, rows in results.works.items()]
    if results.footprint:
        parts.append(footprint_section(results.footprint))
    if results.freshness:
        parts.append(freshness_section(results.freshness))
    return "\n".join(parts)
