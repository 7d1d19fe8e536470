"""Checkpoint files made by hand, right ones and wrong ones: a table of named corruptions for each format.

Nothing here uses fastbn's own writers, so that a reader and a writer cannot be wrong together.
"""

import io
import json
import struct
import zipfile
from typing import NamedTuple

import numpy as np

CHANNELS = 5
VECTORS = ("weight", "bias", "running_mean", "running_var")
COUNTER = "num_batches_tracked"
NAMES = (*VECTORS, COUNTER)


class Wrong(NamedTuple):
    """The bytes of a file, the end of its name, and a pattern of the message that it must give."""

    suffix: str
    data: bytes
    message: str


def state(dtype="float32"):
    """A state of five channels under PyTorch's names."""
    rng = np.random.default_rng(7)
    vectors = {name: (rng.random(CHANNELS) + 0.5).astype(dtype) for name in VECTORS}
    return vectors | {COUNTER: np.array(9, np.int64)}


# safetensors

LETTERS = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "uint8": "U8",
           "bool": "BOOL", "complex64": "C64"}


def bfloat16(array):
    """The upper halves of float32: what a BF16 tensor has as bytes."""
    return (np.asarray(array, "<f4").view("<u4") >> 16).astype("<u2")


def entries(arrays, bf16=()):
    """The entries of a header, each {key: JSON text}, and the data."""
    out, data = {}, b""
    for name, value in arrays.items():
        array = bfloat16(value) if name in bf16 else np.asarray(value)
        raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
        out[name] = {"dtype": json.dumps("BF16" if name in bf16 else LETTERS[array.dtype.name]),
                     "shape": json.dumps(array.shape), "data_offsets": json.dumps([len(data), len(data) + len(raw)])}
        data += raw
    return out, data


def header_text(items, metadata=None):
    texts = [] if metadata is None else [f'"__metadata__":{metadata}']
    for name, item in items.items():
        pairs = ",".join(f'"{key}":{value}' for key, value in item.items())
        texts.append(f"{json.dumps(name)}:{{{pairs}}}")
    return "{" + ",".join(texts) + "}"


def safetensors(arrays=None, metadata=None, bf16=()):
    """A right file."""
    items, data = entries(state() if arrays is None else arrays, bf16)
    return framed(header_text(items, metadata), data)


def framed(header, data=b"", length=None):
    header = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def edited(name, key, value):
    """A file in which one value of one entry is another JSON text, or is not there."""
    items, data = entries(state())
    if value is None:
        del items[name][key]
    else:
        items[name][key] = value
    return framed(header_text(items), data)


