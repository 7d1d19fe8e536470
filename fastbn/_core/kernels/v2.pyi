# Every level is built from one body, so these are the signatures of all of them; _dispatch types its choice by this
# file. The others have no stub of their own: stubtest imports what has one, and not every CPU survives importing them.

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Self, disjoint_base

from fastbn._core.views import View

_Vector: TypeAlias = NDArray[np.float64]
_Mask: TypeAlias = NDArray[np.uint16]

def assume_last_cache(nbytes: int) -> int: ...
def openmp_version() -> int: ...
def constants() -> dict[str, int]: ...
def bits_words(x: View) -> int: ...
def training(
    x: View,
    y: View,
    r: View | None,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    eps: float,
    relu: bool,
    bits: _Mask | None,
    fill: bool,
    num_threads: int | None,
) -> tuple[_Vector, _Vector, _Vector, _Vector]: ...
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
        activation: int,
        slope: float,
        num_threads: int | None,
        origin: tuple[Callable[..., Self], tuple[Any, ...]],
    ) -> Self: ...
    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Any, ...]]: ...
    def __call__(self, x: NDArray[Any], out: NDArray[Any], residual: NDArray[Any] | None = None) -> NDArray[Any]: ...

def inference(
    x: ArrayLike,
    axis: int,
    constants: Constants,
    residual: ArrayLike | None,
    out: NDArray[Any] | None,
    activation: int,
    slope: float,
    num_threads: int | None,
) -> NDArray[Any]: ...
def inference_once(
    x: ArrayLike,
    axis: int,
    mean: ArrayLike | None,
    var: ArrayLike | None,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    eps: float,
    residual: ArrayLike | None,
    out: NDArray[Any] | None,
    activation: int,
    slope: float,
    num_threads: int | None,
) -> NDArray[Any]: ...
def inference_bits(x: View, residual: ArrayLike, constants: Constants, num_threads: int | None) -> _Mask: ...
def lookup(
    x: NDArray[np.uint8], axis: int, table: NDArray[Any], y: NDArray[Any], out_axis: int, num_threads: int | None
) -> bool: ...
def backward(
    g: View,
    x: View,
    dx: View | None,
    dr: View | None,
    mean: ArrayLike,
    low: ArrayLike | None,
    rstd: ArrayLike,
    gamma: ArrayLike | None,
    scale: ArrayLike | None,
    shift: ArrayLike | None,
    bits: _Mask | None,
    frozen: bool,
    fill: bool,
    sums: tuple[_Vector, _Vector] | None,
    count: float,
    num_threads: int | None,
) -> tuple[_Vector, _Vector]: ...
def statistics(x: View, whole: bool, num_threads: int | None) -> tuple[_Vector, _Vector, _Vector]: ...
def byte_statistics(x: View, num_threads: int | None) -> tuple[_Vector, _Vector, _Vector]: ...
