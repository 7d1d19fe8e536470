"""The layer: PyTorch's semantics, its errors."""

import numpy as np
import pytest

from fastbn import BatchNorm
from tests import oracle
from tests.cases import EMPTY_CASES, array, axis_of
from tests.compare import close, same_bits
from tests.layers.trained import SHAPE, STATE, N, assert_same, batches, snapshot, trained

# ---- what a new layer is ----

def test_defaults():
    bn = BatchNorm(3)
    for name, value in {"axis": 1, "eps": 1e-5, "momentum": 0.1, "affine": True, "track_running_stats": True,
                        "unbiased": True, "dtype": np.float32, "num_threads": None, "training": True,
                        "num_batches_tracked": 0, "grad_gamma": None, "grad_beta": None}.items():
        assert getattr(bn, name) == value, name
    for name, value in {"gamma": 1, "beta": 0, "running_mean": 0, "running_var": 1}.items():
        same_bits(getattr(bn, name), np.full(3, value, np.float32))
    assert repr(bn) == "BatchNorm(3)"


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"num_features": 0}, ValueError, "num_features must be at least 1, got 0"),
    ({"num_features": -3}, ValueError, "num_features must be at least 1, got -3"),
    ({"num_features": 3.0}, TypeError, "num_features must be an integer, got 3.0"),
    ({"num_features": True}, TypeError, "num_features must be an integer, got True"),
    ({"num_features": "3"}, TypeError, "num_features must be an integer, got '3'"),
    ({"axis": True}, TypeError, "axis must be an integer, got True"),
    ({"axis": 1.0}, TypeError, "axis must be an integer, got 1.0"),
    ({"axis": None}, TypeError, "axis must be an integer, got None"),
    ({"eps": 1e-39}, ValueError, "eps must be 0, or finite and at least"),
    ({"eps": -1}, ValueError, "eps must be 0, or finite and at least"),
    ({"eps": float("nan")}, ValueError, "eps must be 0, or finite and at least"),
    ({"eps": "x"}, TypeError, "eps must be a number, got 'x'"),
    ({"momentum": -0.1}, ValueError, "momentum must be between 0 and 1, got -0.1"),
    ({"momentum": 1.5}, ValueError, "momentum must be between 0 and 1, got 1.5"),
    ({"momentum": float("nan")}, ValueError, "momentum must be between 0 and 1, got nan"),
    ({"momentum": "x"}, TypeError, "momentum must be a number or None, got 'x'"),
    ({"momentum": True}, TypeError, "momentum must be a number or None, got True"),
    ({"affine": 1}, TypeError, "affine must be True or False, got 1"),
    ({"track_running_stats": None}, TypeError, "track_running_stats must be True or False, got None"),
    ({"unbiased": "no"}, TypeError, "unbiased must be True or False, got 'no'"),
    ({"dtype": np.float16}, TypeError, "dtype must be float32 or float64, got float16"),
    ({"dtype": int}, TypeError, "dtype must be float32 or float64, got int64"),
    ({"num_threads": 0}, ValueError, "num_threads must be between 1"),
    ({"num_threads": 2.0}, TypeError, "num_threads must be an integer, got 2.0"),
    ({"num_threads": True}, TypeError, "num_threads must be an integer, got True"),
], ids=lambda v: str(v) if isinstance(v, dict) else None)
def test_constructor_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        BatchNorm(**({"num_features": 3} | arguments))


@pytest.mark.parametrize("mode", [1, None, "train"])
def test_train_takes_a_bool(mode):
    bn = BatchNorm(3)
    with pytest.raises(TypeError, match="mode must be True or False"):
        bn.train(mode)
    assert bn.training is True


def test_train_and_eval_return_the_layer():
    bn = BatchNorm(3)
    assert bn.eval() is bn
    assert bn.training is False
    assert bn.train() is bn
    assert bn.training is True
    assert bn.train(False).training is False


# ---- running averages ----

