"""The function that writes all files: names, modes, owners, links and temporary names."""

import errno
import os
import stat

import numpy as np
import pytest

from fastbn import BatchNorm, ChannelStats
from fastbn._core.files import replace
from tests import process

posix = pytest.mark.skipif(os.name != "posix", reason="modes, owners and links are a matter of POSIX")


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def spied(monkeypatch):
    """A list that collects the arguments of each os.open that may create a file."""
    created, original = [], os.open

    def spy(path, flags, *rest, **options):
        if flags & os.O_CREAT:
            created.append((os.fspath(path), flags, *rest))
        return original(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", spy)
    return created


@posix
@pytest.mark.parametrize("length", [1, 200, 237, 238, 254, 255])
def test_names_up_to_the_limit_of_the_system(length, tmp_path):
    path = tmp_path / ("n" * length)
    for data in (b"one", b"another"):
        replace(path, data)
        assert path.read_bytes() == data
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@posix
def test_a_name_that_is_too_long_is_named(tmp_path):
    path = tmp_path / ("n" * 256)
    with pytest.raises(OSError, match="File name too long") as caught:
        replace(path, b"data")
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_any_other(umask, tmp_path):
    process.output(f"import os; os.umask({umask}); from fastbn._core.files import replace; "
                   f"replace({str(tmp_path / 'file')!r}, b'data')")
    assert mode_of(tmp_path / "file") == 0o666 & ~umask


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_the_mode_of_a_file_is_kept(mode, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    replace(path, b"new")
    assert (path.read_bytes(), mode_of(path)) == (b"new", mode)


@posix
def test_what_replaces_a_private_file_is_never_open_to_others(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o600)
    created = spied(monkeypatch)
    replace(path, b"new")
    [(_, _, mode)] = created
    assert mode == 0o600


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_and_the_group_are_kept(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 12345, 23456)
    path.chmod(0o640)
    replace(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid, mode_of(path)) == (12345, 23456, 0o640)


@posix
def test_where_the_owner_cannot_be_kept_nobody_lends_rights(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o6755)
    stranger = os.stat_result((*path.stat()[:4], path.stat().st_uid + 1, *path.stat()[5:]))
    monkeypatch.setattr(type(path), "stat", lambda self, **options: stranger)

    def refused(*arguments):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchown", refused)
    replace(path, b"new")
    monkeypatch.undo()
    assert (path.read_bytes(), mode_of(path)) == (b"new", 0o755)


@posix
def test_temporary_names_cannot_be_foreseen_or_followed(tmp_path, monkeypatch):
    created = spied(monkeypatch)
    for _ in range(20):
        replace(tmp_path / "file", b"data")
    names = {os.path.basename(name) for name, *_ in created}
    assert len(names) == 20
    assert not any(str(os.getpid()) == part for name in names for part in name.split("."))
    for name, flags, *_ in created:
        assert os.path.dirname(name) == str(tmp_path)
        assert flags & os.O_EXCL
        assert flags & os.O_NOFOLLOW


@posix
def test_a_link_in_the_place_of_the_temporary_is_not_written_through(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda size: "known")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".known.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError) as caught:
        replace(tmp_path / "file", b"data")
    assert caught.value.filename == str(tmp_path / "file")
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "file").exists()


@posix
def test_a_link_stays_and_the_file_that_it_points_to_is_replaced(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "link").symlink_to("inner/file")
    for data in (b"new", b"again"):
        replace(tmp_path / "link", data)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "inner" / "file").read_bytes() == data


@posix
@pytest.mark.parametrize("stage", ["open", "fsync"])
def test_a_folder_that_cannot_be_flushed_is_no_failure(stage, tmp_path, monkeypatch):
    original = getattr(os, stage)

    def failing(first, *rest, **options):
        folder = first == tmp_path if stage == "open" else stat.S_ISDIR(os.fstat(first).st_mode)
        if folder:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return original(first, *rest, **options)

    monkeypatch.setattr(os, stage, failing)
    replace(tmp_path / "file", b"data")
    assert (tmp_path / "file").read_bytes() == b"data"
    assert len(list(tmp_path.iterdir())) == 1


def report(path):
    BatchNorm(3).report().plot(path)


WRITERS = {
    "layer.safetensors": lambda path: BatchNorm(3).save(path),
    "layer.npz": lambda path: BatchNorm(3).save(path),
    "stats.npz": lambda path: ChannelStats(3).update(np.ones((4, 3))).save(path),
    "report.png": report,
}


@posix
@pytest.mark.parametrize("name", WRITERS)
def test_all_that_is_written_goes_this_way(name, tmp_path, monkeypatch):
    if name.endswith(".png"):
        pytest.importorskip("matplotlib", reason="the population extra is not installed: no matplotlib")
    path = tmp_path / name
    WRITERS[name](path)
    path.chmod(0o600)
    before = path.stat().st_ino
    WRITERS[name](path)
    assert mode_of(path) == 0o600
    assert path.stat().st_ino != before     # replaced, not written into
