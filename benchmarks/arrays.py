"""Libraries that work on NumPy arrays: fastbn, NumPy, scikit-learn and OpenCV."""
# ruff: noqa: D102  the methods are kinds of operations

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.peers import EPS, MEAN, STD, Peer

if TYPE_CHECKING:
    from benchmarks.cases import Case, Operation
    from benchmarks.peers import Calls

MOST_MOMENTS = 10_000_000   # elements; libraries that convert to float64 run out of memory beyond


class Fastbn(Peer):
    """fastbn."""

    def __init__(self, case: Case, threads: int) -> None:
        import fastbn

        super().__init__(case, threads)
        self.fastbn = fastbn
        self.f = fastbn.functional
        self.options: dict[str, Any] = {"axis": case.axis, "num_threads": threads}

    @classmethod
    def supports(cls, op: Operation, case: Case) -> bool:
        return hasattr(cls, op.kind)

    def _arrays(self, op: Operation) -> tuple[Any, Any]:
        if op.dtype == "float32":
            return self.x, None if op.fresh else self.y
        import ml_dtypes

        x = self.x.astype(ml_dtypes.bfloat16 if op.dtype == "bfloat16" else op.dtype)
        return x, np.zeros_like(x)

    def training(self, op: Operation) -> Calls:
        x, y = self._arrays(op)
        residual = self.dy if op.residual else None
        return [lambda: self.f.batch_norm_training(
            x, self.gamma, self.beta, residual=residual, activation=op.activation, out=y, **self.options)]

    def inference(self, op: Operation) -> Calls:
        x, y = self._arrays(op)
        return [lambda: self.f.batch_norm_inference(
            x, self.mean, self.var, self.gamma, self.beta, out=y, **self.options)]

    def backward(self, op: Operation) -> Calls:
        x, y = self._arrays(op)
        saved = (self.f.Saved.from_statistics(self.mean, self.var) if op.frozen
                 else self.f.batch_norm_training(x, self.gamma, self.beta, **self.options)[1])
        return [lambda: self.f.batch_norm_backward(self.dy, x, saved, self.gamma, out=y, **self.options)]

    def step(self, op: Operation) -> Calls:
        x, y, dx = self.x, self.y, np.zeros_like(self.x)

        def step() -> object:
            saved = self.f.batch_norm_training(
                x, self.gamma, self.beta, activation=op.activation, out=y, **self.options)[1]
            return y, *self.f.batch_norm_backward(self.dy, x, saved, self.gamma, out=dx, **self.options)

        return [step]

    def affine(self, op: Operation) -> Calls:
        x, y = self._arrays(op)
        residual, activation = self.dy if op.residual else None, op.activation
        affine = self.fastbn.ChannelAffine.from_statistics(
            self.mean, self.var, self.gamma, self.beta, EPS, **self.options)
        bound = affine.bind(x.shape, x.dtype, activation=activation)
        return [lambda: affine(x, residual, activation, y), lambda: bound(x, y, residual)]

    def plan(self, op: Operation) -> Calls:
        return self.affine(op)[1:]

    def _layer(self) -> Any:
        layer = self.fastbn.BatchNorm(self.case.channels, **self.options)
        layer.load_state_dict({"weight": self.gamma, "bias": self.beta, "running_mean": self.mean,
                               "running_var": self.var})
        return layer

    def call(self, op: Operation) -> Calls:
        layer, x, y = self._layer().eval(), self.x, self.y
        return [lambda: layer(x, out=y)]

    def sequences(self, op: Operation) -> Calls:
        layer, x, y = self._layer(), self.x, self.y
        return [lambda: layer(x, out=y)]

    def padded(self, op: Operation) -> Calls:
        layer, x, y = self._layer(), self.x, self.y
        lengths = np.linspace(0, x.shape[1], len(x)).round().astype(int)
        return [lambda: layer(x, out=y, lengths=lengths)]

    def images(self, op: Operation) -> Calls:
        normalize = self.fastbn.ChannelAffine.from_mean_std(MEAN, STD, num_threads=self.threads)
        y = np.zeros(self.case.shape, np.float32)
        return [lambda: normalize(self.pixels, out_axis=1, out=y)]

    def moments(self, op: Operation) -> Calls:
        x = self.values(op)
        stats = self.fastbn.ChannelStats(self.case.channels, axis=self.case.axis)
        return [lambda: stats.update(x, num_threads=self.threads)]


