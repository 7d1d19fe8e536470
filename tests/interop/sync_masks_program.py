"""What each rank of tests/interop/test_sync.py does with masks and micro-batches.

``mpiexec -n 2 python -m tests.interop.sync_masks_program NAME`` runs one function. Every rank makes the whole batch and
its mask, takes its part, and compares with what one process makes of the whole.
"""

import sys
import warnings
from itertools import pairwise

import numpy as np
import pytest

import fastbn
from tests.cases import axis_of
from tests.compare import same_bits
from tests.interop.sync_program import COMM, RANK, RANKS, WAIT, bounds, expect, flat, of_all

TOLERANCE = {"float32": 2e-6, "float64": 1e-13}
FUSED = [(None, False), ("relu", False), (None, True), ("relu", True), ("silu", False)]


def batch(channels, layout, dtype):
    """x, residual, dy and random bools of their shape, with values far from a boundary of the ReLU."""
    rng = np.random.default_rng(channels)
    shape = (4 * RANKS + 1, 7, channels)
    arrays = [*(rng.normal(3, 2, shape).astype(dtype) for _ in range(3)), rng.random(shape) < 0.6]
    return arrays if layout == "rows" else [np.ascontiguousarray(np.moveaxis(a, -1, 1)) for a in arrays]


def pair(channels, layout, dtype, **options):
    """The layer of one process, and that of all ranks."""
    layers = [cls(channels, axis=axis_of(layout), dtype=dtype, **options)
              for cls in (fastbn.BatchNorm, fastbn.SyncBatchNorm)]
    for layer in layers:
        layer.gamma[:] = np.linspace(-1, 2, channels)
        layer.beta[:] = np.linspace(-0.5, 0.5, channels)
    return layers


def near(got, want, scale=None):
    bound = TOLERANCE[np.dtype(want.dtype).name] * max(1.0, np.abs(want).max(initial=0) if scale is None else scale)
    assert got.shape == want.shape
    assert (np.abs(got - want) <= bound).all()


def compare(one, bn, mine, arrays, selected, fused=(None, False)):
    """One training step; `selected` has the keyword arguments of the whole batch and those of this rank."""
    x, residual, dy = arrays
    activation, with_residual = fused
    y = one(x, residual if with_residual else None, activation, **selected[0])
    got = bn(x[mine], residual[mine] if with_residual else None, activation, **selected[1])
    near(got, y[mine], np.abs(y).max())
    for ours, theirs in zip(flat(bn.backward(dy[mine])), flat(one.backward(dy)), strict=True):
        near(ours, theirs[mine], np.abs(theirs).max())
    for name in ("running_mean", "running_var", "grad_gamma", "grad_beta"):
        of_all(getattr(bn, name))
        near(getattr(bn, name), getattr(one, name))
    assert bn.num_batches_tracked == one.num_batches_tracked


def positions():
    """A mask of positions; ranks of one sample, and ranks whose mask leaves nothing."""
    for dtype in (np.float32, np.float64):
        for layout in ("planes", "rows"):
            for channels in (3, 64):
                for fused in FUSED:
                    *arrays, mask = batch(channels, layout, dtype)
                    chosen = np.moveaxis(mask, axis_of(layout), -1)[..., 0].copy()
                    for kind in ("even", "uneven", "empty first"):
                        edges = bounds(len(arrays[0]), kind)
                        mine = slice(edges[RANK], edges[RANK + 1])
                        if RANKS > 1 and kind == "even":
                            chosen[edges[1]:edges[2]] = False       # nothing on rank 1
                        one, bn = pair(channels, layout, dtype)
                        for _ in range(2):
                            compare(one, bn, mine, arrays, ({"mask": chosen}, {"mask": chosen[mine]}), fused)
                        if RANKS == 1:
                            same_bits(bn.running_var, one.running_var)


