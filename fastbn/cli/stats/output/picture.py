"""The picture of mean, standard deviation, minimum and maximum of each channel."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from fastbn._core.checks import channels, counted
from fastbn._core.palette import BLUE, FAINT, GREY, INK
from fastbn.cli.stats.output.report import extrema, moments

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from fastbn.cli.stats.counting.tally import Tally
    from fastbn.statistics.channel_stats import ChannelStats

MOST_BARS = 48      # more channels are drawn as bands


def draw(tally: Tally, inputs: int, form: str) -> bytes:
    """Return the picture as the bytes of a file.

    Parameters
    ----------
    tally : Tally
    inputs : int
        The number of inputs counted.
    form : {"png", "pdf", "svg"}
    """
    number, counts = len(tally.stats.count), tally.stats.count
    least, most = int(counts.min()), int(counts.max())
    figure = Figure(figsize=(9, 4.8), dpi=160, facecolor="white")
    axes = figure.subplots()
    figure.subplots_adjust(left=0.1, right=0.97, top=0.8, bottom=0.13)
    figure.text(0.1, 0.925, counted(number, "channel"), size=14.5, weight="bold", color=INK)
    spoilt = tally.spoilt
    figure.text(0.1, 0.865, f"{least:,}{'' if least == most else f' to {most:,}'} values per channel, from "
                + counted(inputs, "input") + (f"; NaN or Inf in {channels(spoilt)}" if spoilt else ""),
                size=10, color=GREY)
    (draw_bars if number <= MOST_BARS else draw_bands)(axes, tally.stats)
    axes.set_xlabel("Channel", color=INK)
    axes.set_ylabel("Value", color=INK)
    axes.set_xlim(-0.6, number - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=16) if number > 1 else FixedLocator([0]))
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=GREY, length=0)
    figure.legend(loc="upper right", bbox_to_anchor=(0.98, 0.98), frameon=False, fontsize=9, labelcolor=INK)
    file = io.BytesIO()
    figure.savefig(file, format=form)
    return file.getvalue()


def draw_bars(axes: Axes, stats: ChannelStats) -> None:
    """Draw bars for each channel."""
    (mean, std), x = moments(stats), np.arange(len(stats.count))
    low, high = extrema(stats)
    axes.vlines(x, low, high, color=GREY, linewidth=1.2, label="minimum to maximum")
    axes.scatter([*x, *x], [*low, *high], marker="_", s=60, color=GREY, linewidth=1.2)
    axes.vlines(x, mean - std, mean + std, color=BLUE, linewidth=6, alpha=0.55, label="mean ± standard deviation")
    axes.scatter(x, mean, color=BLUE, s=30, zorder=3, label="mean")


def draw_bands(axes: Axes, stats: ChannelStats) -> None:
    """Draw many channels as bands with a step for each."""
    edges = np.arange(len(stats.mean) + 1) - 0.5

    def steps(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.append(values, values[-1])

    mean, std = moments(stats)
    low, high = extrema(stats)
    axes.fill_between(edges, steps(low), steps(high), step="post", color=FAINT, label="minimum to maximum")
    axes.fill_between(edges, steps(mean - std), steps(mean + std), step="post", color=BLUE, alpha=0.45, linewidth=0,
                      label="mean ± standard deviation")
    axes.step(edges, steps(mean), where="post", color=BLUE, linewidth=1, label="mean")
