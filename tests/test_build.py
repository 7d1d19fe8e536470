"""setup.py: the questions to the compiler, when it builds again, and where it writes."""

import importlib.metadata
import importlib.util
import json
import platform
import re
import shutil
import sys
import sysconfig

import pytest

from tests.process import ROOT, output, run

pytestmark = [
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="there is no source tree"),
    pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="setuptools is not installed"),
]
needs_compiler = pytest.mark.skipif(sys.platform == "win32" or shutil.which("cc") is None, reason="there is no cc")
needs_x86_64 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86-64 has an x87 and SSE2")

# Shows what setup.py makes of a command line, without a build.
PROGRAM = """
import os, runpy
import setuptools
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
    # The kernels take longest, and come first.
    last = ("views", "memory", "kernels.cpu", "kernels.fork", "kernels.runtime")
    assert names[-len(last):] == [f"fastbn._core.{name}" for name in last]


def test_a_32_bit_python_on_a_64_bit_system_has_no_levels_of_x86_64():
    program = "import sys; sys.maxsize = 2**31 - 1\n" + PROGRAM.format(cpus=1, arguments=["build_ext"])
    assert output(program).split()[1] == "fastbn._core.kernels.base"


LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_the_description_of_the_package_has_no_relative_links():
    program = """
import runpy
import setuptools
setuptools.setup = lambda **arguments: print(arguments["long_description"])
runpy.run_path("setup.py")
"""
    readme, description = (ROOT / "README.md").read_text(), output(program)
    links = [link for link in LINK.findall(re.sub("```.*?```", "", readme, flags=re.DOTALL))
             if ":" not in link and not link.startswith("#")]
    assert len(links) > 10
    home = "https://github.com/fastbn/fastbn"
    assert f"]({home}/raw/main/docs/benchmarks.png)" in description
    for link in links:
        assert (ROOT / link.partition("#")[0]).exists()
        assert f"]({link})" not in description
        assert f"({home}/raw/main/{link})" in description or f"({home}/blob/main/{link})" in description
    # Only links differ.
    assert re.sub(f"{home}/(raw|blob)/main/", "", description) == readme.strip()


# Asks setup.py about the compiler with a given command line.
ASK = """
import json, runpy, types
import setuptools
setuptools.setup = lambda **_: None
building = runpy.run_path("setup.py")
compiler = building["Compiler"](types.SimpleNamespace(compiler_type="unix", compiler_so={command}))
print(json.dumps({question}))
"""


def ask(question, *command):
    return json.loads(output(ASK.format(command=list(command), question=question)))


def refusal(question, *command):
    done = run("-c", ASK.format(command=list(command), question=question))
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    return done.stderr.strip()


@pytest.fixture
def fussy(tmp_path):
    """A compiler that rejects one flag, warns of another, and prints a line at every call."""
    script = tmp_path / "fussy"
    script.write_text("""#!/bin/sh
echo "fussy: a remark" >&2
for flag; do
    case $flag in
        -fno-tree-loop-distribute-patterns) echo "unknown argument: $flag" >&2; exit 1;;
        --param=*) echo "argument unused: $flag" >&2;;
    esac
done
""")
    script.chmod(0o755)
    return str(script)


@needs_compiler
def test_only_the_flags_that_the_compiler_takes_are_used(fussy):
    wanted = ask('compiler.wanted(building["WANTED"])', fussy)
    assert wanted == ["-fno-math-errno", "-fno-trapping-math", "-Wno-unused-function", "-Wno-psabi"]
    assert ask('compiler.wanted(["-fno-math-errno", "-fno-such-flag"])', "cc") == ["-fno-math-errno"]


@needs_compiler
def test_a_flag_that_the_bits_depend_on_is_required(fussy):
    assert ask('compiler.required(building["REQUIRED"])', "cc") == ["-O3", "-ffp-contract=off"]
    question = 'compiler.required(["-O3", "-fno-tree-loop-distribute-patterns"])'
    assert refusal(question, fussy) == (
        f"fastbn needs gcc 11 or clang 12, or newer: {fussy} does not accept -fno-tree-loop-distribute-patterns")


@needs_compiler
def test_inlining_is_forced_where_the_compiler_can(tmp_path):
    assert ask("compiler.inline()", "cc") == [["CYTHON_INLINE", "__inline__ __attribute__((always_inline))"]]
    script = tmp_path / "without_attributes"
    script.write_text("#!/bin/sh\n! grep -q __attribute__\n")
    script.chmod(0o755)
    assert ask("compiler.inline()", str(script)) == []


@needs_compiler
def test_arithmetic_is_that_of_float_and_double():
    base = ask("compiler.base()", "cc")
    assert base[:2] == ["-O3", "-ffp-contract=off"]
    assert "-mfpmath=sse" not in base
    assert refusal("compiler.base()", "cc", "-ffast-math").startswith(
        "fastbn needs arithmetic that is not wider than float and double, and no part of -ffast-math; cc -ffast-math ")


@needs_compiler
@needs_x86_64
@pytest.mark.parametrize("flag", ["-m32", "-mfpmath=387"])
def test_the_x87_is_not_used(flag):
    if run("-c", ASK.format(command=["cc", flag], question="0")).returncode:
        pytest.skip(f"this compiler has no {flag}")
    x87 = ask('not compiler.accepts([], building["ARITHMETIC_PROBE"])', "cc", flag)
    assert x87 or flag == "-m32"        # some compilers for 32 bits use SSE by default
    assert (ask("compiler.base()", "cc", flag)[-2:] == ["-msse2", "-mfpmath=sse"]) == x87


def test_without_a_compiler_the_error_says_so():
    if sys.platform == "win32":
        pytest.skip("Windows has another compiler")
    message = refusal("0", "/nowhere/cc", "-O2")
    assert message.startswith("the C compiler does not work: /nowhere/cc -O2: ")
    assert "No such file" in message


# Runs setup.py for two small modules, in a checkout that may be read-only.
BUILD = """
import os, runpy, sys
import setuptools
os.chdir({checkout!r})
if {read_only}:
    os.access = lambda path, mode, **_: not mode & os.W_OK      # as on a read-only file system