@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, 0.3, None])
def test_running_averages(momentum, unbiased, layout, dtype):
    bn = BatchNorm(5, axis=axis_of(layout), momentum=momentum, unbiased=unbiased, dtype=dtype)
    mean, var = np.zeros(5, np.longdouble), np.ones(5, np.longdouble)
    for k, x in enumerate(batches(layout, dtype), 1):
        bn(x)
        factor = 1 / k if momentum is None else momentum
        m, v = oracle.moments(x, axis_of(layout))
        mean = (1 - factor) * mean + factor * m
        var = (1 - factor) * var + factor * v * (N / (N - 1) if unbiased else 1)
        assert bn.num_batches_tracked == k
    rtol = 1e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(bn.running_mean, mean.astype(float), rtol=rtol)
    np.testing.assert_allclose(bn.running_var, var.astype(float), rtol=rtol)
    assert bn.running_mean.dtype == bn.running_var.dtype == dtype


def test_running_averages_are_changed_in_place():
    bn = BatchNorm(5)
    mean, var = bn.running_mean, bn.running_var
    bn(batches()[0])
    assert bn.running_mean is mean
    assert bn.running_var is var
    assert mean.any()


def test_eval_changes_no_state(layout):
    bn = trained(layout).eval()
    before = snapshot(bn)
    for x in batches(layout):
        bn(x)
        bn.backward(x)
    assert_same(bn, before)


def test_eval_normalizes_by_the_running_averages(layout, dtype, activation, with_residual):
    bn = trained(layout, dtype).eval()
    x, r = batches(layout, dtype)[2:]
    r = r if with_residual else None
    right = oracle.forward(x, bn.gamma, bn.beta, axis=bn.axis, residual=r, relu=activation == "relu",
                           mean=bn.running_mean, var=bn.running_var)
    close(bn(x, residual=r, activation=activation), right.y, dtype, 8)


def test_training_normalizes_by_the_batch(layout, dtype, activation, with_residual):
    bn = trained(layout, dtype)
    x, r = batches(layout, dtype)[2:]
    r = r if with_residual else None
    right = oracle.forward(x, bn.gamma, bn.beta, axis=bn.axis, residual=r, relu=activation == "relu")
    close(bn(x, residual=r, activation=activation), right.y, dtype, 8)


def test_without_running_averages_evaluation_normalizes_by_the_batch():
    bn = BatchNorm(5, track_running_stats=False)
    assert bn.running_mean is None
    assert bn.running_var is None
    x = batches()[0]
    same_bits(bn.eval()(x), bn.train()(x))
    assert bn.num_batches_tracked == 0
    dx = bn.eval()(x) * 0 + bn.backward(x)
    bn.train()(x)
    same_bits(bn.backward(x), dx)


def test_without_parameters():
    bn = BatchNorm(5, affine=False)
    x = batches()[0]
    assert bn.gamma is None
    assert bn.beta is None
    right = oracle.forward(x)
    close(bn(x), right.y, np.float32, 4)
    close(bn.backward(batches()[1]), oracle.backward(batches()[1], x, right).dx, np.float32, 8)
    assert bn.grad_gamma is None
    assert bn.grad_beta is None


@pytest.mark.parametrize(("x_dtype", "dtype"), [(np.float32, np.float64), (np.float64, np.float32)])
def test_x_and_parameters_of_different_types(x_dtype, dtype, layout):
    bn = trained(layout, dtype) if x_dtype == dtype else BatchNorm(5, axis=axis_of(layout), dtype=dtype)
    x = array(SHAPE, layout, x_dtype, mean=3)
    for _ in (bn.train(), bn.eval()):
        y = bn(x)
        dx = bn.backward(x)
        assert y.dtype == dx.dtype == x_dtype
        assert bn.grad_gamma.dtype == bn.grad_beta.dtype == bn.running_mean.dtype == dtype
    bn.train()
    close(bn(x), oracle.forward(x, axis=bn.axis).y, x_dtype, 16)


def test_nan_in_a_batch_stays_in_its_channel():
    x = batches()[0]
    x[0, 2, 0, 0] = np.nan
    bn = BatchNorm(5)
    bn(x)
    assert np.flatnonzero(np.isnan(bn.running_mean)).tolist() == [2]
    assert np.flatnonzero(np.isnan(bn.running_var)).tolist() == [2]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_one_running_average_without_the_other_is_refused(name, training):
    bn = BatchNorm(3).train(training)
    setattr(bn, name, None)
    x = np.ones((4, 3), np.float32)
    out = np.full_like(x, 7)
    with pytest.raises(ValueError, match=f"{name} is None; expected both running averages, or neither"):
        bn(x, out=out)
    assert (out == 7).all()
    assert bn.num_batches_tracked == 0