BAD_DTYPES = {
    "unknown": ('"F31"', "has dtype 'F31'; expected one of"),
    "lower case": ('"f32"', "has dtype 'f32'; expected one of"),
    "empty": ('""', "has dtype ''; expected one of"),
    "long": (json.dumps("F" * 5000), "has dtype 'F{80}...'; expected one of"),
    "wider": ('"C64"', "bytes, which are not shape|C64; expected one of"),
    "number": ("32", "expected a string"),
    "null": ("null", "expected a string"),
    "list": ('["F32"]', "expected a string"),
    "object": ("{}", "expected a string"),
    "missing": (None, "must have dtype, shape and data_offsets"),
}
BAD_SHAPES = {
    "shorter": ("[4]", "bytes, which are not shape"),
    "longer": ("[6]", "bytes, which are not shape"),
    "zero": ("[0]", "bytes, which are not shape"),
    "negative": ("[-5]", "expected a list of integers"),
    "two negatives": ("[-5,-1]", "expected a list of integers"),
    "float": ("[5.0]", "expected a list of integers"),
    "exponent": ("[5e0]", "expected a list of integers"),
    "leading zero": ("[05]", "expected a list of up to 32 integers"),
    "NaN": ("[NaN]", "expected a list of integers"),
    "Infinity": ("[Infinity]", "expected a list of integers"),
    "true": ("[true]", "expected a list of integers"),
    "string": ('["5"]', "expected a list of integers"),
    "number": ("5", "expected a list of integers"),
    "null": ("null", "expected a list of integers"),
    "object": ('{"0":5}', "expected a list of integers"),
    "nested": ("[[5]]", "expected a list of integers"),
    "nested deep": ("[" * 20000 + "]" * 20000, "expected a list of integers"),
    "open": ("[5", "expected a list of integers"),
    "trailing comma": ("[5,]", "expected a list of up to 32 integers"),
    "no comma": ("[5 5]", "expected a list of up to 32 integers"),
    "product wraps at 2**64": ("[4611686018427387904,8]", "bytes, which are not shape"),
    "product wraps to the size": ("[1844674407370955162,50]", "bytes, which are not shape"),
    "huge product": (json.dumps([9 * 10**18] * 32), "bytes, which are not shape"),
    "33 dimensions": (json.dumps([1] * 33), "expected a list of up to 32 integers"),
    "thousands of dimensions": (json.dumps([1] * 9000), "expected a list of integers"),
    "thousands of digits": ("[" + "9" * 5000 + "]", "expected a list of integers"),
    "twenty digits": ("[" + "9" * 20 + "]", "expected a list of up to 32 integers"),
    "missing": (None, "must have dtype, shape and data_offsets"),
}
BAD_OFFSETS = {
    "reversed": ("[40,20]", r"has data_offsets \(40, 20\)"),
    "one": ("[0]", r"has data_offsets \(0,\)"),
    "three": ("[0,20,40]", r"has data_offsets \(0, 20, 40\)"),
    "none": ("[]", r"has data_offsets \(\)"),
    "beyond the file": ("[1000,1020]", "ends at byte 1020 of the data, which have 88|are not shape"),
    "beyond 2**63": ("[9223372036854775808,9223372036854775828]", "ends at byte 9223372036854775828|are not shape"),
    "one byte short": ("[0,19]", "has 19 bytes, which are not shape"),
    "wide": ("[0,88]", "has 88 bytes, which are not shape"),
    "odd": ("[1,21]", "begins at byte 1 of the data|bytes, which are not shape"),
    "negative": ("[-20,0]", "expected a list of integers"),
    "float": ("[0.0,20.0]", "expected a list of integers"),
    "string": ('"0,20"', "expected a list of integers"),
    "null": ("null", "expected a list of integers"),
    "missing": (None, "must have dtype, shape and data_offsets"),
}


def bad_entries():
    for name in NAMES:
        for key, table in (("dtype", BAD_DTYPES), ("shape", BAD_SHAPES), ("data_offsets", BAD_OFFSETS)):
            for case, (value, message) in table.items():
                yield f"{name} {key} {case}", edited(name, key, value), message
        yield f"{name} extra key", edited(name, "stride", "[1]"), f"'{name}' has the key 'stride'"


