"""What the command prints, and the same as JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._checks import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from fastbn.statistics_command.tally import Tally
    from fastbn.stats import ChannelStats

BYTE_SCALE = 1 / 255        # brings values of uint8 to 0..1
COLUMNS = ("count", "min", "max", "mean", "std")


def number(value: float) -> str:
    """Return a number with nine significant digits, as many as a float32 has."""
    return format(value, ".9g")


def vector(values: Iterable[float]) -> str:
    """Return numbers as a tuple of Python."""
    texts = [number(value) if math.isfinite(value) else f'float("{value}")' for value in values]
    return f"({texts[0]},)" if len(texts) == 1 else f"({', '.join(texts)})"


def text(tally: Tally) -> str:
    """Return the lines for training code, and a table of the channels.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.statistics_command.report import text
    >>> from fastbn.statistics_command.tally import Tally
    >>> print(text(Tally.of(np.array([[0, 51], [102, 255]], np.uint8), 1, 0, 2)))
    mean, std = (51, 153), (51, 102)
    normalize = fastbn.ChannelAffine.from_mean_std((0.2, 0.6), (0.2, 0.4))  # of values / 255
    <BLANKLINE>
    channel            count             min             max            mean             std
          0                2               0             102              51              51
          1                2              51             255             153             102
    """
    stats, std = tally.stats, tally.stats.std()
    lines = [f"mean, std = {vector(stats.mean)}, {vector(std)}"]
    if tally.uint8 and not std.all():
        lines.append(f"# no normalize = ...: channel {listed(np.flatnonzero(std == 0).tolist())} is constant")
    elif tally.uint8:
        lines.append(f"normalize = fastbn.ChannelAffine.from_mean_std({vector(stats.mean * BYTE_SCALE)}, "
                     f"{vector(std * BYTE_SCALE)})  # of values / 255")
    lines += ["", "channel " + "".join(f"{name:>16}" for name in COLUMNS)]
    rows = zip(stats.count, *extrema(stats), stats.mean, std, strict=True)
    for channel, (count, *values) in enumerate(rows):
        lines.append(f"{channel:>7} {int(count):>16}" + "".join(f"{number(value):>16}" for value in values))
    return "\n".join(lines)


def extrema(stats: ChannelStats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and the largest value of each channel, which every Tally has."""
    assert stats.min is not None
    assert stats.max is not None
    return stats.min, stats.max


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
    mean, std = tally.stats.mean, tally.stats.std()
    low, high = extrema(tally.stats)
    return {
        "channels": len(mean),
        "axis": axis,
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
