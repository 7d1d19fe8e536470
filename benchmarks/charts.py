"""Charts of how many times faster fastbn is than other libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.cases import LAYOUTS, MB, OPERATIONS, Case
from benchmarks.peers import PEERS, TITLES
from benchmarks.report import count

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.cases import Suite
    from benchmarks.results import Results

    Panels = dict[str, dict[str, dict[str, float]]]     # ratios by panel, row and series

COLOURS = {
    "training": "#1f5fa8", "backward": "#e08214", "inference": "#5fa88c",
    "PyTorch": "#d1495b", "torch.compile": "#edae49", "ONNX Runtime": "#1f5fa8", "OpenVINO": "#5fa88c",
    "OpenCV": "#7d5ba6", "NumPy": "#9a9a9a",
}
HEADINGS = {"planes": "Channels first: NCHW", "rows": "Channels last: NHWC and (N, C)"}
BAR = 0.26
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)


def draw(path: Path, results: Results, suite: Suite) -> bool:
    """Write the chart of a suite, and return whether it has one."""
    threads = max(results.threads(), default=1)
    panels = {"training": by_layout, "inference": by_operation}.get(suite.name, lambda *_: {})(results, suite, threads)
    if not any(series for rows in panels.values() for series in rows.values()):
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bars = suite.name == "training"
    heights = [len(rows) for rows in panels.values()]
    size = (11, 1.6 + 0.46 * max(heights)) if bars else (9, 1.4 + 0.32 * sum(heights))
    figure, axes = plt.subplots(*((1, len(panels)) if bars else (len(panels), 1)), figsize=size, sharex=True,
                                sharey=bars, squeeze=False, layout="constrained",
                                gridspec_kw=None if bars else {"height_ratios": heights})
    for axis, (title, rows) in zip(axes.flat, panels.items(), strict=True):
        (draw_bars if bars else draw_dots)(axis, rows)
        axis.axvline(1, color="black", linewidth=1, zorder=3)
        axis.set_title(title, loc="left", fontsize=10.5)
        axis.set_yticks(range(len(rows)), rows, fontsize=8.5)
        axis.set_ylim(len(rows) - 0.45, -0.55)
        axis.grid(axis="x" if bars else "both", color="#e2e2e2", linewidth=0.8, zorder=0)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    series = [row for rows in panels.values() for row in rows.values()]
    ratios = [value for row in series for value in row.values()]
    low, high = min(0.8, *ratios) / 1.25, max(2.0, *ratios) * 1.35
    axis.set(xscale="log", xlim=(low, high))
    axis.set_xticks([], minor=True)
    axis.set_xticks([tick for tick in TICKS if low < tick < high])
    axis.xaxis.set_major_formatter("{x:g}x")
    names = [name for name in COLOURS if any(name in row for row in series)]
    handles = [plt.Line2D([], [], marker="s" if bars else "o", linestyle="", color=COLOURS[name]) for name in names]
    figure.legend(handles, names, loc=f"outside upper {'right' if bars else 'center'}", ncols=len(names), frameon=False,
                  fontsize=9)
    if bars:
        version = results.configuration["versions"].get("torch", "").partition("+")[0]
        figure.suptitle(f"Speed of fastbn relative to PyTorch {version}", x=0.01, ha="left", fontsize=12.5,
                        fontweight="bold")
    figure.supxlabel(f"{'float32, ' if bars else ''}{count(threads, 'thread')}, preallocated buffers; above 1x fastbn "
                     "is faster; log scale", fontsize=9, color="#444444")
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True


def by_layout(results: Results, suite: Suite, threads: int) -> Panels:
    """Return the ratios to PyTorch: a panel for each layout, a row for each shape, a series for each operation."""
    ops = [OPERATIONS[name] for name in ("training", "backward", "inference")]
    # (N, C) has one layout: at the end, it leaves the gap of the other panel there.
    shapes = sorted(dict.fromkeys(case.shape for case in suite.plan[ops[-1]]), key=lambda shape: len(shape) == 2)
    return {HEADINGS[layout]: {
        label(shape): {op.name: ratio for op in ops
                       if (ratio := results.ratio("torch", op, Case(shape, layout), threads)) is not None}
        for shape in shapes} for layout in LAYOUTS}


def by_operation(results: Results, suite: Suite, threads: int) -> Panels:
    """Return the ratios to every peer: a panel for each operation, a row for each case, a series for each peer."""
    return {op.title: {
        f"{case.name} {case.layout}": {TITLES[peer]: ratio for peer in PEERS
                                       if (ratio := results.ratio(peer, op, case, threads)) is not None}
        for case in suite.plan[op]} for op in (OPERATIONS[name] for name in ("bn", "bn_residual_relu", "images"))}


def draw_bars(axis: Any, rows: dict[str, dict[str, float]]) -> None:
    """Draw a bar from 1 to each ratio, and write the ratio at its end."""
    for row, series in enumerate(rows.values()):
        for place, (name, value) in enumerate(series.items()):
            y = row + (place - (len(series) - 1) / 2) * BAR
            axis.barh(y, value - 1, left=1, height=BAR * 0.9, color=COLOURS[name], zorder=2)
            offset, side = ((3, 0), "left") if value >= 1 else ((-3, 0), "right")
            digits = 2 if value < 1 else 1 if value < 9.95 else 0
            axis.annotate(f"{value:.{digits}f}", (value, y), offset, textcoords="offset points", ha=side, va="center",
                          fontsize=7.5, color="#333333")


def draw_dots(axis: Any, rows: dict[str, dict[str, float]]) -> None:
    """Draw a dot for each ratio."""
    for row, series in enumerate(rows.values()):
        for name, value in series.items():
            axis.plot(value, row, "o", color=COLOURS[name], markersize=6, zorder=4)


def label(shape: tuple[int, ...]) -> str:
    """Return a shape with the bytes of a float32 array."""
    case = Case(shape, "rows")
    size = f"{case.nbytes / MB:.2g} MB" if case.nbytes >= MB / 10 else f"{case.nbytes / 1024:.2g} KB"
    return f"{case.name}\n{size}"
