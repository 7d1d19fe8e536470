"""Several layers in one file: save, load, append and replace, without losing other content."""

import json

import numpy as np
import pytest

from fastbn import BatchNorm, checkpoints
from fastbn._core.npz import MOST_COMMENT_BYTES
from tests.checkpoints import files as made
from tests.compare import same_bits
from tests.layers.trained import STATE, trained
from tests.work import calls

SUFFIXES = (".safetensors", ".npz")


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"model{request.param}"


def layers():
    return {"bn1.": trained(eps=1e-3), "block.0.bn.": trained(dtype=np.float64, momentum=None, unbiased=False),
            "last/": BatchNorm(2, axis=-1, affine=False),
            "plain.": BatchNorm(4, track_running_stats=False)}


def equal(a, b):
    assert repr(a) == repr(b)
    assert a.unbiased == b.unbiased
    assert a.num_batches_tracked == b.num_batches_tracked
    for name in STATE:
        if getattr(b, name) is None:
            assert getattr(a, name) is None
        else:
            same_bits(getattr(a, name), getattr(b, name))


def test_round_trip(path):
    before = layers()
    checkpoints.save(path, before)
    after = checkpoints.load(path)
    assert list(after) == sorted(before)
    for prefix, layer in before.items():
        equal(after[prefix], layer)
        equal(BatchNorm.load(path, prefix=prefix), layer)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_same_layers_give_the_same_bytes(path):
    checkpoints.save(path, layers())
    first = path.read_bytes()
    checkpoints.save(path, layers())
    assert path.read_bytes() == first


def test_save_writes_the_same_file_as_the_method(path):
    trained().save(path, prefix="a.")
    first = path.read_bytes()
    checkpoints.save(path, {"a.": trained()})
    assert path.read_bytes() == first


def test_another_layer_is_not_overwritten(path):
    checkpoints.save(path, layers())
    before = path.read_bytes()
    for save in (lambda: trained().save(path, prefix="bn1."), lambda: trained().save(path, prefix="new."),
                 lambda: trained().save(path), lambda: checkpoints.save(path, {"bn1.": trained(), "new.": trained()})):
        with pytest.raises(ValueError, match=r"also holds '.*, which would be lost; pass append=True") as caught:
            save()
        assert str(caught.value).startswith(f"{path}: ")
        assert path.read_bytes() == before


def test_append_adds_and_replaces(path):
    checkpoints.save(path, layers())
    expected = layers() | {"bn1.": trained(eps=0.5, momentum=0.25), "new.": BatchNorm(7)}
    expected["bn1."].save(path, prefix="bn1.", append=True)
    checkpoints.save(path, {"new.": expected["new."]}, append=True)
    after = checkpoints.load(path)
    assert list(after) == sorted(expected)
    for prefix, layer in expected.items():
        equal(after[prefix], layer)


def test_append_to_a_missing_or_empty_file(path):
    trained().save(path, prefix="a.", append=True)
    first = path.read_bytes()
    path.write_bytes(b"")       # as created by tempfile
    trained().save(path, prefix="a.")
    assert path.read_bytes() == first


def test_a_replaced_layer_is_removed_completely(path):
    trained(averaging="exact").save(path, prefix="a.")
    trained().save(path, prefix="b.", append=True)
    trained(unbiased=False).save(path, prefix="a.", convention="keras", append=True)
    with pytest.raises(ValueError, match=r"'a\.': state is missing"):
        checkpoints.load(path)
    keras = BatchNorm.load(path, prefix="a.", convention="keras")
    assert (keras.averaging, keras.unbiased) == ("ema", False)
    equal(BatchNorm.load(path, prefix="b."), trained())


def test_append_keeps_other_content_to_the_bit(tmp_path):
    # Dtypes that no layer has, and metadata of other origin.
    arrays = made.state() | {"flags": np.array([True, False]), "bytes": np.arange(3, dtype=np.uint8)}
    arrays = {f"model.{name}": value for name, value in arrays.items()}
    path = tmp_path / "model.safetensors"
    path.write_bytes(made.safetensors(arrays, '{"format":"pt"}', bf16=("model.weight",)))
    trained().save(path, prefix="bn.", append=True)
    header, data = parsed(path)
    assert header["__metadata__"]["format"] == "pt"
    for name, value in arrays.items():
        entry = header[name]
        raw = made.bfloat16(value).tobytes() if name == "model.weight" else value.tobytes()
        assert data[slice(*entry["data_offsets"])] == raw
        assert entry["shape"] == list(value.shape)
    assert header["model.weight"]["dtype"] == "BF16"
    equal(BatchNorm.load(path, prefix="bn."), trained())

    path = tmp_path / "model.npz"
    arrays = {"text": np.array(["a", "b"]), "complex": np.ones((2, 3), np.complex64, order="F")}
    np.savez_compressed(path, **arrays)
    trained().save(path, prefix="bn.", append=True)
    with np.load(path) as kept:
        for name, value in arrays.items():
            np.testing.assert_array_equal(kept[name], value)
            assert kept[name].dtype == value.dtype
    equal(BatchNorm.load(path, prefix="bn."), trained())


def parsed(path):
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


@pytest.mark.parametrize("file", ["layers", "model"])
def test_layers_of_a_model(file, path):
    # Convolutions of any size and dtype are ignored.
    state = {f"{prefix}{name}": value for prefix in ("bn1.", "a.bn.") for name, value in made.state().items()}
    if file == "model":
        state |= {"conv.weight": np.ones((4, 3, 3, 3), np.float32), "conv.bias": np.ones(4, np.float32)}
    path.write_bytes({".npz": made.npz, ".safetensors": made.safetensors}[path.suffix](state))
    got = checkpoints.load(path, convention="torch", eps=1e-4)
    assert list(got) == ["a.bn.", "bn1."]
    for layer in got.values():
        assert (layer.eps, layer.num_batches_tracked) == (1e-4, 9)
        same_bits(layer.running_var, made.state()["running_var"])


