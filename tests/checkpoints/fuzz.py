"""Mutations of valid files of both formats: each is refused with a ValueError, or loads with valid values.

    python -m tests.checkpoints.fuzz --count 100000 --seed 0
"""

import argparse
import collections
import io
import json
import re
import struct
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

from fastbn import BatchNorm
from tests.checkpoints import files as made
from tests.work import MOST_CALLS, calls

METADATA = json.dumps(
    {"fastbn.axis": "-1", "fastbn.eps": "0.001", "fastbn.momentum": "0.25", "fastbn.unbiased": "True"})
NUMBERS = ("0", "-1", "1", "4", "5", "6", "32", "2147483648", "18446744073709551615", "9" * 30, "1.5", "1e9", "NaN",
           "[]", "{}", "null", '""', "true")
WORDS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked", "__metadata__", "dtype", "shape",
         "data_offsets", "F32", "F64", "F16", "BF16", "I64", "I32", "BOOL", "F4", "descr", "fortran_order", "False",
         "True", "<f4", ">f8", "|O", "<V2", "fastbn.eps", "fastbn.axis", "\\u0077eight", "\\ud800")
INTEGERS = tuple(struct.pack("<Q", n)[:width] for n in (0, 1, 0x7F, 0xFF, 1 << 16, (1 << 31) - 1, (1 << 32) - 1,
                                                       (1 << 63) - 1, (1 << 64) - 1) for width in (1, 2, 4, 8))


def seeds():
    """Return valid files by suffix."""
    widths = [made.state(dtype) for dtype in ("float32", "float64", "float16")]
    return {
        ".safetensors": [made.safetensors(arrays, METADATA) for arrays in widths] + [
            made.safetensors(bf16=made.VECTORS), made.safetensors(made.state() | {made.COUNTER: np.array(3.0)})],
        ".npz": [made.npz(arrays, METADATA) for arrays in widths] + [
            made.npz(method=zipfile.ZIP_DEFLATED), made.npz(made.state() | {made.COUNTER: np.array(3, np.int32)})],
    }


def flip(rng, data, other):
    out = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        out[rng.integers(len(out))] ^= 1 << rng.integers(8)
    return bytes(out)


def overwrite(rng, data, other):
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        out[rng.integers(len(out))] = rng.integers(256)
    return bytes(out)


def plant(rng, data, other):
    value = INTEGERS[rng.integers(len(INTEGERS))]
    at = rng.integers(len(data))
    return data[:at] + value + data[at + len(value):]


def truncate(rng, data, other):
    return data[:rng.integers(len(data))]


def insert(rng, data, other):
    at = rng.integers(len(data) + 1)
    return data[:at] + rng.bytes(rng.integers(1, 40)) + data[at:]


def delete(rng, data, other):
    at = rng.integers(len(data))
    return data[:at] + data[at + rng.integers(1, 40):]


def repeat(rng, data, other):
    at = rng.integers(len(data))
    end = at + rng.integers(1, 200)
    return data[:end] + data[at:end] * rng.integers(1, 4) + data[end:]


def splice(rng, data, other):
    return data[:rng.integers(len(data))] + other[rng.integers(len(other)):]


def edit_text(rng, text):
    """Change, move, drop and duplicate numbers, words and punctuation of a header."""
    tokens = re.findall(r"[A-Za-z_<>|.]\w*|-?\d+|\s+|.", text)
    for _ in range(rng.integers(1, 4)):
        at, to = rng.integers(len(tokens), size=2)
        choice = rng.integers(5)
        if choice == 0:
            numbers = [k for k, token in enumerate(tokens) if token.isdigit()] or [at]
            tokens[numbers[rng.integers(len(numbers))]] = NUMBERS[rng.integers(len(NUMBERS))]
        elif choice == 1:
            words = [k for k, token in enumerate(tokens) if token[:1].isalpha()] or [at]
            tokens[words[rng.integers(len(words))]] = WORDS[rng.integers(len(WORDS))]
        elif choice == 2:
            tokens[at], tokens[to] = tokens[to], tokens[at]
        elif choice == 3:
            tokens[at] = ""
        else:
            tokens[at] *= 2
        tokens = [token for token in tokens if token] or [""]
    return "".join(tokens)


def edit_safetensors(rng, data, other):
    """Edit the JSON and adjust its length."""
    length = int.from_bytes(data[:8], "little")
    return made.framed(edit_text(rng, data[8:8 + length].decode()), data[8 + length:])


def edit_npz(rng, data, other):
    """Edit a member or the comment of a valid archive."""
    names = [f"{name}.npy" for name in made.NAMES]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members, comment = {name: archive.read(name) for name in names}, archive.comment
    name = names[rng.integers(len(names))]
    choice = rng.integers(4)
    if choice == 0:
        members[name] = BYTES[rng.integers(len(BYTES))](rng, members[name], other)
    elif choice == 1 and comment:
        comment = edit_text(rng, comment.decode()).encode()
    elif choice == 2:
        members[edit_text(rng, name)] = members.pop(name)
    else:
        text = members[name][10:128].decode("latin-1").rstrip()
        members[name] = made.npy_of(edit_text(rng, text).ljust(118), members[name][128:])
    return made.zipped(members.items(), zipfile.ZIP_DEFLATED if rng.integers(2) else zipfile.ZIP_STORED, comment)


BYTES = (flip, overwrite, plant, truncate, insert, delete, repeat, splice)
STRUCTURED = {".safetensors": edit_safetensors, ".npz": edit_npz}


def mutations(count, seed):
    """Yield (description, suffix, data), determined by the seed."""
    rng = np.random.default_rng(seed)
    files = seeds()
    for k in range(count):
        suffix = tuple(files)[k % 2]
        data, other = (files[suffix][rng.integers(len(files[suffix]))] for _ in range(2))
        mutate = STRUCTURED[suffix] if rng.random() < 0.4 else BYTES[rng.integers(len(BYTES))]
        yield f"{mutate.__name__} {k}, seed {seed}", suffix, mutate(rng, data, other)


def check(path):
    """Load a file; return "refused" or "loaded". Raise for any other exception, and for invalid values."""
    try:
        bn = BatchNorm.load(path)
    except ValueError as error:
        if not str(error).startswith(f"{path}: "):
            raise AssertionError("the message does not name the file") from error
        return "refused"
    for array in (bn.gamma, bn.beta, bn.running_mean, bn.running_var):
        assert array is None or np.isfinite(array).all()
    assert bn.running_var is None or (bn.running_var >= 0).all()
    assert bn.num_batches_tracked >= 0
    return "loaded"


def run(count, seed, folder):
    """Check `count` mutations; return the number of each result, and the largest number of function calls."""
    results = collections.Counter()
    most = 0
    for suffix, files in seeds().items():       # import everything first, so that imports do not count as work
        path = Path(folder) / f"first{suffix}"
        path.write_bytes(files[0])
        assert check(path) == "loaded"
    for description, suffix, data in mutations(count, seed):
        path = Path(folder) / f"model{suffix}"
        path.write_bytes(data)
        result, work = calls(check, path)
        if isinstance(result, Exception):
            raise AssertionError(f"{description}: {data!r}") from result
        assert work < MOST_CALLS, f"{description} took {work} calls: {data!r}"
        results[suffix, result] += 1
        most = max(most, work)
    return results, most


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        results, most = run(arguments.count, arguments.seed, folder)
    for (suffix, result), number in sorted(results.items()):
        print(f"{suffix:<13} {result:<8} {number:>8}")
    print(f"{arguments.count} mutations in {time.perf_counter() - start:.0f} s, at most {most} calls in one")


if __name__ == "__main__":
    main()
