"""Whether two arrays share memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# An exact search can take exponential time. Any, because NumPy's stubs know only 0 and -1.
MOST_WORK: Any = 100_000


def overlap(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Return whether two arrays share memory; True also if a search of bounded length does not find out.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn._core.overlap import overlap
    >>> x = np.zeros((2, 4))
    >>> overlap(x[:, :2], x[:, 2:]), overlap(x[:, :3], x[:, 2:])
    (False, True)
    """
    try:
        return np.shares_memory(a, b, max_work=MOST_WORK)
    except np.exceptions.TooHardError:
        return True
