"""Layers from files under each convention, into files, and from the objects of frameworks that need not be there."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fastbn import BatchNorm
from fastbn.checkpoints import restore
from tests.checkpoints.conventions import DEFAULTS, NAMES, VALUES, fixed, state_of
from tests.compare import same_bits
from tests.layers.trained import STATE, N, assert_same, batches, snapshot, trained

OPTIONS = {
    "default": {},
    "settings": {"eps": 1e-3, "momentum": 0.25, "unbiased": False},
    "cumulative": {"momentum": None},
    "not affine": {"affine": False},
    "no gamma": {"scale": False},
    "no beta": {"center": False},
    "not tracking": {"track_running_stats": False},
}
SUFFIXES = (".safetensors", ".npz")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("options", OPTIONS)
def test_a_layer_comes_back_as_it_was(options, suffix, layout, dtype, tmp_path):
    bn = trained(layout, dtype, **OPTIONS[options])
    bn.save(tmp_path / f"layer{suffix}", prefix="block.0.bn.")
    other = BatchNorm.load(tmp_path / f"layer{suffix}", prefix="block.0.bn.")
    assert repr(other) == repr(bn)
    assert (other.unbiased, other.num_batches_tracked * other.track_running_stats) == (
        bn.unbiased, bn.num_batches_tracked * bn.track_running_stats)
    for name in STATE:
        np.testing.assert_array_equal(getattr(other, name), getattr(bn, name))
    x, y = batches(layout, dtype)[2:]
    same_bits(other(x), bn(x))
    same_bits(other.eval()(y), bn.eval()(y))
    assert_same(other, snapshot(bn) | {"count": other.num_batches_tracked})


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("convention", NAMES)
def test_every_convention_in_files(convention, suffix, tmp_path):
    path = tmp_path / f"layer{suffix}"
    bn = trained(unbiased=DEFAULTS[convention][4])
    bn.save(path, convention=convention)
    other = BatchNorm.load(path, convention=convention, **fixed(convention))
    assert other.unbiased == bn.unbiased
    for name in STATE:
        same_bits(getattr(other, name), getattr(bn, name))


@pytest.mark.parametrize("convention", NAMES)
def test_a_file_without_settings_has_those_of_its_convention(convention, tmp_path):
    np.savez(tmp_path / "layer.npz", **state_of(convention))
    bn = BatchNorm.load(tmp_path / "layer.npz", convention=convention, **fixed(convention))
    eps, momentum, weighs, axis, unbiased = DEFAULTS[convention]
    assert (bn.eps, bn.axis, bn.unbiased, bn.training) == (eps, axis, unbiased, True)
    assert bn.momentum == pytest.approx(momentum if weighs == "batch" else 1 - momentum, abs=1e-15)
    same_bits(bn.running_var, np.array(VALUES["var"], np.float32))


def test_arguments_go_before_settings(tmp_path):
    path = tmp_path / "layer.safetensors"
    trained(eps=1e-3).save(path)
    bn = BatchNorm.load(path, eps=0.5, momentum=None, axis=2, dtype=np.float64, num_threads=1)
    assert (bn.eps, bn.momentum, bn.axis, bn.dtype, bn.num_threads) == (0.5, None, 2, np.float64, 1)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("setting", [
    {"eps": 0}, {"eps": 0.00012345678901234567}, {"eps": float(np.finfo(np.float32).tiny)}, {"eps": 1e300}, {"eps": 1},
    {"eps": 1 / 3}, {"momentum": 0}, {"momentum": 1}, {"momentum": 5e-324}, {"momentum": None}, {"axis": -64},
    {"axis": 100}], ids=str)
def test_settings_come_back_to_the_bit(setting, suffix, tmp_path):
    BatchNorm(2, **setting).save(tmp_path / f"layer{suffix}")
    bn = BatchNorm.load(tmp_path / f"layer{suffix}")
    for name, value in setting.items():
        assert getattr(bn, name) == value


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"unbiased": "no"}, TypeError, "unbiased must be True or False, got 'no'"),
    ({"eps": -1.0}, ValueError, "eps must be 0, or finite and at least"),
    ({"dtype": np.int32}, TypeError, "dtype must be float32 or float64"),
    ({"convention": 1}, TypeError, "convention must be a name or a Convention, got int"),
    ({"prefix": b""}, TypeError, "prefix must be a string, got b''"),
    ({"fix_gamma": True}, ValueError, "fix_gamma must be None, because fastbn"),
    ({"channels": 3}, TypeError, "channels"),
])
def test_bad_arguments_of_load(options, error, message, tmp_path):
    trained().save(tmp_path / "layer.npz")
    with pytest.raises(error, match=message):
        BatchNorm.load(tmp_path / "layer.npz", **options)


@pytest.mark.parametrize(("stored", "wanted", "factor"), [
    (True, True, 1), (True, False, (N - 1) / N), (False, True, N / (N - 1)), (False, False, 1)])
def test_unbiased_converts(stored, wanted, factor, tmp_path):
    path = tmp_path / "layer.safetensors"
    bn = trained(unbiased=stored)
    bn.save(path)
    if stored != wanted:
        with pytest.raises(ValueError, match="count is needed"):
            BatchNorm.load(path, unbiased=wanted)
    got = BatchNorm.load(path, unbiased=wanted, count=N)
    assert got.unbiased == wanted
    np.testing.assert_array_equal(got.running_var, (bn.running_var.astype(float) * factor).astype(np.float32))
    kept = BatchNorm.load(path, unbiased=wanted, keep_variance=True)
    assert kept.unbiased == wanted
    same_bits(kept.running_var, bn.running_var)
    into = BatchNorm(5, unbiased=wanted)
    restore(into, path, count=N)
    same_bits(into.running_var, got.running_var)


def test_a_variance_that_was_kept_is_known_for_what_it_is(tmp_path):
    path = tmp_path / "layer.safetensors"
    bn = trained()
    bn.save(path, convention="keras", keep_variance=True)
    got = BatchNorm.load(path, convention="keras")
    assert got.unbiased
    same_bits(got.running_var, bn.running_var)
    bn.save(path, convention="keras", count=N)
    got = BatchNorm.load(path, convention="keras")
    assert not got.unbiased
    np.testing.assert_array_equal(got.running_var, (bn.running_var.astype(float) * (N - 1) / N).astype(np.float32))


def test_settings_belong_to_a_prefix(tmp_path):
    bn = trained(eps=0.125)
    bn.save(tmp_path / "layer.npz", prefix="a.")
    with np.load(tmp_path / "layer.npz") as arrays:
        np.savez(tmp_path / "renamed.npz", **{name.replace("a.", "b."): arrays[name] for name in arrays})
    assert BatchNorm.load(tmp_path / "layer.npz", prefix="a.").eps == 0.125
    assert BatchNorm.load(tmp_path / "renamed.npz", prefix="b.").eps == 1e-5


def test_a_subclass_stays_one(tmp_path):
    class Mine(BatchNorm):
        pass

    Mine(3).save(tmp_path / "layer.npz")
    assert type(Mine.load(tmp_path / "layer.npz")) is Mine


BAD_SAVES = {
    "suffix": ("layer.bin", lambda bn: None, {}, ValueError, "path must end in .*, got '.*layer.bin'"),
    "pickle": ("layer.pt", lambda bn: None, {}, ValueError, "path must end in .safetensors or .npz"),
    "no suffix": ("layer", lambda bn: None, {}, ValueError, "path must end in .safetensors or .npz"),
    "biased": ("layer.npz", lambda bn: None, {"convention": "keras"}, ValueError, "count is needed: fastbn"),
    "NaN": ("layer.npz", lambda bn: bn.running_mean.fill(np.nan), {}, ValueError, "running_mean has values"),
    "convention": ("layer.npz", lambda bn: None, {"convention": "caffe"}, ValueError, "convention must be one"),
    "prefix": ("layer.npz", lambda bn: None, {"prefix": b"a."}, TypeError, "prefix must be a string, got b'a.'"),
}


@pytest.mark.parametrize("name", BAD_SAVES)
def test_bad_saves_write_nothing(name, tmp_path):
    file, spoil, options, error, message = BAD_SAVES[name]
    bn = trained()
    spoil(bn)
    with pytest.raises(error, match=message):
        bn.save(tmp_path / file, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_layer_without_state_has_nothing_to_save(tmp_path):
    with pytest.raises(ValueError, match="state is empty"):
        BatchNorm(3, affine=False, track_running_stats=False).save(tmp_path / "layer.npz")


def test_a_layer_that_does_not_fit_is_left_alone(tmp_path):
    trained().save(tmp_path / "layer.npz")
    for bn, message in ((BatchNorm(4), r"has shape \(5,\); expected \(4,\)"),
                        (BatchNorm(5, affine=False), "state has also bias, weight"),
                        (BatchNorm(5, track_running_stats=False), "state has also running_mean, running_var")):
        before = snapshot(bn)
        with pytest.raises(ValueError, match=message):
            restore(bn, tmp_path / "layer.npz")
        assert_same(bn, before)


# Objects of frameworks that are not there

def onnx_node(**changes):
    fields = {"op_type": "BatchNormalization", "domain": "", "input": ["x", "s", "b", "m", "v"], "attribute": []}
    return SimpleNamespace(**fields | changes)


def attribute(name, value):
    return SimpleNamespace(name=name, f=value, i=value)


CONSTANTS = {name: np.array(value, np.float32) for name, value in zip("sbmv", VALUES.values(), strict=True)}


def test_onnx_node():
    bn = BatchNorm.from_onnx(onnx_node(), CONSTANTS)
    assert (bn.axis, bn.unbiased, bn.training) == (1, False, False)
    assert bn.eps == np.float32(1e-5)                   # attributes of ONNX are float32
    assert bn.momentum == pytest.approx(0.1, rel=1e-6)
    np.testing.assert_array_equal(bn.gamma, VALUES["gamma"])
    np.testing.assert_array_equal(bn.running_var, VALUES["var"])
    assert BatchNorm.from_onnx(onnx_node(attribute=[attribute("epsilon", 0.0)]), CONSTANTS).eps == 0
    attributes = [attribute("epsilon", 0.25), attribute("momentum", 0.75), attribute("training_mode", 1)]
    bn = BatchNorm.from_onnx(onnx_node(attribute=attributes), CONSTANTS)
    assert (bn.eps, bn.momentum, bn.training) == (0.25, 0.25, True)


BAD_NODES = {
    "a string": ("BatchNormalization", CONSTANTS, TypeError, "node must be an onnx.NodeProto, got str"),
    "other operator": (onnx_node(op_type="Conv"), CONSTANTS, ValueError, "node must be a .*, got Conv"),
    "other domain": (onnx_node(domain="com.x"), CONSTANTS, ValueError, "got BatchNormalization of com.x"),
    "few inputs": (onnx_node(input=["x", "s"]), CONSTANTS, ValueError, "node must have five inputs, got 2"),
    "not constant": (onnx_node(input=["x", "s", "b", "m", "w"]), CONSTANTS, ValueError, "initializers miss w;"),
    "a list": (onnx_node(), [], TypeError, "initializers must be a mapping of names to arrays, got list"),
    "spatial": (onnx_node(attribute=[attribute("spatial", 0)]), CONSTANTS, ValueError, "node has spatial=0"),
    "NaN": (onnx_node(), CONSTANTS | {"v": [1, np.nan]}, ValueError, "input_var has values that are not finite"),
}


@pytest.mark.parametrize("name", BAD_NODES)
def test_bad_nodes(name):
    node, constants, error, message = BAD_NODES[name]
    with pytest.raises(error, match=message):
        BatchNorm.from_onnx(node, constants)


def test_a_tensor_without_onnx_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r'needs onnx, .*pip install "\.\[onnx\]"'):
        BatchNorm.from_onnx(onnx_node(), CONSTANTS | {"s": SimpleNamespace(raw_data=b"")})


@pytest.mark.parametrize("value", [None, "BatchNorm2d", np.ones(3), BatchNorm], ids=repr)
@pytest.mark.parametrize(("module", "method", "message"), [
    ("torch", BatchNorm.from_torch, r"module must be one of torch.nn.BatchNorm1d, .*SyncBatchNorm, got"),
    ("keras", BatchNorm.from_keras, r"layer must be a keras.layers.BatchNormalization of Keras 3, got")])
def test_what_is_no_layer_is_refused(module, method, message, value, monkeypatch):
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(TypeError, match=message):
        method(value)


def test_keras_2_is_refused(monkeypatch):
    class BatchNormalization:
        built = True

    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(
        layers=SimpleNamespace(BatchNormalization=BatchNormalization)))
    with pytest.raises(TypeError, match="of Keras 3, got BatchNormalization"):
        BatchNorm.from_keras(BatchNormalization())
