"""Recurrent networks over padded sequences: batch norm with lengths, and layer norm in every step.

Each digit is the sequence of its columns that are not empty. Batch norm normalizes the input of the recurrence over all
valid steps (Laurent et al., 2016, https://arxiv.org/abs/1510.01378), and layer norm its sum with the state (Ba et al.,
2016, https://arxiv.org/abs/1607.06450).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

import fastbn
from examples.applications.result import Result, main
from examples.nn import data
from examples.nn.layers import Linear, Parameter, normal, parameters
from examples.nn.loop import Examples, batches, progress
from examples.nn.losses import cross_entropy
from examples.nn.optimizers import Adam
from fastbn.functional import layer_norm_backward, layer_norm_training

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEPS, BATCH, HIDDEN, RATE = 1500, 32, 64, 0.002
KINDS = ("batch norm", "batch norm that counts padding", "layer norm", "none")


def sequences(examples: Examples) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return padded sequences of columns, (N, 8, 8), and their lengths."""
    columns = examples.x[..., 0].transpose(0, 2, 1)
    padded, filled = np.zeros_like(columns), columns.any(axis=2)
    for n, present in enumerate(filled):
        padded[n, :present.sum()] = columns[n, present]
    return padded, filled.sum(axis=1)


class Recurrent:
    """h = tanh(norm(x W) + h U + b), or tanh(norm(x W + h U)); the class follows from the state after the last step."""

    def __init__(self, kind: str, rng: np.random.Generator) -> None:
        self.kind = kind
        self.inputs = Linear(8, HIDDEN, rng, scale=np.sqrt(1 / 8))
        self.recurrent = normal(rng, (HIDDEN, HIDDEN), np.sqrt(0.5 / HIDDEN))
        self.grad_recurrent: NDArray[Any] = np.zeros_like(self.recurrent)
        self.norm: Any = fastbn.BatchNorm(HIDDEN, axis=-1) if "batch" in kind else fastbn.LayerNorm(HIDDEN)
        self.output = Linear(HIDDEN, 10, rng, scale=np.sqrt(1 / HIDDEN))

    def __call__(self, x: NDArray[Any], lengths: NDArray[Any]) -> NDArray[Any]:
        """Return the logits."""
        z = self.inputs(x)
        if "batch" in self.kind:
            z = self.norm(z, lengths=None if "counts" in self.kind else lengths)
        state = np.zeros((len(x), HIDDEN), np.float32)
        self._steps: list[tuple[Any, ...]] = []
        for t in range(x.shape[1]):
            total, saved = z[:, t] + state @ self.recurrent, None
            y = total
            if self.kind == "layer norm":
                y, saved = layer_norm_training(total, HIDDEN, self.norm.gamma, self.norm.beta)
            valid = (t < lengths)[:, None]
            new = np.where(valid, np.tanh(y), state)    # the state stays after the last step
            self._steps.append((state, total, saved, new, valid))
            state = new
        return self.output(state)

    def backward(self, dlogits: NDArray[Any]) -> None:
        """Leave the gradients of all parameters."""
        dstate = self.output.backward(dlogits)
        dz = np.zeros((len(dlogits), len(self._steps), HIDDEN), dlogits.dtype)
        self.grad_recurrent = np.zeros_like(self.recurrent)
        dgamma, dbeta = np.zeros((2, HIDDEN))
        for t, (state, total, saved, new, valid) in reversed(list(enumerate(self._steps))):
            dtotal = np.where(valid, dstate * (1 - new * new), 0).astype(total.dtype)
            if saved is not None:
                dtotal, *both = layer_norm_backward(dtotal, total, saved, self.norm.gamma)
                dgamma, dbeta = dgamma + both[0], dbeta + both[1]
            dz[:, t] = dtotal
            self.grad_recurrent += state.T @ dtotal
            dstate = dtotal @ self.recurrent.T + np.where(valid, 0, dstate)
        if "batch" in self.kind:
            dz = self.norm.backward(dz)
        else:
            self.norm.grad_gamma, self.norm.grad_beta = dgamma.astype(np.float32), dbeta.astype(np.float32)
        self.inputs.backward(dz)

    def parameters(self) -> list[Parameter]:
        """Return all parameters."""
        return [*self.inputs.parameters(), Parameter(self.recurrent, lambda: self.grad_recurrent, True),
                *(parameters(self.norm) if self.kind != "none" else []), *self.output.parameters()]


def train(kind: str, seed: int, steps: int) -> list[float]:
    """Return the test accuracy every 50 steps."""
    train_set, test_set = data.digits(seed)
    rng = np.random.default_rng([seed, 1])
    model = Recurrent(kind, rng)
    optimizer, some = Adam(model.parameters(), RATE), batches(train_set, BATCH, rng)
    curve = []
    with progress(steps, kind) as bar:
        for k in range(steps):
            batch = next(some)
            _, gradient = cross_entropy(model(*sequences(batch)), batch.target)
            model.backward(gradient.astype(np.float32))
            optimizer.step()
            bar.update()
            if k % 50 == 49:
                model.norm.eval()
                curve.append(100 * float(np.mean(model(*sequences(test_set)).argmax(axis=1) == test_set.target)))
                model.norm.train()
    return curve


def application(seed: int = 0, short: bool = False) -> Result:
    """Train a network of each kind."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    panel, numbers = figure.subplots(), {}
    for kind in KINDS:
        curve = train(kind, seed, STEPS // 10 if short else STEPS)
        numbers[f"{kind}: test accuracy in %"] = curve[-1]
        panel.plot(50 * np.arange(1, len(curve) + 1), curve, label=kind)
    panel.set(xlabel="step", ylabel="test accuracy in %")
    panel.legend(frameon=False)
    return Result(numbers, figure)


if __name__ == "__main__":
    raise SystemExit(main(__file__, __doc__ or "", application))
