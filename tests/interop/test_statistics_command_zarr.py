"""fastbn stats refuses hostile or invalid Zarr folders before Zarr reads their metadata."""

import json
import os
import pathlib
import pickle

import numpy as np
import pytest

zarr = pytest.importorskip("zarr", reason="the zarr extra is not installed: no zarr")

from fastbn.__main__ import main  # noqa: E402
from fastbn.cli.stats import inputs  # noqa: E402
from fastbn.cli.stats.readers import zarr_metadata  # noqa: E402
from tests.cli.stats.arrays import expect, normal, stats  # noqa: E402

CODEC = "expected blosc, bytes, bz2, crc32c, delta, gzip, lz4, lzma, shuffle, transpose, zlib or zstd"
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


class Touch:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def version_2(**changes):
    return {"zarr_format": 2, "shape": [4, 3], "chunks": [4, 3], "dtype": "<f4", "compressor": None, "filters": None,
            "fill_value": 0, "order": "C"} | changes


def version_3(**changes):
    return {"zarr_format": 3, "node_type": "array", "shape": [4, 3], "data_type": "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 3]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}}, "fill_value": 0,
            "codecs": [BYTES], "attributes": {}, "storage_transformers": []} | changes


def sharded(*codecs, index=(BYTES,)):
    return {"name": "sharding_indexed", "configuration": {
        "chunk_shape": [2, 3], "codecs": list(codecs), "index_codecs": list(index), "index_location": "end"}}


def planted(folder, metadata, chunk=b""):
    """A Zarr folder with given metadata and one chunk."""
    folder.mkdir()
    old = metadata["zarr_format"] == 2
    (folder / (".zarray" if old else "zarr.json")).write_text(json.dumps(metadata))
    place = folder / "0.0" if old else folder / "c" / "0" / "0"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(chunk)
    return folder


