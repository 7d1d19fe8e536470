"""Internal covariate shift is a contested explanation; the smoothness of the loss is another one.

Ioffe and Szegedy (2015) explain batch norm by a reduction of the shift of the inputs of layers; Santurkar et al.
(2018), https://arxiv.org/abs/1805.11604, find no reduction, and a smoother loss.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from examples.claims.claim import Claim, Plan, main
from examples.claims.effect import paired, table
from examples.claims.style import BLUE, GREY, ORANGE, axes, band
from examples.nn import data
from examples.nn.layers import Activated, Linear, Reshape, Stateless, activation, batch_norm
from examples.nn.loop import Examples, accuracy, batches, fit
from examples.nn.losses import cross_entropy
from examples.nn.model import Sequential
from examples.nn.optimizers import SGD

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

HIDDEN, DEPTH, STEPS, EVERY, BATCH, RATE = 100, 4, 600, 20, 60, 0.1
PROBES = (0.25, 0.5, 1.0, 2.0, 4.0)     # times the learning rate, along the gradient
KINDS = ("with batch norm", "without", "batch norm and noise")


class Noise(Stateless):
    """Noise of a mean and a scale that change with every step, for each unit: a covariate shift on purpose."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._training = rng, True
        self._scale: NDArray[Any] = np.ones((), np.float32)

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return scale * x + mean + noise."""
        if not self._training:
            return x
        width = x.shape[-1:]
        self._scale = np.asarray(self._rng.uniform(0.8, 1.25, width), np.float32)
        mean, noise = self._rng.standard_normal(width, np.float32), self._rng.standard_normal(x.shape, np.float32)
        y: NDArray[Any] = x * self._scale + np.float32(0.5) * mean + np.float32(0.3) * noise
        return y

    def backward(self, dy: NDArray[Any]) -> NDArray[Any]:
        """Return dx."""
        dx: NDArray[Any] = dy * self._scale
        return dx

    def train(self, mode: bool = True) -> Any:
        """Switch the mode."""
        self._training = mode
        return self


def network(kind: str, rng: np.random.Generator) -> Sequential:
    """Return a network of four hidden layers of tanh."""
    layers: list[Any] = [Reshape(64)]
    for inputs in (64, *[HIDDEN] * (DEPTH - 1)):
        layers.append(Linear(inputs, HIDDEN, rng, bias=kind == "without", scale=np.sqrt(1 / inputs)))
        if kind != "without":
            layers.append(batch_norm(HIDDEN))
        if kind == "batch norm and noise":
            layers.append(Noise(rng))
        layers.append(activation("tanh"))
    return Sequential(*layers, Linear(HIDDEN, 10, rng, scale=np.sqrt(1 / HIDDEN)))


def gradient(model: Sequential, batch: Examples) -> tuple[float, list[NDArray[Any]]]:
    """Return the loss and the gradients of the weights of the linear layers."""
    loss, dy = cross_entropy(model(batch.x), batch.target)
    model.backward(dy.astype(np.float32))
    return loss, [layer.grad_weight.copy() for layer in model.layers if isinstance(layer, Linear)]


def landscape(model: Sequential, batch: Examples, rate: float) -> tuple[float, float]:
    """Return the range of the loss, and the largest relative change of the gradient, over steps of several lengths."""
    weights = [layer.weight for layer in model.layers if isinstance(layer, Linear)]
    kept = [weight.copy() for weight in weights]
    _, here = gradient(model, batch)
    losses, changes = [], []
    for probe in PROBES:
        for weight, start, slope in zip(weights, kept, here, strict=True):
            weight[...] = start - probe * rate * slope
        loss, there = gradient(model, batch)
        losses.append(loss)
        changes.append(relative(there, here))
    for weight, start in zip(weights, kept, strict=True):
        weight[...] = start
    return max(losses) - min(losses), max(changes)


def relative(there: list[NDArray[Any]], here: list[NDArray[Any]]) -> float:
    """Return the norm of the difference, relative to that of the second."""
    difference = np.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in zip(there, here, strict=True)))
    return float(difference / np.sqrt(sum(float((b**2).sum()) for b in here)))


def shift(model: Sequential, batch: Examples, rate: float) -> float:
    """Return the internal covariate shift of Santurkar et al., averaged over layers.

    For each layer, the relative difference of its gradient before and after the layers below have taken their step.
    """
    linears = [layer for layer in model.layers if isinstance(layer, Linear)]
    kept = [layer.weight.copy() for layer in linears]
    _, before = gradient(model, batch)
    found = []
    for k in range(1, len(linears)):
        for layer, start, slope in zip(linears[:k], kept, before, strict=False):
            layer.weight[...] = start - rate * slope
        _, after = gradient(model, batch)
        found.append(relative([after[k]], [before[k]]))
        for layer, start in zip(linears[:k], kept, strict=False):
            layer.weight[...] = start
    return float(np.mean(found))


def moments(model: Sequential, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return mean and deviation of the units of the last hidden layer, (2, HIDDEN): before and after batch norm.

    The two are the same without batch norm.
    """
    last = max(k for k, layer in enumerate(model.layers[:-1]) if isinstance(layer, Linear))
    found = []
    for k, layer in enumerate(model.layers[:-2]):
        x = layer(x)
        if k in (last, len(model.layers) - 3):
            found.append(np.stack([x.mean(axis=0), x.std(axis=0)]))
    return found[0], found[-1]


