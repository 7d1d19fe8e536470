"""The abilities of this CPU. Built without ISA flags, and used before a kernel module is imported."""

import os

cdef extern from *:
    """
    #if (defined(__GNUC__) || defined(__clang__)) && (defined(__x86_64__) || defined(__i386__))
    #define FASTBN_HAS(feature) (__builtin_cpu_supports(feature) != 0)
    #define FASTBN_CPU_INIT() __builtin_cpu_init()
    #else
    #define FASTBN_HAS(feature) 0
    #define FASTBN_CPU_INIT() ((void)0)
    #endif
    static int fastbn_level(void) {
        FASTBN_CPU_INIT();
        if (!(FASTBN_HAS("ssse3") && FASTBN_HAS("sse4.1") && FASTBN_HAS("sse4.2") && FASTBN_HAS("popcnt"))) return 1;
        if (!(FASTBN_HAS("avx") && FASTBN_HAS("avx2") && FASTBN_HAS("bmi") && FASTBN_HAS("bmi2") && FASTBN_HAS("fma")))
            return 2;
        if (!(FASTBN_HAS("avx512f") && FASTBN_HAS("avx512bw") && FASTBN_HAS("avx512cd") && FASTBN_HAS("avx512dq")
              && FASTBN_HAS("avx512vl"))) return 3;
        return 4;
    }
    #ifndef FASTBN_FLAGS
    #define FASTBN_FLAGS "unknown"
    #endif
    #if defined(__clang__)
    #define FASTBN_COMPILER "clang " __VERSION__
    #elif defined(__GNUC__)
    #define FASTBN_COMPILER "gcc " __VERSION__
    #else
    #define FASTBN_COMPILER "msvc"
    #endif
    """
    int fastbn_level() noexcept nogil
    const char* FASTBN_FLAGS
    const char* FASTBN_COMPILER


def level():
    """The x86-64 psABI level of this CPU under this operating system, 1 to 4; 1 on any other architecture.

    Returns
    -------
    int
    """
    return fastbn_level()


def cache_bytes():
    """The size of the second-level cache of a core in bytes; 1 MiB if the system does not report it.

    It decides the order of work, never the results.

    Returns
    -------
    int
    """
    return data_caches().get(2, 1 << 20)


def last_cache_bytes():
    """The size of the shared third-level cache in bytes; eight times the second level if the system does not report it.

    It decides the order of work, never the results.

    Returns
    -------
    int
    """
    return data_caches().get(3, 8 * cache_bytes())


def data_caches(folder="/sys/devices/system/cpu/cpu0/cache"):
    """The data caches of the first core, as reported by Linux; sysconf() may report more than one socket.

    Parameters
    ----------
    folder : str

    Returns
    -------
    dict of int to int
        Bytes by level; empty if there is no report.
    """
    sizes = {}
    try:
        for entry in os.listdir(folder):
            if entry.startswith("index") and read(folder, entry, "type") != "Instruction":
                sizes[int(read(folder, entry, "level"))] = int(read(folder, entry, "size").removesuffix("K")) * 1024
    except (OSError, ValueError):
        return {}
    return sizes


def read(*path):
    """The content of a file of one line.

    Returns
    -------
    str
    """
    with open(os.path.join(*path)) as file:
        return file.read().strip()


def compiler():
    """The compiler that built the kernels, with its version.

    Returns
    -------
    str
    """
    return FASTBN_COMPILER.decode()


def flags():
    """The flags that all kernels were built with; every ISA level adds its own -march.

    Returns
    -------
    str
    """
    return FASTBN_FLAGS.decode()
