"""Build of the compiled modules: a table of ISA levels, an Extension per level, and probes of the compiler's flags.

Environment: FASTBN_REQUIRE_OPENMP=1 makes missing OpenMP an error; FASTBN_NO_OPENMP=1 builds without OpenMP;
FASTBN_LEVELS=v3 builds only that ISA level; separate several levels by commas.
"""

import atexit
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

# Level: required flags, and flags that are used if the compiler accepts them. gcc knows these levels from version 11,
# clang from 12.
X86_64 = {
    "v2": (["-march=x86-64-v2"], []),
    "v3": (["-march=x86-64-v3"], []),
    "v4": (["-march=x86-64-v4"], ["-mprefer-vector-width=512"]),
}
ELSEWHERE = {"base": ([], [])}
LEVELS = {**X86_64, **ELSEWHERE}

# -ffast-math and its parts are never used: they change results, and at link time they disable subnormals for the
# process. Without contraction every level rounds alike, so all levels give the same bits.
REQUIRED = ["-O3", "-ffp-contract=off"]
# These change only speed, and only gcc knows all of them.
# gcc unrolls loops of up to 16 steps, such as those of LANES, before it vectorizes, and then vectorizes little.
# In functions of over 100 loops, as the passes are, gcc allocates registers for the whole function, not loop by loop.
WANTED = ["-fno-tree-loop-distribute-patterns", "--param=max-completely-peel-times=8",
          "--param=ira-max-loops-num=1000", "-fno-math-errno", "-fno-trapping-math",
          "-Wno-unused-function",       # not every combination of fused types is called
          "-Wno-psabi"]                 # functions that pass long vectors are inlined, so their ABI does not matter
# Python passes -g, which makes compilation 50 % slower; CFLAGS=-g restores it.
DEBUG = [] if any(flag.startswith("-g") for flag in os.environ.get("CFLAGS", "").split()) else ["-g0"]
# Otherwise 32-bit x86 computes in x87 registers, which are wider than double.
SSE = ["-msse2", "-mfpmath=sse"]
MSVC = ["/O2", "/fp:precise"]
# Kernel bodies are selected by literal arguments, which the compiler sees only after inlining.
FORCED_INLINE = "__inline__ __attribute__((always_inline))"
# Default limit of modules compiled at once: there are few large modules, and every compiler process needs memory.
MOST_COMPILERS = 4

EMPTY = "int main(void) { return 0; }\n"

INLINE_PROBE = f"static {FORCED_INLINE} int zero(void) {{ return 0; }}\nint main(void) {{ return zero(); }}\n"

# Bits agree on all machines if float and double are neither evaluated in a wider type nor reassociated.
ARITHMETIC_PROBE = """
#include <float.h>
#if FLT_EVAL_METHOD != 0 || defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error
#endif
""" + EMPTY

OPENMP_PROBE = """
#include <omp.h>
#include <stdio.h>
int main(void) {
    int n = 0;
    #pragma omp parallel num_threads(2) reduction(+:n)
    n += 1;
    printf("%d", n);
    return n < 1;
}
"""

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
}

# Environment variables that compilers read in addition to their command lines.
ENVIRONMENT = ("CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH", "MACOSX_DEPLOYMENT_TARGET", "SDKROOT")


