"""The cost of whitening against the number of channels, beside batch norm: why normalization per channel won.

Batch norm costs the same per element for any number of channels. Products with C x C matrices take 2 C operations per
element, five of them in a training step, and the inverse square root takes some C^3 operations for each call. Groups
of 64 channels bound both.

fastbn uses one thread. Set OPENBLAS_NUM_THREADS=1 for the same in NumPy's BLAS, before Python starts.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import fastbn
from benchmarks.cases import filled
from benchmarks.report import ratio, table
from benchmarks.results import configuration
from benchmarks.worker import best_times

if TYPE_CHECKING:
    from collections.abc import Callable

CHANNELS = (16, 32, 64, 128, 256, 512, 1024)
SIDE = 16           # of an image
ELEMENTS = 1 << 22
GROUP = 64          # channels
BUDGET = 20.0       # seconds of a row
TINY_CHANNELS, TINY_ELEMENTS, TINY_BUDGET = (2, 128), 1 << 15, 0.01
FULL = ("ZCA", "IterNorm")
LAYERS = ("BatchNorm", *FULL, *(f"{name}, groups of {GROUP}" for name in FULL))


def layer(name: str, channels: int) -> Any:
    """Return a layer by its heading."""
    if name == "BatchNorm":
        return fastbn.BatchNorm(channels, num_threads=1)
    groups = channels // GROUP if "groups" in name else 1
    return fastbn.Whitening(channels, groups, "zca" if name.startswith("ZCA") else "iternorm", num_threads=1)


def passes(name: str, channels: int, elements: int) -> list[Callable[[], object]]:
    """Return a forward and a backward pass of a layer in training mode."""
    x, dy, y, dx = (filled((elements // (channels * SIDE ** 2), channels, SIDE, SIDE), seed) for seed in range(4))
    made = layer(name, channels)
    made(x)
    return [lambda: made(x, out=y), lambda: made.backward(dy, out=dx)]


def main(tiny: bool) -> None:
    """Print the times of forward and backward passes per element, in ns, and those of training steps as multiples."""
    c = configuration()
    print(f"{c['cpu']}; fastbn in one thread, BLAS with OPENBLAS_NUM_THREADS="
          f"{os.environ.get('OPENBLAS_NUM_THREADS', '(not set)')}; float32, {SIDE} x {SIDE} images\n")
    lines = [["channels", *(f"{name}, ns" for name in LAYERS), *(f"{name} / BatchNorm" for name in FULL)]]
    elements = TINY_ELEMENTS if tiny else ELEMENTS
    for channels in TINY_CHANNELS if tiny else CHANNELS:
        names = [name for name in LAYERS if "groups" not in name or channels > GROUP]
        calls = [call for name in names for call in passes(name, channels, elements)]
        times = best_times(calls, TINY_BUDGET if tiny else BUDGET)
        pairs = {name: (times[2 * k], times[2 * k + 1]) for k, name in enumerate(names)}
        cells = {name: f"{forward / elements * 1e9:.2f} + {backward / elements * 1e9:.2f}"
                 for name, (forward, backward) in pairs.items()}
        steps = {name: ratio(sum(pairs[name]) / sum(pairs["BatchNorm"])) for name in FULL}
        lines.append([str(channels), *(cells.get(name, "") for name in LAYERS),
                      *(steps[name] for name in FULL)])
    print(table(lines))
