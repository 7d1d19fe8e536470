"""What each rank of tests/interop/test_sync.py does: ``mpiexec -n 2 python -m tests.interop.sync_program NAME``.

Every rank makes the whole batch, takes its part, and compares with what one process makes of the whole.
"""

import copy
import os
import pickle
import re
import signal
import sys
import time
import warnings

import numpy as np
import pytest
from mpi4py import MPI

import fastbn
from fastbn._core.dispatch import kernels
from fastbn.functional import batch_norm_inference
from tests import oracle
from tests.cases import array, axis_of, case
from tests.compare import close, same_bits

WAIT = 60.0     # seconds for the other ranks: long enough for a slow machine, and a hang ends soon
COMM = MPI.COMM_WORLD
RANK, RANKS = COMM.rank, COMM.size
SHAPES = (case(9, 5, 6, 7), case(13, 3, 1), case(40, 65), case(7, 24, 3, 3), case(5, 130, 70), case(24, 1, 8, 8))
FORWARD_UNITS, BACKWARD_UNITS = 4, 6    # of the largest value
RTOL = {"float32": 1e-6, "float64": 1e-13}     # of running averages and gradients of parameters


def bounds(samples, kind):
    """Where the parts of the ranks begin and end."""
    if kind == "even":
        return np.linspace(0, samples, RANKS + 1).astype(int)
    if kind == "empty first":       # all for the last rank
        return np.array([0] * RANKS + [samples])
    if kind == "empty last":
        return np.array([0] + [samples] * RANKS)
    return np.minimum(np.array([0, *range(1, RANKS), samples]), samples)     # "uneven": one each, the last has the rest


def flat(result):
    """What a backward pass returned, as a tuple."""
    return result if isinstance(result, tuple) else (result,)


def of_all(value):
    """Assert that all ranks have the same bits."""
    blobs = COMM.allgather(np.ascontiguousarray(value).tobytes())
    assert len(set(blobs)) == 1


def check(shape, layout, dtype, kind, activation, with_residual, **options):
    axis = axis_of(layout)
    x, dy, residual = (array(shape, layout, dtype, *values) for values in ((2.0, 3.0), (0.0, 1.0, 1), (0.0, 1.0, 2)))
    edges = bounds(len(x), kind)
    mine = slice(edges[RANK], edges[RANK + 1])
    parameters = np.linspace(-1.5, 2, shape.channels), np.linspace(-1, 1, shape.channels)
    options = {"axis": axis, "dtype": dtype} | options
    one, bn = (cls(shape.channels, **options) for cls in (fastbn.BatchNorm, fastbn.SyncBatchNorm))
    for layer in (one, bn):
        layer.gamma[:], layer.beta[:] = parameters
    gamma, beta = bn.gamma, bn.beta
    relu = activation == "relu"
    rtol = RTOL[np.dtype(dtype).name]
    for turn in range(2):
        if turn:
            x = x[::-1] * x.dtype.type(0.5)
        one(x, residual if with_residual else None, activation)
        one.backward(dy)
        y = bn(x[mine], residual[mine] if with_residual else None, activation)
        dx = bn.backward(dy[mine])
        if with_residual:
            dx, dresidual = dx
        exact = oracle.forward(x, gamma, beta, axis=axis, residual=residual if with_residual else None, relu=relu)
        # Where z is within a rounding of zero the ReLU may be open in one and closed in the other.
        back = oracle.backward(dy, x, exact, gamma, axis=axis, relu=relu)
        sure = (np.abs(exact.z) > 1e-5 * np.abs(exact.z).max()) if relu else np.ones(x.shape, bool)
        close(y, exact.y[mine], dtype, FORWARD_UNITS, np.abs(exact.y).max())
        assert dx.dtype == dtype
        size = np.abs(back.dx).max() * np.finfo(dtype).eps / 2
        assert (np.abs(dx - back.dx[mine])[sure[mine]] <= BACKWARD_UNITS * size).all(), (shape, layout, kind)
        if with_residual:
            same_bits(np.where(sure[mine], dresidual, 0), np.where(sure[mine], back.dresidual[mine], 0).astype(dtype))
        for name in ("running_mean", "running_var", "grad_gamma", "grad_beta"):
            of_all(getattr(bn, name))
            ours, theirs = getattr(bn, name), getattr(one, name)
            if not relu or "grad" not in name or sure.all():
                np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * np.abs(theirs).max())
        assert bn.num_batches_tracked == one.num_batches_tracked == turn + 1
        if RANKS == 1:
            same_bits(y, one(x, residual if with_residual else None, activation))
            one.num_batches_tracked -= 1
            one.running_mean[:], one.running_var[:] = bn.running_mean, bn.running_var
        elif activation is None and not with_residual:
            # The statistics that all ranks have, applied to the whole batch by one process, give the same bits.
            saved = bn._tape.saved
            of_all(saved.mean)
            of_all(saved.var)
            constants = kernels.Constants(
                shape.channels, saved.mean, saved.var, gamma, beta, bn.eps, low=saved._kept.low)
            same_bits(y, kernels.apply(x, axis, constants, None, None, (0, 0.0), None)[mine])
            assert saved.count == shape.count


