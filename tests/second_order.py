"""The functions of second order: each member by its name, and the reference."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastbn import functional
from fastbn.functional import Saved
from tests.oracle import WIDE

GROUPS = 2
MEMBERS = ("batch", "frozen", "layer", "rms", "group", "instance")
EPS = dict.fromkeys(MEMBERS, 1e-5) | {"rms": 1e-3}


def is_rows(name: str) -> bool:
    """Whether statistics run over the last axes, and parameters have their shape."""
    return name in ("layer", "rms")


class Reference:
    """A member by its definition. x has samples first; rows are normalized over all other axes."""

    def __init__(self, name: str, x: Any, axis: int = 1, wide: Any = WIDE) -> None:
        self.name, self.axis, self.wide = name, axis % x.ndim, wide
        self.shape = x.shape[1:] if is_rows(name) else (x.shape[self.axis],)
        rng = np.random.default_rng(x.shape[self.axis])
        self.mean, self.var = rng.normal(0, 1, x.shape[self.axis]), rng.uniform(0.5, 2, x.shape[self.axis])

    def average(self, v: Any) -> Any:
        """The mean over a statistic, at all of its values."""
        if self.name == "batch" or is_rows(self.name):
            one = 0 if is_rows(self.name) else self.axis
            mean = v.mean(axis=tuple(k for k in range(v.ndim) if k != one), keepdims=True)
            return np.broadcast_to(mean, v.shape)
        moved = np.moveaxis(v, self.axis, 1)
        groups = GROUPS if self.name == "group" else moved.shape[1]
        rows = moved.reshape(len(v), groups, -1)
        out = np.broadcast_to(rows.mean(axis=-1, keepdims=True), rows.shape).reshape(moved.shape)
        return np.moveaxis(out, 1, self.axis)

    def along(self, parameter: Any) -> Any:
        """A parameter in a shape that broadcasts against x."""
        parameter = np.asarray(parameter, self.wide)
        if is_rows(self.name):
            return parameter
        return parameter.reshape([-1 if k == self.axis else 1 for k in range(self.ndim)])

    def total(self, v: Any) -> Any:
        """The sum over the values of each parameter."""
        return v.sum(axis=0 if is_rows(self.name) else tuple(k for k in range(v.ndim) if k != self.axis))

    def normalized(self, x: Any) -> tuple[Any, Any]:
        """x_hat and rstd."""
        x = np.asarray(x).astype(self.wide)
        self.ndim = x.ndim
        eps = self.wide(EPS[self.name])
        if self.name == "frozen":
            rstd = 1 / np.sqrt(self.along(self.var) + eps)
            return (x - self.along(self.mean)) * rstd, np.broadcast_to(rstd, x.shape)
        d = x if self.name == "rms" else x - self.average(x)
        d = d if self.name == "rms" else d - self.average(d)
        rstd = 1 / np.sqrt(self.average(d * d) + eps)
        return d * rstd, rstd

    def forward(self, x: Any, gamma: Any, beta: Any) -> Any:
        """Return y."""
        x_hat, _ = self.normalized(x)
        return x_hat * self.along(gamma) + self.along(beta)

    def centred(self, v: Any) -> Any:
        """Return v less its mean, if a mean is subtracted from x."""
        return v if self.name == "rms" else v - self.average(v)

    def backward(self, dy: Any, x: Any, gamma: Any) -> tuple[Any, Any, Any]:
        """Return dx, dgamma, dbeta."""
        x_hat, rstd = self.normalized(x)
        dy = np.asarray(dy).astype(self.wide)
        w = dy * self.along(gamma)
        dx = rstd * w if self.name == "frozen" else rstd * (self.centred(w) - x_hat * self.average(w * x_hat))
        return dx, self.total(dy * x_hat), self.total(dy)

    def tangent(self, u: Any, x: Any, gamma: Any, g: Any, b: Any) -> Any:
        """Return the tangent of y by the rules of quotients and products."""
        x_hat, rstd = self.normalized(x)
        u = self.wide(1) * u
        if self.name == "frozen":
            d = u * rstd
        else:
            centred = self.centred(u)
            d = centred * rstd - x_hat * (rstd * self.average(centred * x_hat))
        return self.along(gamma) * d + self.along(g) * x_hat + self.along(b)

    def backward_backward(self, u: Any, g: Any, b: Any, dy: Any, x: Any, gamma: Any) -> tuple[Any, Any, Any]:
        """Return grad_dy, grad_x, grad_gamma, written out in products of the arguments."""
        x_hat, rstd = self.normalized(x)
        u, dy, g_dy = (np.asarray(v).astype(self.wide) for v in (u, dy, self.along(g) * dy))
        w = self.along(gamma) * dy
        grad_dy = self.tangent(u, x, gamma, g, b)
        if self.name == "frozen":
            return grad_dy, rstd * g_dy, self.total(dy * rstd * u)
        p, q = self.average(u * x_hat), self.average(w * x_hat)
        cov = self.average(self.centred(u) * self.centred(w))
        grad_x = rstd * (self.centred(g_dy) - x_hat * self.average(g_dy * x_hat)) - rstd**2 * (
            self.centred(u) * q + self.centred(w) * p + x_hat * (cov - 3 * p * q))
        return grad_dy, grad_x, self.total(dy * rstd * (self.centred(u) - x_hat * p))

    def results(self, a: "Arguments") -> tuple[Any, ...]:
        """Return the three gradients and the tangent."""
        return (*self.backward_backward(a.ddx, a.ddgamma, a.ddbeta, a.dy, a.x, a.gamma),
                self.tangent(a.ddx, a.x, a.gamma, a.ddgamma, a.ddbeta))


class Calls(NamedTuple):
    """The two functions of a member; gamma and tangents are given by keyword, and RMS norm ignores those of beta."""

    backward_backward: Callable[..., Any]
    jvp: Callable[..., Any]


def forward(of: Reference, x: Any, *parameters: Any) -> tuple[Any, Any]:
    """y and saved of the member of a reference, by fastbn; RMS norm takes gamma alone."""
    if of.name == "frozen":
        y = functional.batch_norm_inference(x, of.mean, of.var, *parameters, axis=of.axis)
        return y, Saved.from_statistics(of.mean, of.var)
    training = getattr(functional, f"{of.name}_norm_training")
    if is_rows(of.name):
        return training(x, of.shape, *parameters, eps=EPS[of.name])
    return training(x, *([GROUPS] if of.name == "group" else []), *parameters, axis=of.axis)


def backward(of: Reference, dy: Any, x: Any, saved: Any, gamma: Any) -> tuple[Any, ...]:
    """dx, dgamma and, but for RMS norm, dbeta, by fastbn."""
    name = "batch" if of.name == "frozen" else of.name
    options = {} if is_rows(name) else {"axis": of.axis}
    return getattr(functional, f"{name}_norm_backward")(dy, x, saved, gamma, **options)


def saved_of(of: Reference, x: Any) -> Any:
    """What a forward pass saves."""
    return forward(of, x)[1]


def calls(of: Reference, x: Any, saved: Any = None, **options: Any) -> Calls:
    """The functions of fastbn for the member of a reference, with x and saved bound."""
    name = "batch" if of.name == "frozen" else of.name
    second, jvp = (getattr(functional, f"{name}_norm_{kind}") for kind in ("backward_backward", "jvp"))
    saved = saved_of(of, x) if saved is None else saved
    if not is_rows(name):
        options["axis"] = of.axis

    def backward_backward(ddx: Any, ddgamma: Any, ddbeta: Any, dy: Any, **given: Any) -> Any:
        upstream = (ddx, ddgamma) if of.name == "rms" else (ddx, ddgamma, ddbeta)
        return second(*upstream, dy, x, saved, **given, **options)

    def tangent(x_tangent: Any, **given: Any) -> Any:
        if of.name == "rms":
            given.pop("beta_tangent", None)
        return jvp(x_tangent, x, saved, **given, **options)

    return Calls(backward_backward, tangent)


class Arguments(NamedTuple):
    """x, dy and ddx of one dtype, and vectors for gamma, ddgamma and ddbeta; ddbeta is zero for RMS norm."""

    x: Any
    dy: Any
    ddx: Any
    gamma: Any
    ddgamma: Any
    ddbeta: Any


def arguments(name: str, shape: tuple[int, ...], dtype: Any = np.float64, *, mean: float = 0.5) -> Arguments:
    """Normal values, with the channels second."""
    rng = np.random.default_rng(len(shape))
    x, dy, ddx = (rng.normal(m, 1, shape).astype(dtype) for m in (mean, 0.3, -0.2))
    size = shape[1:] if is_rows(name) else (shape[1],)
    gamma, ddgamma, ddbeta = rng.uniform(0.5, 2, size), rng.normal(0, 1, size), rng.normal(0, 1, size)
    return Arguments(x, dy, ddx, gamma, ddgamma, np.zeros(size) if name == "rms" else ddbeta)


def values_of(a: Arguments, make: Callable[[Any], Any]) -> Arguments:
    """The same with x, dy and ddx converted by `make`."""
    return a._replace(x=make(a.x), dy=make(a.dy), ddx=make(a.ddx))


def results(of: Reference, a: Arguments, **options: Any) -> tuple[Any, ...]:
    """The three gradients and the tangent, by fastbn."""
    call = calls(of, a.x, **options)
    return (*call.backward_backward(a.ddx, a.ddgamma, a.ddbeta, a.dy, gamma=a.gamma),
            call.jvp(a.ddx, gamma=a.gamma, gamma_tangent=a.ddgamma, beta_tangent=a.ddbeta))
