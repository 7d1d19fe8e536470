"""Reading files: which ones are refused and at which cost, and which ones are read."""

import io
import json
import os
import pickle
import socket
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from fastbn import BatchNorm, ChannelStats, checkpoints
from fastbn.checkpoints import restore
from fastbn.checkpoints.formats.safetensors import MOST_HEADER_BYTES, Safetensors
from tests.checkpoints import files as made
from tests.checkpoints import fuzz as fuzz_checkpoints
from tests.checkpoints.malformed.corpus import corpus
from tests.compare import same_bits
from tests.layers.trained import assert_same, snapshot, trained
from tests.process import run
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
    for suffix in (".safetensors", ".npz"):     # the reader refuses some files and not all
        assert results[suffix, "loaded"] >= 20
        assert results[suffix, "refused"] >= 1000


def test_mutations_in_a_new_process():
    done = run("-m", "tests.checkpoints.fuzz", "--count", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("2 mutations in ")


def test_mutations_are_the_same_for_a_seed():
    first, again, other = (list(fuzz_checkpoints.mutations(50, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("method", [BatchNorm.load, lambda path: restore(BatchNorm(5), path)], ids=["load", "restore"])
def test_a_missing_file(method, tmp_path):
    with pytest.raises(FileNotFoundError):
        method(tmp_path / "model.safetensors")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(OSError, match=r"folder\.npz"):
        method(tmp_path / "folder.npz")
    (tmp_path / "model.pt").write_bytes(made.safetensors())
    with pytest.raises(ValueError, match=r"path must end in .safetensors or .npz, got '.*model.pt'"):
        method(tmp_path / "model.pt")


READERS = {
    "load": BatchNorm.load,
    "restore": lambda path: restore(BatchNorm(5), path),
    "load of several": checkpoints.load,
    "save": lambda path: BatchNorm(5).save(path, prefix="other.", append=True),
    "statistics": ChannelStats.load,
}


@pytest.mark.skipif(os.name != "posix", reason="named pipes and devices are a matter of POSIX")
@pytest.mark.parametrize("reader", [name for name in READERS if name != "save"])     # save writes to a pipe
@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder"])
def test_only_regular_files_are_read(kind, reader, tmp_path):
    path = tmp_path / "model.npz"
    error, message = ValueError, f"is a {'named ' * (kind == 'pipe')}{kind}; expected a regular file"
    if kind == "pipe":
        os.mkfifo(path)     # reading would block, because there is no writer
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
        error, message = OSError, "No such device or address"
    else:
        path.mkdir()
        error, message = IsADirectoryError, r"Is a directory: .*model\.npz"
    with pytest.raises(error, match=message) as caught:
        READERS[reader](path)
    assert str(path) in str(caught.value)
    assert error is not ValueError or str(caught.value).startswith(f"{path}: ")


class Marker:
    """An object whose pickle creates a folder when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("reader", READERS)
def test_nothing_in_a_file_is_executed(reader, tmp_path):
    mark = tmp_path / "executed"
    objects = np.array([Marker(mark)] * 5, dtype=object)
    file = io.BytesIO()
    np.lib.format.write_array(file, objects)
    pickled = file.getvalue()
    header = f"{{'descr': __import__('os').mkdir({str(mark)!r}), 'fortran_order': False, 'shape': (5,), }}"
    evaluated = made.npy_of(header, bytes(20))
    for payload in (pickled, evaluated, pickle.dumps(Marker(mark))):
        before = "bn." if reader == "save" else ""
        names = (*made.NAMES, "count", "mean", "m2", "axis", "extrema")
        members = [(f"{before}{name}.npy", payload) for name in names]
        path = tmp_path / "model.npz"
        path.write_bytes(made.zipped(members))
        if reader == "save":    # save copies other members without parsing them
            READERS[reader](path)
        else:
            with pytest.raises(ValueError, match=r"model\.npz: "):
                READERS[reader](path)
        path.write_bytes(payload)
        with pytest.raises(ValueError, match=r"model\.npz: the file is not an npz archive"):
            READERS[reader](path)
        if reader != "statistics":
            path = tmp_path / "model.safetensors"
            path.write_bytes(payload)
            with pytest.raises(ValueError, match=r"model\.safetensors: "):
                READERS[reader](path)
        assert not mark.exists()
    pickle.loads(pickle.dumps(Marker(mark)))    # the payload works
    assert mark.exists()


def test_a_header_that_is_too_long_is_not_read(tmp_path):
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", MOST_HEADER_BYTES + 1) + b"{")
        file.truncate(MOST_HEADER_BYTES * 2)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"header of 10000001 bytes .* headers of up to 10000000 are read"):
            BatchNorm.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_usual_entries_are_matched_as_a_whole(tmp_path, monkeypatch):
    # Reading member by member takes twice as long, and half a second for a header of 10 MB.
    def slowly(scanner, name):
        raise AssertionError(f"{name} is read member by member")

    trained().save(tmp_path / "model.safetensors")
    monkeypatch.setattr("fastbn.checkpoints.formats.safetensors._members", slowly)
    for text in ('{"weight":{"dtype":"F32","shape":[5],"data_offsets":[0,20]}}',
                 '{"weight": {"dtype": "F32", "shape": [5, 1, 1], "data_offsets": [0, 20]} }  ',
                 '{ "weight" :\n{"dtype"\t:"F64","shape":[ ] , "data_offsets":[ 0 , 8 ] }\r\n}'):
        size = 8 if "F64" in text else 20
        archive = Safetensors(io.BytesIO(made.framed(text, bytes(size))))
        assert archive.names == ["weight"]
        assert archive.shape("weight") == tuple(json.loads(text)["weight"]["shape"])
    assert BatchNorm.load(tmp_path / "model.safetensors").num_batches_tracked == 2
    with pytest.raises(AssertionError, match="weight is read member by member"):
        Safetensors(io.BytesIO(made.framed('{"weight":{"shape":[5],"dtype":"F32","data_offsets":[0,20]}}', bytes(20))))


WRONG = {
    "exact averages, none in the file": (
        {"weight", "bias"}, {"fastbn.averaging": "exact"}, {}, ValueError, "averaging"),
    "debias, no averages": ({"weight", "bias"}, {"fastbn.debias": "True"}, {}, ValueError, "debias"),
    "eps that does not fit": (set(made.NAMES), {"fastbn.eps": "1e-300"}, {}, ValueError, "eps must be"),
    "momentum that does not fit": (set(made.NAMES), {"fastbn.momentum": "2.0"}, {}, ValueError, "momentum must be"),
    "missing": ({"weight", "bias", "running_mean"}, {}, {}, ValueError, "state is missing running_var"),
    "other variance": (set(made.NAMES), {}, {"unbiased": False}, ValueError, "count is needed"),
    "a flag": (set(made.NAMES), {}, {"unbiased": "no"}, TypeError, "unbiased must be True or False"),
    "a dtype": (set(made.NAMES), {}, {"dtype": np.int32}, TypeError, "dtype must be float32 or float64"),
}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("name", WRONG)
def test_every_error_begins_with_the_path(name, suffix, tmp_path):
    names, metadata, settings, error, message = WRONG[name]
    write = {".npz": made.npz, ".safetensors": made.safetensors}[suffix]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(write({n: v for n, v in made.state().items() if n in names}, json.dumps(metadata)))
    with pytest.raises(error, match=message) as caught:
        BatchNorm.load(path, **settings)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_layer_that_does_not_fit_is_an_error_that_begins_with_the_path(tmp_path):
    trained().save(tmp_path / "model.npz")
    with pytest.raises(ValueError, match=r"has shape \(5,\); expected \(4,\)") as caught:
        restore(BatchNorm(4), tmp_path / "model.npz")
    assert str(caught.value).startswith(f"{tmp_path / 'model.npz'}: ")


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
    with open(path, "wb") as file:      # a sparse file
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
    assert work < MOST_CALLS        # so the 4 GB are not read in pieces
    assert peak < 1 << 20
    with pytest.raises(ValueError, match=r"weight has shape \(67108864, 16\); expected \(C,\)"):
        restore(BatchNorm(5), renamed(path, header, b"embedding", b"bn.weight"), prefix="bn.")


def renamed(path, header, old, new):
    """Swap two names of equal length in the header."""
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


def test_json_of_other_writers(tmp_path):
    # Writers may choose white space, escapes and the order of keys and tensors.
    items, data = made.entries(made.state())
    text = json.dumps({name: {key: json.loads(value) for key, value in reversed(item.items())}
                       for name, item in reversed(items.items())}, indent="\t ")
    text = text.replace('"weight"', '"\\u0077eight"').replace("\n", "\r\n") + "   \n"
    (tmp_path / "model.safetensors").write_bytes(made.framed(text, data))
    same_bits(BatchNorm.load(tmp_path / "model.safetensors").gamma, made.state()["weight"])


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_new_wide_layer_is_not_refused_as_a_bomb(method, tmp_path):
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
