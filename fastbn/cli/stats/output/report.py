"""The result as text and as JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.checks import channels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from fastbn.cli.stats.counting.tally import Tally
    from fastbn.cli.stats.settings import Settings
    from fastbn.statistics.channel_stats import ChannelStats

BYTE_SCALE = 1 / 255        # scales uint8 values to 0..1
COUNTS, VALUES = ("count", "omitted"), ("min", "max", "mean", "std")     # columns of the table


def number(value: float) -> str:
    """Return a number with nine significant digits, which identify a float32."""
    return format(value, ".9g")


def vector(values: Iterable[float]) -> str:
    """Return numbers as a tuple in Python syntax."""
    texts = [number(value) if math.isfinite(value) else f'float("{value}")' for value in values]
    return f"({texts[0]},)" if len(texts) == 1 else f"({', '.join(texts)})"


def text(tally: Tally, settings: Settings) -> list[str]:
    """Return lines of Python for training code, and a table of the channels.

    Parameters
    ----------
    tally : Tally
    settings : Settings
        The table has the number of values omitted if any can be missing.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.cli.stats.counting.tally import Tally
    >>> from fastbn.cli.stats.output.report import text
    >>> from fastbn.cli.stats.settings import Settings
    >>> for line in text(Tally.of(np.array([[0, 51], [102, 255]], np.uint8), 1, 0, 2), Settings(axis=1)):
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
        reasons = [f"{channels(np.flatnonzero(mask).tolist())} {one if mask.sum() == 1 else more}"
                   for mask, one, more in ((std == 0, "is constant", "are constant"),
                                           (tally.stats.count == 0, "has no values", "have no values"))
                   if mask.any()]
        lines.append(f"# normalize is omitted: {'; '.join(reasons)}" if reasons else
                     f"normalize = fastbn.ChannelAffine.from_mean_std({vector(mean * BYTE_SCALE)}, "
                     f"{vector(std * BYTE_SCALE)})  # of values / 255")
    if tally.shape is not None:
        lines.append(f"# channel axis {settings.axis}; the first array has shape {tally.shape}")
    counts = COUNTS if settings.missing.some else COUNTS[:1]
    lines += ["", "channel " + "".join(f"{name:>16}" for name in (*counts, *VALUES))]
    rows = zip(*(tally.stats.count, tally.omitted)[:len(counts)], *extrema(tally.stats), mean, std, strict=True)
    for channel, row in enumerate(rows):
        lines.append(f"{channel:>7} " + "".join(f"{int(count):>16}" for count in row[:len(counts)])
                     + "".join(f"{number(value):>16}" for value in row[len(counts):]))
    return lines


def moments(stats: ChannelStats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean and the standard deviation of each channel; NaN for a channel without values."""
    some = stats.count > 0
    var = np.full(len(some), np.nan)
    np.divide(stats.m2, stats.count, out=var, where=some)
    return np.where(some, stats.mean, np.nan), np.sqrt(var)


def extrema(stats: ChannelStats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the minimum and the maximum of each channel; NaN for a channel without values."""
    assert stats.min is not None
    assert stats.max is not None
    some = stats.count > 0
    return np.where(some, stats.min, np.nan), np.where(some, stats.max, np.nan)


def report(tally: Tally, settings: Settings, counted: int, skipped: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the result as values for JSON.

    Parameters
    ----------
    tally : Tally
    settings : Settings
    counted : int
        The number of inputs counted.
    skipped : sequence of (str, str)
        Path and reason for each input skipped.
    """
    mean, std = moments(tally.stats)
    low, high = extrema(tally.stats)
    return {
        "channels": len(mean),
        "axis": settings.axis,
        "shape": tally.shape,
        "inputs": counted,
        "skipped": [{"path": path, "reason": reason} for path, reason in skipped],
        "count": [int(count) for count in tally.stats.count],
        "omitted": tally.omitted.tolist(),
        "min": finite(low),
        "max": finite(high),
        "mean": finite(mean),
        "std": finite(std),
        "scaled": {"scale": BYTE_SCALE, "mean": finite(mean * BYTE_SCALE), "std": finite(std * BYTE_SCALE)}
        if tally.uint8 else None,
    }


def finite(values: Iterable[float]) -> list[float | None]:
    """Return numbers for JSON, with None for NaN and Inf."""
    return [float(value) if math.isfinite(value) else None for value in values]
