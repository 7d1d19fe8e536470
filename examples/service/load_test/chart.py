"""The picture of throughput and latency by connections, with a bar for each server and route."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from examples.service.load_test.report import ROUTES, SERVERS, Cell, plural

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matplotlib.axes import Axes

    from examples.service.load_test.report import Results
    from examples.service.load_test.wrk import Figures

# Lighter for folded batch norm; blue and orange differ for colour-blind readers too.
COLOURS = {("wsgi", "/predict"): "#0b6fa4", ("wsgi", "/predict/folded"): "#7fb8d6",
           ("asgi", "/predict"): "#d1602b", ("asgi", "/predict/folded"): "#eeb08f"}
INK, GREY, FAINT = "#222222", "#767676", "#e4e4e4"
BAR = 0.22


def draw(results: Results, out: Path) -> None:
    """Save the picture."""
    figure = Figure(figsize=(11.5, 4.8), dpi=140, facecolor="white")
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.06, right=0.985, top=0.7, bottom=0.12, wspace=0.18)
    figure.text(0.06, 0.925, "Handwritten digits classified over HTTP", size=14.5, weight="bold", color=INK)
    figure.text(0.06, 0.873, f"{plural(results.workers, 'worker')} of {plural(results.threads, 'thread')}, one digit "
                f"per request, wrk on the same machine; median, lowest and highest "
                f"of {plural(results.rounds, 'round')}", size=10, color=GREY)
    draw_bars(left, "Requests per second", results, lambda figures: figures.rate, "{:,.0f}")
    draw_bars(right, "99th percentile of the latency, ms", results, lambda figures: figures.p99_ms, "{:.1f}")
    figure.legend(*left.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.052, 0.862),
                  ncols=len(COLOURS), frameon=False, fontsize=9)
    figure.savefig(out)


def draw_bars(panel: Axes, title: str, results: Results, value: Callable[[Figures], float], text: str) -> None:
    """Draw one figure of all cells, with a group of bars for each number of connections."""
    groups = sorted({cell.connections for cell in results.cells})
    for place, ((interface, route), colour) in enumerate(COLOURS.items()):
        rounds = [[value(f) for f in results.cells[Cell(interface, route, connections)]] for connections in groups]
        heights = [median(values) for values in rounds]
        spread = [[h - min(values) for h, values in zip(heights, rounds, strict=True)],
                  [max(values) - h for h, values in zip(heights, rounds, strict=True)]]
        where = [group + (place - (len(COLOURS) - 1) / 2) * BAR for group in range(len(groups))]
        name = SERVERS[interface] + (", folded" if ROUTES[route] else "")
        bars = panel.bar(where, heights, 0.92 * BAR, color=colour, label=name, zorder=2, yerr=spread,
                         error_kw={"ecolor": INK, "elinewidth": 1})
        panel.bar_label(bars, [text.format(height) for height in heights], size=7, color=INK, padding=2)
    panel.set_title(title, loc="left", size=11, color=INK, pad=8)
    panel.set_xticks(range(len(groups)), [str(connections) for connections in groups])
    panel.set_xlabel("Connections", color=INK)
    panel.grid(axis="y", color=FAINT, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.margins(y=0.1)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.spines["bottom"].set_color(GREY)
    panel.tick_params(length=0, colors=GREY)
