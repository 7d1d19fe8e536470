"""Malformed npz files: (name, bytes, pattern for the message)."""

import struct
import zipfile

import numpy as np

from tests.checkpoints.files import CHANNELS, VECTORS, members, npy, npy_of, npz, state, zipped


def npz_with(name, data, method=zipfile.ZIP_STORED):
    """Return an archive with the bytes of one member replaced."""
    return zipped([(m, data if m == f"{name}.npy" else d) for m, d in members()], method)


def patched(data, magic, offset, value, occurrence=0):
    """Overwrite bytes at an offset from an occurrence of a magic number."""
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
    yield "not an archive", b"weights " * 100, "is not an npz archive"
    yield "a bare npy", npy_bytes, "is not an npz archive"
    yield "gzip", b"\x1f\x8b" + good, "is not an npz archive"
    yield "something before", b"#!/bin/sh\n" + good, "is not an npz archive"
    yield "an archive before", good + good, "directory of .* does not reach its end"
    yield "something after", good + b"x", "does not end where its directory says"
    for at in (0, 1, 3, 4, 30, directory - 1, directory, directory + 10, end, end + 1, len(good) - 1):
        yield f"cut at {at}", good[:at], "is not an npz" if at < 4 else "no end of its directory"
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
        ("central name length huge", 28, b"\xff\xff", "directory is damaged|member|also has"),
        ("central extra length huge", 30, b"\xff\xff", "directory is damaged|member|is missing"),
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
    utf8 = b"\0\x08"        # the flag of names in UTF-8
    central = patched(patched(good, CENTRAL, 8, utf8), CENTRAL, 46, b"\xff")
    yield "central name that is not UTF-8", central, "directory is damaged: 'utf-8' codec can't decode byte 0xff"
    local = patched(patched(good, LOCAL, 6, utf8, occurrence=1), LOCAL, 30, b"\xff", occurrence=1)
    yield "local name that is not UTF-8", local, "'bias' is damaged: 'utf-8' codec can't decode byte 0xff"
    deflated = npz(method=zipfile.ZIP_DEFLATED)
    start = deflated.index(b"weight.npy") + len(b"weight.npy")
    for name, value in (("damaged", b"\xff" * 8), ("zeros", b"\0" * 30), ("ends early", b"\3\0")):
        yield f"stream {name}", deflated[:start] + value + deflated[start + len(value):], "'weight' (is damaged|ends)"
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
    long_names = zipped([(f"{k:05}{'n' * 60000}.npy", b"") for k in range(20)])
    yield "long names", long_names, "has 20 members in a directory of .* bytes; expected"
    for name, comment in (
        ("text", b"made by hand"), ("list", b"[]"), ("number", b'{"a":1}'), ("nested", b'{"a":{}}'),
        ("NaN", b'{"a":NaN}'), ("key twice", b'{"a":"","a":""}'), ("not UTF-8", b'{"\xff":""}'), ("open", b'{"a":"'),
        ("text after", b"{}x"), ("deep", b'{"a":' * 10000),
    ):
        yield f"comment {name}", zipped(members(), comment=comment), "the archive's comment is not metadata"


def zipped_twice(name):
    """Return an archive with a duplicate name. zipfile warns of duplicates, so the name is patched afterwards."""
    other = "x" * len(name)
    data = zipped([*members(), (f"{other[4:]}.npy", npy(np.ones(CHANNELS, np.float32)))])
    return data.replace(f"{other[4:]}.npy".encode(), name.encode())


def cases():
    for name, (data, message) in BAD_NPY.items():
        yield f"npy {name}", npz_with("weight", data), message
    yield from bad_archives()
