"""Picture of a report: panels of mean and deviation, scale, and drift, and a strip of unhealthy channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fastbn._core.extras import missing

try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ModuleNotFoundError:
    raise ImportError(missing("plot", "matplotlib", "population")) from None

from fastbn._core.files import replace_picture
from fastbn._core.palette import BLUE, FAINT, GREY, INK, ORANGE

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from fastbn.statistics.channel_stats import ChannelStats

# Distinct for colour-blind readers, also by shape.
MARKS = {"dead": ("#8a8a8a", "s"), "nan": (ORANGE, "X"), "negative": ("#9b2d8f", "v"), "saturated": ("#c79a00", "^")}
NAMES = {"dead": "dead", "nan": "NaN", "negative": "negative variance", "saturated": "saturated"}


class Drawable(Protocol):
    """What the picture shows of a `fastbn.Report`, which is not imported, because its `plot` imports this module."""

    @property
    def mean(self) -> NDArray[np.float64]: ...  # noqa: D102

    @property
    def var(self) -> NDArray[np.float64]: ...  # noqa: D102

    @property
    def scale(self) -> NDArray[np.float64]: ...  # noqa: D102

    @property
    def saturated(self) -> NDArray[np.bool_]: ...  # noqa: D102

    @property
    def live(self) -> ChannelStats | None: ...  # noqa: D102

    @property
    def drift(self) -> NDArray[np.float64] | None: ...  # noqa: D102


def draw(report: Drawable, path: str | os.PathLike[str]) -> None:
    """Save the picture of a report.

    Parameters
    ----------
    report : fastbn.Report
    path : path-like
        Its suffix decides the format.
    """
    unhealthy = [name for name in MARKS if getattr(report, name).any()]
    heights = [3.0, 2.2] + [2.2] * (report.drift is not None) + [0.3 + 0.25 * len(unhealthy)] * bool(unhealthy)
    figure = Figure(figsize=(10.5, 1.6 + sum(heights)), dpi=120, facecolor="white", layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights}))
    summary = repr(report).splitlines()
    figure.suptitle("Running averages of a batch normalization\n" + summary[0], x=0.01, ha="left", size=12, color=INK)
    channels = np.arange(len(report.mean))
    _draw_statistics(panels[0], report, channels)
    _draw_numbers(panels[1], channels, np.abs(report.scale), ~report.saturated, "Scale, |gamma| / sqrt(var + eps)")
    if report.drift is not None:
        _draw_numbers(panels[2], channels, report.drift, ~report.saturated, "Drift of the batch, nats")
    if unhealthy:
        _draw_unhealthy(panels[-1], report, unhealthy)
    for panel in panels:
        _shade(panel, report, unhealthy)
        _tidy(panel)
    panels[-1].set_xlabel("Channel", color=INK)
    panels[-1].set_xlim(-0.6, len(channels) - 0.4)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    replace_picture(path, figure)


def _draw_statistics(panel: Axes, report: Drawable, channels: NDArray[Any]) -> None:
    _draw_interval(panel, report, channels, (report.mean, report.var), color=BLUE,
                   label="stored: mean ± standard deviation")
    if report.live is not None:
        _draw_interval(panel, report, channels + 0.25, (report.live.mean, report.live.var()), color=INK,
                       label="batch: mean ± standard deviation")
    panel.set_title("Mean and standard deviation", loc="left", size=10.5, color=INK, pad=14)


def _draw_interval(
    panel: Axes, report: Drawable, channels: NDArray[Any], statistics: tuple[NDArray[Any], NDArray[Any]], **style: Any,
) -> None:
    mean, var = statistics
    # Saturated values would leave nothing to see of the others.
    fine = ~report.saturated & np.isfinite(mean) & np.isfinite(var) & (var >= 0)
    panel.errorbar(channels[fine], mean[fine], np.sqrt(var[fine]), fmt="o", markersize=3,
                   elinewidth=min(1.2, 90 / len(channels)), **style)


def _draw_numbers(panel: Axes, channels: NDArray[Any], numbers: NDArray[Any], shown: NDArray[Any], title: str) -> None:
    # On a logarithmic axis of three decades or more, without zeros and values that are not finite.
    fine = shown & np.isfinite(numbers) & (numbers > 0)
    panel.set_yscale("log")
    panel.plot(channels[fine], numbers[fine], "o", color=BLUE, markersize=3)
    low, high = (numbers[fine].min(), numbers[fine].max()) if fine.any() else (1.0, 1.0)
    panel.set_ylim(min(low / 4, high / 100), max(high * 4, low * 100))
    panel.set_title(title, loc="left", size=10.5, color=INK)


def _draw_unhealthy(panel: Axes, report: Drawable, unhealthy: list[str]) -> None:
    for row, name in enumerate(unhealthy):
        channels = np.flatnonzero(getattr(report, name))
        colour, marker = MARKS[name]
        panel.plot(channels, np.full(channels.size, row), marker, color=colour, markersize=6)
    panel.set_yticks(range(len(unhealthy)), [NAMES[name] for name in unhealthy])
    panel.set_ylim(len(unhealthy) - 0.5, -0.5)
    panel.set_title("Unhealthy channels", loc="left", size=10.5, color=INK)


def _shade(panel: Axes, report: Drawable, unhealthy: list[str]) -> None:
    for name in unhealthy:
        for channel in np.flatnonzero(getattr(report, name)).tolist():
            panel.axvline(channel, color=MARKS[name][0], linewidth=4, alpha=0.12, zorder=0)


def _tidy(panel: Axes) -> None:
    panel.grid(axis="y", color=FAINT, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(which="both", colors=GREY)
    if panel.get_subplotspec().is_first_row():  # type: ignore[union-attr]
        panel.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=6, frameon=False, fontsize=8.5, borderaxespad=0.2)