def drift(now: NDArray[Any], before: NDArray[Any]) -> float:
    """Return the mean change of mean and deviation, relative to the deviation."""
    return float((np.abs(now - before) / before[1]).mean())


@contextmanager
def probing(model: Sequential) -> Iterator[None]:
    """Leave the running averages alone."""
    norms = [layer.norm for layer in model.layers if isinstance(layer, Activated)]
    for norm in norms:
        norm.update_running_stats = False
    yield
    for norm in norms:
        norm.update_running_stats = True


def train(kind: str, seed: int, steps: int) -> dict[str, Any]:
    """Return accuracy, loss range, change of the gradient, shift and drift every EVERY steps."""
    train_set, test_set = data.digits(seed)
    model = network(kind, np.random.default_rng([seed, 1]))
    optimizer, some = SGD(model.parameters(), RATE), batches(train_set, BATCH, np.random.default_rng([seed, 2]))
    probe = next(batches(train_set, 256, np.random.default_rng([seed, 3])))
    found: dict[str, Any] = {name: [] for name in ("accuracy", "range", "change", "shift", "drift", "drift after")}
    with probing(model):
        before = moments(model, probe.x)
    for _ in range(max(1, steps // EVERY)):
        found["accuracy"].append(accuracy(model, test_set))
        with probing(model):
            loss_range, change = landscape(model, probe, RATE)
            found["range"].append(loss_range)
            found["change"].append(change)
            found["shift"].append(shift(model, probe, RATE))
        fit(model, cross_entropy, optimizer, some, EVERY)
        with probing(model):
            now = moments(model, probe.x)
        for name, a, b in zip(("drift", "drift after"), now, before, strict=True):
            found[name].append(drift(a, b))
        before = now
    return found


def measure(plan: Plan) -> dict[str, Any]:
    """Train three kinds of networks."""
    items = [(kind, seed, plan.steps(STEPS)) for kind in KINDS for seed in range(plan.seeds)]
    runs = plan.parallel(train, items, "covariate shift")
    found: dict[str, Any] = {}
    for (kind, *_), run in zip(items, runs, strict=True):
        for name, curve in run.items():
            found.setdefault(kind, {}).setdefault(name, []).append([round(float(value), 5) for value in curve])
    return found


def draw(figure: Figure, numbers: Mapping[str, Any]) -> None:
    """Draw all five over training."""
    titles = {"accuracy": "test accuracy in %", "shift": "covariate shift (gradient)", "drift": "drift before the norm",
              "range": "range of the loss", "change": "change of the gradient"}
    for panel, (name, title) in zip(axes(figure, len(titles)), titles.items(), strict=True):
        for kind, colour in zip(KINDS, (BLUE, ORANGE, GREY), strict=True):
            curves = numbers[kind][name]
            band(panel, np.arange(len(curves[0])) * EVERY, curves, colour, kind)
        panel.set(title=title, xlabel="step")
        if name == "accuracy":
            panel.legend(frameon=False, fontsize=8, loc="lower right")


def values(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of the page."""
    mean = [{name: np.array(curves).mean(axis=1) for name, curves in numbers[kind].items()} for kind in KINDS]
    titles = {"accuracy": ("test accuracy over the training, %", 1), "drift": ("drift before the last norm", 2),
              "drift after": ("drift after it", 3),
              "shift": ("change of a layer's gradient by steps below it", 2),
              "range": ("range of the loss along the gradient", 3), "change": ("largest change of the gradient", 2)}
    with_, without, noisy = mean
    return {
        "depth": str(DEPTH), "steps": str(STEPS), "rate": f"{RATE:g}", "every": str(EVERY),
        "least": f"{PROBES[0]:g}", "most": f"{PROBES[-1]:g}", "kinds": " | ".join(KINDS),
        "table": table({title: [f"{kind[name].mean():.{digits}f}" for kind in mean]
                        for name, (title, digits) in titles.items()}),
        "drift": paired(with_["drift"], without["drift"]).text("", 2),
        "after": f"{with_['drift after'].mean():.3f}",
        "shift": paired(with_["shift"], without["shift"]).text("", 2),
        "noisy": paired(noisy["accuracy"], without["accuracy"]).text(" points"),
        "noisy_shift": f"{noisy['shift'].mean() / without['shift'].mean():.1f}",
        "change": paired(with_["change"], without["change"]).text("", 2),
        "range": paired(with_["range"], without["range"]).text("", 3),
    }


CLAIM = Claim("covariate_shift", "Internal covariate shift, a contested explanation", measure, draw, values)

if __name__ == "__main__":
    raise SystemExit(main(CLAIM))
