"""Programs frozen by PyInstaller behave as under Python, at every ISA level of the build."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastbn import _pyinstaller
from tests.process import PATIENCE, settings

HOOKS = Path(_pyinstaller.hook_dirs()[0])

# Prints the result of a forward pass, and of fastbn stats for the files in its arguments.
PROGRAM = """
import json, sys
import numpy as np
import fastbn
from fastbn._core import dispatch
from fastbn.__main__ import main

x = np.random.default_rng(0).standard_normal((4, 3, 5, 7)).astype(np.float32)
layer = fastbn.BatchNorm(3)
y = layer(x)
print(json.dumps({"built": dispatch.built(), "supported": dispatch.supported(), "isa": dispatch.isa,
                  "y": y.tobytes().hex(), "dx": layer.backward(x).tobytes().hex()}))
sys.stdout.flush()
for path in sys.argv[1:]:
    main(["stats", path])
"""


def test_every_hook_has_a_module():
    hooks = [path.stem.removeprefix("hook-") for path in HOOKS.glob("hook-*.py")]
    assert "fastbn" in hooks
    assert [name for name in hooks if importlib.util.find_spec(name) is None] == []


def installed():
    """Whether PyInstaller can find the package and its hooks, through an installed distribution."""
    hooks = importlib.metadata.entry_points(group="pyinstaller40", name="hook-dirs")
    of_fastbn = [hook.dist for hook in hooks if hook.value == "fastbn._pyinstaller:hook_dirs"]
    return any(Path(dist.locate_file("fastbn/_core/views.pyi")).exists() for dist in of_fastbn)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a program and its frozen version in dist/program."""
    if importlib.util.find_spec("PyInstaller") is None:
        pytest.skip("PyInstaller is not installed")
    if not installed():
        pytest.skip("fastbn is not installed with its entry point (pip install .)")
    folder = tmp_path_factory.mktemp("frozen")
    (folder / "program.py").write_text(PROGRAM)
    done = run(folder, sys.executable, "-m", "PyInstaller", "--log-level=WARN", "program.py")
    assert done.returncode == 0, done.stderr
    return folder


def run(folder, *command, **env):
    # Without PYTHONPATH, neither version imports the source folder.
    environment = {name: value for name, value in settings(env)["env"].items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)


def both(folder, *arguments, **env):
    """The output of the program under Python and frozen, for the same paths."""
    outputs = []
    for command in ([sys.executable, "program.py"], [os.path.join("dist", "program", "program")]):
        done = run(folder, *command, *arguments, **env)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    return outputs


def test_all_levels_are_included_and_give_the_same_bits(folder):
    plain, frozen = map(json.loads, both(folder))
    assert frozen == plain
    assert frozen["isa"] == frozen["supported"][0]
    for level in frozen["supported"]:
        at_level = [json.loads(text) for text in both(folder, FASTBN_ISA=level)]
        assert at_level == [plain | {"isa": level}] * 2
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 7)).astype(np.float32).astype(np.float64)
    y = np.frombuffer(bytes.fromhex(frozen["y"]), np.float32).reshape(x.shape)
    want = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("library", ["PIL", "zarr"])
def test_libraries_imported_by_name_are_included(folder, library):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    values = np.arange(96, dtype=np.uint8).reshape(8, 4, 3)
    if library == "PIL":
        from PIL import Image

        path = folder / "images"
        path.mkdir()
        Image.fromarray(values).save(path / "image.png")
    else:
        import zarr

        path = folder / "array.zarr"
        zarr.save(str(path), values)
    plain, frozen = both(folder, path.name)
    assert "46.5" in plain      # the mean of the first channel
    assert frozen == plain