class Compiler:
    """The flags that a compiler accepts, determined by compiling small programs.

    Raises
    ------
    SystemExit
        If the compiler does not work.
    """

    def __init__(self, compiler):
        self.compiler = compiler
        self.gnu = compiler.compiler_type != "msvc"
        if self.gnu:
            works, self.usual_warnings = self.compile([], EMPTY)
            if not works:
                raise SystemExit(f"the C compiler does not work: {self}: {self.usual_warnings}")

    def compile(self, flags, source):
        """Return whether a program compiles with these flags, and the compiler's messages."""
        with tempfile.TemporaryDirectory() as folder:
            command = [*self.compiler.compiler_so, *flags, "-x", "c", "-c", "-", "-o", str(Path(folder, "probe.o"))]
            try:
                done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
            except OSError as error:
                return False, str(error)
            return done.returncode == 0, done.stderr

    def accepts(self, flags, source=EMPTY):
        """Return whether a program compiles with these flags without new warnings."""
        return self.compile(flags, source) == (True, self.usual_warnings)

    def required(self, flags):
        """Return the flags.

        Raises
        ------
        SystemExit
            If the compiler does not accept one of them.
        """
        for flag in flags:
            if self.gnu and not self.accepts([flag]):
                raise SystemExit(f"fastbn needs gcc 11 or clang 12, or newer: {self} does not accept {flag}")
        return flags

    def wanted(self, flags):
        """Return the flags that the compiler accepts."""
        return [flag for flag in flags if self.gnu and self.accepts([flag])]

    def inline(self):
        """Return the macro that forces inlining, if the compiler accepts it."""
        return [("CYTHON_INLINE", FORCED_INLINE)] if self.gnu and self.accepts([], INLINE_PROBE) else []

    def base(self):
        """Return the flags of all modules, with which float and double are evaluated in their own type.

        Raises
        ------
        SystemExit
            If there are no such flags.
        """
        if not self.gnu:
            return MSVC
        flags = [*self.required(REQUIRED), *DEBUG]
        for candidate in (flags, [*flags, *SSE]):
            if self.accepts(candidate, ARITHMETIC_PROBE):
                return candidate
        raise SystemExit(
            f"fastbn needs arithmetic that is not wider than float and double, and no part of -ffast-math; {self} "
            f"has other arithmetic, even with {' '.join(SSE)}. Check CFLAGS, or build for a CPU with SSE2")

    def openmp(self):
        """Return the flags for OpenMP, verified by a program that compiles, links and runs; otherwise no flags."""
        required = os.environ.get("FASTBN_REQUIRE_OPENMP") == "1"
        if os.environ.get("FASTBN_NO_OPENMP") == "1":
            if required:
                raise SystemExit("FASTBN_NO_OPENMP=1 and FASTBN_REQUIRE_OPENMP=1 contradict each other")
            return [], []
        if not self.gnu:
            candidates = [(["/openmp"], [])]
        elif sys.platform == "darwin":
            candidates = [(["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"])]
        else:
            candidates = [(["-fopenmp"], ["-fopenmp"])]
        reasons = []
        for compile_flags, link_flags in candidates:
            reason = self.why_not(compile_flags, link_flags)
            if reason is None:
                return compile_flags, link_flags
            reasons.append(f"{' '.join(compile_flags)}: {reason}")
        message = "OpenMP does not work with this compiler (" + "; ".join(reasons) + ")"
        if required:
            raise SystemExit(f"FASTBN_REQUIRE_OPENMP=1, but {message}")
        print(f"fastbn: {message}; building for one thread", file=sys.stderr)
        return [], []

    def why_not(self, compile_flags, link_flags):
        """Return None if a program with OpenMP builds and runs with these flags, otherwise the reason."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(OPENMP_PROBE)
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=compile_flags)
                self.compiler.link_executable(objects, "probe", output_dir=folder, extra_postargs=link_flags)
                program = Path(folder, "probe.exe" if os.name == "nt" else "probe")
                subprocess.run([str(program)], check=True, capture_output=True, timeout=60)
            except Exception as error:  # distutils raises a different class for every compiler and step
                return f"{type(error).__name__}: {error}"
        return None

    def identity(self):
        """Return the command lines and the version of the compiler."""
        if not self.gnu:
            return [self.compiler.compiler_type]
        version = subprocess.run([*self.compiler.compiler_so, "--version"], capture_output=True, text=True, check=True)
        return [self.compiler.compiler_so, self.compiler.linker_so, version.stdout]

    def __str__(self):
        return " ".join(self.compiler.compiler_so)


class BuildKernels(build_ext):
    """Sets the flags when the compiler is known, and builds modules in parallel."""

    def finalize_options(self):
        """Build one module per CPU at once, unless ``--parallel`` sets a number."""
        super().finalize_options()
        if self.parallel is None:
            self.parallel = min(os.cpu_count() or 1, MOST_COMPILERS)

    def build_extensions(self):
        """Set the flags of every module, translate Cython to C, and build."""
        compiler = Compiler(self.compiler)
        base = compiler.base()
        common = [*base, *compiler.wanted(WANTED)]
        inline = compiler.inline()
        openmp_compile, openmp_link = compiler.openmp()
        for extension in self.extensions:
            module = extension.name.rpartition(".")[2]
            if module in LEVELS:
                extension.define_macros = [*extension.define_macros, *inline]
                needed, wanted = LEVELS[module]
                extension.extra_compile_args = [*common, *openmp_compile, *compiler.required(needed),
                                                *compiler.wanted(wanted)]
                extension.extra_link_args = list(openmp_link)
            else:
                extension.extra_compile_args = list(base)
            if module in ("fork", "runtime"):
                extension.extra_compile_args += openmp_compile
                extension.extra_link_args = [*openmp_link, *(["-ldl"] if sys.platform == "linux" else [])]
            if module == "memory" and compiler.gnu:
                extension.extra_compile_args += ["-pthread"]
                extension.extra_link_args = ["-pthread"]
            if module == "cpu":
                flags = " ".join([*common, *openmp_compile])
                extension.define_macros = [*extension.define_macros, ("FASTBN_FLAGS", f'"{flags}"')]
        self.translate({"compiler": compiler.identity(), "flags": [common, inline, openmp_compile, openmp_link]})
        super().build_extensions()

    def translate(self, how):
        """Write the C code of every module; rebuild all modules if flags, compiler or versions changed."""
        from Cython import __version__
        from Cython.Build import cythonize

        how |= {"python": sys.version, "numpy": np.__version__, "cython": __version__,
                "setup": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
                "environment": {name: os.environ.get(name) for name in ENVIRONMENT}}
        text = json.dumps(how, indent=1)
        abi = sysconfig.get_config_var("EXT_SUFFIX").split(".")[1]
        folder = Path(self.get_finalized_command("build").build_base, f"cython.{abi}")
        stamp = folder / "stamp.json"
        changed = not stamp.exists() or stamp.read_text() != text
        if changed:
            stamp.unlink(missing_ok=True)       # written again when all C code is
        translated = {module.name: module.sources for module in cythonize(
            self.extensions, build_dir=str(folder), compiler_directives=DIRECTIVES, force=changed or None)}
        if changed:
            stamp.write_text(text)
        for extension in self.extensions:
            extension.sources = translated[extension.name]
            extension.depends = [*extension.depends, str(stamp)]    # older modules are built again

    def run(self):
        """Build, and remove modules of other builds, whose levels might be chosen instead."""
        super().run()
        made = {Path(self.get_ext_fullpath(extension.name)) for extension in self.extensions}
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        for module in Path(self.get_ext_fullpath("fastbn.any")).parent.rglob(f"*{suffix}"):
            if module not in made:
                module.unlink()


class CopyPython(build_py):
    """Copies the Python files, into a folder without files of earlier builds."""

    def run(self):
        """Remove all files but compiled modules, unless the folder is the source, then copy."""
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        target = Path(self.build_lib, "fastbn").resolve()
        if target != Path("fastbn").resolve():
            for old in target.rglob("*"):
                if old.is_file() and not old.name.endswith(suffix):
                    old.unlink()
        super().run()


def extension(name):
    """Return the Extension of a module of fastbn._core."""
    return Extension(
        f"fastbn._core.{name}",
        [f"fastbn/_core/{name.replace('.', '/')}.pyx"],
        include_dirs=[np.get_include()],
        define_macros=[(name, "NPY_1_25_API_VERSION") for name in ("NPY_NO_DEPRECATED_API", "NPY_TARGET_VERSION")],
    )


def levels():
    """Return the names of the ISA levels to build, the slowest to compile first.

    Raises
    ------
    SystemExit
        If FASTBN_LEVELS names a level that this machine type does not have.
    """
    # A 32-bit Python may run on a 64-bit system.
    here = platform.machine() in ("x86_64", "AMD64") and sys.maxsize > 2**32 and os.name != "nt"
    known = X86_64 if here else ELSEWHERE
    wanted = os.environ.get("FASTBN_LEVELS", "").replace(",", " ").split() or list(known)
    if not set(wanted) <= set(known):
        raise SystemExit(f"FASTBN_LEVELS={' '.join(wanted)!r}; expected some of {', '.join(known)}")
    return [level for level in reversed(known) if level in wanted]


def long_description():
    """Return the README with absolute links and image addresses, for package indexes."""
    [home] = re.findall(r'^Repository = "(.+)"$', Path("pyproject.toml").read_text(), re.MULTILINE)

    def absolute(link):
        text, target = link.groups()
        if not Path(target.partition("#")[0]).exists():
            return link[0]
        return f"{text}({home}/{'raw' if text.startswith('!') else 'blob'}/main/{target})"

    return re.sub(r"(!?\[[^]]*\])\(([\w./-]+(?:#[\w-]+)?)\)", absolute, Path("README.md").read_text(encoding="utf-8"))


def options():
    """Return settings that make commands write to a temporary folder if the checkout is read-only."""
    if os.access(".", os.W_OK):
        return {}
    scratch = tempfile.mkdtemp(prefix="fastbn-build-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return {"build": {"build_base": scratch}, "egg_info": {"egg_base": scratch}}


setup(
    long_description=long_description(),
    long_description_content_type="text/markdown",
    # The slowest modules come first, so that the fast ones run beside the last slow one.
    ext_modules=[extension(name) for name in (
        *(f"kernels.{level}" for level in levels()),
        "views", "memory", "kernels.cpu", "kernels.fork", "kernels.runtime")],
    cmdclass={"build_ext": BuildKernels, "build_py": CopyPython},
    options=options(),
)
