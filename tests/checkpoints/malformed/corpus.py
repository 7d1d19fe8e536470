"""A corpus of malformed files of both formats, from tables of named corruptions."""

import json
from typing import NamedTuple

from tests.checkpoints.files import npz, safetensors
from tests.checkpoints.malformed.npz import cases as npz_cases
from tests.checkpoints.malformed.safetensors import cases as safetensors_cases
from tests.checkpoints.malformed.values import BAD_SETTINGS, bad_values


class Wrong(NamedTuple):
    """A malformed file: its suffix, its bytes, and a pattern for the expected message."""

    suffix: str
    data: bytes
    message: str


def cases():
    """Yield (suffix, name, bytes, message)."""
    for case in safetensors_cases():
        yield ".safetensors", *case
    for case in npz_cases():
        yield ".npz", *case
    for name, arrays, bf16, message in bad_values():
        yield ".safetensors", name, safetensors(arrays, bf16=bf16), message
        if not bf16:
            yield ".npz", name, npz(arrays), message
    for setting, texts in BAD_SETTINGS.items():
        for text in texts:
            metadata = json.dumps({f"fastbn.{setting}": text})
            message = f"metadata has .* as fastbn.{setting}|{setting} must be"
            yield ".safetensors", f"metadata {setting} {text!r}", safetensors(metadata=metadata), message
            yield ".npz", f"metadata {setting} {text!r}", npz(metadata=metadata), message


def corpus():
    """Return all cases by name."""
    out = {}
    for suffix, name, data, message in cases():
        key = f"{suffix[1:]}: {name}"
        assert key not in out
        out[key] = Wrong(suffix, data, message)
    return out
