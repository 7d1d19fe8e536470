"""Layers that normalize the trailing axes of an array."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from fastbn._core.checks import MOST_VALUES, check_lengths
from fastbn.layers.attributes import Check, refusal, set_unchecked
from fastbn.layers.samplenorm import SampleNorm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import DTypeLike


class TrailingNorm(SampleNorm):
    """A layer that normalizes the trailing axes, with a gamma and a beta for each of their elements.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        The shape of the trailing axes.
    **parameters
        As in `Norm`.
    """

    _checks: ClassVar[Mapping[str, Check]] = {
        **SampleNorm._checks,
        "normalized_shape": refusal("make a new layer"),
        "elementwise_affine": SampleNorm._checks["affine"],
    }

    normalized_shape: tuple[int, ...]

    def __init__(
        self, normalized_shape: int | Sequence[int], *, eps: float | None, scale: bool, center: bool,
        dtype: DTypeLike | None, num_threads: int | None,
    ) -> None:
        lengths = check_lengths(normalized_shape, "normalized_shape")
        if max(math.prod(lengths), *lengths) > MOST_VALUES:
            raise ValueError(f"normalized_shape must have at most {MOST_VALUES} values, the most of an array, got "
                             f"{lengths}")
        set_unchecked(self, "normalized_shape", lengths)
        super().__init__(lengths, eps=eps, scale=scale, center=center, dtype=dtype, num_threads=num_threads)

    @property
    def elementwise_affine(self) -> bool:
        """Whether there is a gamma or a beta: PyTorch's name of `affine`."""
        return self.affine

    def _positional(self) -> list[str]:
        lengths = self.normalized_shape
        return [str(lengths[0] if len(lengths) == 1 else lengths)]
