"""Measure the error of a fold: run the original and the folded layer on the same inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbn.folding.borders import PADDING_MODES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbn.affine import ChannelAffine
    from fastbn.folding.borders import PaddingMode
    from fastbn.folding.layer import Layer

INPUTS = 4
WEIGHTS = 1 << 18       # a larger layer is probed in some of its output channels


@dataclass(frozen=True, slots=True)
class Certificate:
    """The largest difference between a layer and its folded form, measured on random inputs.

    Both layers are computed in float64, the folded one with its rounded parameters. The difference is therefore the
    effect of rounding the parameters; it does not include the rounding errors of running either layer.

    Attributes
    ----------
    absolute : float
        The largest absolute difference of two outputs.
    relative : float
        `absolute`, divided by the largest absolute output of the original layer.
    probes : int
        The number of outputs compared.
    """

    absolute: float
    relative: float
    probes: int


class Probe(NamedTuple):
    """The setup of a measurement.

    Attributes
    ----------
    before : bool
        Whether the batch norm comes before the layer.
    padding : tuple of int
        The padding at both ends of each spatial axis.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
    crop : bool
        Whether to crop the borders of a transposed convolution, where outputs see fewer taps.
    """

    before: bool
    padding: tuple[int, ...] = ()
    padding_mode: PaddingMode = "zeros"
    crop: bool = False


def certify(layer: Layer, affine: ChannelAffine, folded: Layer, probe: Probe) -> Certificate:
    """Run a layer with its batch norm, and the folded layer, on the same random inputs.

    There are four inputs with a fixed seed, one element longer than the kernel on each axis. Stride and dilation are 1.
    If the layer has more than 2^18 weights, only some of its output channels are computed: evenly spread ones, with the
    first and the last.

    Parameters
    ----------
    layer : Layer
    affine : ChannelAffine
        The batch norm.
    folded : Layer
        With rounded parameters.
    probe : Probe

    Returns
    -------
    Certificate
    """
    rng = np.random.default_rng(0)
    channels = spread(layer.out_channels, WEIGHTS // math.prod(layer.weight.shape[2:]))
    absolute = largest = 0.0
    probes = 0
    for _ in range(INPUTS):
        x = rng.standard_normal((layer.in_channels, *(k + 1 for k in layer.kernel)))
        if probe.before:
            x += along(affine.mean, x)
            y = run(layer, apply(affine, x), channels, probe)
        else:
            y = apply(affine, run(layer, x, channels, probe), channels)
        difference = run(folded, x, channels, probe) - y
        absolute = max(absolute, float(np.abs(difference).max()))
        largest = max(largest, float(np.abs(y).max()))
        probes += y.size
    relative = absolute / largest if largest else math.inf if absolute else 0.0
    return Certificate(absolute, relative, probes)


def spread(count: int, most: int) -> NDArray[np.intp]:
    """Return up to `most` evenly spread indices below `count`, and at least two if `count` allows.

    Examples
    --------
    >>> spread(10, 4).tolist()
    [0, 3, 6, 9]
    """
    return np.linspace(0, count - 1, min(count, max(most, 2)), dtype=np.intp)


def along(vector: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a vector over channels in a shape that broadcasts against x of shape (C, *spatial)."""
    return vector.reshape(-1, *(1 for _ in x.shape[1:]))


def apply(affine: ChannelAffine, x: NDArray[np.float64], channels: Any = slice(None)) -> NDArray[np.float64]:
    """Apply some channels of an affine transform to x of shape (C, *spatial)."""
    mean, scale, shift = (along(v[channels], x) for v in (affine.mean, affine.scale, affine.shift))
    return (x - mean) * scale + shift


def run(layer: Layer, x: NDArray[np.float64], channels: NDArray[np.intp], probe: Probe) -> NDArray[np.float64]:
    """Return some output channels of a layer for one input of shape (C, *spatial)."""
    if any(probe.padding):
        x = np.pad(x, [(0, 0), *((p, p) for p in probe.padding)], mode=PADDING_MODES[probe.padding_mode])
    groups, rows = np.divmod(channels, layer.weight.shape[1])
    x = x.reshape(layer.groups, -1, *x.shape[1:])[groups]
    y = convolve(x, layer.weight[groups, rows], layer.transposed)
    if probe.crop:
        inside: tuple[Any, ...] = (..., *(slice(k - 1, 1 - k or None) for k in layer.kernel))
        y = y[inside]
    return y + along(layer.bias[channels], y)


def convolve(x: NDArray[np.float64], weight: NDArray[np.float64], transposed: bool) -> NDArray[np.float64]:
    """Convolve with stride 1 and without padding, one tap of the kernel after the other.

    Parameters
    ----------
    x : ndarray, shape (C, I, *spatial)
        The inputs of each output channel.
    weight : ndarray, shape (C, I, *kernel)
    transposed : bool
        Whether the convolution is transposed, so that the output is larger than the input.

    Returns
    -------
    ndarray, shape (C, *spatial)
    """
    kernel, size = weight.shape[2:], x.shape[2:]
    valid, full = (tuple(s + d * (k - 1) for s, k in zip(size, kernel, strict=True)) for d in (-1, 1))
    y = np.zeros((len(x), *(full if transposed else valid)))
    taps = np.moveaxis(weight.reshape(*weight.shape[:2], -1), -1, 0)
    for offset, tap in zip(np.ndindex(*kernel), taps, strict=True):
        spans = zip(offset, size if transposed else valid, strict=True)
        window: tuple[Any, ...] = (..., *(slice(start, start + length) for start, length in spans))
        if transposed:
            y[window] += np.einsum("ci...,ci->c...", x, tap)
        else:
            y += np.einsum("ci...,ci->c...", x[window], tap)
    return y