# ---- backward ----

def test_backward_of_training(layout, dtype, activation, with_residual):
    bn = trained(layout, dtype)
    x, r, dy = batches(layout, dtype)[1:]
    r, relu = (r if with_residual else None), activation == "relu"
    of = oracle.forward(x, bn.gamma, bn.beta, axis=bn.axis, residual=r, relu=relu)
    right = oracle.backward(dy, x, of, bn.gamma, axis=bn.axis, relu=relu)
    bn(x, residual=r, activation=activation)
    got = bn.backward(dy)
    dx, *dresidual = got if with_residual else (got,)
    close(dx, right.dx, dtype, 16)
    for d in dresidual:
        close(d, right.dresidual, dtype, 0)
    close(bn.grad_gamma, right.dgamma, dtype, 32)
    close(bn.grad_beta, right.dbeta, dtype, 32)


def test_backward_of_evaluation(layout, dtype, activation, with_residual):
    bn = trained(layout, dtype).eval()
    x, r, dy = batches(layout, dtype)[1:]
    r, relu = (r if with_residual else None), activation == "relu"
    of = oracle.forward(x, bn.gamma, bn.beta, axis=bn.axis, residual=r, relu=relu, mean=bn.running_mean,
                        var=bn.running_var)
    right = oracle.backward(dy, x, of, bn.gamma, axis=bn.axis, relu=relu, frozen=True)
    bn(x, residual=r, activation=activation)
    got = bn.backward(dy)
    dx, *dresidual = got if with_residual else (got,)
    assert len(dresidual) == with_residual
    close(dx, right.dx, dtype, 4)
    for d in dresidual:
        close(d, right.dresidual, dtype, 0)
    close(bn.grad_gamma, right.dgamma, dtype, 32)
    close(bn.grad_beta, right.dbeta, dtype, 32)


def test_each_backward_replaces_the_gradients():
    bn = BatchNorm(5)
    x, dy = batches()[:2]
    bn(x)
    bn.backward(dy)
    first = bn.grad_gamma
    bn.backward(dy)
    assert bn.grad_gamma is not first
    same_bits(bn.grad_gamma, first)


@pytest.mark.parametrize("training", [True, False])
def test_backward_after_in_place(training):
    for out_of in (lambda x: x, lambda x: x[...]):
        bn = trained().train(training)
        x = batches()[2]
        bn(x, out=out_of(x))
        with pytest.raises(RuntimeError, match="a result was written over the x or the residual"):
            bn.backward(x)
        assert bn.grad_gamma is None
        other = batches()[2]
        bn(other)
        bn.backward(x)


def test_forward_in_place_is_the_same_result(layout, activation):
    x = batches(layout)[2]
    for mode in (True, False):
        bn, other = trained(layout).train(mode), trained(layout).train(mode)
        target = x.copy()
        y = bn(target, activation=activation, out=target)
        assert y is target
        same_bits(y, other(x, activation=activation))
        for name in STATE:
            same_bits(getattr(bn, name), getattr(other, name))


def test_backward_in_place(layout):
    x, dy = batches(layout)[1:3]
    bn = trained(layout)
    bn(x)
    fresh = bn.backward(dy)
    assert bn.backward(dy, out=dy) is dy
    same_bits(dy, fresh)


