"""Reading files: what is refused and at which cost, and what is read."""

import json
import tracemalloc
import zipfile

import numpy as np
import pytest

from fastbn import BatchNorm
from fastbn.checkpoints import restore
from tests import checkpoint_files as made
from tests import fuzz_checkpoints
from tests.compare import same_bits
from tests.layers import assert_same, snapshot, trained
from tests.malformed.corpus import corpus
from tests.work import MOST_CALLS, calls

CORPUS = corpus()
MEMORY_PER_BYTE = 16
MEMORY_SLACK = 4 << 20


@pytest.mark.parametrize("name", CORPUS)
def test_a_malformed_file_is_refused(name, tmp_path):
    wrong = CORPUS[name]
    path = tmp_path / f"model{wrong.suffix}"
    path.write_bytes(wrong.data)
    bn = trained()
    before = snapshot(bn)
    error, work = calls(restore, bn, path)
    assert work < MOST_CALLS
    assert isinstance(error, ValueError)
    assert str(error).startswith(f"{path}: ")
    assert len(str(error)) < 1000
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=wrong.message):
            restore(bn, path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_PER_BYTE * len(wrong.data) + MEMORY_SLACK
    assert_same(bn, before)
    assert path.read_bytes() == wrong.data


def test_the_corpus_is_large():
    kinds = [wrong.suffix for wrong in CORPUS.values()]
    assert kinds.count(".safetensors") >= 300
    assert kinds.count(".npz") >= 200


def test_mutations_are_refused_or_sound(tmp_path):
    results, most = fuzz_checkpoints.run(4000, 0, tmp_path)
    assert sum(results.values()) == 4000
    assert 100 < most < MOST_CALLS
    for suffix in (".safetensors", ".npz"):     # neither a reader that refuses all, nor one that refuses nothing
        assert results[suffix, "loaded"] >= 20
        assert results[suffix, "refused"] >= 1000


def test_mutations_are_the_same_for_a_seed():
    first, again, other = (list(fuzz_checkpoints.mutations(50, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("method", [BatchNorm.load, lambda path: restore(BatchNorm(5), path)], ids=["load", "restore"])
def test_a_file_that_is_not_there(method, tmp_path):
    with pytest.raises(FileNotFoundError):
        method(tmp_path / "model.safetensors")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(OSError, match=r"folder\.npz"):
        method(tmp_path / "folder.npz")
    (tmp_path / "model.pt").write_bytes(made.safetensors())
    with pytest.raises(ValueError, match=r"path must end in .safetensors or .npz, got '.*model.pt'"):
        method(tmp_path / "model.pt")


def test_many_tensors_take_little_memory(tmp_path):
    items = {f"layer{k}.weight": {"dtype": '"F32"', "shape": "[1]", "data_offsets": f"[{4 * k},{4 * k + 4}]"}
             for k in range(20_000)}
    data = made.framed(made.header_text(items), bytes(80_000 - 1))
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"'layer19999\.weight' ends at byte 80000 of the data, which have 79999"):
            BatchNorm.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_PER_BYTE * len(data)


def test_a_small_layer_of_a_large_file(tmp_path):
    arrays = {f"bn.{name}": value for name, value in made.state().items()}
    items, data = made.entries(arrays)
    large = 4 << 30
    for item in items.values():
        item["data_offsets"] = json.dumps([large + offset for offset in json.loads(item["data_offsets"])])
    items["embedding"] = {"dtype": '"F32"', "shape": f"[{large // 64},16]", "data_offsets": f"[0,{large}]"}
    header = made.framed(made.header_text(items))
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:      # a hole takes no room on the disk
        file.write(header)
        file.seek(len(header) + large)
        file.write(data)
    tracemalloc.start()
    try:
        bn, work = calls(lambda: BatchNorm.load(path, prefix="bn."))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    same_bits(bn.running_var, arrays["bn.running_var"])
    assert work < MOST_CALLS        # and no reading of 4 GB, piece by piece
    assert peak < 1 << 20
    with pytest.raises(ValueError, match=r"weight has shape \(67108864, 16\); expected \(C,\)"):
        restore(BatchNorm(5), renamed(path, header, b"embedding", b"bn.weight"), prefix="bn.")


def renamed(path, header, old, new):
    """The same file, in which two names of one length have changed places."""
    swapped = header.replace(new, b"\0" * len(new)).replace(old, new).replace(b"\0" * len(new), old)
    with open(path, "r+b") as file:
        file.write(swapped)
    return path


@pytest.mark.parametrize(("kind", "dtype"), [
    ("float64", np.float64), ("float32", np.float32), ("float16", np.float32), ("bfloat16", np.float32)])
def test_dtypes_of_safetensors(kind, dtype, tmp_path):
    bf16 = made.VECTORS if kind == "bfloat16" else ()
    arrays = made.state("float32" if bf16 else kind)
    (tmp_path / "model.safetensors").write_bytes(made.safetensors(arrays, bf16=bf16))
    bn = BatchNorm.load(tmp_path / "model.safetensors")
    assert bn.dtype == dtype
    assert bn.num_batches_tracked == 9
    for name, array in zip(made.VECTORS, (bn.gamma, bn.beta, bn.running_mean, bn.running_var), strict=True):
        expected = (arrays[name].view(np.uint32) & 0xFFFF0000).view(np.float32) if bf16 else arrays[name].astype(dtype)
        same_bits(array, expected)


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2", ">f8", ">f4", ">f2"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_dtypes_of_npz(save, dtype, tmp_path):
    arrays = made.state(dtype)
    save(tmp_path / "model.npz", **arrays)
    bn = BatchNorm.load(tmp_path / "model.npz")
    assert bn.dtype == np.dtype(np.float64 if dtype[1:] == "f8" else np.float32)
    assert bn.num_batches_tracked == 9
    np.testing.assert_array_equal(bn.running_mean, arrays["running_mean"])


def test_every_finite_bfloat16(tmp_path):
    bits = np.arange(1 << 16, dtype=np.uint32) << 16
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    assert len(values) == (1 << 16) - 256
    arrays = {"weight": values, "bias": values, "running_mean": values, "running_var": np.abs(values)}
    (tmp_path / "model.safetensors").write_bytes(made.safetensors(arrays, bf16=made.VECTORS))
    bn = BatchNorm.load(tmp_path / "model.safetensors")
    same_bits(bn.gamma, values)
    same_bits(bn.running_var, np.abs(values))


@pytest.mark.parametrize("counter", [
    np.array(7), np.array(7, np.int32), np.array(7.0, np.float32), np.array(7.0), np.array([7]),
    np.array([7.0], np.float16), np.array(2**62), np.array(2**31 - 1, np.int32), None], ids=repr)
@pytest.mark.parametrize("write", [made.safetensors, made.npz])
def test_counters(write, counter, tmp_path):
    arrays = made.state() | {made.COUNTER: counter}
    if counter is None:
        del arrays[made.COUNTER]
    path = tmp_path / f"model.{write.__name__}"
    path.write_bytes(write(arrays))
    assert BatchNorm.load(path).num_batches_tracked == (0 if counter is None else int(counter.reshape(())))


def test_json_in_other_words(tmp_path):
    # White space, escapes and the order of keys and tensors are the writer's to choose.
    items, data = made.entries(made.state())
    text = json.dumps({name: {key: json.loads(value) for key, value in reversed(item.items())}
                       for name, item in reversed(items.items())}, indent="\t ")
    text = text.replace('"weight"', '"\\u0077eight"').replace("\n", "\r\n") + "   \n"
    (tmp_path / "model.safetensors").write_bytes(made.framed(text, data))
    same_bits(BatchNorm.load(tmp_path / "model.safetensors").gamma, made.state()["weight"])


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_fresh_wide_layer_is_no_bomb(method, tmp_path):
    # Constants deflate to a thousandth of their size.
    arrays = {"weight": np.ones(2**15, np.float32), "bias": np.zeros(2**15, np.float32)}
    (tmp_path / "model.npz").write_bytes(made.npz(arrays, method=method))
    same_bits(BatchNorm.load(tmp_path / "model.npz").gamma, arrays["weight"])


@pytest.mark.parametrize("header", [
    "{'descr': '<f4', 'fortran_order': False, 'shape': (5,), }", "{'descr':'<f4','fortran_order':False,'shape':(5,)}\n",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (5,)}   \n"])
@pytest.mark.parametrize("version", [b"\1\0", b"\2\0"])
def test_npy_headers_of_other_writers(header, version, tmp_path):
    members = [(name, made.npy_of(header, made.state()["weight"].tobytes(), version) if name == "weight.npy" else data)
               for name, data in made.members()]
    (tmp_path / "model.npz").write_bytes(made.zipped(members))
    same_bits(BatchNorm.load(tmp_path / "model.npz").gamma, made.state()["weight"])
