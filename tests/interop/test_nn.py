"""The network layers of the examples: gradients against finite differences, optimizers, and data."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the demo extra is not installed: no scikit-learn")

import fastbn
from examples.nn import data
from examples.nn.layers import (
    FUNCTIONS,
    Activated,
    Convolution,
    Dropout,
    GlobalAverage,
    Linear,
    Reshape,
    Upsample,
    activation,
    batch_norm,
    parameters,
)
from examples.nn.loop import Examples, accuracy, batches, step
from examples.nn.losses import binary_cross_entropy, cross_entropy, squared_error
from examples.nn.model import Residual, Sequential
from examples.nn.optimizers import SGD, Adam

RNG = np.random.default_rng(0)
LAYERS = {
    "linear": (lambda: Linear(5, 4, RNG), (6, 5)),
    "linear over positions": (lambda: Linear(5, 4, RNG, bias=False), (3, 2, 5)),
    "convolution": (lambda: Convolution(3, 4, RNG, bias=True), (2, 5, 6, 3)),
    "stride": (lambda: Convolution(3, 4, RNG, stride=2), (2, 6, 5, 3)),
    "one pixel": (lambda: Convolution(3, 4, RNG, size=1), (2, 4, 4, 3)),
    "batch norm": (lambda: batch_norm(3, "silu"), (4, 5, 3)),
    "layer norm": (lambda: fastbn.LayerNorm(3), (4, 5, 3)),
    "residual": (lambda: Residual(Linear(3, 3, RNG), norm=fastbn.BatchNorm(3, axis=-1)), (4, 5, 3)),
    "average": (GlobalAverage, (2, 3, 4, 5)),
    "upsample": (Upsample, (2, 3, 4, 5)),
    "reshape": (lambda: Reshape(12), (2, 3, 4)),
    **{name: (lambda name=name: activation(name), (7, 5)) for name in FUNCTIONS},
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_finite_differences(name):
    make, shape = LAYERS[name]
    layer, rng = Sequential(make()), np.random.default_rng(1)
    for parameter in layer.parameters():
        parameter.value[...] += rng.normal(0, 0.3, parameter.value.shape)
    # In float64, because the layers compute in the dtype of x and of their weights.
    x, dy = rng.normal(0.1, 1, shape), rng.normal(size=layer(np.zeros(shape)).shape)
    layer(x)
    dx = layer.backward(dy)
    gradients = [(x, dx), *((p.value, p.gradient()) for p in layer.parameters())]
    for values, gradient in gradients:
        delta = 1e-6 if values is x else 1e-4
        for index in [tuple(rng.integers(length) for length in values.shape) for _ in range(6)]:
            kept, found = values[index], []
            for sign in (1, -1):
                values[index] = kept + sign * delta
                moved = float(values[index])
                found.append((moved, float((layer(x) * dy).sum())))
            values[index] = kept
            slope = (found[0][1] - found[1][1]) / (found[0][0] - found[1][0])
            assert slope == pytest.approx(float(gradient[index]), rel=2e-3, abs=2e-3)


@pytest.mark.parametrize(("loss", "y", "target"), [
    (cross_entropy, RNG.normal(size=(5, 4)), np.array([0, 3, 2, 2, 1])),
    (binary_cross_entropy, RNG.normal(size=(5, 1)), np.array([[0.0], [1], [1], [0.9], [0]])),
    (squared_error, RNG.normal(size=(5, 3)), RNG.normal(size=(5, 3)))])
def test_losses(loss, y, target):
    _, gradient = loss(y, target)
    for index in np.ndindex(y.shape):
        found = []
        for delta in (1e-6, -1e-6):
            moved = y.copy()
            moved[index] += delta
            found.append(loss(moved, target)[0])
        assert (found[0] - found[1]) / 2e-6 == pytest.approx(gradient[index], abs=1e-7)
    assert cross_entropy(np.zeros((2, 4)), np.array([0, 1]))[0] == pytest.approx(np.log(4))


def test_optimizers():
    linear = Linear(1, 1, RNG)
    for optimizer, want in (
            (SGD(linear.parameters(), 0.5), [0.0, -1.0]),
            (SGD(linear.parameters(), 0.5, momentum=0.5), [0.0, -1.5]),
            (SGD(linear.parameters(), 0.5, decay=0.1), [-0.05, -1.0475]),
            (Adam(linear.parameters(), 0.5), [0.5, 0.0])):
        linear.weight[...] = 1
        linear.grad_weight[...] = 2
        for value in want:
            optimizer.step()
            assert linear.weight[0, 0] == pytest.approx(value, abs=1e-6)
    assert linear.weight.dtype == np.float32


def test_dropout():
    layer, x = Dropout(0.25, np.random.default_rng(0)), np.ones((200, 50), np.float32)
    y = layer(x)
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.01)
    np.testing.assert_array_equal(layer.backward(x), y)
    np.testing.assert_array_equal(layer.train(False)(x), x)


def test_parameters_of_layers_of_fastbn():
    found = parameters(Activated(fastbn.BatchNorm(3, center=False), "relu"))
    assert [(p.value.tolist(), p.decays) for p in found] == [([1, 1, 1], False)]


def test_batches_and_a_network():
    examples = Examples(np.arange(10.0), np.arange(10))
    some = batches(examples, 3, np.random.default_rng(0))
    epoch = np.concatenate([next(some).target for _ in range(3)])
    assert len({*epoch}) == 9       # the rest of the epoch is left out
    with pytest.raises(ValueError, match="size must be between 1 and 10, got 11"):
        next(batches(examples, 11, np.random.default_rng(0)))
    train_set, test_set = data.digits(0)
    assert (train_set.x.shape, test_set.x.shape) == ((1348, 8, 8, 1), (449, 8, 8, 1))
    rng = np.random.default_rng(0)
    model = Sequential(Reshape(64), Linear(64, 32, rng), batch_norm(32, "relu"), Linear(32, 10, rng))
    optimizer, some = SGD(model.parameters(), 0.1, momentum=0.9), batches(train_set, 64, rng)
    for _ in range(200):
        step(model, cross_entropy, optimizer, next(some))
    assert accuracy(model, test_set) > 93


def test_data():
    train_set, test_set = data.table("wine", 0)
    assert (len(train_set.x), len(test_set.x)) == (134, 44)
    np.testing.assert_allclose(train_set.x.std(axis=0), 1, atol=1e-5)
    patches = data.photograph_patches(8, 0, 10)
    assert patches.shape == (10, 8, 8, 3)
    assert 0 <= patches.min() < patches.max() <= 1