def whole_batch():
    for shape in SHAPES:
        for layout in ("planes", "rows"):
            for kind in ("even", "uneven", "empty first", "empty last"):
                check(shape, layout, np.float32, kind, None, False)
    for activation in (None, "relu"):
        for with_residual in (False, True):
            for layout in ("planes", "rows"):
                check(SHAPES[0], layout, np.float32, "uneven", activation, with_residual)
                check(SHAPES[3], layout, np.float64, "even", activation, with_residual)
    for momentum in (None, 1.0):
        check(SHAPES[0], "planes", np.float32, "uneven", None, False, momentum=momentum, unbiased=False)


def halves():
    import ml_dtypes

    for dtype in (np.float16, ml_dtypes.bfloat16):
        x, dy, residual = (array(SHAPES[0], "planes", dtype, *v) for v in ((2.0, 3.0), (0.0, 1.0, 1), (0.0, 1.0, 2)))
        edges = bounds(len(x), "uneven")
        mine = slice(edges[RANK], edges[RANK + 1])
        for extra, activation in ((None, None), (None, "relu"), (residual, "relu")):
            one, bn = (cls(5) for cls in (fastbn.BatchNorm, fastbn.SyncBatchNorm))
            for layer in (one, bn):
                layer.gamma[:] = np.linspace(-1, 2, 5)
            right = [one(x, extra, activation), *flat(one.backward(dy))]
            ours = [bn(x[mine], None if extra is None else extra[mine], activation), *flat(bn.backward(dy[mine]))]
            unit = float(ml_dtypes.finfo(dtype).eps)
            for got, expected in zip(ours, (a[mine] for a in right), strict=True):
                assert got.dtype == dtype
                wide = expected.astype(np.float32)
                # The same value rounded once, or its neighbour where the value before rounding was near the middle.
                assert (np.abs(got.astype(np.float32) - wide) <= unit * np.abs(wide) + 1e-6).all()
                assert (got == expected).mean() > 0.99 if len(got) else True


