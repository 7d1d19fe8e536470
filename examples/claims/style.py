"""The look of the pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

# Blue and orange differ for colour-blind readers too.
BLUE, ORANGE, GREY, FAINT, INK = "#0b6fa4", "#d1602b", "#767676", "#e4e4e4", "#222222"
COLOURS = {True: BLUE, False: ORANGE}       # with and without batch normalization
NAMES = {True: "with batch norm", False: "without"}


def axes(figure: Figure, columns: int) -> list[Axes]:
    """Return panels side by side, without frames."""
    figure.set_size_inches(6.4 if columns == 1 else (4.4 if columns == 2 else 3.5) * columns, 3.2)
    panels = list(figure.subplots(1, columns, squeeze=False)[0])
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color=FAINT)
        panel.set_axisbelow(True)
        panel.title.set_fontsize(10)
    return panels


def band(panel: Axes, x: ArrayLike, curves: ArrayLike, colour: str, label: str | None = None, style: str = "-") -> None:
    """Draw the mean of curves, one for each seed, in the band of all of them."""
    rows = np.asarray(curves, float)
    panel.plot(x, rows.mean(axis=0), style, color=colour, label=label)
    panel.fill_between(x, rows.min(axis=0), rows.max(axis=0), color=colour, alpha=0.2, lw=0)


def ticks(panel: Axes, values: Sequence[float]) -> None:
    """Label these values of a logarithmic axis, and no others."""
    panel.set_xticks(values, [f"{value:g}" for value in values], minor=False)
    panel.set_xticks([], minor=True)
