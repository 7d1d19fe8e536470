"""The layer Whitening: modes, running averages, gradients, groups, state, files and copies."""

import copy
import pickle

import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm, Whitening, checkpoints
from fastbn.functional import WhiteningSaved, whitening_backward, whitening_inference, whitening_training
from tests.compare import same_bits
from tests.whitening import correlated, covariance, whiten

X = correlated((20, 6, 4, 5)).astype(np.float32)
DY = correlated((20, 6, 4, 5), seed=1).astype(np.float32)


def trained(**options):
    layer = Whitening(6, 2, **options)
    for seed in range(3):
        layer(correlated((20, 6, 4, 5), seed=seed).astype(np.float32))
    if layer.affine:
        layer.gamma[...] = np.linspace(1, 2, 6)
        layer.beta[...] = np.linspace(-1, 1, 6)
    return layer


def test_training_mode_is_the_function():
    layer = Whitening(6, 2, "iternorm", iterations=7, eps=1e-3)
    layer.gamma[...] = np.linspace(1, 2, 6)
    y = layer(X)
    want, saved = whitening_training(X, layer.gamma, layer.beta, groups=2, method="iternorm", iterations=7, eps=1e-3)
    same_bits(y, want)
    dx, dgamma, dbeta = whitening_backward(DY, X, saved, layer.gamma)
    same_bits(layer.backward(DY), dx)
    same_bits(layer.grad_gamma, dgamma.astype(np.float32))
    same_bits(layer.grad_beta, dbeta.astype(np.float32))


def test_evaluation_mode_is_the_function():
    layer = trained().eval()
    same_bits(layer(X), whitening_inference(X, layer.running_mean, layer.running_wm, layer.gamma, layer.beta))
    saved = WhiteningSaved.from_statistics(layer.running_mean, layer.running_wm)
    dx, dgamma, _ = whitening_backward(DY, X, saved, layer.gamma)
    before = layer.state_dict()
    same_bits(layer.backward(DY), dx)
    same_bits(layer.grad_gamma, dgamma.astype(np.float32))
    assert layer(X[:1]).shape == (1, 6, 4, 5)
    for name, array in layer.state_dict().items():
        same_bits(array, before[name])


@pytest.mark.parametrize("method", ["zca", "iternorm"])
@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0, None])
def test_running_averages(momentum, method):
    layer = Whitening(6, 3, method, momentum=momentum, dtype=np.float64)
    mean, matrix = np.zeros(6), np.stack([np.eye(2)] * 3)
    for step in range(5):
        x = correlated((30, 6, 3), seed=step)
        _, batch_mean, batch_matrix = whiten(x, 3, method=method)
        factor = 1 / (step + 1) if momentum is None else momentum
        mean = (1 - factor) * mean + factor * batch_mean
        matrix = (1 - factor) * matrix + factor * batch_matrix
        layer(x)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(layer.running_wm, matrix, rtol=0, atol=1e-10)
    assert layer.num_batches_tracked == 5


def test_evaluation_whitens_data_like_the_training_batches():
    # One distribution, and batches of 4,000 values for 6 channels: the covariance is the identity to a few percent.
    data = correlated((40000, 6))
    layer = Whitening(6, momentum=None, affine=False)
    for batch in np.split(data[:36000], 9):
        layer(batch)
    assert abs(covariance(layer.eval()(data[36000:]))[0] - np.eye(6)).max() < 0.1
    assert abs(covariance(BatchNorm(6)(data[36000:]))[0] - np.eye(6)).max() > 0.2


def test_axis_and_groups():
    last = np.ascontiguousarray(np.moveaxis(X, 1, -1))
    first, other = Whitening(6, 2), Whitening(6, 2, axis=-1)
    np.testing.assert_allclose(np.moveaxis(other(last), -1, 1), first(X), rtol=0, atol=1e-6)
    np.testing.assert_allclose(other.running_wm, first.running_wm, rtol=0, atol=1e-6)
    assert other.running_wm.shape == (2, 3, 3)
    alone = Whitening(3)
    np.testing.assert_allclose(alone(X[:, 3:]), first(X)[:, 3:], rtol=0, atol=1e-6)


def test_empty_batches():
    layer, cumulative = Whitening(6), Whitening(6, momentum=None)
    for one, counted in ((layer, 1), (cumulative, 0)):
        y = one(X[:0])
        assert y.shape == (0, 6, 4, 5)
        assert one.backward(y).shape == y.shape
        np.testing.assert_array_equal(one.grad_gamma, 0)
        np.testing.assert_array_equal(one.running_wm, np.eye(6)[None])
        assert one.num_batches_tracked == counted


def test_not_finite_values_reach_the_averages_of_their_group():
    layer = Whitening(6, 2)
    x = X.copy()
    x[3, 1, 0, 0] = np.nan
    layer(x)
    assert np.isnan(layer.running_wm[0]).all()
    assert np.isfinite(layer.running_wm[1]).all()


