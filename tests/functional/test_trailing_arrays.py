"""Layer norm and RMS norm of arrays of any memory, in place, into a buffer, and of tensors; the same bits."""

import copy
import json
import pickle

import numpy as np
import pytest

from fastbn._core import views
from fastbn._core.dispatch import isa, supported
from tests.awkward import INPUTS, WRITABLE, by_name, fortran, spatial_transposed, strided
from tests.compare import same_bits
from tests.process import run
from tests.trailing import DTYPES, MEMBERS, hashes, inputs

SHAPE = (4, 6, 5, 7)
NORMALIZED = ((7,), (5, 7), (6, 5, 7), SHAPE)

axes = pytest.mark.parametrize("normalized", NORMALIZED, ids=str)


@pytest.fixture(params=DTYPES, ids=lambda d: np.dtype(d).name)
def dtype(request):
    return request.param


@pytest.fixture(params=MEMBERS)
def member(request):
    return MEMBERS[request.param]


def unsupported(make, dtype):
    return make.__name__ == "swapped" and np.dtype(dtype).name == "bfloat16"


@axes
@pytest.mark.parametrize("make", INPUTS, **by_name)
def test_input_memory(make, normalized, dtype, member):
    if unsupported(make, dtype):
        pytest.skip("ml_dtypes has no byte-swapped bfloat16")
    i = inputs(SHAPE, normalized, dtype)
    how = {"residual": i.residual, "activation": "relu"}
    want, saved = member.train(i.x, normalized, i.gamma, i.beta, **how)
    x, residual, dy = make(i.x), make(i.residual), make(i.dy)
    y, other = member.train(x, normalized, i.gamma, i.beta, **how | {"residual": residual})
    same_bits(y, want)
    assert y.flags.c_contiguous
    for got, expected in zip(member.gradients(dy, x, other, i.gamma), member.gradients(i.dy, i.x, saved, i.gamma),
                             strict=True):
        if expected is not None:
            same_bits(got, expected)
    same_bits(x.astype(i.x.dtype), i.x)


@axes
@pytest.mark.parametrize("make", WRITABLE, **by_name)
def test_in_place(make, normalized, dtype, member):
    if unsupported(make, dtype):
        pytest.skip("ml_dtypes has no byte-swapped bfloat16")
    i = inputs(SHAPE, normalized, dtype)
    want, saved = member.train(i.x, normalized, i.gamma, i.beta)
    dx = member.gradients(i.dy, i.x, saved, i.gamma)[0]
    for call, first, expected in (
            (lambda a: member.train(a, normalized, i.gamma, i.beta, out=a)[0], i.x, want),
            (lambda a: member.infer(a, normalized, i.gamma, i.beta, out=a), i.x, want),
            (lambda a: member.gradients(a, i.x, saved, i.gamma, out=a)[0], i.dy, dx),
            (lambda a: member.gradients(i.dy, a, saved, i.gamma, out=a)[0], i.x, dx)):
        a = make(first)
        assert call(a) is a
        same_bits(np.ascontiguousarray(a).astype(i.x.dtype), expected)


@axes
@pytest.mark.parametrize("make", WRITABLE, **by_name)
def test_out(make, normalized, dtype, member):
    if unsupported(make, dtype):
        pytest.skip("ml_dtypes has no byte-swapped bfloat16")
    i = inputs(SHAPE, normalized, dtype)
    want, saved = member.train(i.x, normalized, i.gamma, i.beta)
    out = make(np.zeros(SHAPE, dtype))
    assert member.train(i.x, normalized, i.gamma, i.beta, out=out)[0] is out
    same_bits(np.ascontiguousarray(out).astype(i.x.dtype), want)
    assert member.gradients(i.dy, i.x, saved, i.gamma, out=out)[0] is out
    same_bits(np.ascontiguousarray(out).astype(i.x.dtype), member.gradients(i.dy, i.x, saved, i.gamma)[0])


def test_over_the_residual(member):
    i = inputs(SHAPE, (5, 7))
    how = {"residual": i.residual, "activation": "relu"}
    want, saved = member.train(i.x, (5, 7), i.gamma, i.beta, **how)
    residual = i.residual.copy()
    y, other = member.train(i.x, (5, 7), i.gamma, i.beta, **how | {"residual": residual, "out": residual})
    assert y is residual
    same_bits(y, want)
    same_bits(member.gradients(i.dy, i.x, other)[0], member.gradients(i.dy, i.x, saved)[0])


