"""BatchNorm(keep="output"): training in place, whose backward pass reads y."""

import copy
import gc
import pickle
import tracemalloc

import numpy as np
import pytest

from fastbn import BatchNorm, population_statistics
from fastbn.layers.source import MicroBatches
from tests.compare import same_bits
from tests.functional.test_inplace import ACTIVATIONS, KINDS, arrays, by_kind, exact, units

SHAPE = (16, 8, 14, 14)


def pair(dtype=np.float32, **settings):
    """Two layers with the same parameters, of which the first keeps y."""
    _, _, gamma, beta = arrays(dtype)
    layers = BatchNorm(8, keep="output", dtype=dtype, **settings), BatchNorm(8, dtype=dtype, **settings)
    for bn in layers:
        bn.gamma[:], bn.beta[:] = gamma, beta
    return layers


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS, **by_kind)
def test_training_in_place(kind, activation):
    x, dy, _, _ = arrays(kind)
    bn, other = pair(np.float64 if kind == np.float64 else np.float32)
    want = exact(x, dy, bn.gamma, bn.beta, activation)
    right = other(x.copy(), activation=activation)
    y = bn(x, activation=activation, out=x)
    assert y is x
    same_bits(y, right)
    same_bits(bn.running_mean, other.running_mean)
    same_bits(bn.running_var, other.running_var)
    dx = bn.backward(dy, out=dy)
    assert dx is dy
    assert units(dx, want[0], kind) < 12
    assert units(bn.grad_gamma, want[1], kind) < 12
    assert units(bn.grad_beta, want[2], kind) < 12


@pytest.mark.parametrize("activation", [None, "leaky_relu", "elu"])
@pytest.mark.parametrize("mode", ["evaluation", "frozen", "frozen but following", "untracked", "single"])
def test_other_statistics(mode, activation, dtype):
    x, dy, _, _ = arrays(dtype)
    settings = {"untracked": {"track_running_stats": False}, "single": {"on_single": "zero"}}.get(mode, {})
    layers = pair(dtype, **settings)
    if mode != "untracked":
        for bn in layers:
            bn(x)
    if mode == "single":
        x, dy = x[:1, :, :1, :1].copy(), dy[:1, :, :1, :1].copy()
    results = []
    for bn, given in zip(layers, (x.copy(), x), strict=True):
        bn.train(mode not in ("evaluation", "untracked"))
        if mode.startswith("frozen"):
            bn.freeze(learn_affine=True, update_running_stats=mode == "frozen but following")
        y = bn(given, activation=activation, out=given if bn.keep == "output" else None)
        dx = bn.backward(dy)
        results.append((y, dx, bn.grad_gamma, bn.grad_beta))
    same_bits(results[0][0], results[1][0])
    for got, want in zip(results[0][1:], results[1][1:], strict=True):
        assert np.abs(got - want).max() <= 50 * np.finfo(dtype).eps * max(1, np.abs(want).max())


def test_x_may_change_and_y_may_not():
    x, dy, _, _ = arrays(np.float32)
    bn, _ = pair()
    y = bn(x, activation="elu")
    want = bn.backward(dy)
    x[...] = np.nan
    same_bits(bn.backward(dy), want)
    assert bn.backward(dy, out=y) is y
    same_bits(y, want)
    with pytest.raises(RuntimeError, match="a result was written over the y"):
        bn.backward(dy)


def test_x_is_not_kept():
    bn, _ = pair()
    x, dy, _, _ = arrays(np.float32)
    bn(x)
    held = [r for r in gc.get_referrers(x) if isinstance(r, type(bn._tape))]
    assert held == []
    y = bn.eval()(x)
    bn.backward(dy)
    del y
    with pytest.raises(RuntimeError, match="y of the last forward pass no longer exists"):
        bn.backward(dy)


def test_memory_of_a_network():
    """Of ten layers, each before a convolution that keeps its input, y: with x too, twice as many arrays are held."""
    x = np.random.default_rng(0).normal(1, 2, (8, 16, 64, 64)).astype(np.float32)

    def peak(keep):
        layers = [BatchNorm(16, keep=keep, num_threads=1) for _ in range(10)]
        tracemalloc.start()
        inputs = [x.copy()]
        for bn in layers:
            inputs[-1] = bn(inputs[-1], activation="leaky_relu", out=inputs[-1] if keep == "output" else None)
            inputs.append(0.5 * inputs[-1])     # as a convolution, which makes a new array
        found = tracemalloc.get_traced_memory()[1] / x.nbytes
        tracemalloc.stop()
        return found

    assert 20 < peak("input") < 22
    assert 10 < peak("output") < 12


