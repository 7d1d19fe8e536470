"""The output of show_config() and config()."""

import json

import numpy as np

import fastbn
from fastbn._core import config, dispatch
from fastbn._core.kernels import cpu
from tests.process import run


def test_config():
    values = config.config()
    assert set(values) == {"fastbn", "python", "numpy", "compiler", "flags", "isa", "openmp", "threads", "cache_bytes",
                           "pool"}
    assert values["fastbn"] == fastbn.__version__
    assert values["numpy"] == np.__version__
    assert values["isa"] == {"built": dispatch.built(), "supported": dispatch.supported(), "chosen": dispatch.isa}
    assert values["isa"]["chosen"] in values["isa"]["supported"]
    assert set(values["isa"]["supported"]) <= set(values["isa"]["built"])
    assert values["threads"]["count"] == fastbn.get_num_threads()
    assert values["cache_bytes"] >= 1 << 15
    assert json.loads(json.dumps(values)) == values


def test_openmp_is_described_as_it_is():
    openmp = config.config()["openmp"]
    assert openmp["version"] == 0 or openmp["version"] >= 200805
    if openmp["version"] and openmp["runtime"]:
        assert "omp" in openmp["runtime"]


def test_no_flag_that_changes_results():
    flags = config.config()["flags"]
    assert "-ffp-contract=off" in flags or "/fp:precise" in flags
    for bad in ("fast-math", "Ofast", "unsafe-math", "associative-math"):
        assert bad not in flags


def test_threads_say_where_they_come_from():
    with fastbn.num_threads(3):
        assert config.config()["threads"] == {"count": 3, "source": "fastbn.num_threads"}


def test_show_config(capsys):
    assert fastbn.show_config() is None
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:12].strip(): line[13:] for line in lines}
    assert list(rows) == ["fastbn", "python", "numpy", "compiler", "flags", "isa", "openmp", "fork guard",
                          "threads", "cache", "pool"]
    assert rows["fastbn"] == fastbn.__version__
    assert rows["isa"].startswith(f"{dispatch.isa} (built ")
    assert rows["threads"].startswith(f"{fastbn.get_num_threads()} (from ")


def test_without_openmp():
    values = config.config() | {"openmp": {"version": 0, "runtime": None, "fork_guard": "not needed"}}
    assert "none, one thread" in config.describe(values)


def test_command_line():
    done = run("-m", "fastbn", "info", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["isa"]["built"] == dispatch.built()
    done = run("-m", "fastbn", "info")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("fastbn ")


def test_caches_are_read_as_linux_describes_them(tmp_path):
    caches = [(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2048K")]
    for index, (level, kind, size) in enumerate(caches):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{value}\n")
    (tmp_path / "uevent").write_text("")
    assert cpu.data_caches(str(tmp_path)) == {1: 48 << 10, 2: 2 << 20}
    assert cpu.data_caches(str(tmp_path / "nowhere")) == {}
