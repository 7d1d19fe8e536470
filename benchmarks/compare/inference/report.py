"""The figures of the inference suite as Markdown and as a chart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.cases import MB
from benchmarks.compare import report
from benchmarks.compare.inference.cases import INFERENCE
from benchmarks.compare.tables import count, ratio, table, time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from benchmarks.cases import Case
    from benchmarks.compare.results import Results

    Plan = Mapping[str, Sequence[Case]]

PEERS = {"torch": "PyTorch", "torch.compile": "torch.compile", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO",
         "opencv": "OpenCV", "numpy": "NumPy"}
TITLES = {
    "bn": "Batch norm", "bn_relu": "Batch norm + ReLU", "bn_residual_relu": "Batch norm + residual + ReLU",
    "bn_float16": "float16: inference", "bn_bfloat16": "bfloat16: inference",
    "training_float32": "float32: training, to compare with", "training_float16": "float16: training",
    "training_bfloat16": "bfloat16: training", "images": "Images: uint8 NHWC to float32 NCHW",
    "call": "A small call: a bound plan on (1, 64)",
}
# The same operation in float32, for the speed of halves.
SINGLE = {"bn_float16": "bn", "bn_bfloat16": "bn", "training_float16": "training_float32",
          "training_bfloat16": "training_float32"}
LARGE = 32 * MB
INTRODUCTION = """# Inference benchmarks

What a service runs, beside the engines that services use: each library in a process of its own, the processes taking
turns, the best of all samples of all rounds. `python -m benchmarks.compare inference` measures, and writes the part
between the markers.
"""
NOTES = """
- All write into buffers that are there already, where a library has a way to; torch.compile makes new tensors, on a
  heap that keeps its memory. Where a library has several ways, the fastest one counts: PyTorch with and without a given
  buffer, fastbn with a call and with a bound plan.
- Rows are PyTorch's channels-last format; ONNX Runtime and OpenVINO know (N, C, ...) only, with shared memory. OpenVINO
  is told to compute in float32. NumPy uses one thread.
- **x PyTorch** and the like: how many times faster fastbn is. **x float32**: how many times faster than fastbn in
  float32.