@pytest.mark.parametrize("activation", [None, "leaky_relu", "elu"])
def test_a_part_of_a_batch(activation, dtype):
    """With sums from elsewhere, as on several ranks, of which this one has all values."""
    x, dy, _, _ = arrays(dtype)
    bn, other = pair(dtype)
    bn._source = Elsewhere()
    want = other(x, activation=activation)
    y = bn(x, activation=activation)
    np.testing.assert_allclose(y, want, rtol=0, atol=20 * np.finfo(dtype).eps)
    right = other.backward(dy)
    np.testing.assert_allclose(bn.backward(dy), right, rtol=0, atol=100 * np.finfo(dtype).eps)
    np.testing.assert_allclose(bn.grad_gamma, other.grad_gamma, rtol=1e-4)


class Elsewhere(MicroBatches):
    """A source that is not whole, and adds nothing."""

    def __init__(self):
        super().__init__(None)

    def reduce(self, read):
        from fastbn.layers.batch import Batch

        return Batch.from_stats(read())

    def reduce_gradient(self, read):
        return read()


BAD = {
    "gamma": ({}, {}, "gamma is 0 in channel 2, and the backward pass"),
    "relu": ({}, {"activation": "relu"}, "activation must be None, 'leaky_relu' or 'elu'"),
    "slope": ({}, {"activation": ("leaky_relu", -0.1)}, "the slope of leaky_relu must be positive"),
    "mask": ({}, {"mask": np.ones((16, 1, 1), bool)}, "mask and lengths must be None with keep='output'"),
}


@pytest.mark.parametrize("frozen", [False, True], ids=["by batch", "frozen"])
@pytest.mark.parametrize("case", [*BAD, "residual"])
def test_a_refused_call_changes_nothing(case, frozen):
    x, dy, _, _ = arrays(np.float32)
    bn, _ = pair()
    if frozen:
        bn.freeze()
    bn(x)
    want, state, before = bn.backward(dy), bn.state_dict(), x.copy()
    if case == "gamma":
        bn.gamma[2] = 0
    settings, arguments, message = BAD.get(case, ({}, {"residual": x}, "residual must be None with keep='output'"))
    with pytest.raises(ValueError, match=message):
        bn(x, **arguments, **settings, out=x)
    same_bits(x, before)
    assert bn.num_batches_tracked == state["num_batches_tracked"]
    if case != "gamma":
        same_bits(bn.backward(dy), want)


def test_evaluation_needs_no_inverse_until_backward():
    x, dy, _, _ = arrays(np.float32)
    bn, other = pair()
    for layer in (bn, other):
        layer.gamma[2] = 0
        layer.eval()
    same_bits(y := bn(x), other(x))
    with pytest.raises(ValueError, match="gamma is 0 in channel 2"):
        bn.backward(dy)
    same_bits(y := bn(x, activation="silu"), other(x, activation="silu"))
    with pytest.raises(ValueError, match="activation must be None"):
        bn.backward(dy)
    same_bits(y := bn(x, x, "relu"), other(x, x, "relu"))
    with pytest.raises(ValueError, match="the last forward pass had a residual"):
        bn.backward(dy)
    assert y.shape == x.shape


def test_options():
    bn = BatchNorm(8, keep="output")
    assert repr(bn) == "BatchNorm(8, keep='output')"
    assert BatchNorm(8).keep == "input"
    for value, error in (("x", ValueError), (None, TypeError)):
        with pytest.raises(error, match="keep must be one of 'input', 'output'"):
            BatchNorm(8, keep=value)
    with pytest.raises(ValueError, match="virtual_batch_size must be None with keep='output', got 4"):
        BatchNorm(8, keep="output", virtual_batch_size=4)
    with pytest.raises(ValueError, match="keep must be 'input' with a virtual_batch_size"):
        BatchNorm(8, virtual_batch_size=4).keep = "output"
    with pytest.raises(ValueError, match="keep must be 'input' with accumulate"):
        bn.accumulate([np.ones((4, 8))])


def test_copies_and_files(tmp_path):
    bn = BatchNorm(8, keep="output")
    bn.save(tmp_path / "layer.npz")
    others = copy.deepcopy(bn), pickle.loads(pickle.dumps(bn)), BatchNorm.load(tmp_path / "layer.npz")
    assert [other.keep for other in others] == ["output"] * 3
    assert BatchNorm.load(tmp_path / "layer.npz", keep="input").keep == "input"


def test_keep_may_change_between_passes():
    x, dy, _, _ = arrays(np.float32)
    bn, other = pair()
    bn(x)
    bn.keep = "input"
    want = bn.backward(dy)      # of the forward pass that kept y
    other(x)
    np.testing.assert_allclose(want, other.backward(dy), rtol=0, atol=1e-5)


def test_jagged_batches_and_population_statistics():
    values, offsets = np.random.default_rng(0).normal(1, 2, (20, 8)).astype(np.float32), np.array([0, 5, 20])
    bn, other = pair()
    y, _ = bn((values, offsets), activation="elu")
    same_bits(y, other((values, offsets), activation="elu")[0])
    np.testing.assert_allclose(bn.backward(values), other.backward(values), rtol=0, atol=1e-5)
    population_statistics(bn, [values], bn)
    np.testing.assert_allclose(bn.running_mean, values.mean(0), rtol=1e-5)
