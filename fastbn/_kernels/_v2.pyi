# Every level is built from one body, so these are the signatures of all of them; _dispatch types its choice by this
# file. The others have no stub of their own: stubtest imports what has one, and not every CPU survives importing them.

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbn._layout import View

_Vector: TypeAlias = NDArray[np.float64]
_Mask: TypeAlias = NDArray[np.uint16]

def openmp_version() -> int: ...
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
    num_threads: int | None,
) -> tuple[_Vector, _Vector, _Vector]: ...
def inference(
    x: ArrayLike,
    axis: int,
    channels: int | None,
    residual: ArrayLike | None,
    out: NDArray[Any] | None,
    mean: ArrayLike | None,
    var: ArrayLike | None,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    eps: float,
    relu: bool,
    num_threads: int | None,
) -> NDArray[Any]: ...
def inference_bits(
    x: View,
    residual: ArrayLike,
    mean: ArrayLike | None,
    var: ArrayLike | None,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    eps: float,
    num_threads: int | None,
) -> _Mask: ...
def backward(
    g: View,
    x: View,
    dx: View,
    dr: View | None,
    mean: ArrayLike,
    rstd: ArrayLike,
    gamma: ArrayLike | None,
    scale: ArrayLike | None,
    shift: ArrayLike | None,
    bits: _Mask | None,
    frozen: bool,
    num_threads: int | None,
) -> tuple[_Vector, _Vector]: ...
def statistics(x: View, num_threads: int | None) -> tuple[_Vector, _Vector]: ...
