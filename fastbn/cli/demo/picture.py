"""The picture of test accuracy by epoch: a panel for each learning rate, a curve for each network."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastbn._core.palette import BLUE, FAINT, GREY, INK, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fastbn.cli.demo.training import Run

COLOURS = {True: BLUE, False: ORANGE}   # with and without batch normalization
CHANCE = 10.0
LABEL_GAP = 11.0    # percentage points between two labels of two lines each


def draw(runs: list[Run], test_digits: int, form: str) -> bytes:
    """Return the picture as the bytes of a file.

    Parameters
    ----------
    runs : list of Run
    test_digits : int
        The number of test digits.
    form : {"png", "pdf", "svg"}
    """
    rates = list(dict.fromkeys(run.rate for run in runs))
    figure = Figure(figsize=(10.5, 4.9), dpi=160, facecolor="white")
    panels = figure.subplots(1, len(rates), sharey=True)
    figure.subplots_adjust(left=0.065, right=0.885, top=0.76, bottom=0.125, wspace=0.4)
    figure.text(0.065, 0.925, "One network, two learning rates, with and without batch normalization",
                size=14.5, weight="bold", color=INK)
    figure.text(0.065, 0.873, f"Accuracy on {test_digits} handwritten test digits; all four runs have the same initial "
                "weights and batches", size=10, color=GREY)
    for panel, rate in zip(panels, rates, strict=True):
        title = f"Learning rate {rate:g}" + (", ten times higher" if rate != rates[0] else "")
        draw_panel(panel, [run for run in runs if run.rate == rate], title)
    panels[0].set_ylabel("Test accuracy, %", color=INK)
    file = io.BytesIO()
    figure.savefig(file, format=form)
    return file.getvalue()


def draw_panel(panel: Axes, runs: list[Run], title: str) -> None:
    """Draw the curves of one learning rate, each labelled with its name and final accuracy."""
    epochs = len(runs[0].accuracy)
    panel.set_title(title, loc="left", size=11.5, color=INK, pad=10)
    panel.set_xlabel("Epoch", color=INK)
    panel.set_xlim(1, max(epochs, 2))
    panel.set_ylim(0, 102)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    panel.grid(axis="y", color=FAINT, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.spines["bottom"].set_color(GREY)
    panel.tick_params(length=0, colors=GREY, labelleft=True)
    panel.axhline(CHANCE, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
    panel.annotate("guessing", (1, CHANCE), (4, 7), textcoords="offset points", size=8.5, color=GREY)

    for run in runs:
        panel.plot(range(1, epochs + 1), run.accuracy, color=COLOURS[run.normalize], linewidth=2.2, marker="o",
                   markersize=4, clip_on=False, zorder=3 + run.normalize)
    for run, height in zip(runs, apart([last_finite(run.accuracy) for run in runs], LABEL_GAP), strict=True):
        result = "diverged" if run.diverged else f"{run.accuracy[-1]:.1f} %"
        panel.annotate(f"{run.name}\n{result}", (max(epochs, 2), height), (9, 0), textcoords="offset points", size=9.5,
                       color=COLOURS[run.normalize], weight="bold", va="center", annotation_clip=False)


def last_finite(values: list[float]) -> float:
    """Return the last finite value of a curve, or 0 if there is none."""
    return next((v for v in reversed(values) if math.isfinite(v)), 0.0)


def apart(heights: list[float], gap: float) -> list[float]:
    """Return two heights moved apart to a distance of at least `gap`, in the same order."""
    low, high = sorted(heights)
    missing = max(0.0, gap - (high - low)) / 2
    return [h + missing if i == heights.index(high) else h - missing for i, h in enumerate(heights)]
