"""CPU tensors of PyTorch: in and out without a copy, in every supported dtype."""

import ml_dtypes
import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm, ChannelAffine, ChannelStats
from fastbn.functional import batch_norm_backward, batch_norm_inference, batch_norm_training
from tests.compare import same_bits

torch = pytest.importorskip("torch")

KINDS = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def pair(kind, shape=(4, 3, 5, 6), seed=0):
    """Return the same values as a tensor and as an array with separate memory."""
    array = np.random.default_rng(seed).standard_normal(shape).astype(KINDS[kind])
    bits = torch.from_numpy(array.view(f"i{array.itemsize}").copy())
    return bits.view(getattr(torch, kind)), array


def bits_of(tensor):
    return tensor.view(getattr(torch, f"int{8 * tensor.element_size()}")).numpy()


def same(tensor, array):
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == getattr(torch, array.dtype.name)
    same_bits(bits_of(tensor), np.ascontiguousarray(array).view(f"i{array.itemsize}"))


kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_functions(kind):
    x, a = pair(kind)
    r, b = pair(kind, seed=1)
    dy, da = pair(kind, seed=2)
    gamma = np.arange(1.0, 4.0)
    y, saved = batch_norm_training(x, torch.from_numpy(gamma), residual=r, activation="relu")
    want, kept = batch_norm_training(a, gamma, residual=b, activation="relu")
    same(y, want)
    dx, dgamma, _, dresidual = batch_norm_backward(dy, x, saved, gamma)
    wants = batch_norm_backward(da, a, kept, gamma)
    same(dx, wants[0])
    same(dresidual, wants[3])
    same_bits(dgamma, wants[1])
    same(batch_norm_inference(x, torch.zeros(3), torch.ones(3)), batch_norm_inference(a, np.zeros(3), np.ones(3)))


@kinds
@pytest.mark.parametrize("channels_last", [False, True])
def test_layer_and_affine(kind, channels_last):
    x, a = pair(kind)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
        a = np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    ours, other = BatchNorm(3), BatchNorm(3)
    y = ours(x)
    same(y, other(a))
    assert y.stride() == x.stride()
    same(ours.backward(x), other.backward(a))
    same(ours.eval()(x, activation="silu"), other.eval()(a, activation="silu"))
    same(ours.frozen()(x), other.frozen()(a))
    same(ours.frozen()(x, axis=1, out_axis=-1), other.frozen()(a, axis=1, out_axis=-1))
    same_bits(ChannelStats(3).update(x).m2, ChannelStats(3).update(a).m2)


def test_parameters_are_the_memory_of_tensors():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    x, a = pair("float32")
    ours, other = BatchNorm(3).eval(), BatchNorm(3).eval()
    ours.gamma = weight
    other.gamma = weight.detach().numpy().copy()
    same(ours(x), other(a))
    with torch.no_grad():
        weight.mul_(2)      # like an optimizer
    other.gamma *= 2
    same(ours(x), other(a))
    with pytest.raises(ValueError, match=r"beta has shape \(2,\); expected \(3,\)"):
        ours.beta = torch.zeros(2)
    with pytest.raises(TypeError, match="beta has dtype float16; expected float32 or float64"):
        ours.beta = torch.zeros(3, dtype=torch.float16)


@kinds
def test_no_copy(kind):
    x, a = pair(kind)
    out = torch.empty_like(x)
    affine = ChannelAffine([0.0] * 3, [2.0] * 3, [0.0] * 3)
    assert affine(x, out=out) is out
    same(out, affine(a))
    before = x.data_ptr()
    assert affine(x, out=x) is x
    assert x.data_ptr() == before
    same(x, affine(a))
    bn = BatchNorm(3)
    assert bn(x, out=x) is x
    with pytest.raises(RuntimeError, match="a result was written over the x or the residual"):
        bn.backward(x)


def test_a_tensor_keeps_the_memory_of_a_large_result():
    def call(value):
        return batch_norm_inference(torch.full((2, 64, 64, 64), value), np.zeros(64), np.ones(64), eps=0)

    fastbn.release_memory()
    y = call(3.0)
    place, part = y.data_ptr(), y[1]
    del y
    z = call(4.0)
    assert z.data_ptr() != place
    assert bool((part == 3).all())
    del part
    assert call(5.0).data_ptr() == place


