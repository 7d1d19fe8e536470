"""Writing files: the content, and the state after a failure."""

import errno
import os
import stat

import numpy as np
import pytest

from fastbn import BatchNorm
from tests import process
from tests.checkpoints.files import VECTORS
from tests.layers.trained import trained

SUFFIXES = (".safetensors", ".npz")


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"layer{request.param}"


def no_space(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(*arguments, **options):
    raise KeyboardInterrupt


def test_numpy_reads_npz(tmp_path):
    bn = trained()
    bn.save(tmp_path / "layer.npz")
    with np.load(tmp_path / "layer.npz") as arrays:
        assert arrays["num_batches_tracked"] == 2
        np.testing.assert_array_equal(arrays["weight"], bn.gamma)
        other = BatchNorm(5)
        other.load_state_dict(arrays)
    np.testing.assert_array_equal(other.running_var, bn.running_var)


def test_a_file_depends_only_on_the_layer(path):
    bn = trained()
    bn.save(path)
    first = path.read_bytes()
    bn.save(path)
    assert path.read_bytes() == first
    bn.gamma[0] += 1
    bn.save(path)
    assert path.read_bytes() != first


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tensors_of_safetensors_are_aligned(dtype, tmp_path):
    bn = trained(dtype=dtype)
    bn.save(tmp_path / "layer.safetensors", prefix="x")
    data = (tmp_path / "layer.safetensors").read_bytes()
    assert int.from_bytes(data[:8], "little") % 8 == 0
    for name in VECTORS:
        vector = bn.state_dict()[name]
        assert data.index(vector.tobytes()) % vector.itemsize == 0


@pytest.mark.parametrize("stage", ["open", "fsync", "replace"])
@pytest.mark.parametrize(("failure", "error"), [(no_space, OSError), (interrupted, KeyboardInterrupt)])
@pytest.mark.parametrize("there", [True, False], ids=["over a file", "new"])
def test_a_failure_leaves_the_previous_file(there, failure, error, stage, path, monkeypatch):
    if there:
        trained().save(path)
    before = {entry.name: entry.read_bytes() for entry in path.parent.iterdir()}
    monkeypatch.setattr(os, stage, failure)
    with pytest.raises(error):
        trained(eps=0.5).save(path)
    monkeypatch.undo()
    assert {entry.name: entry.read_bytes() for entry in path.parent.iterdir()} == before


@pytest.mark.skipif(os.name != "posix", reason="limits of file size are a matter of POSIX")
def test_a_full_disk(path):
    trained().save(path)
    before = path.read_bytes()
    program = f"""
import resource
from fastbn import BatchNorm
bn = BatchNorm(10_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
bn.save({str(path)!r})
"""
    assert process.error(program).startswith("OSError: [Errno 27]")
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="no folder is read-only for this user")
def test_a_read_only_folder(path):
    trained().save(path)
    before = path.read_bytes()
    path.parent.chmod(0o555)
    try:
        with pytest.raises(PermissionError):
            BatchNorm(5).save(path)
    finally:
        path.parent.chmod(0o755)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_missing_folder(path):
    with pytest.raises(FileNotFoundError) as caught:
        trained().save(path.parent / "nowhere" / path.name)
    assert caught.value.filename == str(path.parent / "nowhere" / path.name)
    assert list(path.parent.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="named pipes are a matter of POSIX")
def test_a_pipe_is_written_to(path):
    trained().save(path)
    data = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    trained().save(path)
    assert os.read(reader, len(data) + 1) == data
    os.close(reader)
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_folder_in_place_of_a_file(path):
    path.mkdir()
    expected = PermissionError if os.name == "nt" else IsADirectoryError
    with pytest.raises(expected) as caught:
        trained().save(path)
    assert caught.value.filename in (path, str(path))
    assert path.is_dir()


@pytest.mark.skipif(os.name != "posix", reason="modes and links are a matter of POSIX")
def test_permissions_and_links(path):
    os.umask(umask := os.umask(0))
    trained().save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    path.chmod(0o640)
    link = path.with_name(f"link{path.suffix}")
    link.symlink_to(path.name)
    trained(eps=0.5).save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert BatchNorm.load(path).eps == 0.5


def test_a_layer_can_be_saved_to_the_file_it_was_loaded_from(path):
    trained().save(path)
    bn = BatchNorm.load(path)
    bn.gamma += 1
    bn.save(path)
    np.testing.assert_array_equal(BatchNorm.load(path).gamma, bn.gamma)
