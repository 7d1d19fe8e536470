"""Layers that files hold as a whole: the siblings of batch norm."""

import json

import numpy as np
import pytest

from fastbn import (
    BatchNorm,
    BatchRenorm,
    DomainSpecificBatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Ramp,
    RMSNorm,
    checkpoints,
)
from fastbn.checkpoints import whole
from fastbn.checkpoints.prefixes import within
from tests.checkpoints import files as made
from tests.compare import same_bits

SUFFIXES = (".safetensors", ".npz")


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"model{request.param}"


def layers():
    """One of each kind, with values that differ from those of a new layer."""
    made = {
        "ln.": LayerNorm((2, 3), eps=1e-6), "ln2.": LayerNorm(4, bias=False, dtype=np.float64),
        "rms.": RMSNorm(4), "rms2.": RMSNorm(3, eps=0.25),
        "gn.": GroupNorm(2, 6, axis=-1), "gn2.": GroupNorm(2, 6, per_group=True),
        "in.": InstanceNorm(3, affine=True, track_running_stats=True, momentum=None),
        "in2.": InstanceNorm(3, track_running_stats=True, unbiased=False),
    }
    rng = np.random.default_rng(0)
    for layer in made.values():
        layer.load_state_dict({
            name: rng.uniform(1, 2, array.shape).astype(array.dtype) if array.ndim else np.array(7)
            for name, array in layer.state_dict().items()})
    return made


def equal(a, b):
    assert repr(a) == repr(b)
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, array in b.state_dict().items():
        same_bits(a.state_dict()[name], array)


def test_round_trip_of_each_layer(path):
    for prefix, layer in layers().items():
        layer.save(path, prefix=prefix)
        equal(type(layer).load(path, prefix=prefix), layer)
        path.unlink()


def test_round_trip_of_all_layers_beside_a_batch_norm(path):
    saved = {**layers(), "bn.": BatchNorm(5, eps=1e-3)}
    checkpoints.save(path, saved)
    loaded = checkpoints.load(path)
    assert list(loaded) == sorted(saved)
    for prefix, layer in saved.items():
        assert type(loaded[prefix]) is type(layer)
        equal(loaded[prefix], layer)


def test_settings_apply_to_the_layers_that_have_them(path):
    checkpoints.save(path, {"gn.": GroupNorm(2, 6), "ln.": LayerNorm(4), "bn.": BatchNorm(5)})
    loaded = checkpoints.load(path, axis=-1, eps=0.5)
    assert [layer.eps for layer in loaded.values()] == [0.5, 0.5, 0.5]
    assert loaded["gn."].axis == loaded["bn."].axis == -1
    assert [layer.num_threads for layer in checkpoints.load(path, num_threads=2).values()] == [2, 2, 2]
    with pytest.raises(TypeError, match="epsilon"):
        checkpoints.load(path, epsilon=0.5)


def test_settings_that_the_file_does_not_have(tmp_path):
    path = tmp_path / "layer.safetensors"
    arrays = {"weight": np.ones(3, np.float32), "bias": np.ones(3, np.float32)}
    path.write_bytes(described(arrays, "LayerNorm", '{"normalized_shape": 3}'))
    [layer] = checkpoints.load(path, eps=0.5, momentum=0.3).values()
    assert layer.eps == 0.5
    with pytest.raises(TypeError, match="a layer has no argument epsilon; expected some of axis, eps, momentum"):
        checkpoints.load(path, epsilon=0.5)
    DomainSpecificBatchNorm(2, 3).save(path)
    [layer] = checkpoints.load(path, eps=0.5).values()
    assert layer[0].eps == 0.5


def described(arrays, kind, arguments):
    """Return a .safetensors file of a layer."""
    return made.safetensors(arrays, json.dumps({"fastbn.kind": kind, "fastbn.arguments": arguments}))


def test_restore_keeps_the_settings(path):
    saved = layers()["gn."]
    saved.save(path)
    layer = GroupNorm(2, 6, eps=0.5)
    checkpoints.restore(layer, path)
    assert layer.eps == 0.5
    same_bits(layer.gamma, saved.gamma)
    for choice in ({"convention": "keras"}, {"count": 5}, {"fix_gamma": False, "keep_variance": True}):
        with pytest.raises(ValueError, match=r"convention must be|(count|variance) cannot be given for a GroupNorm"):
            checkpoints.restore(layer, path, **choice)


