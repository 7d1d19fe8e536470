"""Folding compared with the layers of PyTorch."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the interop extra is not installed: no torch")

import fastbn  # noqa: E402

CONVS = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
TRANSPOSED = {1: torch.nn.ConvTranspose1d, 2: torch.nn.ConvTranspose2d, 3: torch.nn.ConvTranspose3d}
NORMS = {1: torch.nn.BatchNorm1d, 2: torch.nn.BatchNorm2d, 3: torch.nn.BatchNorm3d}

# in, out, kernel, options
AFTER = {
    "plain": (3, 8, 3, {}),
    "pointwise": (8, 6, 1, {"bias": False}),
    "stride": (3, 8, 3, {"stride": 2, "padding": 1, "bias": False}),
    "dilation": (4, 6, 3, {"dilation": 2, "padding": 2}),
    "groups": (4, 6, 3, {"groups": 2, "padding": 1}),
    "depthwise": (6, 6, 3, {"groups": 6, "padding": 1, "bias": False}),
    "doubled": (4, 8, 2, {"groups": 4}),
}
MODES = ("zeros", "reflect", "replicate", "circular")


def norm(channels, rank, seed=0):
    """Return a PyTorch layer with statistics, and a fastbn layer with its state."""
    generator = torch.Generator().manual_seed(seed)
    theirs = NORMS[rank](channels, dtype=torch.float64).eval()
    with torch.no_grad():
        for tensor in (theirs.weight, theirs.bias, theirs.running_mean):
            tensor.normal_(0.5, 1, generator=generator)
        theirs.running_var.uniform_(0.1, 4, generator=generator)
    ours = fastbn.BatchNorm(channels, dtype=np.float64)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def parameters(layer):
    return layer.weight.detach().numpy(), None if layer.bias is None else layer.bias.detach().numpy()


def with_parameters(layer, folded):
    """Return a copy of a layer with folded parameters."""
    out = copy.deepcopy(layer)
    out.weight, out.bias = (torch.nn.Parameter(torch.from_numpy(a.copy())) for a in (folded.weight, folded.bias))
    return out


def same(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def batch(channels, rank):
    generator = torch.Generator().manual_seed(9)
    return torch.randn((2, channels, *range(6, 6 + rank)), dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
@pytest.mark.parametrize("name", AFTER)
@pytest.mark.parametrize("rank", CONVS)
@torch.no_grad()
def test_after(rank, name, transposed):
    channels, outputs, kernel, options = AFTER[name]
    if transposed and "stride" in options:
        options = options | {"output_padding": 1}
    layer = (TRANSPOSED if transposed else CONVS)[rank](channels, outputs, kernel, dtype=torch.float64, **options)
    theirs, ours = norm(outputs, rank)
    folded = fastbn.fold_conv(*parameters(layer), ours, groups=layer.groups, transposed=transposed)
    x = batch(channels, rank)
    same(with_parameters(layer, folded)(x), theirs(layer(x)))
    assert folded.certificate.relative < 1e-14


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", AFTER)
@pytest.mark.parametrize("rank", CONVS)
@torch.no_grad()
def test_before(rank, name, mode):
    channels, outputs, kernel, options = AFTER[name]
    layer = CONVS[rank](channels, outputs, kernel, dtype=torch.float64, padding_mode=mode, **options)
    theirs, ours = norm(channels, rank)
    x = batch(channels, rank)
    expected = layer(theirs(x))

    def fold(padding):
        return fastbn.fold_before_conv(
            ours, *parameters(layer), groups=layer.groups, padding=padding, stride=layer.stride,
            dilation=layer.dilation, padding_mode=mode)

    if mode == "zeros" and any(layer.padding):
        with pytest.raises(ValueError, match="pads with zeros after the batch norm"):
            fold(layer.padding)
        # The refused fold would be wrong at the borders.
        wrong = with_parameters(layer, fold(0))(x)
        assert (wrong - expected).abs().max() > 0.01
        inside = (..., *(slice(2, -2) for _ in range(rank)))
        if layer.stride[0] == 1:
            same(wrong[inside], expected[inside])
    else:
        same(with_parameters(layer, fold(layer.padding))(x), expected)


# Whether every output sees every tap, and the settings of the layer.
BEFORE_TRANSPOSED = [
    (True, {"kernel_size": 1}),
    (True, {"kernel_size": 3, "padding": 2}),
    (True, {"kernel_size": 2, "padding": 3, "dilation": 3}),
    (True, {"kernel_size": 2, "padding": 4, "dilation": 3, "output_padding": 1}),
    (False, {"kernel_size": 3}),
    (False, {"kernel_size": 3, "padding": 1}),
    (False, {"kernel_size": 1, "stride": 2}),
    (False, {"kernel_size": 2, "stride": 2}),
    (False, {"kernel_size": 2, "padding": 3, "dilation": 3, "output_padding": 1}),
]


@pytest.mark.parametrize(("uniform", "options"), BEFORE_TRANSPOSED, ids=str)
@pytest.mark.parametrize("rank", TRANSPOSED)
@torch.no_grad()
def test_before_transposed(rank, uniform, options):
    layer = TRANSPOSED[rank](4, 6, groups=2, dtype=torch.float64, **options)
    theirs, ours = norm(4, rank)
    x = batch(4, rank)
    expected = layer(theirs(x))
    settings = {name: getattr(layer, name) for name in ("stride", "padding", "output_padding", "dilation")}

    def fold(**settings):
        return fastbn.fold_before_conv(ours, *parameters(layer), groups=2, transposed=True, **settings)

    if uniform:
        same(with_parameters(layer, fold(**settings))(x), expected)
    else:
        with pytest.raises(ValueError, match="fewer taps than others"):
            fold(**settings)
        wrong = with_parameters(layer, fold(padding=99))(x)
        assert (wrong - expected).abs().max() > 0.01


@torch.no_grad()
def test_linear():
    layer = torch.nn.Linear(5, 7, dtype=torch.float64)
    (theirs, ours), (before, ours_before) = norm(7, 1), norm(5, 1)
    x = torch.randn(4, 5, dtype=torch.float64)
    same(with_parameters(layer, fastbn.fold_linear(*parameters(layer), ours))(x), theirs(layer(x)))
    same(with_parameters(layer, fastbn.fold_before_linear(ours_before, *parameters(layer)))(x), layer(before(x)))


@torch.no_grad()
def test_as_fuse_conv_bn_weights():
    layer, (theirs, ours) = torch.nn.Conv2d(3, 6, 3, dtype=torch.float64), norm(6, 2)
    weight, bias = torch.nn.utils.fusion.fuse_conv_bn_weights(
        layer.weight, layer.bias, theirs.running_mean, theirs.running_var, theirs.eps, theirs.weight, theirs.bias)
    folded = fastbn.fold_conv(*parameters(layer), ours)
    np.testing.assert_allclose(folded.weight, weight, rtol=1e-13)
    np.testing.assert_allclose(folded.bias, bias, rtol=1e-13, atol=1e-13)


def test_tensors_of_bfloat16():
    pytest.importorskip("ml_dtypes", reason="the bfloat16 extra is not installed: no ml_dtypes")
    _, bn = norm(8, 2)
    layer = torch.nn.Conv2d(3, 8, 3, dtype=torch.bfloat16)
    folded = fastbn.fold_conv(layer.weight, layer.bias, bn)
    assert folded.weight.dtype.name == folded.bias.dtype.name == "bfloat16"
    exact = fastbn.fold_conv(layer.weight.detach().double(), layer.bias.detach().double(), bn)
    expected = torch.from_numpy(exact.weight.copy()).to(torch.bfloat16).double().numpy()
    np.testing.assert_array_equal(folded.weight.astype(float), expected)