def test_a_file_without_layers(path):
    path.write_bytes({".npz": made.npz, ".safetensors": made.safetensors}[path.suffix]({"w": np.ones((2, 2))}))
    with pytest.raises(ValueError, match="has no batch normalization under the names of keras, such as 'moving_mean'"):
        checkpoints.load(path, convention="keras")


def test_the_error_names_the_invalid_layer(path):
    checkpoints.save(path, layers())
    state = {f"bn1.{name}": value for name, value in made.state().items()}
    state |= {f"bn2.{name}": value for name, value in made.state().items()}
    state["bn2.running_var"] = -state["bn2.running_var"]
    path.write_bytes({".npz": made.npz, ".safetensors": made.safetensors}[path.suffix](state))
    with pytest.raises(ValueError, match=r"'bn2\.': running_var has negative values") as caught:
        checkpoints.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(TypeError, match=r"'bn1\.': unbiased must be True or False, got 'no'"):
        checkpoints.load(path, unbiased="no")


def nan():
    layer = trained()
    layer.running_mean[0] = np.nan
    return layer


BAD = {
    "a list": ([BatchNorm(2)], TypeError, "layers must be a mapping of prefixes to layers, got list"),
    "none": ({}, ValueError, "layers is empty; expected at least one layer"),
    "a number": ({1: BatchNorm(2)}, TypeError, "prefix must be a string, got 1"),
    "no layer": ({"a.": BatchNorm(2).state_dict()}, TypeError, r"layers\['a.'\] must be a BatchNorm.*, got dict"),
    "NaN": ({"a.": BatchNorm(2), "b.": nan()}, ValueError, r"layers\['b.'\]: running_mean has values that are not"),
    "one within the other": ({"bn1": BatchNorm(2), "bn10": BatchNorm(2)}, ValueError,
                             "prefix 'bn1' is the beginning of prefix 'bn10'"),
    "no prefix": ({"": BatchNorm(2), "bn.": BatchNorm(2)}, ValueError, "prefix '' is the beginning of prefix 'bn.'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_saves_write_nothing(name, path):
    wrong, error, message = BAD[name]
    with pytest.raises(error, match=message):
        checkpoints.save(path, wrong)
    assert list(path.parent.iterdir()) == []


def test_ambiguous_names(path):
    trained().save(path, prefix="bn1.")
    before = path.read_bytes()
    for prefix, message in (("", "prefix '' is the beginning of prefix 'bn1.'"),
                            ("bn", "prefix 'bn' is the beginning of prefix 'bn1.'"),
                            ("bn1.b.", "prefix 'bn1.' is the beginning of prefix 'bn1.b.'")):
        with pytest.raises(ValueError, match=message):
            trained().save(path, prefix=prefix, append=True)
        assert path.read_bytes() == before
    path.write_bytes({".npz": made.npz, ".safetensors": made.safetensors}[path.suffix]({"act.slope": np.ones(2)}))
    with pytest.raises(ValueError, match=r"prefix 'a' is the beginning of 'act\.slope' in the file"):
        trained().save(path, prefix="a", append=True)


def test_append_is_a_flag(path):
    with pytest.raises(TypeError, match="append must be True or False, got 1"):
        trained().save(path, append=1)


def test_a_malformed_file_is_not_replaced(path):
    path.write_bytes(b"no archive")
    for append in (True, False):
        with pytest.raises(ValueError, match=r"model\.\w+: (header|the file is not an npz archive)"):
            trained().save(path, append=append)
    assert path.read_bytes() == b"no archive"


def test_too_many_layers_for_npz(tmp_path):
    many = {f"layer{k}.": BatchNorm(1) for k in range(600)}
    checkpoints.save(tmp_path / "model.safetensors", many)
    assert len(checkpoints.load(tmp_path / "model.safetensors")) == 600
    with pytest.raises(ValueError, match=f"settings of these layers take .* room for {MOST_COMMENT_BYTES}; use safete"):
        checkpoints.save(tmp_path / "model.npz", many)
    with pytest.raises(ValueError, match=r"model\.npz: the archive has a member '\.\./weight\.npy'; expected a plain"):
        BatchNorm(1).save(tmp_path / "model.npz", prefix="../")
    assert not (tmp_path / "model.npz").exists()
    few = {f"layer{k}.": BatchNorm(1) for k in range(200)}
    checkpoints.save(tmp_path / "model.npz", few)
    assert len(checkpoints.load(tmp_path / "model.npz")) == 200


@pytest.mark.parametrize("append", [False, True], ids=["load", "append"])
def test_the_work_is_proportional_to_the_layers(append, tmp_path):
    """A header of 10 MB has room for 50,000 layers; the work must not grow with the square of that."""
    def work(count):
        path = tmp_path / f"{count}.safetensors"
        layers = {f"layer{k}.": BatchNorm(1) for k in range(count)}
        checkpoints.save(path, layers)
        more = {f"more.{prefix}": layer for prefix, layer in layers.items()}
        _, made = calls(lambda: checkpoints.save(path, more, append=True) if append else checkpoints.load(path))
        assert len(checkpoints.load(path)) == (2 * count if append else count)
        return made

    work(1)     # imports and caches
    assert work(160) < 2.2 * work(80)
