"""The charts: of the works, a bar for each server; of how the cost grows, a curve for each. Drawn without a background, in
colours that are as plain on white as on black, since a README is read on both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.compare import Row
from bench.growth import COSTS, SWEEPS, Points, curve
from bench.report import Results, median
from bench.servers import NGINX, OURS
from bench.works import WORKS

PANELS = ("kept", "each", "304", "100k", "zipf", "echo")
COLUMNS = 2
ACCENT, OTHERS, WORDS = "#2f81f7", "#8b949e", "#767e88"
CAPTION = "requests per second, lines per second for the echo; one worker process each, client and server on one machine"
WIDE = 30  # times the least; what varies more is drawn with a logarithmic axis
FONT = "-apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def plotter() -> Any:
    """matplotlib's pyplot, set up. ImportError: there is no matplotlib."""
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

    return pyplot


def save(figure: Any, path: Path, caption: str) -> None:
    """As SVG."""
    figure.supxlabel(caption, fontsize=9, color=WORDS)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    path.write_text(path.read_text().replace("'DejaVu Sans'", FONT))


def draw(results: Results, path: Path) -> None:
    """Draw the chart of the works. ImportError: there is no matplotlib."""
    pyplot = plotter()
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
    save(figure, path, CAPTION)
    pyplot.close(figure)


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


def curve_panel(axis: Any, points: Points, cost: Callable[[Row], float | None]) -> None:
    """A figure of both servers against the amount."""
    figures = []
    for server, colour in ((NGINX, OTHERS), (OURS, ACCENT)):
        amounts, costs = curve(points, server, cost)
        axis.plot(amounts, costs, color=colour, marker="o", markersize=3)
        figures += costs
    most = max(figures, default=1.0)
    wide = most > WIDE * min(figures, default=1.0)
    axis.set(xscale="log", **({"yscale": "log"} if wide else {"ylim": (0, 1.15 * most)}))
    axis.minorticks_off()
    axis.set_xticks([*points], [f"{amount // 1000}k" if amount % 1000 == 0 else f"{amount}" for amount in points])
    axis.yaxis.set_major_formatter("{x:,.10g}")
    axis.tick_params(colors=OTHERS, labelcolor=WORDS, labelsize=8)
    for side in axis.spines.values():
        side.set_color(OTHERS)


def draw_growth(found: Mapping[str, Points], path: Path) -> None:
    """Draw the chart of the growth: a row for each sweep. ImportError: there is no matplotlib."""
    pyplot = plotter()
    columns: dict[str, Callable[[Row], float | None]] = {
        "requests/s": median,
        "CPU µs per request": COSTS["CPU"],
        "memory, MiB": COSTS["memory"],
    }
    size = (9, 0.4 + 1.7 * len(found))
    figure, axes = pyplot.subplots(len(found), len(columns), figsize=size, squeeze=False, layout="constrained")
    for row, (name, points) in zip(axes, found.items(), strict=True):
        for axis, (title, cost) in zip(row, columns.items(), strict=True):
            curve_panel(axis, points, cost)
            axis.set_ylabel(title, fontsize=8, color=WORDS)
        row[0].set_title(SWEEPS[name].title, loc="left", fontsize=9, fontweight="bold", color=WORDS)
    save(figure, path, "blue: rawservers, grey: nginx; one worker process each, client and server on one machine")
    pyplot.close(figure)