def by_channel():
    """A mask that differs by channel; a channel without values on one rank, and one without values on all."""
    for dtype in (np.float32, np.float64):
        for layout in ("planes", "rows"):
            for fused in FUSED:
                *arrays, mask = batch(5, layout, dtype)
                edges = bounds(len(mask), "even")
                last = np.moveaxis(mask, axis_of(layout), -1)
                last[edges[-2]:, :, 1] = False
                last[..., 2] = False
                if RANKS > 1:
                    last[:edges[1]] = False         # nothing at all on rank 0
                for kind in ("even", "uneven", "empty last"):
                    edges = bounds(len(mask), kind)
                    mine = slice(edges[RANK], edges[RANK + 1])
                    one, bn = pair(5, layout, dtype)
                    for _ in range(2):
                        compare(one, bn, mine, arrays, ({"mask": mask}, {"mask": mask[mine]}), fused)
                    assert (bn.grad_gamma[2], bn.running_mean[2]) == (0, 0)
                    if RANKS == 1:
                        same_bits(bn.running_var, one.running_var)
                        same_bits(bn.grad_gamma, one.grad_gamma)
    # A mask on one rank, and none on the others.
    *arrays, mask = batch(5, "rows", np.float64)
    edges = bounds(len(mask), "even")
    mine = slice(edges[RANK], edges[RANK + 1])
    mask[edges[1]:] = True
    one, bn = pair(5, "rows", np.float64)
    compare(one, bn, mine, arrays, ({"mask": mask}, {} if RANK else {"mask": mask[mine]}))


def kinds():
    """Lengths, jagged batches, averages, padding, data sets and evaluation."""
    *arrays, mask = batch(6, "rows", np.float64)
    edges = bounds(len(mask), "uneven")
    mine = slice(edges[RANK], edges[RANK + 1])
    lengths = np.arange(len(mask)) % 8
    for options in ({}, {"averaging": "exact"}, {"momentum": None}, {"unbiased": False}, {"debias": True}):
        one, bn = pair(6, "rows", np.float64, **options)
        for _ in range(2):
            compare(one, bn, mine, arrays, ({"lengths": lengths}, {"lengths": lengths[mine]}))
        for layer in (one, bn):
            layer.eval()
        x, own = arrays[0], arrays[0][mine]
        near(bn(own, lengths=lengths[mine]), one(x, lengths=lengths)[mine])     # of this rank alone
        near(bn.backward(own), one.backward(x)[mine])
    x, _, dy = arrays
    one, bn = pair(6, "rows", np.float64)
    rows = [x[i, :n] for i, n in enumerate(lengths)]
    values = np.concatenate(rows)
    own = np.concatenate([values[:0], *rows[mine]])
    offsets = np.concatenate([[0], np.cumsum(lengths[mine])])
    y, same = bn((own, offsets))
    start = lengths[:edges[RANK]].sum()
    near(y, one(values)[start:start + len(own)])
    assert same is offsets
    near(bn.backward(own), one.backward(values)[start:start + len(own)])
    # Positions that do not count.
    out = np.full_like(x[mine], 7)
    assert bn(x[mine], lengths=lengths[mine], padding="keep", out=out) is out
    assert (out[~(np.arange(7) < lengths[mine, None])] == 7).all()
    dx = bn.backward(dy[mine])
    same_bits(dx, bn.backward(dy[mine], out=dy[mine].copy()))
    # A data set.
    one, bn = pair(6, "rows", np.float64)
    [stats] = fastbn.population_statistics(bn, [0, 1], lambda _: bn(x[mine], mask=mask[mine]))
    fastbn.population_statistics(one, [0, 1], lambda _: one(x, mask=mask))
    near(bn.running_var, one.running_var)
    assert (stats.count == 2 * np.count_nonzero(mask, axis=(0, 1))).all()


