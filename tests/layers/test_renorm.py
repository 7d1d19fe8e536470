"""BatchRenorm: steps by each bookkeeping against float64, limits and schedules, masks, state, files and errors."""

import copy
import pickle

import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm, BatchRenorm, Ramp
from fastbn.functional import batch_renorm_training
from tests import oracle
from tests.cases import array, axis_of, case
from tests.compare import close, same_bits

C = 5
SHAPE = case(8, C, 3, 3)
GAMMA, BETA = np.array([1, -2, 0.5, 3, 0.1]), np.array([0, 1, -1, 0.5, 2.0])
KINDS = {
    "paper": {},
    "paper, unbiased": {"unbiased": True},
    "average": {"momentum": None},
    "variances": {"averages": "var"},
    "Keras": {"momentum": 0.01, "renorm_momentum": 0.2},
    "Keras, variances": {"momentum": 0.01, "renorm_momentum": 0.2, "averages": "var"},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def batches(count, layout="planes", dtype=np.float64):
    return [array(SHAPE, layout, dtype, mean=0.3 * k, std=1 + 0.3 * k, seed=k) for k in range(count)]


def layer(axis=1, dtype=np.float64, r_max=1.3, d_max=0.3, **options):
    bn = BatchRenorm(C, axis=axis, dtype=dtype, r_max=r_max, d_max=d_max, **options)
    bn.gamma[:], bn.beta[:] = GAMMA, BETA
    return bn


class Averages:
    """The bookkeeping by its definition: one pair of running averages."""

    def __init__(self, eps, momentum=0.1, averages="std", unbiased=False, **_):
        self.eps, self.momentum, self.averages, self.unbiased = eps, momentum, averages, unbiased
        self.mean, self.steps = np.zeros(C), 0
        self.second = np.ones(C) if averages == "var" else np.sqrt(np.ones(C) + eps)    # variance or deviation

    @property
    def std(self):
        return np.sqrt(self.second + self.eps) if self.averages == "var" else self.second

    def follow(self, mean, var, n):
        self.steps += 1
        m = 1 / self.steps if self.momentum is None else self.momentum
        var = var * n / (n - 1) if self.unbiased else var
        new = var if self.averages == "var" else np.sqrt(var + self.eps)
        self.mean, self.second = (1 - m) * self.mean + m * mean, (1 - m) * self.second + m * new


@kinds
def test_steps(kind, layout):
    options, axis = KINDS[kind], axis_of(layout)
    bn = layer(axis, **options)
    own = Averages(bn.eps, **options)
    relative = own if bn.renorm_momentum is None else Averages(
        bn.eps, **{**options, "momentum": bn.renorm_momentum})
    dys = batches(7, layout)[::-1]
    clipped = np.zeros(2)
    for x, dy in zip(batches(7, layout), dys, strict=True):
        right = oracle.renorm(
            x, dy, (relative.mean, relative.std), GAMMA, BETA, limits=(bn.r_max, bn.d_max), axis=axis)
        clipped += (right.r != np.clip(right.r, 1 / 1.29, 1.29)).any(), (np.abs(right.d) == 0.3).any()
        np.testing.assert_allclose(bn(x), right.y.astype(float), rtol=0, atol=1e-12)
        np.testing.assert_allclose(bn.backward(dy), right.dx.astype(float), rtol=0, atol=1e-12)
        np.testing.assert_allclose(bn.grad_gamma, right.dgamma.astype(float), atol=1e-11)
        np.testing.assert_allclose(bn.grad_beta, right.dbeta.astype(float), atol=1e-11)
        mean, var = (v.astype(float) for v in oracle.moments(x, axis))
        for averages in {own, relative}:
            averages.follow(mean, var, x.size // C)
        np.testing.assert_allclose(bn.running_mean, own.mean, rtol=0, atol=1e-13)
        np.testing.assert_allclose(bn.running_std, own.std, rtol=1e-13)
        np.testing.assert_allclose(bn.running_var, own.std**2 - bn.eps, rtol=1e-12)
        if relative is not own:
            np.testing.assert_allclose(bn.renorm_mean, relative.mean, rtol=0, atol=1e-13)
            np.testing.assert_allclose(np.sqrt(bn.renorm_var + bn.eps), relative.std, rtol=1e-13)
    assert (clipped > 0).all()
    assert bn.num_batches_tracked == 7
    x = batches(1, layout)[0]
    want = oracle.forward(x, GAMMA, BETA, mean=own.mean, var=own.std**2 - bn.eps, axis=axis)
    np.testing.assert_allclose(bn.eval()(x), want.y.astype(float), rtol=0, atol=1e-12)


def test_the_step_of_the_layer_is_that_of_the_function(layout, dtype, activation, with_residual):
    bn = layer(axis_of(layout), dtype)
    bn(batches(1, layout, dtype)[0])
    x, residual = batches(3, layout, dtype)[1:]
    residual = residual if with_residual else None
    want, _ = batch_renorm_training(
        x, bn.running_mean, bn.running_std, bn.gamma, bn.beta, r_max=1.3, d_max=0.3, axis=bn.axis, residual=residual,
        activation=activation)
    same_bits(bn(x, residual, activation), want)


def test_variances_move_as_those_of_batch_norm():
    bn, other = layer(averages="var", dtype=np.float32), BatchNorm(C, unbiased=False)
    for x in batches(4, dtype=np.float32):
        bn(x)
        other(x)
    np.testing.assert_allclose(bn.running_mean, other.running_mean, rtol=3e-7)
    np.testing.assert_allclose(bn.running_var, other.running_var, rtol=3e-7)


def test_schedules():
    seen = []

    def r_max(step):
        seen.append(step)
        return 1 + step / 10

    bn = layer(r_max=r_max, d_max=Ramp(0, 4, 1, 3))
    for k, x in enumerate(batches(4)):
        want, _ = batch_renorm_training(
            x, bn.running_mean, bn.running_std, GAMMA, BETA, r_max=1 + k / 10, d_max=[0, 0, 2, 4][k])
        same_bits(bn(x), want)
    assert seen == [0, 1, 2, 3]
    bn.eval()(x)
    assert len(seen) == 4


def test_the_schedules_of_the_paper_are_the_default():
    bn = BatchRenorm(C)
    assert [bn.r_max(step) for step in (0, 5000, 40000)] == [1, 1, 3]
    assert [bn.d_max(step) for step in (0, 5000, 15000, 25000, 40000)] == [0, 0, 2.5, 5, 5]
    x = batches(1, dtype=np.float32)[0]
    close(bn(x), BatchNorm(C)(x), np.float32, 2)


@pytest.mark.parametrize("fused", [(False, None), (True, None), (False, "relu"), (True, "relu"), (False, "silu")])
@pytest.mark.parametrize("by_channel", [False, True])
def test_masks_choose_the_values(by_channel, fused, layout):
    axis, (with_residual, activation) = axis_of(layout), fused
    x, residual, dy = batches(3, layout)
    rng = np.random.default_rng(0)
    mask = rng.random(x.shape if by_channel else np.delete(x.shape, axis)) < 0.6
    bn = layer(axis)
    before = bn.running_mean.copy(), bn.running_std
    y = bn(x, residual if with_residual else None, activation, mask=mask)
    got = bn.backward(dy)
    dx, dresidual = got if with_residual else (got, None)
    full = mask if by_channel else np.broadcast_to(np.expand_dims(mask, axis), x.shape)
    for c in range(C):
        one = [np.take(a, c, axis)[np.take(full, c, axis)][:, None] for a in (x, residual, dy, y, dx)]
        want, saved = batch_renorm_training(
            one[0], before[0][c:c + 1], before[1][c:c + 1], GAMMA[c:c + 1], BETA[c:c + 1], r_max=1.3, d_max=0.3,
            residual=one[1] if with_residual else None, activation=activation)
        np.testing.assert_allclose(one[3], want, rtol=0, atol=1e-12)
        single = fastbn.functional.batch_renorm_backward(one[2], one[0], saved, GAMMA[c:c + 1])
        np.testing.assert_allclose(one[4], single[0], rtol=0, atol=1e-12)
        assert bn.grad_gamma[c] == pytest.approx(single[1][0], abs=1e-11)
        assert bn.grad_beta[c] == pytest.approx(single[2][0], abs=1e-11)
        assert bn.running_mean[c] == pytest.approx(0.1 * one[0].mean())
        assert bn.running_std[c] == pytest.approx(0.9 * before[1][c] + 0.1 * np.sqrt(one[0].var() + bn.eps))
    for array_ in (y, dx, dresidual):
        assert array_ is None or not array_[~full].any()


def test_lengths_jagged_and_no_position():
    tokens = array(case(4, C, 9), "rows", np.float64)
    lengths, valid = [9, 2, 0, 5], np.arange(9) < np.array([9, 2, 0, 5])[:, None]
    padded, jagged, empty = layer(-1), layer(-1), layer(-1)
    y = padded(tokens, lengths=lengths)
    values, offsets = jagged((tokens[valid], np.array([0, 9, 11, 11, 16])))
    np.testing.assert_array_equal(offsets, [0, 9, 11, 11, 16])
    np.testing.assert_allclose(values, y[valid], rtol=0, atol=1e-13)
    np.testing.assert_allclose(jagged.backward(values), padded.backward(y)[valid], rtol=0, atol=1e-13)
    with pytest.warns(UserWarning, match="the mask selects no position"):
        y = empty(tokens, mask=np.zeros(9, bool))
    assert not y.any()
    assert (empty.running_mean == 0).all()
    assert empty(np.zeros((0, 9, C))).shape == (0, 9, C)
    assert empty.num_batches_tracked == 2


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("fused", [(False, None), (True, "relu"), (False, "gelu")])
def test_evaluation_is_that_of_batch_norm(fused, masked, layout, dtype):
    axis = axis_of(layout)
    bn = layer(axis, dtype)
    x, residual, dy = batches(3, layout, dtype)
    bn(x)
    other = BatchNorm(C, axis=axis, dtype=dtype, unbiased=False)
    other.load_state_dict(bn.state_dict())
    options = {"lengths": np.arange(8) % 4} if masked else {}
    results = []
    for one in (bn.eval(), other.eval()):
        y = one(x, residual if fused[0] else None, fused[1], **options)
        gradients = one.backward(dy)
        results.append((y, *(gradients if fused[0] else [gradients]), one.grad_gamma, one.grad_beta))
    for got, want in zip(*results, strict=True):
        same_bits(got, want)
    same_bits(bn.frozen()(x), other.frozen()(x))
    same_bits(bn.report(x).drift, other.report(x).drift)


def test_in_place():
    x, dy = batches(2)
    bn, other = layer(), layer()
    want = other(x)
    same = x.copy()
    assert bn(same, out=same) is same
    same_bits(same, want)
    with pytest.raises(RuntimeError, match="written over the x"):
        bn.backward(dy)
    bn.eval()(same, out=same)
    with pytest.raises(RuntimeError, match="written over the x"):
        bn.backward(dy)
    out = np.empty_like(dy)
    assert other.backward(dy, out=out) is out
    bn = layer()
    bn(x)
    same_bits(bn.backward(dy), out)


@kinds
@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle", ".npz", ".safetensors", "state"])
def test_copies_and_files(kind, how, tmp_path):
    bn = layer(dtype=np.float32, r_max=np.inf, d_max=Ramp(0, 4, 1, 3), **KINDS[kind])
    for x in batches(2, dtype=np.float32):
        bn(x)
    if how == "state":
        other = layer(dtype=np.float32, r_max=np.inf, d_max=Ramp(0, 4, 1, 3), **KINDS[kind])
        other.load_state_dict(bn.state_dict())
    elif how.startswith("."):
        bn.save(tmp_path / f"layer{how}")
        other = BatchRenorm.load(tmp_path / f"layer{how}")
    else:
        other = pickle.loads(pickle.dumps(bn)) if how == "pickle" else getattr(copy, how)(bn)
    assert repr(other) == repr(bn)
    state = bn.state_dict()
    assert state.keys() == other.state_dict().keys()
    assert ("renorm_var" in state) == kind.startswith("Keras")
    third = batches(3, dtype=np.float32)[2]
    same_bits(other(third), bn(third))
    for name, value in bn.state_dict().items():
        same_bits(other.state_dict()[name], value)
    assert (state["running_mean"] != bn.running_mean).all()     # copies


def test_text():
    assert repr(BatchRenorm(3)) == "BatchRenorm(3)"
    text = "BatchRenorm(3, eps=0.001, r_max=2.0, d_max=Ramp(first=0.0, last=5.0, begin=0, end=10), averages='var')"
    bn = BatchRenorm(3, eps=1e-3, r_max=2, d_max=(0, 5, 0, 10), averages="var")
    assert repr(bn) == text == repr(eval(text))


def test_a_batch_norm_state_begins_both_pairs():
    other = BatchNorm(C)
    other(batches(1, dtype=np.float32)[0])
    bn = layer(dtype=np.float32, renorm_momentum=0.5)
    bn.load_state_dict(other.state_dict())
    for name in ("mean", "var"):
        same_bits(getattr(bn, f"renorm_{name}"), getattr(other, f"running_{name}"))
    single = layer(dtype=np.float32)
    single.load_state_dict(bn.state_dict())
    same_bits(single.running_var, other.running_var)
    bn.reset_running_stats()
    assert (bn.renorm_mean == 0).all()
    assert (bn.renorm_var == 1).all()


@pytest.mark.parametrize("policy", ["propagate", "raise", "skip_update"])
def test_nan_policy(policy):
    bn = layer(nan_policy=policy, renorm_momentum=0.5)
    x, spoilt = batches(2)
    bn(x)
    before = bn.state_dict()
    spoilt = spoilt.copy()
    spoilt[0, 1] = np.nan
    out = np.full_like(x, 7.0)
    if policy == "raise":
        with pytest.raises(ValueError, match="not finite in float64 in channel 1"):
            bn(spoilt, out=out)
        assert (out == 7).all()
    elif policy == "skip_update":
        with pytest.warns(RuntimeWarning, match="do not follow such batches"):
            bn(spoilt, out=out)
    else:
        bn(spoilt, out=out)
        assert np.isnan(bn.renorm_mean).tolist() == np.isnan(bn.running_var).tolist() == [0, 1, 0, 0, 0]
        assert np.isnan(out[:, 1]).all()
        assert np.isfinite(np.delete(out, 1, 1)).all()
        return
    for name, value in bn.state_dict().items():
        same_bits(value, before[name])


def test_a_small_batch_is_normalized_nearly_as_in_evaluation():
    # Two samples of a channel: batch norm gives -1 and 1 whatever they are.
    rng = np.random.default_rng(0)
    bn = BatchRenorm(1, r_max=np.inf, d_max=np.inf, dtype=np.float64)
    bn.running_mean[:], bn.running_var[:] = 3.0, 4.0
    x = rng.normal(3, 2, (2, 1))
    np.testing.assert_allclose(bn(x), (x - 3) / np.sqrt(4 + 1e-5), rtol=1e-12)
    assert abs(abs(BatchNorm(1)(x)) - 1).max() < 1e-4


BAD = {
    "untracked": (lambda: BatchRenorm(C, track_running_stats=False), ValueError, "track_running_stats must be True"),
    "r_max": (lambda: BatchRenorm(C, r_max=0.5), ValueError, "r_max must be at least 1, got 0.5"),
    "end of a ramp": (lambda: BatchRenorm(C, r_max=Ramp(1, 0.5, 3, 8)), ValueError, "r_max must be at least 1"),
    "d_max": (lambda: setattr(layer(), "d_max", None), TypeError,
              r"d_max must be a number, a callable or a tuple \(first, last, begin, end\), as for a Ramp, got None"),
    "half a ramp": (lambda: layer(r_max=(1, 3)), TypeError, r"as for a Ramp, got \(1, 3\)"),
    "half a pair": (lambda: layer(renorm_momentum=0.1).load_state_dict(
        {**layer().state_dict(), "renorm_var": np.ones(C)}), ValueError, "state is missing renorm_mean"),
    "assigned": (lambda: setattr(layer(), "running_var", -np.ones(C)), ValueError, "running_var has negative values"),
    "assigned second": (lambda: setattr(layer(renorm_momentum=0.1), "renorm_var", -np.ones(C)), ValueError,
                        "renorm_var has negative values"),
    "freeze": (lambda: layer().freeze(), AttributeError, "a BatchRenorm has no attribute freeze; assign learn_affine"),
    "averages": (lambda: BatchRenorm(C, averages="variance"), ValueError, "averages must be one of 'std', 'var'"),
    "momentum": (lambda: BatchRenorm(C, renorm_momentum=2), ValueError, "renorm_momentum must be between 0 and 1"),
    "eps": (lambda: setattr(layer(), "eps", -1), ValueError, "eps must be 0, or finite"),
    "second": (lambda: setattr(layer(), "renorm_momentum", 0.1), ValueError,
               "renorm_momentum must be None, because the layer was made without renorm_momentum"),
    "second mean": (lambda: setattr(layer(renorm_momentum=0.1), "renorm_mean", None), ValueError,
                    "renorm_mean must be a value, because the layer was made with renorm_momentum"),
    "no mean": (lambda: setattr(layer(), "running_mean", None), ValueError, "running_mean must be an array"),
    "debias": (lambda: setattr(layer(), "debias", True), ValueError, "debias must be False"),
    "schedule": (lambda: layer(r_max=lambda step: 0.5)(batches(1)[0]), ValueError, "r_max must be at least 1"),
    "one value": (lambda: layer()(np.ones((1, C))), ValueError, "single value of x counts in channels 0, 1, 2, 3, 4"),
    "channels": (lambda: layer()(np.ones((2, C + 1))), ValueError, "expected 5"),
    "micro-batches": (lambda: fastbn.WholeBatch(layer(), batches(2)), TypeError, "layer must be a BatchNorm, got B"),
    "padding": (lambda: layer()(np.ones((4, C)), padding="none"), ValueError, "padding must be one of"),
    "activation": (lambda: layer()(np.ones((4, C)), np.ones((4, C)), "silu"), ValueError, "after a residual"),
    "negative": (lambda: layer().load_state_dict({**layer().state_dict(), "running_var": -np.ones(C)}), ValueError,
                 "running_var has negative values"),
    "negative second": (
        lambda: layer(renorm_momentum=0.1).load_state_dict(
            {**layer().state_dict(), "renorm_mean": np.ones(C), "renorm_var": -np.ones(C)}),
        ValueError, "renorm_var has negative values"),
    "a function in a file": (lambda: layer(r_max=lambda step: 2.0).save("never.npz"), ValueError,
                             "r_max is a function, which a file cannot hold; expected a number or a Ramp"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()


def test_errors_change_nothing():
    bn = layer(r_max=lambda step: 2.0 if step == 0 else 0.0)
    x, dy = batches(2)
    bn(x)
    before, dx, out = bn.state_dict(), bn.backward(dy), np.full_like(x, 7.0)
    for call in (lambda: bn(x, out=out), lambda: bn(x[:, :4], out=out), lambda: bn(x, out=out[:4])):
        with pytest.raises(ValueError):  # noqa: PT011
            call()
    for name, value in bn.state_dict().items():
        same_bits(value, before[name])
    assert (out == 7).all()
    same_bits(bn.backward(dy), dx)


def test_a_state_without_a_counter_restarts_the_schedules_with_a_warning():
    bn = layer(r_max=(1, 3, 0, 10))
    state = {name: value for name, value in bn.state_dict().items() if name != "num_batches_tracked"}
    bn.num_batches_tracked = 7
    with pytest.warns(UserWarning, match="no num_batches_tracked, which is now 0, so that r_max start"):
        bn.load_state_dict(state)
    assert bn.num_batches_tracked == 0
    constant = layer(r_max=2.0, d_max=1.0)
    constant.load_state_dict(state)     # whose limits do not depend on it: pytest makes warnings errors


def test_a_negative_running_variance_is_an_error_in_training_too():
    bn = layer()
    bn.running_var[2] = -1
    with pytest.raises(ValueError, match=r"running_var has negative values, down to -1\.0, in channel 2"):
        bn(batches(1)[0])


def test_population_statistics():
    bn = layer()
    [stats] = fastbn.population_statistics(bn, batches(3), bn)
    values = np.concatenate(batches(3))
    np.testing.assert_allclose(bn.running_mean, values.mean(axis=(0, 2, 3)), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(bn.running_var, values.var(axis=(0, 2, 3)), rtol=1e-12)
    assert stats.count[0] == values.size / C