def awkward():
    """Values of any size, constant channels, NaN, empty batches, and arrays in any order."""
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((4 * RANKS, 3, 5, 5))
    mine = slice(4 * RANK, 4 * RANK + 4)
    dy = rng.standard_normal(noise.shape).astype(np.float32)
    for scale, shift in ((1.0, 1e6), (1e30, 0.0), (1e-20, 0.0)):
        x = (noise * scale + shift).astype(np.float32)
        exact = oracle.forward(x)
        back = oracle.backward(dy, x, exact)
        bn = fastbn.SyncBatchNorm(3)
        close(bn(x[mine]), exact.y[mine], np.float32, 4, np.abs(exact.y).max())
        np.testing.assert_allclose(bn._tape.saved.var, exact.var.astype(float), rtol=5e-7)
        close(bn.backward(dy[mine]), back.dx[mine], np.float32, 6, np.abs(back.dx).max())
    # float64 far from zero, beside one process: the mean has two words over ranks too.
    for shift in (1e4, 1e8):
        x, wide = noise + shift, dy.astype(np.float64)
        bn, one = fastbn.SyncBatchNorm(3, dtype=np.float64), fastbn.BatchNorm(3, dtype=np.float64)
        np.testing.assert_allclose(bn(x[mine]), one(x)[mine], rtol=0, atol=4e-15)
        np.testing.assert_allclose(bn.backward(wide[mine]), one.backward(wide)[mine], rtol=0, atol=4e-15)
    infinite = np.where(np.arange(len(noise))[:, None, None, None] == 0, np.float32(np.inf), dy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(bn.backward(infinite[mine].astype(np.float64))).all()
    x = np.full(noise.shape, 1.1e7, np.float32)
    bn = fastbn.SyncBatchNorm(3)
    bn.beta[:] = 0.1, 0.2, 0.3
    same_bits(bn(x[mine]), np.broadcast_to(bn.beta[:, None, None], (4, 3, 5, 5)).astype(np.float32))

    x = noise.astype(np.float32)
    clean = fastbn.SyncBatchNorm(3)(x[mine])
    x[0, 1, 0, 0] = np.nan      # on rank 0
    y = fastbn.SyncBatchNorm(3)(x[mine])
    assert np.isnan(y[:, 1]).all()
    same_bits(y[:, [0, 2]], clean[:, [0, 2]])

    bn = fastbn.SyncBatchNorm(3)
    y = bn(np.zeros((0, 3, 5, 5), np.float32))
    assert y.shape == bn.backward(y).shape == (0, 3, 5, 5)
    assert bn.num_batches_tracked == 1
    same_bits(bn.running_var, np.ones(3, np.float32))
    same_bits(bn.grad_gamma, np.zeros(3, np.float32))

    x = noise.astype(np.float32)
    plain = fastbn.SyncBatchNorm(3)
    y, dx = plain(x[mine]), plain.backward(dy[mine])
    for view in (lambda a: a[..., ::-1].copy()[..., ::-1], lambda a: np.repeat(a, 2, 0)[::2],
                 lambda a: a.astype(a.dtype.newbyteorder()), lambda a: np.asfortranarray(a)):
        bn = fastbn.SyncBatchNorm(3)
        np.testing.assert_allclose(bn(view(x[mine])), y, rtol=0, atol=1e-6)
        np.testing.assert_allclose(bn.backward(view(dy[mine])), dx, rtol=0, atol=1e-6)


def places():
    """Results go where they are asked to go; in place too."""
    x, dy, residual = (array(SHAPES[0], "planes", np.float32, *v) for v in ((2.0, 3.0), (0.0, 1.0, 1), (0.0, 1.0, 2)))
    edges = bounds(len(x), "uneven")
    x, dy, residual = (a[edges[RANK] : edges[RANK + 1]] for a in (x, dy, residual))
    bn = fastbn.SyncBatchNorm(5)
    y = bn(x, residual, "relu")
    dx, dresidual = bn.backward(dy)

    def forward(**options):
        return fastbn.SyncBatchNorm(5)(options.pop("x", x), **options)

    out = np.empty_like(x)
    assert forward(residual=residual, activation="relu", out=out) is out
    same_bits(out, y)
    for name in ("x", "residual"):
        arguments = {"x": x.copy(), "residual": residual.copy()}
        result = forward(**arguments, activation="relu", out=arguments[name])
        assert result is arguments[name]
        same_bits(result, y)
    for target in ("new", "dy", "x", "strided"):
        arrays = {"new": np.empty_like(x), "dy": dy.copy(), "x": x.copy(),
                  "strided": np.empty((*x.shape, 2), np.float32)[..., 0]}
        bn = fastbn.SyncBatchNorm(5)
        bn(arrays["x"], residual, "relu")
        got, other = bn.backward(arrays["dy"], out=arrays[target])
        assert got is arrays[target]
        same_bits(got, dx)
        same_bits(other, dresidual)


def modes():
    """Evaluation exchanges nothing, and copies of a layer go on together."""
    x = array(case(4 * RANKS, 3, 5), "planes")
    mine = slice(4 * RANK, 4 * RANK + 4)
    bn = fastbn.SyncBatchNorm(3, timeout=WAIT)
    bn(x[mine])
    bn.eval()
    if RANK == 0:       # alone
        same_bits(bn(x), batch_norm_inference(x, bn.running_mean, bn.running_var, bn.gamma, bn.beta))
        bn.backward(x)
    bn.train()
    y, dx = bn(x[mine]), bn.backward(x[mine])
    for other in (copy.copy(bn), copy.deepcopy(bn), pickle.loads(pickle.dumps(bn))):
        assert other.comm == COMM
        assert other.running_mean is not bn.running_mean
        assert other.timeout == WAIT
        same_bits(other(x[mine]), y)
        same_bits(other.backward(x[mine]), dx)
    weight = np.ones((3, 2, 1, 1), np.float32)
    alone = fastbn.BatchNorm(3)
    alone.load_state_dict(bn.state_dict())
    same_bits(fastbn.fold_conv(weight, None, bn).weight, fastbn.fold_conv(weight, None, alone).weight)
    untracked = fastbn.SyncBatchNorm(3, track_running_stats=False).eval()
    if RANKS > 1:       # a variance beyond float64
        huge = np.array([[1e200 * (RANK + 1), 1.0], [3e200, RANK]])
        wide = fastbn.SyncBatchNorm(2, dtype=np.float64)
        found = wide(huge)
        assert wide.running_var[0] == np.inf
        assert np.isnan(found[:, 0]).all()
        assert np.isfinite(found[:, 1]).all()
    np.testing.assert_allclose(untracked(x[mine]), fastbn.SyncBatchNorm(3)(x[mine]), rtol=0, atol=0)

    # "exact" averages all values that all ranks have seen; a NaN on one rank is one on all.
    exact, one = fastbn.SyncBatchNorm(3, averaging="exact"), fastbn.BatchNorm(3, averaging="exact")
    for scale in (1, 3):
        exact(scale * x[mine])
        one(scale * x)
    np.testing.assert_allclose(exact.running_var, one.running_var, rtol=1e-6)
    of_all(exact.running_var)
    # Statistics of a data set that is spread over the ranks, with a batch that one of them has nothing of.
    sync, one = fastbn.SyncBatchNorm(3, dtype=np.float64), fastbn.BatchNorm(3, dtype=np.float64)
    wide = x.astype(np.float64)
    later = wide[:2] + 5 if RANK else wide[:0]
    [stats] = fastbn.population_statistics(sync, [wide[mine], later], sync)
    fastbn.population_statistics(one, [wide, *[wide[:2] + 5] * (RANKS - 1)], one)
    assert (stats.count == 5 * (4 * RANKS + 2 * (RANKS - 1))).all()
    for name in ("running_mean", "running_var"):
        of_all(getattr(sync, name))
        np.testing.assert_allclose(getattr(sync, name), getattr(one, name), rtol=1e-13)
    assert sync.num_batches_tracked == 2
    strict = fastbn.SyncBatchNorm(3, nan_policy="raise")
    spoilt = np.where((np.arange(len(x)) == 0)[:, None, None], np.float32(np.nan), x)     # of rank 0
    expect(ValueError, "x has a mean or variance that is not finite", lambda: strict(spoilt[mine]))
    same_bits(strict.running_mean, np.zeros(3, np.float32))
    same_bits(strict(x[mine]), fastbn.SyncBatchNorm(3)(x[mine]))

    # A communicator of its own, beside another layer's: two halves do not meet.
    half = COMM.Split(RANK % 2, RANK)
    bn = fastbn.SyncBatchNorm(3, comm=half)
    theirs = x.reshape(RANKS, 4, 3, 5)[RANK % 2 :: 2].reshape(-1, 3, 5)
    np.testing.assert_allclose(bn(x[mine]), fastbn.BatchNorm(3)(theirs).reshape(-1, 4, 3, 5)[half.rank], atol=1e-6)
    for other in (copy.copy(bn), copy.deepcopy(bn)):
        assert other.comm is half
        same_bits(other(x[mine]), bn(x[mine]))
    bn.comm = COMM
    same_bits(bn(x[mine]), y)


def expect(error, text, call):
    with pytest.raises(error, match=re.escape(text)):
        call()


def errors():
    """What is wrong on one rank raises on all of them, at once, and they can go on."""
    x = array(case(4 * RANKS, 3, 5), "planes")[4 * RANK : 4 * RANK + 4]
    bn = fastbn.SyncBatchNorm(3, timeout=WAIT)
    bad = RANKS - 1
    before = bn.state_dict()
    for wrong, error, text in (
            ({"x": x[:, :2]}, ValueError, "x has shape (4, 2, 5)"),
            ({"x": x.astype(int)}, TypeError, "x has dtype int64"),
            ({"x": x, "residual": x[:2]}, ValueError, "residual has shape (2, 3, 5)"),
            ({"x": x, "residual": x, "activation": "tanh"}, ValueError, "activation must be None or 'relu' after"),
            ({"x": x, "out": x[:, ::-1]}, ValueError, "out overlaps x"),
            ({"x": "x" * 10_000}, TypeError, "x has dtype"),
            ({"x": x, "padding": "wrong"}, ValueError, "padding must be one of 'zero', 'keep', got 'wrong'"),
            ({"x": (x[..., 0], np.array([0, 3]))}, ValueError, "offsets must rise from 0 to 4"),
            ({"x": (x[..., 0], np.array([0, 4])), "mask": [True] * 4}, ValueError, "mask and lengths must be None"),
    ):
        if bad == RANK:
            expect(error, text, lambda wrong=wrong: bn(**wrong))
        else:
            expect(RuntimeError, f"rank {bad} failed with {error.__name__}: {text}", lambda: bn(x))
    for name, state in bn.state_dict().items():
        same_bits(state, before[name])
    if bad == RANK:     # no rank waits for evaluation
        expect(ValueError, "offsets must rise", lambda: copy.deepcopy(bn).eval()((x[..., 0], np.array([0, 3]))))
    y = bn(x)
    for wrong, error, text in (
            ({"dy": x[:2]}, ValueError, "dy has shape (2, 3, 5)"),
            ({"dy": x, "out": x[:, ::-1]}, ValueError, "out overlaps"),
            ({"dy": x, "out": x[:1]}, ValueError, "out has shape (1, 3, 5)"),
    ):
        if bad == RANK:
            expect(error, text, lambda wrong=wrong: bn.backward(**wrong))
        else:
            expect(RuntimeError, f"rank {bad} failed with {error.__name__}: {text}", lambda: bn.backward(x))
    gamma = bn.gamma
    if bad == RANK:
        object.__setattr__(bn, "gamma", np.ones(4, np.float32))    # an assignment would refuse it
        expect(ValueError, "gamma has shape (4,)", lambda: bn.backward(x))
    else:
        expect(RuntimeError, f"rank {bad} failed with ValueError: gamma has shape (4,)", lambda: bn.backward(x))
    bn.gamma = gamma
    same_bits(fastbn.SyncBatchNorm(3)(x), y)
    expect(ValueError, "one value per channel", lambda: fastbn.SyncBatchNorm(3)(x[: int(RANK == 0), :, :1]))
    bn(x)
    if bad == RANK:
        bn.load_state_dict(bn.state_dict())     # nothing to go back from
        expect(RuntimeError, "backward needs a forward pass", lambda: bn.backward(x))
    else:
        expect(RuntimeError, f"rank {bad} failed with RuntimeError: backward needs a forward", lambda: bn.backward(x))
    # One rank is a call behind the others.
    bn(x)
    if bad == RANK:
        expect(RuntimeError, "rank 0 is in the backward, exchange", lambda: bn(x))
    else:
        expect(RuntimeError, f"rank {bad} is in the forward, exchange", lambda: bn.backward(x))
    bn(x)
    bn.backward(x)


def missing():
    """A rank that raises before the call: the others time out, and say so again when asked again."""
    bn = fastbn.SyncBatchNorm(3, timeout=WAIT)
    x = np.ones((4, 3), np.float32) * np.arange(4, dtype=np.float32)[:, None]
    bn(x)
    bn.timeout = 1.0
    if RANK == 0:
        raise KeyError("the data of rank 0 are not there")
    start = time.monotonic()
    expect(TimeoutError, "not all ranks came within 1 s", lambda: bn(x))
    assert time.monotonic() - start > 0.9      # how much more depends on the machine
    expect(RuntimeError, "the ranks lost contact earlier", lambda: bn(x))
    print("timed out")


def missing_from_the_start():
    """The same where there was no exchange yet."""
    bn = fastbn.SyncBatchNorm(3, timeout=1.0)
    if RANK == 0:
        raise KeyError("the data of rank 0 are not there")
    expect(TimeoutError, "not all ranks came within 1 s", lambda: bn(np.eye(3, dtype=np.float32)))
    print("timed out")


def widths():
    """Layers of different widths meet: an error on every rank that still runs."""
    bn = fastbn.SyncBatchNorm(3 if RANK == 0 else 4, timeout=WAIT)
    x = np.random.default_rng(0).standard_normal((4, bn.num_features)).astype(np.float32)
    expect(RuntimeError, "expected layers of as many channels on every rank", lambda: bn(x))
    expect(RuntimeError, "the ranks lost contact earlier", lambda: bn(x))
    print("refused")


def killed():
    """A rank that is killed: the launcher ends the others."""
    bn = fastbn.SyncBatchNorm(3, timeout=WAIT)
    bn(np.eye(3, dtype=np.float32))
    if RANK == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    bn(np.eye(3, dtype=np.float32))


def arguments():
    """What the constructor refuses, and the setters."""
    bn = fastbn.SyncBatchNorm(3)
    for wrong, error, text in (
            ({"comm": "x"}, TypeError, "comm must be an mpi4py.MPI.Intracomm, got 'x'"),
            ({"comm": MPI.COMM_NULL}, TypeError, "comm must be an mpi4py.MPI.Intracomm, got"),
            ({"timeout": 0}, ValueError, "timeout must be a positive number of seconds, got 0"),
            ({"timeout": float("nan")}, ValueError, "timeout must be a positive number of seconds, got nan"),
            ({"timeout": "1"}, TypeError, "timeout must be a number of seconds, got '1'"),
            ({"timeout": None}, TypeError, "timeout must be a number of seconds, got None"),
            ({"num_features": 0}, ValueError, "num_features must be at least 1"),
            ({"eps": -1}, ValueError, "eps must be 0, or finite"),
    ):
        expect(error, text, lambda wrong=wrong: fastbn.SyncBatchNorm(**({"num_features": 3} | wrong)))
        for name in wrong.keys() & {"comm", "timeout"}:
            expect(error, text, lambda name=name, wrong=wrong: setattr(bn, name, wrong[name]))
    assert bn.timeout == 300
    assert bn.comm == COMM
    assert repr(bn) == "SyncBatchNorm(3)"
    assert repr(fastbn.SyncBatchNorm(3, timeout=9.0).eval()) == "SyncBatchNorm(3, timeout=9.0, training=False)"


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print("done")