def test_append_and_replace(path):
    first, second = layers()["ln."], layers()["gn."]
    first.save(path, prefix="a.")
    with pytest.raises(ValueError, match=r"also holds 'a\.(bias|weight)', 'a\."):
        second.save(path, prefix="b.")
    second.save(path, prefix="b.", append=True)
    LayerNorm((2, 3)).save(path, prefix="a.", append=True)
    loaded = checkpoints.load(path)
    equal(loaded["a."], LayerNorm((2, 3)))
    equal(loaded["b."], second)


def test_a_file_of_other_origin(path):
    weight = np.array([1.0, 2.0], np.float32)
    arrays = {"norm.weight": weight, "norm.bias": -weight, "other": weight}
    path.write_bytes({".npz": made.npz, ".safetensors": made.safetensors}[path.suffix](arrays))
    layer = LayerNorm.load(path, prefix="norm.", normalized_shape=2, eps=1e-6)
    assert layer.eps == 1e-6
    same_bits(layer.gamma, weight)
    with pytest.raises(TypeError, match=r"LayerNorm with the prefix 'norm\.', only 'bias', 'weight'; pass normalized"):
        LayerNorm.load(path, prefix="norm.")
    with pytest.raises(TypeError, match="pass num_groups and num_channels"):
        GroupNorm.load(path, prefix="norm.")
    with pytest.raises(TypeError, match="LayerNorm has no argument convention; expected some of normalized_shape, "):
        LayerNorm.load(path, prefix="norm.", convention="torch")
    with pytest.raises(ValueError, match=r"weight of shape \(2,\)"):
        LayerNorm.load(path, prefix="norm.", normalized_shape=3)


def test_another_class_is_refused(path):
    LayerNorm(3).save(path)
    for cls in (RMSNorm, GroupNorm, BatchNorm):
        with pytest.raises(ValueError, match=f"the layer is of the class LayerNorm; expected {cls.__name__}"):
            cls.load(path)


def test_the_class_is_named_before_the_arrays_are_compared(path):
    checkpoints.save(path, {"bn.": BatchNorm(3), "ln.": LayerNorm((2, 3))})
    for cls in (LayerNorm, GroupNorm, InstanceNorm):
        with pytest.raises(ValueError, match=f"the layer is of the class BatchNorm; expected {cls.__name__}"):
            cls.load(path, prefix="bn.")
    with pytest.raises(ValueError, match="the layer is of the class LayerNorm; expected BatchNorm"):
        BatchNorm.load(path, prefix="ln.")
    with pytest.raises(ValueError, match="the layer is of the class BatchNorm; expected LayerNorm"):
        checkpoints.restore(LayerNorm(3), path, prefix="bn.")


@pytest.mark.parametrize(("layer", "options", "message"), [
    (LayerNorm(3), {"convention": "keras"}, "convention must be 'fastbn' for a LayerNorm, got 'keras'"),
    (LayerNorm(3), {"count": 5}, "count cannot be given for a LayerNorm, whose file has its state"),
    (LayerNorm(3, elementwise_affine=False), {}, "neither parameters nor statistics"),
])
def test_what_cannot_be_saved(path, layer, options, message):
    with pytest.raises(ValueError, match=message):
        checkpoints.save(path, {"": layer}, **options)
    assert not path.exists()


def test_a_value_that_is_not_finite_cannot_be_saved(path):
    layer = GroupNorm(1, 2)
    layer.gamma[1] = np.nan
    with pytest.raises(ValueError, match="weight has values that are not finite"):
        layer.save(path)
    assert not path.exists()


