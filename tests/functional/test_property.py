"""Any shape, strides, axis and dtype that hypothesis comes up with, against the oracle: 2,400 examples."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastbn import BatchNorm, ChannelStats
from fastbn.functional import batch_norm_backward, batch_norm_inference, batch_norm_training
from tests import oracle
from tests.compare import close

# The same examples on every run; nothing is written to disk.
COMMON = {"derandomize": True, "deadline": None, "database": None, "print_blob": False,
          "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
WIDE = np.longdouble
# Per dtype: rounding units of y and dx, and the tolerance of sums relative to what is summed. Where the longest float
# has 64 bits, the oracle is less exact than y, whose mean has two words.
LONGER = np.finfo(WIDE).eps < np.finfo(np.float64).eps
UNITS = {np.dtype(np.float32): (8, 32, 4e-6), np.dtype(np.float64): (8 if LONGER else 512, 512, 1e-13)}


@st.composite
def problems(draw, least_count=2):
    """An axis, and arrays of one shape and dtype, each with strides of its own."""
    rank = draw(st.integers(2, 6))
    longest = {2: 70, 3: 20, 4: 9, 5: 5, 6: 4}[rank]
    shape = tuple(draw(st.lists(st.integers(1, longest), min_size=rank, max_size=rank)))
    axis = draw(st.integers(-rank, rank - 1))
    count = int(np.prod(shape)) // shape[axis]
    if count < least_count:
        shape = tuple(n if k == axis % rank else n + 1 for k, n in enumerate(shape))
    dtype = np.dtype(draw(st.sampled_from(["float32", "float64"])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mean = draw(st.sampled_from([0.0, 1.0, -30.0]))

    def array(offset=0.0):
        order = draw(st.permutations(range(rank)))
        steps = draw(st.lists(st.sampled_from([1, 1, 1, 2, 3, -1, -2]), min_size=rank, max_size=rank))
        skip = draw(st.lists(st.integers(0, 2), min_size=rank, max_size=rank))
        room = np.full([skip[k] + (shape[k] - 1) * abs(steps[k]) + 1 + skip[-k] for k in order], np.nan, dtype)
        view = room.transpose(np.argsort(order))
        # The slice that begins `skip` into each axis, runs `steps`, and ends wherever the length says.
        ends = [slice(s, s + (n - 1) * abs(d) + 1) for s, n, d in zip(skip, shape, steps, strict=True)]
        view = view[tuple(ends)][tuple(slice(None, None, d) for d in steps)]
        assert view.shape == shape
        view[...] = rng.standard_normal(shape) + offset
        return view

    channels = shape[axis]
    gamma, beta, center = rng.standard_normal((3, channels))
    return {
        "axis": axis, "dtype": dtype, "x": array(mean), "dy": array(), "out": array(),
        "residual": array() if draw(st.booleans()) else None, "relu": draw(st.booleans()),
        "gamma": gamma if draw(st.booleans()) else None, "beta": beta if draw(st.booleans()) else None,
        "mean": center + mean, "var": rng.uniform(0.2, 4, channels), "threads": draw(st.integers(1, 4)),
        "use_out": draw(st.booleans()), "eps": draw(st.sampled_from([1e-5, 1e-3, 0.1])),
    }


def away_from_the_kink(p, z):
    """A gradient without a say where rounding decides whether the ReLU is open."""
    return np.where(np.abs(z) < 1e-3, 0, p["dy"]).astype(p["dtype"]) if p["relu"] else p["dy"]


def common(p):
    return {"axis": p["axis"], "eps": p["eps"], "residual": p["residual"]}


@settings(max_examples=1000, **COMMON)
@given(problems())
def test_training_and_backward(p):
    x, dtype, axis, activation = p["x"], p["dtype"], p["axis"], "relu" if p["relu"] else None
    y_units, dx_units, sums = UNITS[dtype]
    right = oracle.forward(x, p["gamma"], p["beta"], relu=p["relu"], wide=WIDE, **common(p))
    y, saved = batch_norm_training(x, p["gamma"], p["beta"], activation=activation, num_threads=p["threads"],
                                   out=p["out"] if p["use_out"] else None, **common(p))
    close(y, right.y, dtype, y_units, max(1, np.abs(right.z).max()))
    assert (y is p["out"]) == p["use_out"]
    dy = away_from_the_kink(p, right.z)
    exact = oracle.backward(dy, x, right, p["gamma"], axis=axis, relu=p["relu"], wide=WIDE)
    dx, dgamma, dbeta, *dresidual = batch_norm_backward(dy, x, saved, p["gamma"], axis=axis, num_threads=p["threads"],
                                                        out=p["out"] if p["use_out"] else None)
    scale = right.rstd if p["gamma"] is None else np.abs(right.rstd * p["gamma"])
    close(dx, exact.dx, dtype, dx_units, max(1, scale.max() * np.abs(dy).max()))
    size = 1 + np.abs(dy).sum()
    assert np.abs(dgamma - exact.dgamma).max() <= sums * size
    assert np.abs(dbeta - exact.dbeta).max() <= sums * size
    assert len(dresidual) == (p["residual"] is not None)
    for d in dresidual:
        close(d, exact.dresidual, dtype, 0)


@settings(max_examples=600, **COMMON)
@given(problems(least_count=1))
def test_inference_and_evaluation(p):
    x, dtype, axis, activation = p["x"], p["dtype"], p["axis"], "relu" if p["relu"] else None
    right = oracle.forward(x, p["gamma"], p["beta"], relu=p["relu"], mean=p["mean"], var=p["var"], wide=WIDE,
                           **common(p))
    y = batch_norm_inference(x, p["mean"], p["var"], p["gamma"], p["beta"], activation=activation,
                             num_threads=p["threads"], out=p["out"] if p["use_out"] else None, **common(p))
    size = max(1, np.abs(right.z).max())
    close(y, right.y, dtype, 8, size)
    bn = BatchNorm(x.shape[axis], axis=axis, eps=p["eps"], dtype=np.float64).eval()
    bn.running_mean, bn.running_var = p["mean"], p["var"]
    bn.gamma, bn.beta = p["gamma"], p["beta"]
    close(bn(x, residual=p["residual"], activation=activation), right.y, dtype, 8, size)
    dy = away_from_the_kink(p, right.z)
    exact = oracle.backward(dy, x, right, p["gamma"], axis=axis, relu=p["relu"], frozen=True, wide=WIDE)
    got = bn.backward(dy)
    dx, *dresidual = got if p["residual"] is not None else (got,)
    close(dx, exact.dx, dtype, 8)
    for d in dresidual:
        close(d, exact.dresidual, dtype, 0)


@settings(max_examples=400, **COMMON)
@given(problems(), st.data())
def test_stats_of_any_split(p, data):
    x, axis = p["x"], p["axis"]
    along = data.draw(st.sampled_from([k for k in range(x.ndim) if k != axis % x.ndim]), label="along")
    cuts = sorted(data.draw(st.lists(st.integers(0, x.shape[along]), max_size=4), label="cuts"))
    parts = np.split(x, cuts, axis=along)
    one, many = ChannelStats(x.shape[axis], axis=axis), ChannelStats(x.shape[axis], axis=axis)
    for part in parts:
        one.update(part, num_threads=p["threads"])
        many.merge(ChannelStats(x.shape[axis], axis=axis).update(part))
    mean, var = oracle.moments(x, axis)
    for stats in (one, many):
        assert (stats.count == x.size // x.shape[axis]).all()
        assert (np.abs(stats.mean - mean) <= 1e-12 * (np.abs(mean) + np.sqrt(var))).all()
        assert (np.abs(stats.m2 - var * stats.count) <= 1e-12 * var * stats.count).all()


@settings(max_examples=400, **COMMON)
@given(problems())
def test_overlap_is_found_or_the_result_is_right(p):
    # Windows of one buffer: out may touch x anywhere. Either nothing is written, or the result is as with arrays apart.
    rng = np.random.default_rng(p["x"].size)
    n = p["x"].shape[0]
    room = rng.standard_normal((n + p["threads"], *p["x"].shape[1:])).astype(p["dtype"])
    shift = p["threads"] if p["use_out"] else 0
    x, out = room[:n], room[shift : shift + n]
    before = room.copy()
    right = oracle.forward(x, axis=p["axis"], wide=WIDE)
    if np.shares_memory(x, out) and shift:
        with pytest.raises(ValueError, match="out overlaps x without being the same array"):
            batch_norm_training(x, axis=p["axis"], out=out)
        np.testing.assert_array_equal(room, before)
    else:
        y, _ = batch_norm_training(x, axis=p["axis"], out=out)
        close(y, right.y, p["dtype"], UNITS[p["dtype"]][0], max(1, np.abs(right.y).max()))