def refused(path, capsys, on_error="stop"):
    """The message for an input."""
    assert main(["stats", str(path), "--on-error", on_error]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{path}: ")
    assert err.count("\n") == 1
    return err.removeprefix(f"{path}: ").rstrip("\n")


HOSTILE = {
    "compressor": version_2(compressor={"id": "pickle"}),
    "filter": version_2(filters=[{"id": "pickle"}]),
    "second filter": version_2(filters=[{"id": "zlib", "level": 1}, {"id": "pickle"}]),
    "filter of objects": version_2(filters=[{"id": "pickle"}], dtype="|O"),
    "codec": version_3(codecs=[BYTES, {"name": "numcodecs.pickle"}]),
    "codec by its name alone": version_3(codecs=[BYTES, "pickle"]),
    "codec of shards": version_3(codecs=[sharded(BYTES, {"name": "pickle"})]),
    "codec of the index of shards": version_3(codecs=[sharded(BYTES, index=[{"name": "pickle"}])]),
    "codec of shards of shards": version_3(codecs=[sharded(sharded({"name": "pickle"}))]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_unpickled(name, tmp_path, monkeypatch, capsys):
    marker = tmp_path / "marker"
    data = pickle.dumps(Touch(marker))
    pickle.loads(data)
    assert marker.exists()      # the attack works without the check
    marker.unlink()
    monkeypatch.setattr(zarr, "open_array", lambda *_, **__: pytest.fail("Zarr has seen it"))
    path = planted(tmp_path / "x.zarr", HOSTILE[name], data)
    codec = "numcodecs.pickle" if name == "codec" else "pickle"
    assert refused(path, capsys) == f"is not a readable Zarr array: it has the codec '{codec}'; {CODEC}"
    assert not marker.exists()


def test_nothing_is_unpickled_by_another_store(tmp_path, monkeypatch):
    """The suffix of a folder does not select another store, such as N5, whose metadata have other codecs."""
    opened = zarr.open_array
    stores = []

    def watched(store, **options):
        stores.append(type(store).__name__)
        return opened(store, **options)

    monkeypatch.setattr(zarr, "open_array", watched)
    x = normal(4, 3)
    for suffix in ("zarr", "n5", "zip"):
        path = planted(tmp_path / f"x.{suffix}", version_2(), x.tobytes())
        (path / "attributes.json").write_text(json.dumps({"n5": "2.0.0", "compression": {"type": "pickle"}}))
        expect(stats(tmp_path, path), [x])
    assert stores == [stores[0]] * 3
    assert stores[0] in ("LocalStore", "DirectoryStore")


@pytest.mark.parametrize("codecs", [
    [BYTES], [BYTES, {"name": "crc32c"}], [{"name": "transpose", "configuration": {"order": [1, 0]}}, BYTES],
    [sharded(BYTES, {"name": "gzip", "configuration": {"level": 1}}, index=[BYTES, {"name": "crc32c"}])],
], ids=["bytes", "crc32c", "transpose", "sharding"])
def test_codecs_that_are_read(codecs, tmp_path):
    if zarr.__version__.startswith("2."):
        pytest.skip("zarr 2 does not read version 3 of the format")
    x = normal(4, 3)
    path = planted(tmp_path / "x.zarr", version_3(codecs=codecs))
    zarr.open_array(path)[:] = x
    expect(stats(tmp_path, path), [x])


OBJECT = "is not a readable Zarr array: it has dtype "
SHAPE = "is not a readable Zarr array: it has shape "
WRONG = {
    # name: metadata, message
    "objects": (version_2(dtype="|O"), f"{OBJECT}'\"|O\"'; expected a numeric dtype"),
    "records of objects": (version_2(dtype=[["a", "|O"]]), f"{OBJECT}'[[\"a\", \"|O\"]]'; expected a numeric dtype"),
    "an extension": (version_3(data_type={"name": "x", "configuration": {}}),
                     "is not a readable Zarr array: it has data_type "),
    "an empty chunk": (version_2(chunks=[0, 3]), f"{SHAPE}'[4, 3]' in chunks '[0, 3]'"),
    "an empty chunk, version 3": (
        version_3(chunk_grid={"name": "regular", "configuration": {"chunk_shape": [0, 3]}}),
        f"{SHAPE}'[4, 3]' in chunk_shape '[0, 3]'"),
    "one dimension of chunks": (version_2(chunks=[3]), f"{SHAPE}'[4, 3]' in chunks '[3]'"),
    "a negative shape": (version_2(shape=[-4, 3]), f"{SHAPE}'[-4, 3]' in chunks '[4, 3]'"),
    "fractions": (version_2(shape=[4.0, 3]), f"{SHAPE}'[4.0, 3]' in chunks '[4, 3]'"),
    "no codecs": (version_3(codecs=None), "is not a readable Zarr array: it has codecs 'null'"),
    "a transformer": (version_3(storage_transformers=[{"name": "x"}]),
                      "is not a readable Zarr array: it has storage transformers, which are not supported"),
    "another grid": (version_3(chunk_grid={"name": "x"}), "is not a readable Zarr array: it has a chunk grid 'x'"),
    "deep shards": (version_3(codecs=json.loads('[{"name":"sharding_indexed","configuration":{"codecs":' * 150 + "[]"
                                                + "}}]" * 150)), "is not a readable Zarr array: it has "),
    "no values": (version_2(shape=[0, 3]), "has shape (0, 3), no values"),
    "more than any file": (version_2(shape=[10**18, 10**18]),
                           "has shape (1000000000000000000, 1000000000000000000), more values than a file can hold"),
    "channels": (version_2(shape=[4, 10**9]), "has shape (4, 1000000000); statistics of 1000000000 channels on axis -1 "
                 "take about 954 GiB of memory, expected up to 512 MiB; see --axis and --max-memory"),
    "a chunk": (version_2(shape=[10**9, 3], chunks=[10**9, 3]),
                "has chunks (1000000000, 3) of 11.2 GiB; expected up to 512 MiB; see --max-memory"),
    "no files": (version_2(shape=[10**12, 3]), "has shape (1000000000000, 3) in chunks (4, 3), far more "),
    "no files, version 3": (version_3(shape=[10**12, 3]), "has shape (1000000000000, 3) in chunks (4, 3), far more "),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_metadata(name, tmp_path, capsys):
    metadata, reason = WRONG[name]
    if metadata["zarr_format"] == 3 and "version 3" in name and zarr.__version__.startswith("2."):
        pytest.skip("zarr 2 does not read version 3 of the format")
    path = planted(tmp_path / "x.zarr", metadata)
    assert refused(path, capsys).startswith(reason)
    # Other inputs are counted.
    np.save(tmp_path / "good.npy", normal(4, 3))
    found = stats(tmp_path, tmp_path / "good.npy", path, "--on-error", "skip")
    assert (found["inputs"], len(found["skipped"])) == (1, 1)


@pytest.mark.parametrize(("content", "reason"), [
    (b"{" + b" " * (1 << 24) + b"}", ".zarray has more than 16777216 bytes"),
    (b"[1]", ".zarray is not a JSON object"), (b'{"a":', ".zarray is not valid JSON: "),
    (b"\xff\xfe{\0}\0", ".zarray is not valid JSON: "), (b"[" * 100_000, ".zarray is not valid JSON: "),
], ids=["large", "list", "open", "UTF-16", "deep"])
def test_invalid_metadata_files(content, reason, tmp_path, capsys):
    path = planted(tmp_path / "x.zarr", version_2())
    (path / ".zarray").write_bytes(content)
    assert refused(path, capsys).startswith(f"is not a readable Zarr array: {reason}")


def test_metadata_of_both_versions_are_checked(tmp_path, capsys):
    path = planted(tmp_path / "x.zarr", version_3())
    (path / ".zarray").write_text(json.dumps(version_2(compressor={"id": "pickle"})))
    assert "it has the codec 'pickle'" in refused(path, capsys)


def test_a_higher_limit(tmp_path):
    x = normal(4, 3)
    path = planted(tmp_path / "x.zarr", version_2(shape=[40_000, 3]), x.tobytes())
    whole = np.concatenate([x, np.zeros((39_996, 3), np.float32)])
    assert main(["stats", str(path), "--max-memory", "3K"]) == 1
    expect(stats(tmp_path, path, "--max-memory", "5M"), [whole])


def test_no_output_over_a_chunk(tmp_path, capsys):
    x = normal(4, 3)
    path = planted(tmp_path / "x.zarr", version_2(), x.tobytes())
    [chunk] = (file for file in path.iterdir() if not file.name.startswith("."))
    before = chunk.read_bytes()
    assert main(["stats", str(path), "--json", str(chunk)]) == 2
    assert capsys.readouterr().err == f"{chunk}: is an input or part of one; choose another output path\n"
    assert chunk.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize("make", [lambda path: os.mkfifo(path), lambda path: path.symlink_to("/dev/zero")],
                         ids=["pipe", "device"])
def test_chunks_that_are_not_regular_files(make, tmp_path, capsys):
    path = planted(tmp_path / "x.zarr", version_2())
    (path / "0.0").unlink()
    make(path / "0.0")
    assert refused(path, capsys) == "holds '0.0', which is not a regular file"
    (path / "0.0").unlink()
    (path / ".zarray").unlink()
    make(path / ".zarray")
    assert refused(path, capsys) == "holds '.zarray', which is not a regular file"
    with pytest.raises(ValueError, match="expected a regular file"):
        zarr_metadata.array_version(str(path))


def test_cyclic_links(tmp_path):
    path = planted(tmp_path / "x.zarr", version_2(), bytes(48))
    (path / "again").symlink_to(path)
    [found] = inputs.find([str(path)])
    assert found.problem == ""
    assert found.size == 2 * (48 + (path / ".zarray").stat().st_size)     # twice, because the link is followed once
    expect(stats(tmp_path, path), [np.zeros((4, 3), np.float32)])


def test_many_arrays_of_a_group(tmp_path, capsys):
    group = tmp_path / "x.zarr"
    group.mkdir()
    (group / ".zgroup").write_text('{"zarr_format": 2}')
    for number in range(12):
        planted(group / f"a{number:02}", version_2())
    (group / "folder").mkdir()
    names = ", ".join(f"a{number:02}" for number in range(8))
    assert refused(group, capsys) == f"is a Zarr group; name one of its arrays ({names} and 4 more) as {group}/NAME"
