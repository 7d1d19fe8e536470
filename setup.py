"""Build of the compiled part: one table of ISA levels, one Extension per level, and a probe for OpenMP.

Environment: FASTBN_REQUIRE_OPENMP=1 makes a missing OpenMP an error; FASTBN_NO_OPENMP=1 builds without it;
FASTBN_LEVELS=v3 builds that ISA level alone, or several with commas between them.
"""

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Level: the flags beyond the common ones. gcc knows these levels from version 11, clang from 12.
X86_64 = {
    "v2": ["-march=x86-64-v2"],
    "v3": ["-march=x86-64-v3"],
    "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
ELSEWHERE = {"base": []}

# -ffast-math and its parts are never used: they change results, and at link they turn subnormals off for the process.
# Without contraction every level rounds alike, which is what makes the bits the same.
# gcc unrolls loops of up to 16 steps, of LANES among them, before it looks for vectors, and then finds few; clang
# warns that it ignores the parameter.
COMMON = ["-O3", "-fno-tree-loop-distribute-patterns", "--param=max-completely-peel-times=8", "-ffp-contract=off",
          "-fno-math-errno", "-fno-trapping-math"]
# Python passes -g, which makes compiling take half as long again; CFLAGS=-g brings it back.
DEBUG = [] if any(flag.startswith("-g") for flag in os.environ.get("CFLAGS", "").split()) else ["-g0"]
# Modules compiled at once where nobody says how many: there are no more large ones, and every compiler takes memory.
MOST_COMPILERS = 4
# Not every combination of fused types is called.
QUIET = ["-Wno-unused-function"]
MSVC = ["/O2", "/fp:precise"]

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


class BuildKernels(build_ext):
    """Decides the flags once the compiler is known, and builds modules side by side."""

    def finalize_options(self):
        """Build as many modules at once as there are CPUs, unless ``--parallel`` says how many."""
        super().finalize_options()
        if self.parallel is None:
            self.parallel = min(os.cpu_count() or 1, MOST_COMPILERS)

    def build_extensions(self):
        """Set the flags of every module, and build them."""
        gnu = self.compiler.compiler_type != "msvc"
        common = [*COMMON, *DEBUG] if gnu else MSVC
        quiet = QUIET if gnu else []
        openmp_compile, openmp_link = self.openmp()
        for extension in self.extensions:
            level = extension.name.rpartition("._")[2]
            if extension.name.startswith("fastbn._kernels._"):
                if gnu:
                    # Kernel bodies take literals that select what they do; only inlining lets the compiler see them.
                    extension.define_macros = [*extension.define_macros,
                                               ("CYTHON_INLINE", "__inline__ __attribute__((always_inline))")]
                isa = {**X86_64, **ELSEWHERE}[level] if gnu else []
                extension.extra_compile_args = [*common, *quiet, *openmp_compile, *isa]
                extension.extra_link_args = list(openmp_link)
            else:
                extension.extra_compile_args = [common[0], *(DEBUG if gnu else [])]
            if extension.name in ("fastbn._kernels.fork", "fastbn._kernels.runtime"):
                extension.extra_compile_args += openmp_compile
                extension.extra_link_args = [*openmp_link, *(["-ldl"] if sys.platform == "linux" else [])]
            if extension.name == "fastbn._kernels.cpu":
                flags = " ".join([*common, *openmp_compile])
                extension.define_macros = [*extension.define_macros, ("FASTBN_FLAGS", f'"{flags}"')]
        super().build_extensions()

    def run(self):
        """Build, and remove the levels that an earlier build left: they would be chosen before those that are new."""
        super().run()
        for level in {*X86_64, *ELSEWHERE} - set(levels()):
            Path(self.get_ext_fullpath(f"fastbn._kernels._{level}")).unlink(missing_ok=True)

    def openmp(self):
        """Return the flags for OpenMP, proven by compiling, linking and running; none where that fails."""
        required = os.environ.get("FASTBN_REQUIRE_OPENMP") == "1"
        if os.environ.get("FASTBN_NO_OPENMP") == "1":
            if required:
                raise SystemExit("FASTBN_NO_OPENMP=1 and FASTBN_REQUIRE_OPENMP=1 contradict each other")
            return [], []
        if self.compiler.compiler_type == "msvc":
            candidates = [(["/openmp"], [])]
        elif sys.platform == "darwin":
            candidates = [(["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"])]
        else:
            candidates = [(["-fopenmp"], ["-fopenmp"])]
        reasons = []
        for compile_flags, link_flags in candidates:
            reason = self.probe(compile_flags, link_flags)
            if reason is None:
                return compile_flags, link_flags
            reasons.append(f"{' '.join(compile_flags)}: {reason}")
        message = "OpenMP does not work with this compiler (" + "; ".join(reasons) + ")"
        if required:
            raise SystemExit(f"FASTBN_REQUIRE_OPENMP=1, but {message}")
        print(f"fastbn: {message}; building for one thread", file=sys.stderr)
        return [], []

    def probe(self, compile_flags, link_flags):
        """Return None if a program builds and runs with these flags, else why not."""
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


def extension(name):
    """Return the Extension of a module of the package."""
    return Extension(
        f"fastbn.{name}",
        [f"fastbn/{name.replace('.', '/')}.pyx"],
        include_dirs=[np.get_include()],
        define_macros=[(name, "NPY_1_25_API_VERSION") for name in ("NPY_NO_DEPRECATED_API", "NPY_TARGET_VERSION")],
    )


def levels():
    """Return the names of the ISA levels to build, those that take longest first.

    Raises
    ------
    SystemExit
        If FASTBN_LEVELS names one that there is not for this kind of machine.
    """
    known = X86_64 if platform.machine() in ("x86_64", "AMD64") and os.name != "nt" else ELSEWHERE
    wanted = os.environ.get("FASTBN_LEVELS", "").replace(",", " ").split() or list(known)
    if not set(wanted) <= set(known):
        raise SystemExit(f"FASTBN_LEVELS={' '.join(wanted)!r}; expected some of {', '.join(known)}")
    return [level for level in reversed(known) if level in wanted]


setup(
    ext_modules=cythonize(
        # Those that take longest come first, so that the short ones fill the time of the last.
        [extension(name) for name in (*(f"_kernels._{level}" for level in levels()),
                                      "_layout", "_kernels.cpu", "_kernels.fork", "_kernels.runtime")],
        compiler_directives=DIRECTIVES,
        nthreads=0,
    ),
    cmdclass={"build_ext": BuildKernels},
)
