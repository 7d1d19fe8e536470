"""Planted faults that AddressSanitizer and UndefinedBehaviorSanitizer must report in a build of the kernels with both.

``python -m tests.sanitizer_canary`` fails if a fault goes unreported, or if the build has no OpenMP: then a clean run
of the tests under the sanitizers would prove nothing. An array gets a false address, which a kernel then accesses.
"""

import sys

from tests.process import run

# Two threads share 1,024 rows of 4 KB.
PROGRAM = """
import ctypes
import numpy as np
import fastbn
from fastbn._core.dispatch import kernels

assert kernels.openmp_version(), "this build has no OpenMP"

malloc = ctypes.CDLL(None).malloc
malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
x = np.zeros((1024, 1024), np.float32)
ctypes.c_void_p.from_address(id(x) + object.__basicsize__).value = {address}     # behind the object header
fastbn.ChannelAffine(np.ones(1024), np.ones(1024), np.zeros(1024), axis=-1, num_threads=2)(x)
"""
FAULTS = {
    "AddressSanitizer: heap-buffer-overflow": "malloc(4 * 1024 * 1000)",     # the last rows are missing
    "runtime error: ": "None",                                               # a null pointer
}


def main() -> int:
    """Return 0 if an instrumented kernel reports every fault."""
    status = 0
    for report, address in FAULTS.items():
        done = run("-c", PROGRAM.format(address=address))
        if done.returncode and report in done.stderr and "fastbn/_core/kernels/" in done.stderr:
            print(f"reported: {report}")
        else:
            print(f"NOT reported: {report}\n{done.stderr}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