def test_an_interrupted_backward_over_x_forgets_it(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    x, dy = batches()[1:3]
    bn = trained()
    bn(x)
    expected = bn.backward(dy)
    for out, error in ((None, None), (dy.copy(), None), (x, "backward needs a forward pass first")):
        with monkeypatch.context() as patch:
            patch.setattr("fastbn.functional.batchnorm.gradients", interrupted)
            with pytest.raises(KeyboardInterrupt):
                bn.backward(dy, out=out)
        if error is None:
            same_bits(bn.backward(dy), expected)
            continue
        with pytest.raises(RuntimeError, match=error):
            bn.backward(dy)


def test_a_list_takes_the_dtype_of_x():
    x, dy = batches()[1:3]
    bn = trained()
    y = bn(x, x)
    same_bits(trained()(x, x.tolist()), y)
    expected = bn.backward(dy)
    for got, want in zip(bn.backward(dy.tolist()), expected, strict=True):
        same_bits(got, want)
    with pytest.raises(TypeError, match="dy has dtype float64; expected that of x, float32"):
        bn.backward(dy.astype(float))
    with pytest.raises(TypeError, match="dy has dtype bool; expected float32"):
        bn.backward((dy > 0).tolist())
    with pytest.raises(TypeError, match=r"x has dtype int64; expected .*; see np.array\(x, np.float32\)"):
        bn([[1, 2, 3, 4, 5]] * 2)


def test_backward_after_a_backward_over_x():
    x, dy = batches()[1:3]
    bn = trained()
    bn(x)
    bn.backward(dy, out=x)
    with pytest.raises(RuntimeError, match="a result was written over the x or the residual of the last forward pass"):
        bn.backward(dy)


def test_backward_without_forward():
    with pytest.raises(RuntimeError, match="backward needs a forward pass first"):
        BatchNorm(5).backward(batches()[0])


@pytest.mark.parametrize(("dy", "error", "message"), [
    (np.zeros((16, 5, 3, 2), np.float32), ValueError, "dy has shape .*expected the shape of x"),
    (np.zeros((16, 5, 3, 3)), TypeError, "dy has dtype float64; expected that of x, float32"),
    (np.zeros((16, 5, 3, 3), int), TypeError, "dy has dtype int64"),
])
def test_bad_gradients(dy, error, message):
    bn = trained()
    with pytest.raises(error, match=message):
        bn.backward(dy)
    assert bn.grad_gamma is None


# ---- degenerate batches ----

@pytest.mark.parametrize("empty", EMPTY_CASES, ids=lambda c: c.name)
def test_empty_batch(empty, layout, dtype):
    bn = BatchNorm(3, axis=axis_of(layout), dtype=dtype)
    bn.running_mean[...] = 5
    before = snapshot(bn)
    x = array(empty, layout, dtype)
    y = bn(x)
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert_same(bn, before | {"count": 1})
    dx = bn.backward(x)
    assert dx.shape == x.shape
    same_bits(bn.grad_gamma, np.zeros(3, dtype))
    same_bits(bn.grad_beta, np.zeros(3, dtype))
    assert bn.eval()(x).shape == x.shape
    assert bn.backward(x).shape == x.shape
    assert_same(bn, before | {"count": 1})


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)], ids=str)
def test_one_value_per_channel(shape):
    x = np.ones(shape, np.float32)
    bn = BatchNorm(3)
    before = snapshot(bn)
    with pytest.raises(ValueError, match=r"one value per channel.*larger batch.*eval\(\)"):
        bn(x)
    assert_same(bn, before)
    np.testing.assert_allclose(bn.eval()(x), 1, rtol=1e-5)


BAD_CALLS = {
    "channels": (lambda bn: bn(np.zeros((4, 6), np.float32)), ValueError, "x has shape .*6 channels.*expected 5"),
    "integers": (lambda bn: bn(np.zeros((4, 5), int)), TypeError, "x has dtype int64"),
    "axis": (lambda bn: bn(np.zeros(5, np.float32)), ValueError, "x has shape .*two or more dimensions"),
    "activation": (lambda bn: bn(np.ones((4, 5), np.float32), activation="swish"), ValueError, "activation must be"),
    "residual": (lambda bn: bn(np.ones((4, 5), np.float32), np.ones((4, 4), np.float32)), ValueError,
                 "residual has shape"),
    "out": (lambda bn: bn(np.ones((4, 5), np.float32), out=np.ones((4, 5))), TypeError, "out has dtype float64"),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_change_nothing(name, training):
    call, error, message = BAD_CALLS[name]
    bn = trained().train(training)
    before = snapshot(bn)
    with pytest.raises(error, match=message):
        call(bn)
    assert_same(bn, before)


def test_a_parameter_spoiled_behind_the_check_is_named():
    # What goes around the check of an assignment is refused by the call, before anything is written.
    for name, value, error in (("gamma", np.ones(4, np.float32), ValueError), ("beta", np.ones(5, int), TypeError)):
        for mode in (True, False):
            bn = trained().train(mode)
            object.__setattr__(bn, name, value)
            out = np.full(batches()[0].shape, 7, np.float32)
            with pytest.raises(error, match=name):
                bn(batches()[0], out=out)
            assert (out == 7).all()