def adapted():
    """Evaluation by a blend with the batch of all ranks."""
    for layout in ("planes", "rows"):
        *arrays, mask = batch(5, layout, np.float64)
        x, residual, dy = arrays
        for kind in ("even", "uneven", "empty first"):
            edges = bounds(len(x), kind)
            mine = slice(edges[RANK], edges[RANK + 1])
            own, own_residual = x[mine], residual[mine]
            for selected in ({}, {"mask": mask}):
                one, bn = (layer.eval() for layer in pair(5, layout, np.float64))
                with fastbn.adapt([one, bn], n0=2.5):
                    y = one(x, residual, "relu", **selected)
                    near(bn(own, own_residual, "relu", **{name: a[mine] for name, a in selected.items()}), y[mine])
                    for ours, theirs in zip(bn.backward(dy[mine]), one.backward(dy), strict=True):
                        near(ours, theirs[mine], np.abs(theirs).max())
                    near(bn.grad_gamma, one.grad_gamma)
                    of_all(bn.grad_gamma)
                near(bn(own), one(x)[mine])     # of this rank alone
    # Ranks that pad their sequences to lengths of their own: n is the number of samples all the same.
    padded, lengths = np.random.default_rng(3).normal(1, 2, (RANKS, 9, 4)), np.arange(2, RANKS + 2) % 4
    whole, part = (layer.eval() for layer in pair(4, "rows", np.float64))
    with fastbn.adapt([whole, part], n0=1.5):
        y, steps, mine = whole(padded, lengths=lengths), 4 + RANK, slice(RANK, RANK + 1)
        near(part(padded[mine, :steps], lengths=lengths[mine]), y[mine, :steps])
        values = padded[RANK, :lengths[RANK]]
        near(part((values, np.array([0, len(values)])))[0], y[RANK, :lengths[RANK]])
    # An error in a jagged batch, or an argument, reaches all ranks.
    with fastbn.adapt(part, n0=1):
        for message, wrong in (
                ("offsets must rise", lambda: part((values, np.array([0, len(values) + 1])))),
                ("padding must be", lambda: part(padded[mine], padding="x"))):
            if RANK == RANKS - 1:
                expect(ValueError, message, wrong)
            elif RANKS > 1:
                expect(RuntimeError, f"rank {RANKS - 1} failed with ValueError", lambda: part(padded[mine]))
    # Means that differ by more than the range of float64.
    far = fastbn.SyncBatchNorm(3, dtype=np.float64, timeout=WAIT)
    with np.errstate(all="ignore"):
        far(np.full((2, 3), 1.7e308 if RANK % 2 else -1.7e308))
    assert np.isfinite(far.running_mean).all()
    with fastbn.adapt(bn, n0=1):
        if RANK == RANKS - 1:
            expect(ValueError, "x has shape", lambda: bn(np.ones((2, 4))))
        elif RANKS > 1:
            expect(RuntimeError, f"rank {RANKS - 1} failed with ValueError: x has shape", lambda: bn(own))


def nothing():
    """No value counts anywhere: a warning on every rank, and an empty batch; and what is refused."""
    *arrays, mask = batch(4, "rows", np.float32)
    edges = bounds(len(mask), "even")
    mine = slice(edges[RANK], edges[RANK + 1])
    x, _, dy = (a[mine] for a in arrays)
    bn = fastbn.SyncBatchNorm(4, axis=-1, timeout=WAIT)
    bn(x)
    before = bn.state_dict()
    with pytest.warns(UserWarning, match="the mask selects no position") as caught:
        y = bn(x, mask=np.zeros(x.shape[:2], bool))
    assert caught[0].filename == __file__
    assert not y.any()
    assert not bn.backward(dy).any()
    assert not bn.grad_gamma.any()
    before["num_batches_tracked"] += 1
    for name, value in bn.state_dict().items():
        same_bits(value, before[name])
    # One rank has no array, and the others a mask without positions: the counter stays the same on all ranks.
    if RANK == RANKS - 1:
        bn(x[:0])
    else:
        with pytest.warns(UserWarning, match="the mask selects no position"):
            bn(x, mask=np.zeros(x.shape[:2], bool))
    assert bn.num_batches_tracked == 3
    # A single value on all ranks together.
    single = np.zeros(x.shape[:2], bool)
    single[0, 0] = RANK == 0
    text = "all ranks together have one value" if RANKS > 1 else "a single value of x counts in channels 0, 1, 2"
    expect(ValueError, text, lambda: bn(x, mask=single))
    single = np.ones(x.shape, bool)
    single[..., 1] = False
    single[0, 0, 1] = RANK == 0
    text = "all ranks together have a single value that counts in channel 1" if RANKS > 1 else "a single value of x"
    expect(ValueError, text, lambda: bn(x, mask=single))
    # A mask that does not fit, on one rank.
    wrong = np.ones((3, 3), bool)
    if RANK == RANKS - 1:
        expect(ValueError, "mask has shape (3, 3)", lambda: bn(x, mask=wrong))
    else:
        expect(RuntimeError, f"rank {RANKS - 1} failed with ValueError: mask has shape (3, 3)", lambda: bn(x))
    # A channel without values on all ranks, where a batch has one weight in all channels; `out` stays as it was.
    single[..., 1] = False
    strict = fastbn.SyncBatchNorm(4, axis=-1, debias=True, timeout=WAIT)
    out = np.full_like(x, 7)
    expect(ValueError, "mask leaves no values in channel 1; with debias=True", lambda: strict(x, mask=single, out=out))
    assert (out == 7).all()
    single[0, 0:2, 1] = RANK == 0
    strict(x, mask=single, out=out)
    # NaN that counts on one rank, under the policy "raise".
    strict = fastbn.SyncBatchNorm(4, axis=-1, nan_policy="raise", timeout=WAIT)
    spoilt = x.copy()
    spoilt[0, 0, 2] = np.nan if RANK == 0 else 0
    counted = np.ones(x.shape[:2], bool)
    out[...] = 7
    expect(ValueError, "not finite in float32 in channel 2", lambda: strict(spoilt, mask=counted, out=out))
    assert (out == 7).all()
    counted[0, 0] = False
    assert np.isfinite(strict(spoilt, mask=counted)).all()


