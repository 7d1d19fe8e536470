"""How setup.py builds: modules side by side, as many at once as there are CPUs, unless the user says how many."""

import importlib.util

import pytest

from tests.process import ROOT, output

pytestmark = [
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="there is no source tree"),
    pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="setuptools is not installed"),
]

# What setup.py makes of the command line, without Cython and without building.
PROGRAM = """
import os, runpy, sys, types
import setuptools
cython = types.ModuleType("Cython.Build")
cython.cythonize = lambda modules, **options: modules
sys.modules |= {{"Cython": types.ModuleType("Cython"), "Cython.Build": cython}}
os.cpu_count = lambda: {cpus}
arguments = {{}}
setuptools.setup = arguments.update
runpy.run_path("setup.py")
distribution = setuptools.Distribution(arguments | {{"script_args": {arguments}}})
distribution.parse_command_line()
command = distribution.get_command_obj("build_ext")
command.ensure_finalized()
print(command.parallel, *(extension.name for extension in command.extensions))
"""


@pytest.mark.parametrize(("cpus", "arguments", "expected"), [
    (2, ["build_ext"], 2),
    (1, ["build_ext"], 1),
    (64, ["build_ext"], 4),
    (None, ["build_ext"], 1),
    (2, ["build_ext", "-j3"], 3),
    (64, ["build_ext", "--parallel=1"], 1),
    (2, ["build", "-j", "3"], 3),
    (64, ["build", "--parallel", "1"], 1),
], ids=str)
def test_how_many_at_once(cpus, arguments, expected):
    parallel, *names = output(PROGRAM.format(cpus=cpus, arguments=arguments)).split()
    assert int(parallel) == expected
    # The large ones first.
    assert names[-4:] == ["fastbn._layout", "fastbn._kernels.cpu", "fastbn._kernels.fork", "fastbn._kernels.runtime"]