def test_to_linear():
    layer = trained().eval()
    weight, bias = layer.to_linear()
    assert weight.shape == (6, 6)
    np.testing.assert_array_equal(weight[:3, 3:], 0)
    np.testing.assert_array_equal(weight[3:, :3], 0)
    x = X[:, :, 0, 0].astype(np.float64)
    np.testing.assert_allclose(x @ weight.T + bias, layer(x), rtol=0, atol=1e-12)
    weight, bias = Whitening(4, affine=False).to_linear()
    np.testing.assert_array_equal(weight, np.eye(4))
    np.testing.assert_array_equal(bias, 0)


def test_reset():
    layer = trained(momentum=None)
    layer.reset_running_stats()
    same_bits(layer.running_mean, np.zeros(6, np.float32))
    same_bits(layer.running_wm, np.stack([np.eye(3, dtype=np.float32)] * 2))
    assert layer.num_batches_tracked == 0


# The backward pass and its input.

def test_backward_needs_a_forward_pass():
    layer = Whitening(6)
    with pytest.raises(RuntimeError, match="backward needs a forward pass first"):
        layer.backward(DY)
    x = X.copy()
    layer(x, out=x)
    with pytest.raises(RuntimeError, match="a result was written over"):
        layer.backward(DY)
    layer.eval()(X.copy())
    with pytest.raises(RuntimeError, match="x of the last forward pass no longer exists"):
        layer.backward(DY)


def test_backward_in_place():
    layer = Whitening(6)
    layer(X)
    want = layer.backward(DY)
    dy = DY.copy()
    assert layer.backward(dy, out=dy) is dy
    same_bits(dy, want)
    x = X.copy()
    layer(x)
    same_bits(layer.backward(DY, out=x), want)
    with pytest.raises(RuntimeError, match="a result was written over"):
        layer.backward(DY)


def test_a_refused_call_changes_nothing():
    layer = Whitening(6, eps=0)
    layer(X)
    want, state = layer.backward(DY), layer.state_dict()
    for bad in (X[:1, :, :1, :1], X[:, :4], np.ones_like(X)):
        with pytest.raises(ValueError, match=r"one value|4 channels|singular"):
            layer(bad)
    same_bits(layer.backward(DY), want)
    for name, array in layer.state_dict().items():
        same_bits(array, state[name])


@pytest.mark.parametrize("name", ["running_mean", "running_wm"])
def test_read_only_averages(name):
    layer = Whitening(6)
    getattr(layer, name).flags.writeable = False
    out = np.full_like(X, 7)
    with pytest.raises(ValueError, match=f"{name} is read-only"):
        layer(X, out=out)
    assert (out == 7).all()
    layer.eval()(X)


# Settings, copies and state.

@pytest.mark.parametrize(("options", "error", "message"), [
    ({"groups": 4}, ValueError, "groups must divide num_features, got 4 and 6"),
    ({"groups": True}, TypeError, "groups must be an integer, got True"),
    ({"method": "cholesky"}, ValueError, "method must be one of 'zca', 'iternorm', got 'cholesky'"),
    ({"iterations": 0}, ValueError, "iterations must be between 1 and 100, got 0"),
    ({"momentum": 1.5}, ValueError, "momentum must be between 0 and 1, got 1.5"),
    ({"eps": -1.0}, ValueError, "eps must be 0, or finite"),
    ({"axis": "x"}, TypeError, "axis must be an integer, got 'x'"),
    ({"axis": (1, 2)}, TypeError, r"axis must be an integer, got \(1, 2\)"),
    ({"dtype": "float16"}, TypeError, "dtype must be float32 or float64, got float16"),
    ({"affine": 1}, TypeError, "affine must be True or False, got 1"),
    ({"num_threads": 0}, ValueError, "num_threads must be between 1 and"),
], ids=str)
def test_settings(options, error, message):
    with pytest.raises(error, match=message):
        Whitening(6, **options)


@pytest.mark.parametrize(("name", "value", "error", "message"), [
    ("groups", 3, AttributeError, "groups of a Whitening cannot be assigned; make a new layer"),
    ("num_features", 3, AttributeError, "num_features of a Whitening cannot be assigned"),
    ("iteration", 3, AttributeError, "no attribute iteration; did you mean iterations"),
    ("axis", 1.5, TypeError, "axis must be an integer, got 1.5"),
    ("method", "pca", ValueError, "method must be one of"),
    ("running_wm", np.ones((1, 6, 6)), ValueError, r"running_wm has shape \(1, 6, 6\); expected \(2, 3, 3\)"),
    ("running_wm", None, ValueError, "running_wm must be an array, got None"),
    ("running_mean", None, ValueError, "running_mean must be an array, got None"),
    ("running_mean", np.ones(5), ValueError, r"running_mean has shape \(5,\); expected \(6,\)"),
    ("num_batches_tracked", -1, ValueError, "num_batches_tracked must be between 0"),
    ("gamma", np.ones(3), ValueError, r"gamma has shape \(3,\); expected \(6,\)"),
], ids=str)
def test_assignments(name, value, error, message):
    layer = Whitening(6, 2)
    with pytest.raises(error, match=message):
        setattr(layer, name, value)


