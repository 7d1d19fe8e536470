# Signatures of all ISA levels, which share one body; dispatch.py types its choice by this file. The other levels have
# no stub: stubtest imports every module that has one, and not every CPU can import them.

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Self, disjoint_base

from fastbn._core.checks import Axis
from fastbn._core.kept import Kept
from fastbn._core.views import View

_Vector: TypeAlias = NDArray[np.float64]
_Bits: TypeAlias = NDArray[np.uint16]

def assume_last_cache(nbytes: int) -> int: ...
def openmp_version() -> int: ...
def sizes() -> dict[str, int]: ...
def bits_words(x: View, samples: int | None = None) -> int: ...
def forward(
    x: View,
    y: View,
    residual: View | None,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    eps: float,
    *,
    activation: tuple[int, float],
    bits: _Bits | None,
    fill: bool,
    num_threads: int | None,
    samples: int | None = None,
    channels: int = 1,
) -> tuple[_Vector, _Vector, _Vector, _Vector]: ...
def backward(
    dy: View,
    x: View,
    dx: View,
    dresidual: View | None,
    kept: Kept,
    gamma: ArrayLike | None,
    *,
    fill: bool,
    num_threads: int | None,
    samples: int | None = None,
    channels: int = 1,
) -> tuple[_Vector, _Vector]: ...
def layer_forward(
    x: View,
    y: View,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    eps: float,
    *,
    about_zero: bool,
    num_threads: int | None,
) -> tuple[_Vector | None, _Vector | None, _Vector]: ...
def layer_inference(
    x: View,
    y: View,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    eps: float,
    *,
    about_zero: bool,
    num_threads: int | None,
) -> None: ...
def layer_backward(
    dy: View,
    x: View,
    dx: View,
    statistics: tuple[_Vector | None, _Vector | None, _Vector],
    gamma: ArrayLike | None,
    *,
    num_threads: int | None,
) -> tuple[_Vector | None, _Vector | None]: ...
def reduce(x: View, *, whole: bool, num_threads: int | None) -> tuple[_Vector, _Vector, _Vector]: ...
def reduce_gradient(dy: View, x: View, kept: Kept, *, num_threads: int | None) -> tuple[_Vector, _Vector]: ...
def apply_gradient(
    dy: View,
    x: View,
    dx: View,
    dresidual: View | None,
    kept: Kept,
    gamma: ArrayLike | None,
    *,
    sums: tuple[_Vector, _Vector],
    count: float,
    fill: bool,
    num_threads: int | None,
) -> None: ...
def apply(
    x: ArrayLike,
    axis: Axis,
    constants: Constants,
    residual: ArrayLike | None,
    out: NDArray[Any] | None,
    activation: tuple[int, float],
    num_threads: int | None,
) -> NDArray[Any]: ...
def apply_once(
    x: ArrayLike,
    axis: Axis,
    mean: ArrayLike | None,
    var: ArrayLike | None,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    *,
    eps: float,
    residual: ArrayLike | None,
    out: NDArray[Any] | None,
    activation: tuple[int, float],
    num_threads: int | None,
) -> NDArray[Any]: ...
def apply_bits(x: View, residual: ArrayLike, constants: Constants, *, num_threads: int | None) -> _Bits: ...
def lookup(
    x: NDArray[np.uint8], axis: int, table: NDArray[Any], y: NDArray[Any], out_axis: int, num_threads: int | None
) -> bool: ...
@disjoint_base
class Constants:
    @property
    def channels(self) -> int: ...
    def __new__(
        cls,
        channels: int,
        mean: ArrayLike | None,
        var: ArrayLike | None,
        gamma: ArrayLike | None,
        beta: ArrayLike | None,
        eps: float,
        *,
        low: ArrayLike | None = None,
    ) -> Self: ...
    def made_of(
        self,
        mean: ArrayLike | None,
        var: ArrayLike | None,
        gamma: ArrayLike | None,
        beta: ArrayLike | None,
        eps: float,
    ) -> bool: ...

@disjoint_base
class Plan:
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def num_threads(self) -> int | None: ...
    def __new__(
        cls,
        example: NDArray[Any],
        axis: int,
        constants: Constants,
        *,
        activation: tuple[int, float],
        num_threads: int | None,
        origin: tuple[Callable[..., Self], tuple[Any, ...]],
    ) -> Self: ...
    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Any, ...]]: ...
    def __call__(self, x: NDArray[Any], out: NDArray[Any], residual: NDArray[Any] | None = None) -> NDArray[Any]: ...