TEXT = header_text(entries(state())[0])
DATA = entries(state())[1]
SIZE = len(TEXT) + len(DATA)
BAD_HEADERS = {
    "empty object": ("{}", "tensors end at byte 0 of the data, which have 88"),
    "list": ("[]" + TEXT, r"begins with b'\['; expected b'\{'"),
    "space first": (" " + TEXT, r"begins with b' '; expected b'\{'"),
    "byte order mark": ("\ufeff" + TEXT, r"begins with b'\\xef'"),
    "UTF-16": (TEXT.encode("utf-16-le"), r"header has .* expected"),
    "not UTF-8": (TEXT.replace("weight", "w\x80").encode("latin-1"), "header is not UTF-8"),
    "cut UTF-8": (TEXT.encode() + b"\xe2\x82", "header is not UTF-8"),
    "NUL after": (TEXT + "\0", "expected the end"),
    "text after": (TEXT + "x", "expected the end"),
    "second object": (TEXT + TEXT, "expected the end"),
    "open": (TEXT[:-1], "header has the end at character"),
    "open string": (TEXT[:5], "header is not JSON: Unterminated string"),
    "trailing comma": (TEXT[:-1] + ",}", "expected a string"),
    "missing comma": (TEXT.replace("},", "} ", 1), "expected ','"),
    "missing colon": (TEXT.replace('":{', '" {', 1), "expected ':'"),
    "semicolon": (TEXT.replace("},", "};", 1), "expected ','"),
    "single quotes": (TEXT.replace('"', "'"), "expected a string"),
    "comment": (TEXT.replace("{", "{/*x*/", 1), "expected a string"),
    "number as name": (TEXT.replace('"weight"', "5", 1), "expected a string"),
    "control character": (TEXT.replace("weight", "wei\x01ght"), "header is not JSON: Invalid control character"),
    "bad escape": (TEXT.replace("weight", "wei\\xght"), r"header is not JSON: Invalid \\escape"),
    "bad unicode escape": (TEXT.replace("weight", "wei\\u12g4"), r"header is not JSON: Invalid \\uXXXX escape"),
    "no-break space": (TEXT.replace(":", ":\xa0", 1), r"expected '\{'"),
    "entry is a list": ('{"weight":[1]}', r"expected '\{'"),
    "entry is null": ('{"weight":null}', r"expected '\{'"),
    "entry is NaN": ('{"weight":NaN}', r"expected '\{'"),
    "entry is -Infinity": ('{"weight":-Infinity}', r"expected '\{'"),
    "entry is a huge number": ('{"weight":' + "9" * 10000 + "}", r"expected '\{'"),
    "deep lists": ('{"weight":' + "[" * 100000, r"expected '\{'"),
    "deep objects": ('{"a":' * 100000, r"expected a string|has the key|expected '\{'"),
    "many lists": ('{"weight":[' + "[]," * 100000 + "]}", r"expected '\{'"),
    "name twice": (TEXT[:-1] + "," + TEXT[1:], "has the name 'weight' twice"),
    "name twice, once escaped": (TEXT[:-1] + "," + TEXT[1:].replace("weight", "\\u0077eight"), "'weight' twice"),
    "long name twice": ('{"__metadata__":{' + f'"{"n" * 900}":"",' * 2 + '}}', r"has the name 'n{80}\.\.\.' twice"),
    "key twice": (TEXT.replace('"shape"', '"shape":[5],"shape"', 1), "has the name 'shape' twice"),
    "metadata twice": ('{"__metadata__":{},"__metadata__":{},' + TEXT[1:], "'__metadata__' twice"),
    "metadata key twice": ('{"__metadata__":{"a":"1","a":"1"},' + TEXT[1:], "has the name 'a' twice"),
    "metadata number": ('{"__metadata__":{"a":1},' + TEXT[1:], "expected a string"),
    "metadata null": ('{"__metadata__":null,' + TEXT[1:], r"expected '\{'"),
    "metadata list": ('{"__metadata__":[],' + TEXT[1:], r"expected '\{'"),
    "metadata nested": ('{"__metadata__":{"a":{}},' + TEXT[1:], "expected a string"),
    "metadata deep": ('{"__metadata__":{"a":' + "[" * 100000, "expected a string"),
}
BAD_LENGTHS = {
    "0": (0, "header begins with b''"),
    "1": (1, "header has the end at character 1"),
    "one less": (len(TEXT) - 1, "header has the end at character"),
    "one more": (len(TEXT) + 1, "header has|header is not UTF-8"),
    "the whole file": (SIZE, "header has|header is not UTF-8"),
    "more than the file": (SIZE + 1, "does not fit"),
    "more than the format allows": (100_000_001, "does not fit"),
    "2**31": (1 << 31, "does not fit"),
    "2**32 + length": ((1 << 32) + len(TEXT), "does not fit"),
    "2**63": (1 << 63, "does not fit"),
    "2**64 - 1": ((1 << 64) - 1, "does not fit"),
}
CUTS = (0, 1, 7, 8, 9, 10, 50, 8 + len(TEXT) - 1, 8 + len(TEXT), 8 + len(TEXT) + 1, 8 + SIZE - 1)


def bad_tilings():
    arrays = state()
    items, data = entries(arrays)
    yield "data too long", framed(header_text(items), data + b"\0"), "tensors end at byte 88 of the data, which have 89"
    shared = items | {"bias": items["weight"]}
    yield "two in one place", framed(header_text(shared), data), "begins at byte 0 of the data; expected 20"
    shifted = items | {"bias": items["bias"] | {"data_offsets": "[10,30]"}}
    yield "overlap", framed(header_text(shifted), data), "begins at byte 10 of the data; expected 20"
    apart = {name: item for name, item in items.items() if name != "bias"}
    yield "a gap", framed(header_text(apart), data), "'running_mean' begins at byte 40 of the data; expected 20"
    inside = items | {"x": {"dtype": '"U8"', "shape": "[0]", "data_offsets": "[3,3]"}}
    yield "empty inside another", framed(header_text(inside), data), "'x' begins at byte 3|begins at byte 20"
    bits = items | {"x": {"dtype": '"F4"', "shape": "[3]", "data_offsets": "[88,89]"}}
    yield "half a byte", framed(header_text(bits), data + b"\0"), "'x' has 1 bytes, which are not shape"