def test_assigned_arrays_are_used():
    layer, mean, matrix = Whitening(6, 2), np.ones(6), np.ones((2, 3, 3))
    layer.running_mean, layer.running_wm = mean, matrix
    layer(X)
    assert layer.running_mean is mean
    assert layer.running_wm is matrix
    assert not (matrix == 1).any()
    layer.running_wm = np.eye(3)[[[0, 1, 2]] * 2].tolist()
    same_bits(layer.running_wm, np.stack([np.eye(3, dtype=np.float32)] * 2))


def test_repr():
    assert repr(Whitening(6)) == "Whitening(6)"
    assert repr(Whitening(6, 1)) == "Whitening(6)"
    layer = Whitening(8, 2, "iternorm", iterations=9, axis=-1, momentum=None, center=False, dtype=np.float64).eval()
    assert repr(layer) == ("Whitening(8, groups=2, method='iternorm', iterations=9, axis=-1, momentum=None, "
                           "center=False, dtype=float64, training=False)")


def test_copies_are_independent():
    layer = trained(method="iternorm")
    layer(X)
    for other in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(other) == repr(layer)
        with pytest.raises(RuntimeError, match="backward needs a forward pass first"):
            other.backward(DY)
        same_bits(other.running_wm, layer.running_wm)
        other(X)
        assert other.num_batches_tracked == layer.num_batches_tracked + 1
        assert not np.shares_memory(other.running_wm, layer.running_wm)


@pytest.mark.parametrize("affine", [True, False])
def test_state(affine):
    layer = trained(affine=affine)
    state = layer.state_dict()
    assert sorted(state) == sorted(
        ["num_batches_tracked", "running_mean", "running_wm", *(["weight", "bias"] if affine else [])])
    other = Whitening(6, 2, affine=affine)
    other.load_state_dict(state)
    for name, array in other.state_dict().items():
        same_bits(array, state[name])
    same_bits(other.eval()(X), layer.eval()(X))
    state["running_wm"][...] = 0
    assert layer.running_wm.any()


def test_state_of_the_authors_module():
    layer = trained()
    state = layer.state_dict()
    theirs = {"weight": state["weight"].reshape(1, 6, 1, 1), "bias": state["bias"].reshape(1, 6, 1, 1),
              "running_mean": state["running_mean"].reshape(2, 3, 1), "running_wm": state["running_wm"]}
    other = Whitening(6, 2)
    other.load_state_dict(theirs)
    same_bits(other.eval()(X), layer.eval()(X))


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"running_wm": None}, ValueError, "state is missing running_wm; expected weight, bias, running_mean, running_wm"),
    ({"running_mean": None}, ValueError, "state is missing running_mean"),
    ({"running_var": np.ones(6)}, ValueError, "state also has running_var"),
    ({"running_wm": np.ones((1, 6, 6))}, ValueError, r"running_wm has shape \(1, 6, 6\); expected \(2, 3, 3\)"),
    ({"running_wm": np.full((2, 3, 3), np.nan)}, ValueError, "running_wm has values that are not finite"),
    ({"running_wm": np.ones((2, 3, 3), int)}, TypeError, "running_wm has dtype int64; expected a floating-point type"),
    ({"running_mean": np.ones((3, 2))}, ValueError, r"running_mean has shape \(3, 2\); expected \(6,\)"),
    ({"num_batches_tracked": 0.5}, TypeError, "num_batches_tracked must be one integer"),
], ids=str)
def test_bad_states(change, error, message):
    layer = trained()
    before = layer.state_dict()
    state = {name: value for name, value in (before | change).items() if value is not None}
    with pytest.raises(error, match=message):
        layer.load_state_dict(state)
    for name, array in layer.state_dict().items():
        same_bits(array, before[name])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    layers = {"w.": trained(method="iternorm", iterations=3, momentum=None), "b.": BatchNorm(4)}
    checkpoints.save(path, layers)
    loaded = checkpoints.load(path)
    assert repr(loaded["w."]) == "Whitening(6, groups=2, method='iternorm', iterations=3, momentum=None)"
    for name, array in layers["w."].state_dict().items():
        same_bits(loaded["w."].state_dict()[name], array)
    one = tmp_path / f"one{suffix}"
    layers["w."].save(one)
    same_bits(Whitening.load(one).running_wm, layers["w."].running_wm)


def test_pytorch_has_no_such_module():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="PyTorch has no module that is a Whitening"):
        Whitening.from_torch(torch.nn.BatchNorm2d(6))


def test_pickles_name_no_private_module():
    assert fastbn.Whitening.__module__ == "fastbn"
    assert b"fastbn.layers.whitening" not in pickle.dumps(Whitening(6))
