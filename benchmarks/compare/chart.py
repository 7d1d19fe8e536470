"""A bar for each shape and operation: how many times faster fastbn is than PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.cases import LAYOUTS, MB, Case
from benchmarks.compare.peers import applies

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.compare.results import Results

COLOURS = {"training": "#1f5fa8", "backward": "#e08214", "inference": "#5fa88c"}
HEADINGS = {"planes": "Channels first: NCHW", "rows": "Channels last: NHWC and (N, C)"}
BAR = 0.26
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)


def draw(path: Path, results: Results, cases: Sequence[Case], threads: int) -> bool:
    """Write the chart, and return whether there was anything to draw."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    speedups = {(case, op): speedup for case in cases for op in COLOURS if applies(op, case)
                and (speedup := results.speedup("torch", op, case, threads)) is not None}
    if not speedups:
        return False
    # (N, C) has one layout only: last, so that the other panel has its gap at the end.
    shapes = sorted(dict.fromkeys(case.shape for case, _ in speedups), key=lambda shape: len(shape) == 2)
    low, high = min(0.8, *speedups.values()) / 1.25, max(2.0, *speedups.values()) * 1.35
    figure, panels = plt.subplots(
        1, 2, figsize=(11, 1.6 + 0.46 * len(shapes)), sharex=True, sharey=True, layout="constrained")
    for panel, layout in zip(panels, LAYOUTS, strict=True):
        for row, shape in enumerate(shapes):
            values = {op: speedups[Case(shape, layout), op] for op in COLOURS if (Case(shape, layout), op) in speedups}
            _bars(panel, row, values)
        panel.axvline(1, color="black", linewidth=1, zorder=3)
        panel.set_title(HEADINGS[layout], fontsize=10.5, loc="left")
        panel.set(xscale="log", xlim=(low, high), ylim=(len(shapes) - 0.45, -0.55))
        panel.set_xticks([], minor=True)
        panel.set_xticks([tick for tick in TICKS if low < tick < high])
        panel.xaxis.set_major_formatter("{x:g}x")
        panel.set_yticks(range(len(shapes)), [_label(shape) for shape in shapes], fontsize=8.5)
        panel.grid(axis="x", color="#e2e2e2", linewidth=0.8, zorder=0)
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    figure.legend(handles, COLOURS, loc="outside upper right", ncols=len(COLOURS), frameon=False, fontsize=9)
    version = results.configuration["versions"].get("torch", "").partition("+")[0]
    figure.suptitle(f"Speed of fastbn relative to PyTorch {version}", x=0.01, ha="left", fontsize=12.5,
                    fontweight="bold")
    plural = "" if threads == 1 else "s"
    figure.supxlabel(f"float32, {threads} thread{plural}, into buffers that are there already; above 1x fastbn is "
                     "faster; log scale", fontsize=9, color="#444444")
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True


def _bars(panel: Any, row: int, values: dict[str, float]) -> None:
    for place, (op, value) in enumerate(values.items()):
        y = row + (place - (len(values) - 1) / 2) * BAR
        panel.barh(y, value - 1, left=1, height=BAR * 0.9, color=COLOURS[op], zorder=2)
        offset, side = ((3, 0), "left") if value >= 1 else ((-3, 0), "right")
        digits = 2 if value < 1 else 1 if value < 9.95 else 0
        panel.annotate(f"{value:.{digits}f}", (value, y), offset, textcoords="offset points", ha=side, va="center",
                       fontsize=7.5, color="#333333")


def _label(shape: tuple[int, ...]) -> str:
    case = Case(shape, "rows")
    size = f"{case.nbytes / MB:.2g} MB" if case.nbytes >= MB / 10 else f"{case.nbytes / 1024:.2g} KB"
    return f"{case.name}\n{size}"
