"""The derivative of a normalization and the gradient of its backward pass, in closed form, for each member.

With x_hat = (x - mean) * rstd, the means <.> over the values of a statistic, and

    P(v) = rstd * (v - <v> - x_hat * <v x_hat>)

the backward pass is dx = P(gamma dy), dgamma = sum dy x_hat, dbeta = sum dy. P is linear and symmetric, and it is also
the derivative of x_hat with respect to x. RMS norm has no <v>; with given statistics P(v) = rstd * v. Hence

    tangent of y = gamma P(x_tangent) + gamma_tangent x_hat + beta_tangent

and, with upstream gradients ddx, ddgamma and ddbeta of dx, dgamma and dbeta,

    grad_dy    = gamma P(ddx) + ddgamma x_hat + ddbeta
    grad_gamma = sum dy P(ddx)
    grad_x     = P(ddgamma dy) - rstd * (<gamma dy x_hat> P(ddx) + <ddx x_hat> dx + <ddx dx> x_hat)

The second term of grad_x is that of sum ddx P(w), with w = gamma dy, through the statistics. Through rstd it is
-rstd <ddx dx> x_hat; with respect to x_hat it is -rstd (<w x_hat> ddx + <ddx x_hat> w), which P carries over to x. With
given statistics P is constant, and the second term is zero.

The members differ in which values share a statistic, and which a parameter: two shapes of the same memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbn._core import views
from fastbn._core.checks import NO_ACTIVATION
from fastbn._core.dispatch import kernels
from fastbn._core.kept import Kept

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray



class Directions(NamedTuple):
    """Tangents of x, gamma and beta, or upstream gradients of dx, dgamma and dbeta; None stands for zero."""

    x: NDArray[Any] | None
    gamma: ArrayLike | None
    beta: ArrayLike | None


class Frame(NamedTuple):
    """A shape of an array, and the axis along which statistics or parameters differ."""

    shape: tuple[int, ...]
    axis: int
    num_threads: int | None

    @property
    def length(self) -> int:
        """How many there are."""
        return self.shape[self.axis]

    def view(self, a: NDArray[Any]) -> views.View:
        """Return an array as the kernels walk it."""
        return views.view(a.reshape(self.shape), self.axis)

    def dot(self, a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return sum a * b and sum a."""
        view = self.view(b)
        other = views.like(view, a.reshape(self.shape), "a")
        return kernels.reduce_gradient(other, view, plain(self.length), num_threads=self.num_threads)

    def scale(
        self, a: NDArray[Any], scale: ArrayLike | None, shift: ArrayLike | None = None, *,
        plus: NDArray[Any] | None = None, out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return a * scale + shift + plus, in the shape of a; `out` may be a or plus."""
        return self.apply(kernels.Constants(self.length, None, None, scale, shift, 0.0), a, plus, out)

    def apply(
        self, constants: kernels.Constants, a: NDArray[Any], plus: NDArray[Any] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return what `scale` does, by given constants."""
        plus, out = (None if b is None else b.reshape(self.shape) for b in (plus, out))
        return kernels.apply(
            a.reshape(self.shape), self.axis, constants, plus, out, NO_ACTIVATION, self.num_threads).reshape(a.shape)


def plain(length: int) -> Kept:
    """Return statistics that leave values unchanged."""
    return Kept(np.zeros(length), None, np.ones(length), None, None, None, False, NO_ACTIVATION)


@dataclass(slots=True, eq=False)
class Statistics:
    """What a forward pass normalized by.

    Attributes
    ----------
    mean, low : ndarray of float64, shape (frame.length,), or None
        The mean in two words. Without a mean, as in RMS norm, the statistics are about zero.
    rstd : ndarray of float64, shape (frame.length,)
    frame : Frame
        An array as the statistics see it.
    frozen : bool
        Whether they are constants.
    """

    mean: NDArray[np.float64] | None
    low: NDArray[np.float64] | None
    rstd: NDArray[np.float64]
    frame: Frame
    frozen: bool = False


@dataclass(slots=True, eq=False)
class Normalized:
    """A normalized array of float32 or float64, and an array as gamma and beta see it."""

    x_hat: NDArray[Any]
    statistics: Statistics
    parameters: Frame

    @classmethod
    def of(cls, x: NDArray[Any], statistics: Statistics, parameters: Frame) -> Normalized:
        """Normalize an array."""
        frame = statistics.frame
        constants = kernels.Constants(
            frame.length, statistics.mean, None, statistics.rstd, None, 0.0, low=statistics.low)
        return cls(frame.apply(constants, x), statistics, parameters)

    @property
    def count(self) -> int:
        """Values per statistic."""
        return self.x_hat.size // self.statistics.frame.length

    def project(self, v: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return P(v) and <v x_hat>, or zeros instead if the statistics are constants."""
        of, frame = self.statistics, self.statistics.frame
        if of.frozen:
            return frame.scale(v, of.rstd), np.zeros(frame.length)
        products, sums = frame.dot(v, self.x_hat)
        x_hat = frame.view(self.x_hat)
        result = views.output(x_hat)
        kernels.apply_gradient(
            views.like(x_hat, v.reshape(frame.shape), "v"), x_hat, result, None, plain(frame.length), of.rstd,
            sums=(products, np.zeros(frame.length) if of.mean is None else sums), count=self.count, fill=False,
            num_threads=frame.num_threads)
        return result.finish().reshape(v.shape), products / self.count


class Gradients(NamedTuple):
    """Gradients with respect to the arguments of a backward pass; that of gamma has one value per parameter."""

    dy: NDArray[Any]
    x: NDArray[Any]
    gamma: NDArray[np.float64]


def tangent(of: Normalized, given: Directions, gamma: ArrayLike | None) -> NDArray[Any]:
    """Return the tangent of y."""
    return combined(of, given, gamma, None if given.x is None else of.project(given.x)[0])


def combined(
    of: Normalized, given: Directions, gamma: ArrayLike | None, projected: NDArray[Any] | None
) -> NDArray[Any]:
    """Return gamma * projected + given.gamma * x_hat + given.beta; `projected`, P(given.x), is written over."""
    y = None
    if given.gamma is not None:
        y = of.parameters.scale(of.x_hat, given.gamma, given.beta)
    elif given.beta is not None:
        y = of.parameters.scale(np.zeros_like(of.x_hat), None, given.beta)
    if projected is None:
        return np.zeros_like(of.x_hat) if y is None else y
    if y is None and gamma is None:
        return projected
    return of.parameters.scale(projected, gamma, plus=y, out=projected)


@np.errstate(all="ignore")      # an infinity gives NaN in its statistic, without a warning
def backward_backward(of: Normalized, given: Directions, dy: NDArray[Any], gamma: ArrayLike | None) -> Gradients:
    """Return the gradients of the backward pass."""
    by_statistic, by_parameter = of.statistics.frame, of.parameters
    projected = None
    grad_gamma = np.zeros(by_parameter.length)
    grad_x = None if given.gamma is None else of.project(by_parameter.scale(dy, given.gamma))[0]
    if given.x is not None:
        projected, about_ddx = of.project(given.x)
        grad_gamma, _ = by_parameter.dot(dy, projected)
        if not of.statistics.frozen:
            dx, about_dy = of.project(dy if gamma is None else by_parameter.scale(dy, gamma))
            along, _ = by_statistic.dot(given.x, dx)
            for array, weight in ((projected, about_dy), (dx, about_ddx), (of.x_hat, along / of.count)):
                grad_x = by_statistic.scale(array, -of.statistics.rstd * weight, plus=grad_x, out=grad_x)
    grad_dy = combined(of, given, gamma, projected)
    return Gradients(grad_dy, np.zeros_like(dy) if grad_x is None else grad_x, grad_gamma)
