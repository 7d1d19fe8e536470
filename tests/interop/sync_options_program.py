"""What each rank of tests/interop/test_sync_options.py does with frozen layers, single values and several axes.

``mpiexec -n 2 python -m tests.interop.sync_options_program NAME`` runs one function.
"""

import sys
import warnings

import numpy as np

import fastbn
from tests.compare import same_bits
from tests.interop.sync_masks_program import near, pair
from tests.interop.sync_program import COMM, RANK, RANKS, WAIT, bounds, expect, of_all


def batch():
    """x and dy of all ranks, and the part of this one."""
    rng = np.random.default_rng(0)
    x, dy = rng.normal(3, 2, (2, 4 * RANKS + 1, 5, 3))
    edges = bounds(len(x), "even")
    return x, dy, slice(edges[RANK], edges[RANK + 1])


def frozen():
    """Stored statistics need no other rank, and what learns or follows does."""
    x, dy, mine = batch()
    one, bn = pair(5, "planes", np.float64)
    for layer, part in ((one, slice(None)), (bn, mine)):
        layer(x[part])
        layer.freeze(learn_affine=True)
    if RANK == RANKS - 1:       # the others make no call
        for marks in ({}, {"lengths": [2] * len(x[mine])}):
            y, right = bn(x[mine], **marks), one(x[mine], **marks)
            near(y, right)
            near(bn.backward(dy[mine]), one.backward(dy[mine]))
            near(bn.grad_gamma, one.grad_gamma)     # of this rank
        expect(ValueError, "dy has shape", lambda: bn.backward(dy[:1, :1]))
    COMM.Barrier()
    # Averages that move while they are used.
    bn.update_running_stats = one.update_running_stats = True
    near(bn(x[mine]), one(x)[mine])
    if RANK == 0:               # the statistics of the backward pass are constants
        near(bn.backward(dy[mine]), one.backward(dy)[mine])
    COMM.Barrier()
    for name in ("running_mean", "running_var"):
        of_all(getattr(bn, name))
        near(getattr(bn, name), getattr(one, name))
    # An error on one rank reaches the others, which wait for its statistics.
    if RANK == RANKS - 1:
        expect(ValueError, "channels along axis 1", lambda: bn(x[:, :4]))
    else:
        expect(RuntimeError, f"rank {RANKS - 1} failed with ValueError", lambda: bn(x[mine]))
    # Statistics of the batch without an update; parameters that do not learn.
    bn.freeze(use_running_stats=False)
    before = bn.state_dict()
    near(bn(x[mine]), one.unfreeze()(x)[mine])
    near(bn.backward(dy[mine]), one.backward(dy)[mine])
    assert bn.grad_gamma is None
    for name, value in bn.state_dict().items():
        same_bits(value, before[name])


def singles():
    """One value per channel on all ranks together, and in a channel of a mask."""
    x, dy, _ = batch()
    x, dy = x[:1, :, :1], dy[:1, :, :1]
    mine = slice(0, int(RANK == RANKS - 1))
    for rule in ("zero", "running"):
        one, bn = pair(5, "planes", np.float64, on_single=rule)
        bn.timeout = WAIT
        near(bn(x[mine]), one(x)[mine])
        near(bn.backward(dy[mine]), one.backward(dy)[mine])
        compare(one, bn)
        values, gradients, rows = batch()
        mask = np.ones(values.shape, bool)
        mask[:, 1] = False
        mask[0, 1, 0] = True
        near(bn(values[rows], mask=mask[rows]), one(values, mask=mask)[rows])
        near(bn.backward(gradients[rows]), one.backward(gradients)[rows])
        compare(one, bn)


def compare(one, bn):
    for name in ("running_mean", "running_var", "grad_gamma", "grad_beta"):
        of_all(getattr(bn, name))
        near(getattr(bn, name), getattr(one, name))
    assert bn.num_batches_tracked == one.num_batches_tracked


def axes():
    """Several channel axes."""
    x, dy, mine = batch()
    one, bn = pair(15, "planes", np.float64)
    one.axis = bn.axis = (2, 1)
    near(bn(x[mine]), one(x)[mine])
    near(bn.backward(dy[mine]), one.backward(dy)[mine])
    compare(one, bn)
    expect(ValueError, "virtual_batch_size must be None in a SyncBatchNorm, whose statistics are those of all ranks, "
           "got 4", lambda: fastbn.SyncBatchNorm(3, virtual_batch_size=4))


if __name__ == "__main__":
    warnings.simplefilter("error")
    COMM.Barrier()
    globals()[sys.argv[1]]()
    print("done")