setup = setuptools.setup

def small(**arguments):
    arguments["ext_modules"] = [module for module in arguments["ext_modules"] if module.name in {modules}]
    setup(**arguments)

setuptools.setup = small
sys.argv = ["setup.py", *{commands}]
runpy.run_path("setup.py", run_name="__main__")
"""
CPU, FORK = SMALL = ("fastbn._core.kernels.cpu", "fastbn._core.kernels.fork")
FLAGS = """
import sys
sys.path.insert(0, {folder!r} + "/fastbn/_core/kernels")     # not the package, which needs all modules
import cpu, fork
print(cpu.compiler(), cpu.flags(), fork.state, sep="|")
"""
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


@pytest.fixture
def checkout(tmp_path):
    if importlib.util.find_spec("Cython") is None:
        pytest.skip("Cython is not installed")
    version = importlib.metadata.version("setuptools")
    if int(version.partition(".")[0]) < 77:
        pytest.skip(f"setuptools is {version}; the build needs 77")
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "fastbn", checkout / "fastbn", ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    return checkout


def build(checkout, *commands, modules=SMALL, read_only=False, **env):
    """Build, and return the folder of the modules and the time at which each was written."""
    out = checkout.parent / "out"
    output(BUILD.format(checkout=str(checkout), read_only=read_only, modules=modules,
                        commands=["build", "--build-lib", str(out), *commands]), **env)
    return out, {name: (out / f"{name.replace('.', '/')}{SUFFIX}").stat().st_mtime_ns for name in modules}


@needs_compiler
def test_all_is_built_again_when_the_way_of_building_changes(checkout):
    out, alone = build(checkout, FASTBN_NO_OPENMP="1")
    _, flags, guard = output(FLAGS.format(folder=str(out))).split("|")
    assert "-fopenmp" not in flags
    assert guard == "not needed: the runtime is not GNU libgomp"
    # Nothing has changed, and nothing is built.
    assert build(checkout, FASTBN_NO_OPENMP="1")[1] == alone
    _, teams = build(checkout)
    assert all(teams[name] > alone[name] for name in SMALL)
    compiler, flags, guard = output(FLAGS.format(folder=str(out))).split("|")
    if sys.platform == "linux" and compiler.startswith("gcc"):
        assert ("-fopenmp" in flags, guard) == (True, "on")
    _, flagged = build(checkout, modules=(CPU,), CFLAGS="-DSOMETHING")
    assert flagged[CPU] > teams[CPU]
    # An in-place build with other settings makes the modules of the first folder outdated.
    build(checkout, "build_ext", "--inplace", modules=(CPU,), FASTBN_NO_OPENMP="1")
    _, back = build(checkout, modules=(CPU,), CFLAGS="-DSOMETHING")
    assert back[CPU] > flagged[CPU]


@needs_compiler
def test_files_of_an_earlier_build_are_removed(checkout):
    out, _ = build(checkout, modules=(CPU,))
    names = (f"_core/kernels/v9{SUFFIX}", f"gone{SUFFIX}", "gone.py", "_core/kernels/gone.py")
    stale = [out / "fastbn" / name for name in names]
    for path in stale:
        path.touch()
    build(checkout, modules=(CPU,))
    assert not [path for path in stale if path.exists()]
    assert (out / "fastbn" / "_core" / "kernels" / "__init__.py").exists()


@needs_compiler
@pytest.mark.parametrize("read_only", [False, True])
def test_a_build_writes_nothing_beside_the_sources(checkout, read_only):
    before = sorted(checkout.rglob("*"))
    build(checkout, "egg_info", modules=(CPU,), read_only=read_only)
    new = {path.relative_to(checkout).parts[0] for path in set(checkout.rglob("*")) - set(before)}
    assert new == (set() if read_only else {"build", "fastbn.egg-info"})


def test_a_build_over_the_sources_keeps_them(checkout):
    before = sorted((checkout / "fastbn").rglob("*.py"))
    output(BUILD.format(checkout=str(checkout), read_only=False, modules=(), commands=["build_py", "--build-lib", "."]))
    assert sorted((checkout / "fastbn").rglob("*.py")) == before
