"""The registry of layer classes, and files that name the class of a layer."""

import json

import numpy as np
import pytest

import fastbn
from fastbn import BatchNorm, checkpoints
from fastbn.checkpoints import kinds, restore
from tests.checkpoints import files as made
from tests.compare import same_bits
from tests.layers.trained import trained
from tests.process import error

SUFFIXES = (".safetensors", ".npz")
WRITE = {".npz": made.npz, ".safetensors": made.safetensors}


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"model{request.param}"


@pytest.fixture
def other(monkeypatch):
    """A second registered class."""
    monkeypatch.setattr(kinds, "_kinds", dict(kinds._kinds))

    @kinds.register
    class OtherNorm(BatchNorm):
        pass

    return OtherNorm


def test_batch_norm_is_the_default():
    assert kinds.default() == "BatchNorm"
    assert kinds.named("BatchNorm") is BatchNorm
    assert kinds.name_of(fastbn.SyncBatchNorm) == "BatchNorm"
    assert kinds.name_of(dict) is None


def test_a_name_belongs_to_one_class(other):
    assert kinds.register(other) is other
    with pytest.raises(ValueError, match="a class named BatchNorm is already registered"):
        kinds.register(type("BatchNorm", (BatchNorm,), {}))
    with pytest.raises(ValueError, match=r"kind must be one of BatchNorm.*, OtherNorm, got 'LayerNorm'"):
        kinds.named("LayerNorm")


def test_each_layer_gets_its_class_back(path, other):
    derived = type("Derived", (other,), {})
    checkpoints.save(path, {"a.": trained(), "b.": other(3, eps=0.5), "c.": derived(2)})
    layers = checkpoints.load(path)
    assert [type(layer) for layer in layers.values()] == [BatchNorm, other, other]
    same_bits(layers["a."].gamma, trained().gamma)
    assert layers["b."].eps == 0.5
    assert type(derived.load(path, prefix="c.")) is derived


def test_the_default_is_not_written(path, other):
    trained().save(path)
    assert b"kind" not in path.read_bytes()
    other(3).save(path.with_stem("other"))
    assert b"fastbn.kind" in path.with_stem("other").read_bytes()


def test_a_layer_of_another_class_is_refused(path, other):
    checkpoints.save(path, {"a.": trained(), "b.": other(5)})
    for load, stored, expected in (
            (lambda: BatchNorm.load(path, prefix="b."), "OtherNorm", "BatchNorm"),
            (lambda: other.load(path, prefix="a."), "BatchNorm", "OtherNorm"),
            (lambda: restore(BatchNorm(5), path, prefix="b."), "OtherNorm", "BatchNorm")):
        with pytest.raises(ValueError, match=f"the layer is of the class {stored}; expected {expected}") as caught:
            load()
        assert str(caught.value).startswith(f"{path}: ")


def test_a_file_without_settings_fits_every_class(path, other):
    path.write_bytes(WRITE[path.suffix](made.state()))
    for kind in (BatchNorm, other):
        layer = kind.load(path)
        assert type(layer) is kind
        same_bits(layer.gamma, made.state()["weight"])
    [layer] = checkpoints.load(path).values()
    assert type(layer) is BatchNorm


def test_only_registered_classes_are_made(path):
    path.write_bytes(WRITE[path.suffix](made.state(), json.dumps({"fastbn.kind": "SyncBatchNorm"})))
    with pytest.raises(ValueError, match=r"kind must be one of BatchNorm.*, got 'SyncBatchNorm'"):
        checkpoints.load(path)


@pytest.mark.parametrize("value", [None, {}, np.ones(3)], ids=repr)
def test_what_is_not_a_layer(value, path):
    trained().save(path)
    with pytest.raises(TypeError, match=f"layer must be a BatchNorm.*, got {type(value).__name__}"):
        restore(value, path)


def test_import_does_not_load_the_file_formats():
    program = """
import sys
import fastbn
loaded = [name for name in sys.modules if name.startswith(("fastbn.checkpoints.formats", "fastbn.checkpoints.load"))]
assert not loaded, loaded
from fastbn import checkpoints
for name in checkpoints.__all__:
    getattr(checkpoints, name)
assert "fastbn.checkpoints.formats.npz" in sys.modules
checkpoints.nothing
"""
    assert error(program).startswith("AttributeError: module 'fastbn.checkpoints' has no attribute 'nothing'")