"""


@dataclass(frozen=True)
class Target:
    """A least speed-up on some cells: against a library, against the best of several, or over fastbn in float32."""

    name: str
    ops: Sequence[str]
    against: Sequence[str]
    bound: float
    selects: Callable[[Case], bool] = lambda case: True

    def values(self, results: Results, cases: Plan) -> list[tuple[float, str, Case, int]]:
        """Return (speed-up, op, case, threads) of every cell that was measured, the worst first."""
        found = []
        for threads in results.threads():
            for op in self.ops:
                for case in filter(self.selects, cases[op]):
                    speedups = [over_single(results, op, case, threads)] if self.against == ["float32"] else [
                        results.speedup(peer, op, case, threads) for peer in self.against]
                    known = [speedup for speedup in speedups if speedup is not None]
                    if known:
                        found.append((min(known), op, case, threads))
        return sorted(found, key=lambda cell: cell[0])


TARGETS = [
    Target("fused residual + ReLU", ["bn_residual_relu"], ["torch"], 2.0),
    Target("every inference", INFERENCE, ["onnxruntime"], 1.0),
    Target("halves of large inputs", ["bn_float16", "bn_bfloat16", "training_float16", "training_bfloat16"],
           ["float32"], 1.6, lambda case: case.nbytes > LARGE),
    Target("bfloat16", ["bn_bfloat16", "training_bfloat16"], ["torch"], 1.0),
    Target("images", ["images"], ["numpy"], 3.0),
    Target("images", ["images"], ["torch", "opencv"], 1.5),
    Target("small call", ["call"], ["numpy"], 2.0),
]


def over_single(results: Results, op: str, case: Case, threads: int) -> float | None:
    """Return how many times faster fastbn is in halves than in float32."""
    half, single = (results.seconds("fastbn", name, case, threads) for name in (op, SINGLE.get(op, op)))
    return None if half is None or single is None else single / half


def write(path: Path, generated: str) -> None:
    """Put the generated part into the document."""
    report.write(path, generated, INTRODUCTION)


def markdown(results: Results, cases: Plan, chart: str | None = None) -> str:
    """Return the whole generated part."""
    parts = [report.machine(results, [])]
    if chart is not None:
        parts.append(f"![Speed of fastbn relative to engines]({chart})")
    parts += ["## Targets", _targets(results, cases), "## Reading the tables", NOTES.strip()]
    for threads in reversed(results.threads()):
        parts.append(f"## {count(threads, 'thread')}")
        for op, selected in cases.items():
            measured = [case for case in selected if results.seconds("fastbn", op, case, threads)]
            if measured:
                parts += [f"### {TITLES[op]}", _op_table(results, measured, op, threads)]
    return "\n\n".join(parts) + "\n"


def _targets(results: Results, cases: Plan) -> str:
    lines = [["target, one and two threads", "against", "bound", "worst", "where", "cells", ""]]
    missed = []
    for target in TARGETS:
        values = target.values(results, cases)
        against = " and ".join(PEERS.get(peer, peer) for peer in target.against)
        bound = f"≥ {target.bound:g}x"
        if not values:
            lines.append([target.name, against, bound, "", "", "0", "not measured"])
            continue
        failed = [cell for cell in values if cell[0] < target.bound]
        value, *where = values[0]
        lines.append([target.name, against, bound, f"{value:.2f}x", _cell(*where), str(len(values)),
                      f"**missed** in {len(failed)}" if failed else "met"])
        if failed:
            missed.append(f"- {target.name}, {against} {bound}: "
                          + "; ".join(f"{_cell(*where)} {value:.2f}x" for value, *where in failed))
    return table(lines) + ("\n\nMissed:\n\n" + "\n".join(missed) if missed else "")


def _cell(op: str, case: Case, threads: int) -> str:
    return f"{case.name} {case.layout} {op} ({count(threads, 'thread')})"


def _op_table(results: Results, cases: Sequence[Case], op: str, threads: int) -> str:
    peers = [name for name in PEERS if any(results.seconds(name, op, case, threads) for case in cases)]
    lines = [["shape (N, C, ...)", "layout", "MB", "fastbn",
              *(heading for peer in peers for heading in (PEERS[peer], f"x {PEERS[peer]}")),
              *(["x float32"] if op in SINGLE else [])]]
    for case in cases:
        size = case.size if op == "images" else case.nbytes // (2 if op in SINGLE else 1)
        row = [case.name, case.layout, f"{size / MB:.3g}", time(results.seconds("fastbn", op, case, threads))]
        for peer in peers:
            row += [time(results.seconds(peer, op, case, threads)),
                    ratio(results.speedup(peer, op, case, threads), least=1.0)]
        if op in SINGLE:
            row.append(ratio(over_single(results, op, case, threads)))
        lines.append(row)
    return table(lines)


def draw(path: Path, results: Results, cases: Plan) -> bool:
    """Write a chart, a panel for each operation and a bar for each peer, and return whether there was anything."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    threads = max(results.threads(), default=1)
    ops = [op for op in ("bn", "bn_residual_relu", "images")
           if any(results.seconds("fastbn", op, case, threads) for case in cases[op])]
    if not ops:
        return False
    heights = [len(cases[op]) for op in ops]
    figure, panels = plt.subplots(len(ops), 1, figsize=(9, 1.2 + 0.42 * sum(heights)), layout="constrained",
                                  gridspec_kw={"height_ratios": heights}, sharex=True, squeeze=False)
    colours = dict(zip(PEERS, ("#d1495b", "#edae49", "#1f5fa8", "#5fa88c", "#7d5ba6", "#9a9a9a"), strict=True))
    for panel, op in zip(panels[:, 0], ops, strict=True):
        for row, case in enumerate(cases[op]):
            for peer, colour in colours.items():
                speedup = results.speedup(peer, op, case, threads)
                if speedup is not None:
                    panel.plot(speedup, row, "o", color=colour, markersize=6, label=PEERS[peer], zorder=3)
        panel.axvline(1, color="black", linewidth=1)
        panel.set_yticks(range(len(cases[op])), [f"{case.name} {case.layout}" for case in cases[op]], fontsize=8)
        panel.set_ylim(len(cases[op]) - 0.5, -0.5)
        panel.set_xscale("log")
        panel.set_title(TITLES[op], loc="left", fontsize=10)
        panel.grid(color="#e2e2e2", linewidth=0.8)
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    low, high = panels[-1, 0].get_xlim()
    panels[-1, 0].set_xticks([], minor=True)
    panels[-1, 0].set_xticks([tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100) if low < tick < high])
    panels[-1, 0].xaxis.set_major_formatter("{x:g}x")
    handles = {label: handle for panel in panels[:, 0] for handle, label in zip(
        *panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9)
    figure.supxlabel(f"how many times faster fastbn is, {count(threads, 'thread')}; log scale", fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True