# npz

def npy(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array))
    return file.getvalue()


def npy_of(header, data, version=b"\1\0", length=None):
    header = header.encode("latin-1")
    width = 4 if version == b"\2\0" else 2
    length = len(header) if length is None else length
    return b"\x93NUMPY" + version + length.to_bytes(width, "little") + header + data


def zipped(members, method=zipfile.ZIP_STORED, comment=b""):
    """An archive of (name, bytes), which may have names twice."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.filename = info.orig_filename = name     # ZipInfo cleans names; a hostile writer does not
            info.compress_type = method
            archive._didModify = True
            archive.writestr(info, data)
        archive.comment = comment
    return file.getvalue()


def members(arrays=None):
    return [(f"{name}.npy", npy(value)) for name, value in (state() if arrays is None else arrays).items()]


def npz(arrays=None, metadata=None, method=zipfile.ZIP_STORED):
    """A right file."""
    return zipped(members(arrays), method, b"" if metadata is None else metadata.encode())


def npz_with(name, data, method=zipfile.ZIP_STORED):
    """An archive in which one member has other bytes."""
    return zipped([(m, data if m == f"{name}.npy" else d) for m, d in members()], method)


def patched(data, magic, offset, value, occurrence=0):
    """Bytes written over those at an offset from an occurrence of a magic number."""
    at = -1
    for _ in range(occurrence + 1):
        at = data.index(magic, at + 1)
    at += offset
    return data[:at] + value + data[at + len(value):]


LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"
V = state()["weight"].tobytes()
HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (5,), }"
BAD_NPY = {
    "empty": (b"", "begins with b''; expected npy"),
    "magic": (b"\x92" + npy(state()["weight"])[1:], "begins with .*; expected npy"),
    "a pickle": (b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00", "begins with .*; expected npy"),
    "text": (b"1 2 3 4 5", "begins with .*; expected npy"),
    "version 0.0": (npy_of(HEADER, V, b"\0\0"), "begins with .*; expected npy"),
    "version 3.0": (npy_of(HEADER, V, b"\3\0"), "begins with .*; expected npy"),
    "version 255.255": (npy_of(HEADER, V, b"\xff\xff"), "begins with .*; expected npy"),
    "only magic": (npy_of(HEADER, V)[:8], "npy header"),
    "cut header": (npy_of(HEADER, V)[:30], "npy header"),
    "length 0": (npy_of(HEADER, V, length=0), "npy header"),
    "length one less": (npy_of(HEADER, V, length=len(HEADER) - 1), "npy header"),
    "length 65535": (npy_of(HEADER, V, length=65535), "npy header"),
    "length 2**32 - 1": (npy_of(HEADER, V, b"\2\0", (1 << 32) - 1), "npy header"),
    "long header": (npy_of(HEADER + " " * 60000, V), "npy header"),
    "empty header": (npy_of("", V), "npy header"),
    "not Python": (npy_of("{'descr': <f4>}", V), "npy header"),
    "a call": (npy_of("__import__('os').getpid()", V), "npy header"),
    "deep parentheses": (npy_of("(" * 30000 + ")" * 30000, V), "npy header"),
    "deep lists": (npy_of("[" * 30000 + "]" * 30000, V), "npy header"),
    "many minus signs": (npy_of("-" * 60000 + "1", V), "npy header"),
    "deep shape": (npy_of(HEADER.replace("(5,)", "(" * 5000 + "5" + ",)" * 5000), V), "npy header"),
    "huge power": (npy_of(HEADER.replace("(5,)", "(9**9**9,)"), V), "npy header"),
    "f-string": (npy_of(HEADER.replace("'<f4'", "f'{1}'"), V), "npy header"),
    "extra key": (npy_of(HEADER.replace("{", "{'a': 1, "), V), "npy header"),
    "key twice": (npy_of(HEADER.replace("{", "{'descr': '<f4', "), V), "npy header"),
    "missing descr": (npy_of(HEADER.replace("'descr': '<f4', ", ""), V), "npy header"),
    "missing shape": (npy_of(HEADER.replace("'shape': (5,), ", ""), V), "npy header"),
    "missing order": (npy_of(HEADER.replace("'fortran_order': False, ", ""), V), "npy header"),
    "order is a number": (npy_of(HEADER.replace("False", "0"), V), "npy header"),
    "Fortran order": (npy_of(HEADER.replace("False", "True"), V), "in Fortran order"),
    "structured": (npy_of(HEADER.replace("'<f4'", "[('a', '<f4')]"), V), "npy header"),
    "objects": (npy_of(HEADER.replace("<f4", "|O"), V), r"has dtype '\|O'; expected one of"),
    "a pickled array of objects": (npy_of(HEADER.replace("<f4", "|O"), b"\x80\x04]."), r"has dtype '\|O'"),
    "void": (npy_of(HEADER.replace("<f4", "|V4"), V), r"has dtype '\|V4'; expected one of"),
    "text dtype": (npy_of(HEADER.replace("<f4", "<U1"), V), "has dtype '<U1'; expected one of"),
    "bytes dtype": (npy_of(HEADER.replace("<f4", "|S4"), V), r"has dtype '\|S4'; expected one of"),
    "dates": (npy_of(HEADER.replace("<f4", "<M8[s]"), V), r"has dtype '<M8\[s\]'; expected one of"),
    "complex": (npy_of(HEADER.replace("<f4", "<c8"), V * 2), "has dtype '<c8'; expected one of"),
    "long double": (npy_of(HEADER.replace("<f4", "<f16"), V * 4), "has dtype '<f16'; expected one of"),
    "bool": (npy_of(HEADER.replace("<f4", "|b1"), V[:5]), r"has dtype '\|b1'; expected one of"),
    "no such dtype": (npy_of(HEADER.replace("<f4", "<z9"), V), "has dtype '<z9'; expected one of"),
    "no byte order": (npy_of(HEADER.replace("<f4", "f4"), V), "has dtype 'f4'; expected one of"),
    "comma in dtype": (npy_of(HEADER.replace("<f4", "<f4,<f4"), V), "has dtype '<f4,<f4'; expected one of"),
    "shape a number": (npy_of(HEADER.replace("(5,)", "5"), V), "npy header"),
    "shape without comma": (npy_of(HEADER.replace("(5,)", "(5)"), V), "npy header"),
    "shape a list": (npy_of(HEADER.replace("(5,)", "[5]"), V), "npy header"),
    "shape negative": (npy_of(HEADER.replace("(5,)", "(-5,)"), V), "npy header"),
    "shape float": (npy_of(HEADER.replace("(5,)", "(5.0,)"), V), "npy header"),
    "shape shorter": (npy_of(HEADER.replace("(5,)", "(4,)"), V), "bytes, which are not shape"),
    "shape longer": (npy_of(HEADER.replace("(5,)", "(6,)"), V), "bytes, which are not shape"),
    "shape huge": (npy_of(HEADER.replace("(5,)", "(999999999999999999,)"), V), "bytes, which are not shape"),
    "shape wraps": (npy_of(HEADER.replace("(5,)", "(4294967296, 4294967296)"), V), "bytes, which are not shape"),
    "shape 2-d": (npy_of(HEADER.replace("(5,)", "(5, 1)"), V), r"has shape \(5, 1\)"),
    "shape empty": (npy_of(HEADER.replace("(5,)", "(0,)"), b""), r"has shape \(0,\)"),
    "many dimensions": (npy_of(HEADER.replace("(5,)", "(5" + ", 1" * 40 + ")"), V), "npy header"),
    "data cut": (npy_of(HEADER, V[:-1]), "has 19 bytes, which are not shape"),
    "no data": (npy_of(HEADER, b""), "has 0 bytes, which are not shape"),
    "data too long": (npy_of(HEADER, V + b"\0"), "has 21 bytes, which are not shape"),
}
BAD_PATHS = ("../x.npy", "a/../x.npy", "/x.npy", "./x.npy", "a//x.npy", "a\\x.npy", "..\\x.npy", "C:x.npy", "x.npy/",
             "x\0.npy", "x.npy\0.txt")


def bad_archives():
    good = npz()
    npy_bytes = npy(np.ones(CHANNELS, np.float32))
    end = good.index(END)
    directory = good.index(CENTRAL)
    yield "empty archive", zipped([]), "state is empty"
    yield "not an archive", b"weights " * 100, "does not begin as an npz archive"
    yield "a bare npy", npy_bytes, "does not begin as an npz archive"
    yield "gzip", b"\x1f\x8b" + good, "does not begin as an npz archive"
    yield "something before", b"#!/bin/sh\n" + good, "does not begin as an npz archive"
    yield "an archive before", good + good, "directory of .* does not reach its end"
    yield "something after", good + b"x", "does not end where its directory says"
    for at in (0, 1, 3, 4, 30, directory - 1, directory, directory + 10, end, end + 1, len(good) - 1):
        yield f"cut at {at}", good[:at], "does not begin as an npz|no end of its directory|does not end where"
    for name, offset, value, message in (
        ("entries 4, of 5", 10, b"\4\0", "one part of several"),
        ("disk 1", 4, b"\1\0", "one part of several"),
        ("directory elsewhere", 6, b"\1\0", "one part of several"),
        ("entries 65535", 8, b"\xff\xff\xff\xff", "has 65535 members"),
        ("directory size 0", 12, b"\0\0\0\0", "does not reach its end"),
        ("directory size huge", 12, b"\xff\xff\xff\xff", "directory of 4294967295 bytes"),
        ("directory offset 0", 16, b"\0\0\0\0", "does not reach its end"),
        ("directory offset huge", 16, b"\xff\xff\xff\xff", "does not reach its end"),
        ("comment longer than there", 20, b"\5\0", "does not end where"),
    ):
        yield name, patched(good, END, offset, value), message
    locator = b"PK\6\7" + b"\0" * 16
    zip64 = patched(good[:end] + locator + good[end:], END, 0, b"")
    yield "ZIP64", zip64, "ZIP64"
    for name, offset, value, message in (
        ("central magic", 0, b"PK\0\0", "directory is damaged"),
        ("central version 255", 6, b"\xff\0", "directory is damaged"),
        ("central encrypted", 8, b"\1\0", "'weight' is encrypted"),
        ("central strongly encrypted", 8, b"\x41\0", "'weight' is encrypted"),
        ("central patch data", 8, b"\x20\0", "'weight' is damaged"),
        ("central strong encryption", 8, b"\x40\0", "'weight' is damaged"),
        ("central name length huge", 28, b"\xff\xff", "directory is damaged|member|has also"),
        ("central extra length huge", 30, b"\xff\xff", "directory is damaged|member|misses"),
        ("central offset beyond", 42, b"\xf0\xff\xff\xff", "begins at byte 4294967280 of"),
        ("central offset elsewhere", 42, b"\1\0\0\0", "'weight' is damaged"),
        ("central checksum", 16, b"\0\0\0\0", "'weight' is damaged: Bad CRC-32"),
        ("central size less", 24, b"\4\0\0\0", "'weight' is damaged|begins with"),
        ("central size more", 24, b"\xff\xff\0\0", "'weight' ends after|'weight' is damaged"),
        ("central size huge", 24, b"\xff\xff\xff\x7f", "'weight' expands to 2147483647 bytes"),
    ):
        yield name, patched(good, CENTRAL, offset, value), message
    for method in (1, 6, 9, 12, 14, 93, 95, 97, 98, 99, 65535):
        yield (f"compression method {method}", patched(good, CENTRAL, 10, struct.pack("<H", method)),
               f"has compression method {method}; expected stored or deflated")
    yield "stored as deflated", patched(good, CENTRAL, 10, b"\x08\0"), "'weight' is damaged|ends after"
    for name, offset, value in (
        ("local magic", 0, b"PK\0\0"), ("local name", 30, b"W"), ("local name length", 26, b"\1\0"),
        ("local extra length", 28, b"\xff\xff"),
    ):
        yield name, patched(good, LOCAL, offset, value, occurrence=1), "'bias' is damaged"
    deflated = npz(method=zipfile.ZIP_DEFLATED)
    start = deflated.index(b"weight.npy") + len(b"weight.npy")
    for name, value in (("damaged stream", b"\xff" * 8), ("stream of zeros", b"\0" * 30), ("stream that ends", b"\3\0")):
        yield name, deflated[:start] + value + deflated[start + len(value):], "'weight' is damaged|'weight' ends after"
    bomb = npy(np.zeros(4 << 20, np.float32))
    yield "bomb", npz_with("bias", bomb, zipfile.ZIP_DEFLATED), "'bias' expands to 16777344 bytes; expected no more"
    packed = npz_with("bias", npy(np.zeros(1 << 18, np.float32)), zipfile.ZIP_DEFLATED)
    yield "bomb just above", packed, "'bias' expands to 1048704 bytes; expected no more"
    lying = patched(npz_with("bias", bomb, zipfile.ZIP_DEFLATED), CENTRAL, 24, struct.pack("<I", 148), occurrence=1)
    yield "bomb that declares little", lying, "'bias' is damaged|'bias' has"
    thirds = npz({name: np.zeros(100_000, np.float32) for name in VECTORS}, method=zipfile.ZIP_DEFLATED)
    yield "bomb in four parts", thirds, "'running_mean' expands to 400128 bytes; expected no more"
    yield "member twice", zipped_twice("weight.npy"), "has the member 'weight.npy' twice"
    for path in BAD_PATHS:
        yield f"member {path!r}", zipped([*members(), (path, npy_bytes)]), "has a member .*; expected"
    yield "member without .npy", zipped([*members(), ("readme.txt", b"x")]), "has a member 'readme.txt'; expected names"
    yield "a folder", zipped([*members(), ("layer1/", b"")]), "has a member 'layer1/'; expected"
    yield "5000 members", zipped([(f"m{k}.npy", b"") for k in range(5000)]), "has 5000 members"
    yield "long names", zipped([(f"{k:05}{'n' * 60000}.npy", b"") for k in range(20)]), "directory of .* bytes; expected"
    for name, comment in (
        ("text", b"made by hand"), ("list", b"[]"), ("number", b'{"a":1}'), ("nested", b'{"a":{}}'), ("NaN", b'{"a":NaN}'),
        ("key twice", b'{"a":"","a":""}'), ("not UTF-8", b'{"\xff":""}'), ("open", b'{"a":"'), ("text after", b"{}x"),
        ("deep", b'{"a":' * 10000),
    ):
        yield f"comment {name}", zipped(members(), comment=comment), "the archive's comment is not metadata"


def zipped_twice(name):
    """zipfile warns of a name that comes twice, so one is renamed afterwards."""
    other = "x" * len(name)
    data = zipped([*members(), (f"{other[4:]}.npy", npy(np.ones(CHANNELS, np.float32)))])
    return data.replace(f"{other[4:]}.npy".encode(), name.encode())


# both formats

def bad_values():
    """State that no layer may take over, as arrays: name, arrays, names kept in bfloat16, message."""
    for kind in ("float64", "float32", "float16", "bfloat16"):
        bf16 = VECTORS if kind == "bfloat16" else ()
        dtype = "float32" if bf16 else kind
        for name in VECTORS:
            for text in ("nan", "inf", "-inf"):
                arrays = state(dtype)
                arrays[name][3] = float(text)
                yield f"{kind} {name} {text}", arrays, bf16, f"{name} has values that are not finite"
        arrays = state(dtype)
        arrays["running_var"][4] = -0.25
        yield f"{kind} variance negative", arrays, bf16, "running_var has negative values, down to -0.25"
    for name in VECTORS:
        yield f"{name} missing", {k: v for k, v in state().items() if k != name}, (), f"state misses {name}; expected"
        yield f"{name} shorter", state() | {name: np.ones(4, np.float32)}, (), r"has shape \([45],\); expected \([45],\)"
        yield f"{name} 2-d", state() | {name: np.ones((5, 1), np.float32)}, (), rf"{name} has shape \(5, 1\); expected"
        yield f"{name} 0-d", state() | {name: np.float32(1)}, (), rf"{name} has shape \(\); expected"
        yield f"{name} int64", state() | {name: np.ones(5, np.int64)}, (), f"{name} has dtype int64; expected a floating"
        yield f"{name} int32", state() | {name: np.ones(5, np.int32)}, (), f"{name} has dtype int32; expected a floating"
        yield f"{name} uint8", state() | {name: np.ones(5, np.uint8)}, (), f"'{name}' has dtype .*; expected one of"
        yield f"{name} bool", state() | {name: np.ones(5, bool)}, (), f"'{name}' has dtype .*; expected one of"
        yield f"{name} complex", state() | {name: np.ones(5, np.complex64)}, (), f"'{name}' has dtype .*; expected one of"
    yield "all of no channels", {n: np.ones(0, np.float32) for n in VECTORS}, (), r"weight has shape \(0,\); expected"
    yield "counter alone", {COUNTER: np.array(3)}, (), "state misses weight, bias, running_mean, running_var"
    yield "unknown name", state() | {"scale": np.ones(5, np.float32)}, (), "state has also 'scale'; expected"
    yield "upper case", {n.upper(): v for n, v in state().items()}, (), "state misses .* has also 'BIAS'"
    yield "other layer", {f"layer2.{n}": v for n, v in state().items()}, (), "state misses .* has also 'layer2.bias'"
    for name, value, message in (
        ("negative", np.array(-1), "must be an integer from 0"),
        ("fraction", np.array(1.5), "must be an integer from 0"),
        ("nan", np.array(np.nan), "must be an integer from 0"),
        ("inf", np.array(np.inf), "must be an integer from 0"),
        ("float of 2**63", np.array(2.0**63), "must be an integer from 0"),
        ("bool", np.array(True), "has dtype .*; expected one of"),
        ("two", np.array([1, 1]), r"has shape \(2,\); expected \(\)"),
        ("none", np.array([], np.int64), r"has shape \(0,\); expected \(\)"),
        ("1 by 1", np.array([[1]]), r"has shape \(1, 1\); expected \(\)"),
    ):
        yield f"counter {name}", state() | {COUNTER: value}, (), f"{COUNTER}'? {message}"


BAD_SETTINGS = {
    "axis": ("", "1.5", "one", "999", "+1", "1e0", "None"),
    "eps": ("", "0.0", "0", "-1e-05", "nan", "inf", "1e-50", "1e999", "1_0", "0x1p-3", "None", "1e-05 "),
    "momentum": ("", "2.0", "-0.1", "nan", "none", "1e999", "0,1"),
    "unbiased": ("", "true", "1", "None"),
}


def corpus():
    """All of them by name: {name: Wrong}."""
    out = {}

    def add(suffix, name, data, message):
        key = f"{suffix[1:]}: {name}"
        assert key not in out
        out[key] = Wrong(suffix, data, message)

    for case in (*bad_entries(), *bad_tilings()):
        add(".safetensors", *case)
    for name, (header, message) in BAD_HEADERS.items():
        add(".safetensors", f"header {name}", framed(header, DATA), message)
    for name, (length, message) in BAD_LENGTHS.items():
        add(".safetensors", f"length {name}", framed(TEXT, DATA, length), message)
    for at in CUTS:
        message = "does not fit|'weight' ends at byte 20 of the data|'num_batches_tracked' ends at byte 88"
        add(".safetensors", f"cut at {at}", safetensors()[:at], message)
    for name, (data, message) in BAD_NPY.items():
        add(".npz", f"npy {name}", npz_with("weight", data), message)
    for case in bad_archives():
        add(".npz", *case)
    for name, arrays, bf16, message in bad_values():
        add(".safetensors", name, safetensors(arrays, bf16=bf16), message)
        if not bf16:
            add(".npz", name, npz(arrays), message)
    for setting, texts in BAD_SETTINGS.items():
        for text in texts:
            metadata = json.dumps({f"fastbn.{setting}": text})
            message = f"metadata has .* as fastbn.{setting}|{setting} must be"
            add(".safetensors", f"metadata {setting} {text!r}", safetensors(metadata=metadata), message)
            add(".npz", f"metadata {setting} {text!r}", npz(metadata=metadata), message)
    return out
