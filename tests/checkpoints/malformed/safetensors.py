"""Malformed safetensors files: (name, bytes, pattern for the message)."""

import json

from tests.checkpoints.files import COUNTER, NAMES, entries, framed, header_text, safetensors, state


def edited(name, key, value):
    """Return a file in which the JSON text of one value of one entry is replaced, or removed."""
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
    "wider": ('"C64"', "bytes, which are not shape"),
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
    "beyond the file": ("[1000,1020]", "ends at byte 1020 of the data, which have 88"),
    "beyond 2**63": ("[9223372036854775808,9223372036854775828]", "ends at byte 9223372036854775828"),
    "one byte short": ("[0,19]", "has 19 bytes, which are not shape"),
    "wide": ("[0,88]", "has 88 bytes, which are not shape"),
    "odd": ("[1,21]", "begins at byte 1 of the data"),
    "negative": ("[-20,0]", "expected a list of integers"),
    "float": ("[0.0,20.0]", "expected a list of integers"),
    "string": ('"0,20"', "expected a list of integers"),
    "null": ("null", "expected a list of integers"),
    "missing": (None, "must have dtype, shape and data_offsets"),
}
# The counter has eight bytes: C64 fits, and offsets 20 bytes apart do not.
OF_COUNTER = {"dtype wider": "has dtype C64; expected one of",
              **dict.fromkeys(("data_offsets beyond the file", "data_offsets beyond 2**63", "data_offsets odd"),
                              "has 20 bytes, which are not shape")}


def bad_entries():
    for name in NAMES:
        for key, table in (("dtype", BAD_DTYPES), ("shape", BAD_SHAPES), ("data_offsets", BAD_OFFSETS)):
            for case, (value, message) in table.items():
                own = OF_COUNTER.get(f"{key} {case}", message) if name == COUNTER else message
                yield f"{name} {key} {case}", edited(name, key, value), own
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
    "open string": (TEXT[:5], "header is not JSON: Unterminated string starting at character"),
    "trailing comma": (TEXT[:-1] + ",}", "expected a string"),
    "missing comma": (TEXT.replace("},", "} ", 1), "expected ','"),
    "missing colon": (TEXT.replace('":{', '" {', 1), "expected ':'"),
    "semicolon": (TEXT.replace("},", "};", 1), "expected ','"),
    "single quotes": (TEXT.replace('"', "'"), "expected a string"),
    "comment": (TEXT.replace("{", "{/*x*/", 1), "expected a string"),
    "number as name": (TEXT.replace('"weight"', "5", 1), "expected a string"),
    "control character": (TEXT.replace("weight", "wei\x01ght"), "not JSON: Invalid control character at character"),
    "bad escape": (TEXT.replace("weight", "wei\\xght"), r"header is not JSON: Invalid \\escape"),
    "bad unicode escape": (TEXT.replace("weight", "wei\\u12g4"), r"header is not JSON: Invalid \\uXXXX escape"),
    "no-break space": (TEXT.replace(":", ":\xa0", 1), r"expected '\{'"),
    "entry is a list": ('{"weight":[1]}', r"expected '\{'"),
    "entry is null": ('{"weight":null}', r"expected '\{'"),
    "entry is NaN": ('{"weight":NaN}', r"expected '\{'"),
    "entry is -Infinity": ('{"weight":-Infinity}', r"expected '\{'"),
    "entry is a huge number": ('{"weight":' + "9" * 10000 + "}", r"expected '\{'"),
    "deep lists": ('{"weight":' + "[" * 100000, r"expected '\{'"),
    "deep objects": ('{"a":' * 100000, "'a' has the key 'a'; expected dtype"),
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
    "more than is read": (10_000_001, "does not fit"),
    "more than the format allows": (100_000_001, "does not fit"),
    "2**31": (1 << 31, "does not fit"),
    "2**32 + length": ((1 << 32) + len(TEXT), "does not fit"),
    "2**63": (1 << 63, "does not fit"),
    "2**64 - 1": ((1 << 64) - 1, "does not fit"),
}
CUTS = {
    0: "the file is empty", **dict.fromkeys((1, 7, 8, 9, 10, 50, 8 + len(TEXT) - 1), "does not fit; the file has"),
    8 + len(TEXT): "'weight' ends at byte 20 of the data, which have 0",
    8 + len(TEXT) + 1: "'weight' ends at byte 20 of the data, which have 1",
    8 + SIZE - 1: "'num_batches_tracked' ends at byte 88 of the data, which have 87",
}


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
    yield "empty inside another", framed(header_text(inside), data), "'x' begins at byte 3 of the data; expected 20"
    bits = items | {"x": {"dtype": '"F4"', "shape": "[3]", "data_offsets": "[88,89]"}}
    yield "half a byte", framed(header_text(bits), data + b"\0"), "'x' has 1 bytes, which are not shape"


def cases():
    yield from bad_entries()
    yield from bad_tilings()
    for name, (header, message) in BAD_HEADERS.items():
        yield f"header {name}", framed(header, DATA), message
    for name, (length, message) in BAD_LENGTHS.items():
        yield f"length {name}", framed(TEXT, DATA, length), message
    for at, message in CUTS.items():
        yield f"cut at {at}", safetensors()[:at], message
