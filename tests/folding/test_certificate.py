"""The certificate of a fold: a corrupted fold does not get a good one."""

import math
from dataclasses import replace

import numpy as np
import pytest

import fastbn
from fastbn import ChannelAffine
from fastbn.folding import Certificate
from fastbn.folding.certificate import Probe, certify
from fastbn.folding.layer import Layer
from tests.compare import unit
from tests.folding.convolutions import KERNELS, LAYOUTS, UNITS, both, layouts, norm, parameters, ranks


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@both
@layouts
@ranks
def test_a_corrupted_fold_is_found(rank, name, transposed, before):
    layout = LAYOUTS[name]
    weight, b = parameters(layout.shape(KERNELS[rank], transposed), layout.outputs, np.float64, True)
    layer = Layer.from_parameters(weight, b, groups=layout.groups, transposed=transposed)
    affine = norm(layout.inputs if before else layout.outputs).frozen()
    if before:
        affine = ChannelAffine(0 * affine.mean, affine.scale, 0 * affine.mean)
        weight_folded = layer.weight * layer.per_input(affine.scale)
        b_folded = layer.bias
    else:
        weight_folded = layer.weight * layer.per_output(affine.scale)
        b_folded = (layer.bias - affine.mean) * affine.scale + affine.shift
    folded = replace(layer, weight=weight_folded, bias=b_folded)
    probe = Probe(before)
    assert certify(layer, affine, folded, probe).relative < UNITS * unit(np.float64)
    # Each single wrong parameter is detected, with the size of its error.
    for index in np.ndindex(weight_folded.shape):
        wrong = weight_folded.copy()
        wrong[index] += 0.01
        assert 1e-4 < certify(layer, affine, replace(folded, weight=wrong), probe).absolute < 0.1
    for index in range(len(b_folded)):
        wrong = b_folded.copy()
        wrong[index] += 0.01
        assert math.isclose(certify(layer, affine, replace(folded, bias=wrong), probe).absolute, 0.01, rel_tol=1e-9)


def test_a_fold_that_forgets_the_borders_is_found():
    weight, _ = parameters((2, 3, 3, 3), 2, np.float64, False)
    affine = norm(3).frozen()
    layer = Layer.from_parameters(weight, None)
    unpadded = fastbn.fold_before_conv(affine, weight, None)
    folded = Layer.from_parameters(unpadded.weight, unpadded.bias)
    assert certify(layer, affine, folded, Probe(before=True)).relative < UNITS * unit(np.float64)
    assert certify(layer, affine, folded, Probe(before=True, padding=(1, 0))).relative > 0.01
    reflected = certify(layer, affine, folded, Probe(before=True, padding=(1, 1), padding_mode="reflect"))
    assert reflected.relative < UNITS * unit(np.float64)


def test_certificate_is_of_the_rounded_parameters():
    weight, b = parameters((4, 3, 3), 4, np.float64, True)
    relative = [fastbn.fold_conv(weight.astype(dtype), b, norm(4)).certificate.relative
                for dtype in (np.float16, np.float32, np.float64)]
    for value, dtype in zip(relative, (np.float16, np.float32, np.float64), strict=True):
        assert unit(dtype) / 16 < value < UNITS * unit(dtype)


def test_inputs_of_a_batch_norm_that_comes_first_lie_around_its_mean():
    # Near the mean, the rounding error of a bias of 1e4 is visible; near zero, outputs of that size would hide it.
    affine = ChannelAffine([1e4, -1e4], [1, 1], [0, 0])
    folded = fastbn.fold_before_linear(affine, np.array([[0.1, 0.3]], np.float32), None)
    error = float(folded.bias[0]) + 1e4 * (float(np.float32(0.1)) - float(np.float32(0.3)))
    assert abs(error) > 1e-5
    assert math.isclose(folded.certificate.absolute, abs(error), rel_tol=1e-6)
    assert folded.certificate.relative > 1e-5


def test_figures_of_the_certificate():
    # y = 3 x + 1 against y = 3 x + 1.5, and a layer that is zero everywhere
    layer, affine = Layer.from_parameters([[3.0]], [1.0]), ChannelAffine([0], [1], [0])
    x = np.random.default_rng(0).standard_normal(4)
    got = certify(layer, affine, replace(layer, bias=np.array([1.5])), Probe(before=False))
    assert math.isclose(got.absolute, 0.5, rel_tol=1e-12)
    assert math.isclose(got.relative, 0.5 / np.abs(3 * x + 1).max(), rel_tol=1e-12)
    assert got.probes == 4
    nothing = replace(layer, weight=0 * layer.weight, bias=0 * layer.bias)
    assert certify(nothing, affine, nothing, Probe(before=False)) == Certificate(0.0, 0.0, 4)
    assert certify(nothing, affine, layer, Probe(before=False)).relative == math.inf


def test_wide_layers_are_probed_in_two_channels():
    weight = np.ones((3, (1 << 18) + 1), np.float32)
    assert fastbn.fold_linear(weight, None, norm(3)).certificate.probes == 4 * 2


def test_large_layers_are_probed_in_some_channels():
    weight = np.random.default_rng(0).standard_normal((3000, 1024)).astype(np.float32)
    bn = norm(3000)
    folded = fastbn.fold_linear(weight, None, bn)
    assert folded.certificate.probes == 4 * 256
    assert 0 < folded.certificate.relative < UNITS * unit(np.float32)
    layer, wrong = Layer.from_parameters(weight, None), Layer.from_parameters(folded.weight, folded.bias)
    for channel in (0, 2999):   # the first and the last are always computed
        bias = wrong.bias.copy()
        bias[channel] += 1e3
        assert certify(layer, bn.frozen(), replace(wrong, bias=bias), Probe(before=False)).absolute > 999
