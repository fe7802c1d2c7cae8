"""The chart: a panel for each work, a bar for each server. Drawn without a background, in colours that are as plain on white as
on black, since a README is read on both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.report import Results, median
from bench.servers import OURS
from bench.works import WORKS

PANELS = ("kept", "each", "304", "100k", "zipf", "echo")
COLUMNS = 2
ACCENT, OTHERS, WORDS = "#2f81f7", "#8b949e", "#767e88"
CAPTION = "requests per second, lines per second for the echo; one worker process each, client and server on one machine"
FONT = "-apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def draw(results: Results, path: Path) -> None:
    """Draw the chart as SVG. ImportError: there is no matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "rawservers",  # the same results make the same file
        "text.color": WORDS,
        "font.size": 10,
        "figure.constrained_layout.h_pad": 0.1,
    }
    from matplotlib import pyplot

    names = [name for name in PANELS if name in results.works]
    rows = -(-len(names) // COLUMNS)
    most = max(len(results.works[name]) for name in names)
    figure, axes = pyplot.subplots(
        rows, COLUMNS, figsize=(9, 0.4 + 0.27 * (most + 1.5) * rows), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes.flat, names, strict=False):
        panel(axis, name, results, most)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    figure.supxlabel(CAPTION, fontsize=9, color=WORDS)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    pyplot.close(figure)
    path.write_text(path.read_text().replace("'DejaVu Sans'", FONT))


def panel(axis: Any, name: str, results: Results, most: int) -> None:
    """One work: the fastest on top, room for `most` bars."""
    rows = results.works[name]
    found = sorted(((rate, server) for server in rows if (rate := median(rows[server]))), reverse=True)
    rates = [rate for rate, _ in found]
    places = range(len(found))
    bars = axis.barh(places, rates, color=[ACCENT if server == OURS else OTHERS for _, server in found], height=0.72)
    axis.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=4, color=WORDS)
    axis.set_yticks(places, [server for _, server in found])
    axis.set_ylim(most - 0.4, -0.6)
    axis.set_xlim(0, max(rates, default=1) * 1.2)
    axis.set_title(WORKS[name].title, loc="left", fontsize=10, fontweight="bold", color=WORDS)
    axis.xaxis.set_visible(False)
    axis.tick_params(axis="y", length=0, labelcolor=WORDS)
    for side in axis.spines.values():
        side.set_visible(False)
