"""Single layers from and to files, under each convention."""

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
def test_round_trip(options, suffix, layout, dtype, tmp_path):
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
def test_a_file_without_settings_gets_those_of_its_convention(convention, tmp_path):
    np.savez(tmp_path / "layer.npz", **state_of(convention))
    bn = BatchNorm.load(tmp_path / "layer.npz", convention=convention, **fixed(convention))
    eps, momentum, weighs, axis, unbiased = DEFAULTS[convention]
    assert (bn.eps, bn.axis, bn.unbiased, bn.training) == (eps, axis, unbiased, True)
    assert bn.momentum == pytest.approx(momentum if weighs == "batch" else 1 - momentum, abs=1e-15)
    same_bits(bn.running_var, np.array(VALUES["var"], np.float32))


def test_arguments_override_settings(tmp_path):
    path = tmp_path / "layer.safetensors"
    trained(eps=1e-3).save(path)
    bn = BatchNorm.load(path, eps=0.5, momentum=None, axis=2, dtype=np.float64, num_threads=1)
    assert (bn.eps, bn.momentum, bn.axis, bn.dtype, bn.num_threads) == (0.5, None, 2, np.float64, 1)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("setting", [
    {"eps": 0}, {"eps": 0.00012345678901234567}, {"eps": float(np.finfo(np.float32).tiny)}, {"eps": 1e300}, {"eps": 1},
    {"eps": 1 / 3}, {"momentum": 0}, {"momentum": 1}, {"momentum": 5e-324}, {"momentum": None}, {"axis": -64},
    {"axis": 100}], ids=str)
def test_settings_are_exact(setting, suffix, tmp_path):
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


def test_the_file_records_whether_the_variance_is_unbiased(tmp_path):
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


def test_the_class_of_a_subclass_is_kept(tmp_path):
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


def test_a_layer_without_state_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="state is empty"):
        BatchNorm(3, affine=False, track_running_stats=False).save(tmp_path / "layer.npz")


def test_a_layer_that_does_not_fit_is_unchanged(tmp_path):
    trained().save(tmp_path / "layer.npz")
    for bn, message in ((BatchNorm(4), r"has shape \(5,\); expected \(4,\)"),
                        (BatchNorm(5, affine=False), "state also has bias, weight"),
                        (BatchNorm(5, track_running_stats=False), "state also has running_mean, running_var")):
        before = snapshot(bn)
        with pytest.raises(ValueError, match=message):
            restore(bn, tmp_path / "layer.npz")
        assert_same(bn, before)