def test_rows_without_a_copy():
    room = np.zeros((4, 9, 64), np.float32)
    for array, lengths in ((room, (64,)), (room, (9, 64)), (room, room.shape), (room[:, :5], (5, 64)),
                           (room[1:, 2:4], (2, 64)), (room[0], (64,)), (room[0, 0], (64,))):
        assert np.shares_memory(views.rows(array, lengths).array, room)
        assert views.rows(array, lengths).array.shape[-1] == np.prod(lengths)
    for array, lengths in ((strided(room), (64,)), (room.transpose(1, 0, 2), (64,)), (room[:, :, :60], (9, 60))):
        assert not np.shares_memory(views.rows(array, lengths).array, room)


@pytest.mark.parametrize("make", [np.array, strided, fortran, spatial_transposed], **by_name)
@axes
def test_out_that_overlaps_an_input(make, normalized, member):
    room = make(inputs((6, 6, 5, 7), normalized).x)
    before = room.copy()
    x, out, other = room[:4], room[1:5], inputs(SHAPE, normalized).x
    saved = member.train(other, normalized)[1]
    for name, call in (("x", lambda: member.train(x, normalized, out=out)),
                       ("x", lambda: member.infer(x, normalized, out=out)),
                       ("residual", lambda: member.train(other, normalized, residual=x, out=out)),
                       ("dy", lambda: member.gradients(x, other, saved, out=out))):
        with pytest.raises(ValueError, match=f"out overlaps {name} without being the same array"):
            call()
    same_bits(room, before)


def test_lists(member):
    y, saved = member.train([[1.0, 2.0, 4.0]], 3, [1, 2, 3], [0, 0, 1], residual=[[1, 2, 3]])
    want, _ = member.train(np.array([[1.0, 2.0, 4.0]]), [3], np.array([1.0, 2, 3]), np.array([0, 0, 1.0]),
                           residual=np.array([[1.0, 2, 3]]))
    same_bits(y, want)
    assert member.gradients([[1, 0, 0]], [[1.0, 2.0, 4.0]], saved)[0].shape == (1, 3)
    y, _ = member.train([[[1.0], [2.0], [4.0]]], (3, 1), [[1], [2], [3]], [[0], [0], [1]])
    same_bits(y.reshape(1, 3), member.train([[1.0, 2.0, 4.0]], 3, [1, 2, 3], [0, 0, 1])[0])


@axes
def test_tensors(normalized, member):
    torch = pytest.importorskip("torch", reason="no torch")
    i = inputs(SHAPE, normalized)
    want, saved = member.train(i.x, normalized, i.gamma, i.beta)
    x, gamma, beta = (torch.from_numpy(a) for a in (i.x, i.gamma, i.beta))
    y, other = member.train(x, torch.Size(normalized), gamma.requires_grad_(), beta)
    assert isinstance(y, torch.Tensor)
    same_bits(y.numpy(), want)
    dx = member.gradients(torch.from_numpy(i.dy), x, other, gamma)[0]
    assert isinstance(dx, torch.Tensor)
    same_bits(dx.numpy(), member.gradients(i.dy, i.x, saved, i.gamma)[0])
    out = torch.zeros(SHAPE)
    assert member.infer(x, normalized, gamma, beta, out=out) is out
    same_bits(out.numpy(), want)


@pytest.mark.parametrize("how", [pickle.loads, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
@pytest.mark.parametrize(("activation", "with_residual"), [(None, False), ("silu", False), ("relu", True)])
def test_copies_of_saved(how, activation, with_residual, member):
    i = inputs(SHAPE, (5, 7))
    _, saved = member.train(
        i.x, (5, 7), i.gamma, i.beta, activation=activation, residual=i.residual if with_residual else None)
    other = how(pickle.dumps(saved) if how is pickle.loads else saved)
    for got, want in zip(member.gradients(i.dy, i.x, other), member.gradients(i.dy, i.x, saved), strict=True):
        if want is not None:
            same_bits(got, want)


@pytest.fixture(scope="module")
def table():
    """{ISA level: {name: {threads: hash}}}, each level from a process of its own."""
    out = {isa: hashes()}
    for level in supported():
        if level != isa:
            done = run("-m", "tests.trailing", FASTBN_ISA=level)
            assert done.returncode == 0, done.stderr
            out[level] = json.loads(done.stdout)
    return out


def test_threads_do_not_change_bits(table):
    for level, found in table.items():
        assert {key: counts for key, counts in found.items() if len(set(counts.values())) > 1} == {}, level


def test_isa_levels_do_not_change_bits(table):
    if len(table) == 1:
        pytest.skip(f"this build has only one level that this CPU runs: {isa}")
    for level, found in table.items():
        assert [key for key, counts in found.items() if counts != table[isa][key]] == [], level