class Numpy(Peer):
    """NumPy as one writes it; it uses one thread."""

    @classmethod
    def supports(cls, op: Operation, case: Case) -> bool:
        return (super().supports(op, case) and op.dtype in ("float32", "uint8")
                and not (op.kind == "moments" and case.size > MOST_MOMENTS))

    def __init__(self, case: Case, threads: int) -> None:
        super().__init__(case, threads)
        shape = [1] * len(case.shape)
        shape[case.axis] = -1
        self.axes = tuple(i for i, length in enumerate(shape) if length == 1)
        self.gamma, self.beta, self.mean, self.var = (
            v.reshape(shape) for v in (self.gamma, self.beta, self.mean, self.var))
        self.scale = self.gamma / np.sqrt(self.var + np.float32(EPS))
        self.shift = self.beta - self.mean * self.scale

    def training(self, op: Operation) -> Calls:
        out = None if op.fresh else self.y

        def train() -> object:
            y = np.subtract(self.x, self.x.mean(self.axes, keepdims=True), out=out)
            var = np.square(y).mean(self.axes, keepdims=True)
            y *= self.gamma / np.sqrt(var + np.float32(EPS))
            y += self.beta
            return y

        return [train]

    def inference(self, op: Operation) -> Calls:
        out = None if op.fresh else self.y

        def infer() -> object:
            scale = self.gamma / np.sqrt(self.var + np.float32(EPS))
            y = np.multiply(self.x, scale, out=out)
            y += self.beta - self.mean * scale
            return y

        return [infer]

    @cached_property
    def batch(self) -> tuple[Any, Any]:
        """Mean and reciprocal standard deviation of x."""
        mean, var = self.x.mean(self.axes, keepdims=True), self.x.var(self.axes, keepdims=True)
        return mean, 1 / np.sqrt(var + np.float32(EPS))

    def backward(self, op: Operation) -> Calls:
        out = None if op.fresh else self.y
        mean, rstd = self.batch
        count = np.float32(self.case.size / self.case.channels)

        def back() -> object:
            x_hat = self.x - mean
            x_hat *= rstd
            dbeta = self.dy.sum(self.axes, keepdims=True)
            dgamma = (self.dy * x_hat).sum(self.axes, keepdims=True)
            x_hat *= dgamma / count
            dx = np.subtract(self.dy, x_hat, out=out)
            dx -= dbeta / count
            dx *= self.gamma * rstd
            return dx, dgamma, dbeta

        return [back]

    def affine(self, op: Operation) -> Calls:
        x, r, y, scale, shift = self.x, self.dy, self.y, self.scale, self.shift

        def ufuncs() -> None:
            np.multiply(x, scale, out=y)
            np.add(y, shift, out=y)
            if op.residual:
                np.add(y, r, out=y)
            if op.activation:
                np.maximum(y, np.float32(0), out=y)

        return [ufuncs]

    def call(self, op: Operation) -> Calls:
        x, y, scale, shift = self.x, self.y, self.scale, self.shift

        def two_ufuncs() -> None:
            np.multiply(x, scale, out=y)
            np.add(y, shift, out=y)

        return [two_ufuncs]

    plan = call

    def images(self, op: Operation) -> Calls:
        y = np.zeros(self.case.shape, np.float32)
        scale, shift = (np.array(v, np.float32) for v in (1 / (255 * np.array(STD)), np.array(MEAN) / STD))

        def two_ufuncs() -> object:
            view = np.moveaxis(y, 1, -1)
            np.multiply(self.pixels, scale, out=view)
            np.subtract(view, shift, out=view)
            return y

        def by_plane() -> object:
            for c in range(3):
                np.multiply(self.pixels[..., c], scale[c], out=y[:, c])
                np.subtract(y[:, c], shift[c], out=y[:, c])
            return y

        return [two_ufuncs, by_plane]

    def moments(self, op: Operation) -> Calls:
        x = self.values(op)
        return [lambda: (x.mean(self.axes), x.var(self.axes))]


class NumpyTricks(Numpy):
    """Faster ways to a mean and a variance in NumPy than asking for them."""

    @classmethod
    def supports(cls, op: Operation, case: Case) -> bool:
        return op.kind == "moments" and case.layout == "rows" and super().supports(op, case)

    def moments(self, op: Operation) -> Calls:
        x = self.values(op).reshape(-1, self.case.channels)
        wide = x.reshape(-1, math.gcd(len(x), 256) * self.case.channels)   # NumPy adds long rows faster

        def by_long_rows(dtype: type | None) -> object:
            means, variances = (v.reshape(-1, self.case.channels) for v in (wide.mean(0, dtype), wide.var(0, dtype)))
            return means.mean(0), variances.mean(0) + means.var(0)

        def by_channel() -> object:
            pairs = [(channel.mean(dtype=np.float32), channel.var(dtype=np.float32)) for channel in x.T]
            return tuple(np.array(pairs).T)

        return [lambda: by_long_rows(None), lambda: by_long_rows(np.float32), by_channel, *super().moments(op)]


class ScikitLearn(Peer):
    """scikit-learn's StandardScaler, a batch at a time."""

    @classmethod
    def supports(cls, op: Operation, case: Case) -> bool:
        return op.kind == "moments" and case.layout == "rows" and case.size <= MOST_MOMENTS

    def moments(self, op: Operation) -> Calls:
        from sklearn.preprocessing import StandardScaler

        x = self.values(op).reshape(-1, self.case.channels)
        scaler = StandardScaler()

        def update() -> object:
            scaler.partial_fit(x)
            return scaler.mean_, scaler.var_

        return [update]


class OpenCv(Peer):
    """OpenCV's blobFromImages, with a scale for each colour."""

    def images(self, op: Operation) -> Calls:
        import cv2

        cv2.setNumThreads(self.threads)
        settings = cv2.dnn.Image2BlobParams()
        settings.scalefactor = tuple(1 / (255 * np.array(STD)))
        settings.mean = tuple(255 * np.array(MEAN))
        pictures = list(self.pixels)
        return [lambda: cv2.dnn.blobFromImagesWithParams(pictures, settings)]
