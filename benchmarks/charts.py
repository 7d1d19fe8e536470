"""Charts of how many times faster fastbn is than other libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.cases import LAYOUTS, MB, OPERATIONS, Case, Suite
from benchmarks.peers import PEERS, TITLES
from benchmarks.report import count

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.results import Results

BARS = {"training": "#1f5fa8", "backward": "#e08214", "inference": "#5fa88c"}
HEADINGS = {"planes": "Channels first: NCHW", "rows": "Channels last: NHWC and (N, C)"}
BAR = 0.26
DOTS = {"torch": "#d1495b", "torch.compile": "#edae49", "onnxruntime": "#1f5fa8", "openvino": "#5fa88c",
        "opencv": "#7d5ba6", "numpy": "#9a9a9a"}
DOTTED = ("bn", "bn_residual_relu", "images")
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)


def draw(path: Path, results: Results, suite: Suite) -> bool:
    """Write the chart of a suite, and return whether it has one."""
    drawing = {"training": bars, "inference": dots}.get(suite.name)
    if drawing is None or not results.threads():
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = drawing(results, suite, max(results.threads()))
    if figure is None:
        return False
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True


def bars(results: Results, suite: Suite, threads: int) -> Any:
    """Return a figure with a bar for each shape and operation, beside PyTorch; None without figures."""
    import matplotlib.pyplot as plt

    ops = {OPERATIONS[name]: colour for name, colour in BARS.items()}
    ratios = {(case, op): ratio for op in ops for case in suite.plan[op]
              if (ratio := results.ratio("torch", op, case, threads)) is not None}
    if not ratios:
        return None
    # (N, C) has one layout: the other panel has its gap at the end.
    shapes = sorted(dict.fromkeys(case.shape for case, _ in ratios), key=lambda shape: len(shape) == 2)
    figure, panels = plt.subplots(
        1, 2, figsize=(11, 1.6 + 0.46 * len(shapes)), sharex=True, sharey=True, layout="constrained")
    for panel, layout in zip(panels, LAYOUTS, strict=True):
        for row, shape in enumerate(shapes):
            values = [(colour, ratios[Case(shape, layout), op]) for op, colour in ops.items()
                      if (Case(shape, layout), op) in ratios]
            for place, (colour, value) in enumerate(values):
                bar(panel, row + (place - (len(values) - 1) / 2) * BAR, value, colour)
        panel.set_title(HEADINGS[layout], fontsize=10.5, loc="left")
        panel.set_yticks(range(len(shapes)), [size(shape) for shape in shapes], fontsize=8.5)
        finish(panel, len(shapes))
    low, high = min(0.8, *ratios.values()) / 1.25, max(2.0, *ratios.values()) * 1.35
    scale(panels[0], low, high)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in ops.values()]
    figure.legend(handles, [op.name for op in ops], loc="outside upper right", ncols=len(ops), frameon=False,
                  fontsize=9)
    version = results.configuration["versions"].get("torch", "").partition("+")[0]
    figure.suptitle(f"Speed of fastbn relative to PyTorch {version}", x=0.01, ha="left", fontsize=12.5,
                    fontweight="bold")
    figure.supxlabel(f"float32, {count(threads, 'thread')}, into preallocated buffers; above 1x fastbn is faster; "
                     "log scale", fontsize=9, color="#444444")
    return figure


def dots(results: Results, suite: Suite, threads: int) -> Any:
    """Return a figure with a panel for each operation and a dot for each library; None without figures."""
    import matplotlib.pyplot as plt

    ops = {op: cases for op, cases in suite.plan.items()
           if op.name in DOTTED and any(results.seconds("fastbn", op, case, threads) for case in cases)}
    if not ops:
        return None
    heights = [len(cases) for cases in ops.values()]
    figure, panels = plt.subplots(len(ops), 1, figsize=(9, 1.4 + 0.32 * sum(heights)), layout="constrained",
                                  gridspec_kw={"height_ratios": heights}, sharex=True, squeeze=False)
    found = []
    for panel, (op, cases) in zip(panels[:, 0], ops.items(), strict=True):
        for row, case in enumerate(cases):
            for peer in PEERS:
                ratio = results.ratio(peer, op, case, threads)
                if ratio is not None:
                    found.append(ratio)
                    panel.plot(ratio, row, "o", color=DOTS[peer], markersize=6, label=TITLES[peer], zorder=4)
        panel.set_title(op.title, loc="left", fontsize=10)
        panel.set_yticks(range(len(cases)), [f"{case.name} {case.layout}" for case in cases], fontsize=8)
        finish(panel, len(cases), grid="both")
    scale(panels[0, 0], min(1.0, *found) / 1.15, max(2.0, *found) * 1.15)
    handles = {label: handle for panel in panels[:, 0]
               for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9)
    figure.supxlabel(f"how many times faster fastbn is, {count(threads, 'thread')}; log scale", fontsize=9,
                     color="#444444")
    return figure


def bar(panel: Any, y: float, value: float, colour: str) -> None:
    """Draw one bar from 1 to a value, and write the value at its end."""
    panel.barh(y, value - 1, left=1, height=BAR * 0.9, color=colour, zorder=2)
    offset, side = ((3, 0), "left") if value >= 1 else ((-3, 0), "right")
    digits = 2 if value < 1 else 1 if value < 9.95 else 0
    panel.annotate(f"{value:.{digits}f}", (value, y), offset, textcoords="offset points", ha=side, va="center",
                   fontsize=7.5, color="#333333")


def finish(panel: Any, rows: int, grid: str = "x") -> None:
    """Mark equal speed, and draw a light grid instead of a frame."""
    panel.axvline(1, color="black", linewidth=1, zorder=3)
    panel.set_ylim(rows - 0.45, -0.55)
    panel.grid(axis=grid, color="#e2e2e2", linewidth=0.8, zorder=0)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)


def scale(panel: Any, low: float, high: float) -> None:
    """Set the shared logarithmic axis."""
    panel.set(xscale="log", xlim=(low, high))
    panel.set_xticks([], minor=True)
    panel.set_xticks([tick for tick in TICKS if low < tick < high])
    panel.xaxis.set_major_formatter("{x:g}x")


def size(shape: tuple[int, ...]) -> str:
    """Return a shape with the bytes of a float32 array."""
    case = Case(shape, "rows")
    size = f"{case.nbytes / MB:.2g} MB" if case.nbytes >= MB / 10 else f"{case.nbytes / 1024:.2g} KB"
    return f"{case.name}\n{size}"