@pytest.mark.parametrize(("arguments", "message"), [
    ("[]", "metadata has"),
    ("{x}", "metadata has"),
    ('{"normalized_shape": 1e3}', "normalized_shape must be"),
    ('{"normalized_shape": 1099511627776}', "metadata has .1099511627776. as normalized_shape"),
    ('{"normalized_shape": [[3]]}', "metadata has"),
    ('{"normalized_shape": {"a": 1}}', "metadata has"),
    ('{"normalized_shape": 3, "eps": "x"}', "eps must be"),
    ('{"normalized_shape": 3, "eps": NaN}', "eps must be"),
    ('{"normalized_shape": 3, "path": "x"}', "unexpected keyword argument 'path'"),
    ('{"normalized_shape": 3, "dtype": "object"}', "dtype must be float32 or float64"),
    ('{"normalized_shape": 3, "num_threads": 2}', "num_threads as an argument of a layer; expected none"),
    ('{"normalized_shape": [0, 1099511627776]}', "metadata has"),
    ('{"normalized_shape": [1024, 1024, 1024]}', r"metadata has .\[1024, 1024, 1024\]. as normalized_shape"),
    ("{}", "missing 1 required positional argument"),
    (json.dumps({"normalized_shape": 3, "x": [1, "y", None]}), "unexpected keyword argument"),
])
def test_malformed_arguments(tmp_path, arguments, message):
    path = tmp_path / "layer.safetensors"
    arrays = {"weight": np.ones(3, np.float32), "bias": np.ones(3, np.float32)}
    path.write_bytes(described(arrays, "LayerNorm", arguments))
    with pytest.raises(ValueError, match=message):
        LayerNorm.load(path)
    with pytest.raises(ValueError, match=message):
        checkpoints.load(path)


@pytest.mark.parametrize(("arguments", "name"), [
    ({"num_features": 1 << 20, "domains": 300}, "domains"),
    ({"num_features": 1 << 16, "domains": ["day", "night"] * 9}, "domains"),
    ({"num_features": 1, "domains": 1025}, "domains"),
])
def test_a_small_file_does_not_demand_many_layers(tmp_path, monkeypatch, arguments, name):
    def refuse(*given, **settings):
        raise AssertionError("a layer was made")

    path = tmp_path / "layer.safetensors"
    path.write_bytes(described({"weight": np.ones(3, np.float32)}, "DomainSpecificBatchNorm", json.dumps(arguments)))
    monkeypatch.setattr(DomainSpecificBatchNorm, "__init__", refuse)
    with pytest.raises(ValueError, match=f"metadata has .* as {name} of a layer"):
        checkpoints.load(path)


@pytest.mark.parametrize("layer", [
    DomainSpecificBatchNorm(2, [2019, 2020, 2021, "later"]), DomainSpecificBatchNorm(2, 30),
    GroupNorm(2048, 4096, axis=-1), GroupNorm(2, 40_000, per_group=True), LayerNorm((0, 5)),
    BatchRenorm(200_000, r_max=Ramp(1, 3, 5000, 40000), d_max=Ramp(0, 5, 5000, 25000))], ids=repr)
def test_layers_of_many_values_or_labels_are_loaded(path, layer):
    layer.save(path)
    equal(type(layer).load(path), layer)


def test_many_prefixes_take_no_quadratic_time():
    class Prefix(str):
        __slots__ = ()
        calls = 0

        def startswith(self, *others):
            Prefix.calls += 1
            return super().startswith(*others)

    averaged = {Prefix(f"a{i}.") for i in range(1000)}
    assert within(averaged, {Prefix(f"b{i}.") for i in range(1000)} | {Prefix("a1")}) == {
        name for name in averaged if name.startswith("a1")}
    assert Prefix.calls <= 3000


def test_the_values_in_a_file_bound_those_of_the_layer():
    labels = json.dumps({"num_features": 1, "domains": list(range(1500))})
    assert whole.decoded(labels, 3000)["domains"] == tuple(range(1500))
    large = json.dumps({"normalized_shape": [1, 1 << 21]})
    assert whole.decoded(large, 1 << 21) == {"normalized_shape": (1, 1 << 21)}
    with pytest.raises(ValueError, match="as normalized_shape of a layer"):
        whole.decoded(large, 1 << 20)


def test_arguments_that_json_lacks():
    with pytest.raises(ValueError, match="r_max is a function, which a file cannot hold"):
        whole.encoded("r_max", lambda step: step)
