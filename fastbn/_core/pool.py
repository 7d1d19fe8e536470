"""The size of the pool that large results get their memory from; `memory` is the pool.

``FASTBN_POOL`` sets it in MiB, and 0 turns the pool off.
"""

from __future__ import annotations

import os
import sys

from fastbn._core import memory

DEFAULT = 1024      # MiB, the activations of a ResNet-50 on a batch of 32
MOST = sys.maxsize >> 20


def limit(text: str) -> int:
    """Return the limit in bytes from the value of ``FASTBN_POOL``; an empty one is the default.

    Raises
    ------
    ImportError
        If it is not an integer from 0 to MOST.
    """
    if not text:
        return DEFAULT << 20
    if not text.isdecimal() or int(text) > MOST:
        raise ImportError(f"FASTBN_POOL={text!r}; expected an integer between 0 and {MOST}, in MiB")
    return int(text) << 20


memory.set_limit(limit(os.environ.get("FASTBN_POOL", "").strip()))


def config() -> dict[str, int]:
    """Return the limit, and what is idle and in use, in bytes."""
    most, _, idle, used = memory.state()
    return {"limit_bytes": most, "idle_bytes": idle, "used_bytes": used}


def describe(values: dict[str, int]) -> str:
    """Return the text of `show_config` for `config`."""
    if not values["limit_bytes"]:
        return "off"
    most, idle, used = (size >> 20 for size in values.values())
    return f"{most} MiB at most ({idle} MiB idle, {used} MiB in use)"


def release_memory() -> int:
    """Return the idle memory of the pool to the system.

    The memory of a large result, of 1 MiB or more, goes to a pool when the array is deleted, and later results use it
    again. The pool returns memory to the system by itself when later calls need less than before, and in a forked
    child. Without calls it keeps what is idle, up to ``FASTBN_POOL``.

    Returns
    -------
    int
        The bytes that were idle.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> bn = fastbn.BatchNorm(64).eval()
    >>> y = bn(np.zeros((256, 64, 8, 8), np.float32))
    >>> del y
    >>> released = fastbn.release_memory()
    >>> fastbn.release_memory()
    0
    """
    return memory.release()