def test_an_array_out_of_a_tensor_and_the_other_way_round():
    x, a = pair("float32")
    affine = ChannelAffine([0.0] * 3, [2.0] * 3, [0.0] * 3)
    out = np.empty_like(a)
    assert affine(x, out=out) is out
    same_bits(out, affine(a))
    other = torch.empty_like(x)
    assert affine(a, out=other) is other
    same(other, affine(a))


@kinds
def test_plans(kind):
    x, a = pair(kind)
    r, b = pair(kind, seed=1)
    affine = ChannelAffine(np.arange(3.0), np.ones(3), np.ones(3))
    plan = affine.bind(a.shape, getattr(torch, kind), activation="relu")
    want, out = affine(a, b, "relu"), torch.empty_like(x)
    assert plan(x, out, r) is out
    same(out, want)
    assert plan(x, x, r) is x
    same(x, want)
    assert plan(a, a, r) is a
    same_bits(a, want)


@pytest.mark.parametrize(("x", "error", "message"), [
    (torch.ones(4, 3, requires_grad=True), TypeError, r"requires a gradient.*expected \w+.detach\(\)"),
    (torch.ones(4, 3, device="meta"), TypeError, "is a tensor on the device meta; expected one on the CPU"),
    (torch.ones(4, 3, dtype=torch.float64), ValueError, r"must be a C-contiguous.*got float64\(4, 3\)"),
    (torch.ones(3, 4).T, ValueError, r"must be a C-contiguous"),
    (torch.ones(4, 5), ValueError, r"must be a C-contiguous.*got float32\(4, 5\)"),
])
def test_plans_refuse(x, error, message):
    plan, good = ChannelAffine(np.zeros(3), np.ones(3), np.ones(3)).bind((4, 3)), torch.zeros(4, 3)
    for name, arguments in {"x": (x, good), "out": (good, x), "residual": (good, good, x)}.items():
        with pytest.raises(error, match=f"{name} {message}"):
            plan(*arguments)
    assert not good.any()


def test_dtypes_of_torch_and_by_name():
    x = np.random.default_rng(0).integers(0, 256, (2, 7, 8, 3), dtype=np.uint8)
    normalize = ChannelAffine.from_mean_std([0.5] * 3, [0.2] * 3)
    for name, kind in KINDS.items():
        for dtype in (name, getattr(torch, name), kind):
            assert normalize(x, dtype=dtype).dtype == kind
            assert ChannelAffine([0.0], [1.0], [0.0]).bind((2, 1), dtype).dtype == kind


def test_parameters_of_modules_are_constants():
    layer = torch.nn.BatchNorm2d(3)
    x, a = pair("float32")
    y = batch_norm_inference(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)
    same(y, batch_norm_inference(a, np.zeros(3), np.ones(3), np.ones(3), np.zeros(3)))


def test_images():
    array = np.random.default_rng(0).integers(0, 256, (2, 7, 8, 3), dtype=np.uint8)
    normalize = ChannelAffine.from_mean_std([0.5] * 3, [0.2] * 3)
    x = torch.from_numpy(array)
    same(normalize(x, out_axis=1), normalize(array, out_axis=1))
    same(normalize(x, dtype=ml_dtypes.bfloat16), normalize(array, dtype=ml_dtypes.bfloat16))
    out = torch.empty(2, 3, 7, 8)
    assert normalize(x, out_axis=1, out=out) is out
    same(out, normalize(array, out_axis=1))


@pytest.mark.parametrize(("x", "error", "message"), [
    (torch.ones(4, 3, requires_grad=True), TypeError, r"x requires a gradient.*expected x.detach\(\)"),
    (torch.ones(4, 3, device="meta"), TypeError, "x is a tensor on the device meta; expected one on the CPU"),
    (torch.ones(4, 3).to_sparse(), TypeError, "x is a torch.sparse_coo tensor; expected a strided one"),
    (torch.ones(4, 3, dtype=torch.complex64), TypeError, "x has dtype complex64; expected float32"),
    (torch.ones(4, 5), ValueError, r"x has shape \(4, 5\), which is 5 channels"),
])
def test_refused(x, error, message):
    for call in (BatchNorm(3), BatchNorm(3).eval(), fastbn.BatchNorm(3).frozen(), ChannelStats(3).update):
        with pytest.raises(error, match=message):
            call(x)
