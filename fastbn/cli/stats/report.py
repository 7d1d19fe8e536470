"""What the command prints, and the same as JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.checks import channels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from fastbn.cli.stats.tally import Tally
    from fastbn.statistics.channel_stats import ChannelStats

BYTE_SCALE = 1 / 255        # brings values of uint8 to 0..1
COLUMNS = ("count", "min", "max", "mean", "std")


def number(value: float) -> str:
    """Return a number with nine significant digits, as many as a float32 has."""
    return format(value, ".9g")


def vector(values: Iterable[float]) -> str:
    """Return numbers as a tuple of Python."""
    texts = [number(value) if math.isfinite(value) else f'float("{value}")' for value in values]
    return f"({texts[0]},)" if len(texts) == 1 else f"({', '.join(texts)})"


def text(tally: Tally, axis: int) -> list[str]:
    """Return the lines for training code, and a table of the channels.

    Parameters
    ----------
    tally : Tally
    axis : int
        The channel axis of arrays, as it was given.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.cli.stats.report import text
    >>> from fastbn.cli.stats.tally import Tally
    >>> for line in text(Tally.of(np.array([[0, 51], [102, 255]], np.uint8), 1, 0, 2), 1):
    ...     print(line)
    mean, std = (51, 153), (51, 102)
    normalize = fastbn.ChannelAffine.from_mean_std((0.2, 0.6), (0.2, 0.4))  # of values / 255
    <BLANKLINE>
    channel            count             min             max            mean             std
          0                2               0             102              51              51
          1                2              51             255             153             102
    """
    mean, std = moments(tally.stats)
    lines = [f"mean, std = {vector(mean)}, {vector(std)}"]
    if tally.uint8:
        hindrances = [f"{channels(np.flatnonzero(which).tolist())} {one if which.sum() == 1 else more}"
                      for which, one, more in ((std == 0, "is constant", "are constant"),
                                               (tally.stats.count == 0, "has no values", "have no values"))
                      if which.any()]
        lines.append(f"# no normalize = ...: {'; '.join(hindrances)}" if hindrances else
                     f"normalize = fastbn.ChannelAffine.from_mean_std({vector(mean * BYTE_SCALE)}, "
                     f"{vector(std * BYTE_SCALE)})  # of values / 255")
    if tally.shape is not None:
        lines.append(f"# channel axis {axis}; the first array has shape {tally.shape}")
    lines += ["", "channel " + "".join(f"{name:>16}" for name in COLUMNS)]
    rows = zip(tally.stats.count, *extrema(tally.stats), mean, std, strict=True)
    for channel, (count, *values) in enumerate(rows):
        lines.append(f"{channel:>7} {int(count):>16}" + "".join(f"{number(value):>16}" for value in values))
    return lines


def moments(stats: ChannelStats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each channel, NaN in one without values."""
    some = stats.count > 0
    var = np.full(len(some), np.nan)
    np.divide(stats.m2, stats.count, out=var, where=some)
    return np.where(some, stats.mean, np.nan), np.sqrt(var)


def extrema(stats: ChannelStats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and the largest value of each channel, which every Tally has; NaN in one without values."""
    assert stats.min is not None
    assert stats.max is not None
    some = stats.count > 0
    return np.where(some, stats.min, np.nan), np.where(some, stats.max, np.nan)


def report(tally: Tally, axis: int, counted: int, skipped: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the same, ready for JSON.

    Parameters
    ----------
    tally : Tally
    axis : int
        The channel axis of arrays, as it was given.
    counted : int
        How many inputs were counted.
    skipped : sequence of (str, str)
        The others, with the reason.
    """
    mean, std = moments(tally.stats)
    low, high = extrema(tally.stats)
    return {
        "channels": len(mean),
        "axis": axis,
        "shape": tally.shape,
        "inputs": counted,
        "skipped": [{"path": path, "reason": reason} for path, reason in skipped],
        "count": [int(count) for count in tally.stats.count],
        "min": finite(low),
        "max": finite(high),
        "mean": finite(mean),
        "std": finite(std),
        "scaled": {"scale": BYTE_SCALE, "mean": finite(mean * BYTE_SCALE), "std": finite(std * BYTE_SCALE)}
        if tally.uint8 else None,
    }


def finite(values: Iterable[float]) -> list[float | None]:
    """Return numbers as JSON has them: null where there is NaN or Inf."""
    return [float(value) if math.isfinite(value) else None for value in values]