def accumulated():
    """Micro-batches of all ranks, of which each has another number; with masks too."""
    for dtype in (np.float32, np.float64):
        for layout in ("planes", "rows"):
            for fused in FUSED:
                for masked in (None, "positions", "channels"):
                    check_accumulated(dtype, layout, fused, masked)
    bn = fastbn.SyncBatchNorm(3, timeout=WAIT)
    x = np.ones((1, 3), np.float32)
    if RANKS > 1:
        expect(ValueError, "micro_batches have 0 values per channel", lambda: bn.accumulate([]))
        if RANK == 0:
            expect(TypeError, "micro_batches must be an iterable", lambda: bn.accumulate(3))
        else:
            expect(RuntimeError, "rank 0 failed with TypeError: micro_batches", lambda: bn.accumulate([x, x]))
        whole = bn.accumulate([x * RANK])
        whole(x * RANK)
        if RANK == 0:
            expect(ValueError, "dys has 0 arrays", lambda: whole.backward([]))
        else:
            expect(RuntimeError, "rank 0 failed with ValueError: dys has 0 arrays", lambda: whole.backward([x]))
        assert bn.grad_gamma is None
        whole.backward([x])
        assert bn.num_batches_tracked == 1
        # A channel without values, with an eps of 0; rank 0 has no micro-batch.
        bn = fastbn.SyncBatchNorm(2, eps=0.0, timeout=WAIT)
        x = np.arange(8.0).reshape(4, 2) * (RANK + 1)
        mask = np.stack([np.ones(4, bool), np.zeros(4, bool)], axis=1)
        parts = [] if RANK == 0 else [x]
        whole = bn.accumulate(parts, masks=[mask] * len(parts))
        whole.backward([whole(part, mask=mask) for part in parts])
        of_all(bn.grad_gamma)
        assert bn.grad_gamma[1] == 0


def check_accumulated(dtype, layout, fused, masked):
    activation, with_residual = fused
    x, residual, dy, mask = batch(5, layout, dtype)
    last = np.moveaxis(mask, axis_of(layout), -1)
    if masked == "channels":
        last[..., 2] = False
    if masked == "positions":
        mask = last[..., 0]
    edges = bounds(len(x), "empty last" if masked is None else "even")      # "empty last": none on the other ranks
    cuts = np.linspace(edges[RANK], edges[RANK + 1], RANK + 3).astype(int)
    parts = [slice(a, b) for a, b in pairwise(cuts)] if edges[RANK] < edges[RANK + 1] else []
    one, bn = pair(5, layout, dtype)
    keywords = {} if masked is None else {"mask": mask}
    y = one(x, residual if with_residual else None, activation, **keywords)
    right = flat(one.backward(dy))
    whole = bn.accumulate([x[p] for p in parts], masks=None if masked is None else [mask[p] for p in parts])
    for p in parts:
        some = {} if masked is None else {"mask": mask[p]}
        near(whole(x[p], residual[p] if with_residual else None, activation, **some), y[p], np.abs(y).max())
    for p, got in zip(parts, whole.backward([dy[p] for p in parts]), strict=True):
        for ours, theirs in zip(flat(got), right, strict=True):
            near(ours, theirs[p], np.abs(theirs).max())
    for name in ("running_mean", "running_var", "grad_gamma", "grad_beta"):
        of_all(getattr(bn, name))
        near(getattr(bn, name), getattr(one, name))
    expected = np.full(5, float(x.size // 5)) if masked is None else np.broadcast_to(
        np.count_nonzero(np.broadcast_to(mask[..., None], last.shape) if masked == "positions" else last, (0, 1)), 5)
    np.testing.assert_array_equal(whole.stats.count, expected)


if __name__ == "__main__":
    warnings.simplefilter("error")
    COMM.Barrier()
    globals()[sys.argv[1]]()
    print("done")
