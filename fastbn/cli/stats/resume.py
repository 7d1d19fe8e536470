"""The resume file of an interrupted run."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from fastbn._core.checks import counted
from fastbn._core.files import NotRegularError, open_regular
from fastbn.cli.stats import limits
from fastbn.cli.stats.counting.count import Partial, State
from fastbn.cli.stats.counting.tally import Tally
from fastbn.cli.stats.errors import CommandError
from fastbn.cli.stats.inputs import FINGERPRINT_BYTES
from fastbn.cli.stats.readers import grid
from fastbn.cli.stats.settings import Settings
from fastbn.statistics.channel_stats import ChannelStats

FORMAT = "fastbn stats, interrupted; version 4"
BEGINNING = json.dumps({"format": FORMAT})[:-1].encode()
NAME = "fastbn-stats{}.resume"


def unused_path() -> Path:
    """Return the path of a new file in the current folder."""
    number = 1
    while os.path.lexists(name := NAME.format("" if number == 1 else f"-{number}")):
        number += 1
    return Path(name)


def encode(state: State, settings: Settings, fingerprints: bytes) -> bytes:
    """Return the content of a resume file.

    Parameters
    ----------
    state : State
    settings : Settings
    fingerprints : bytes
        Concatenated fingerprints of the finished inputs and of the unfinished one.
    """
    partial = state.partial
    content = {
        "format": FORMAT,
        "settings": comparable(settings),
        "finished": state.finished,
        "fingerprints": fingerprints.hex(),
        "skipped": state.skipped,
        "total": encoded(state.total),
        "partial": None if partial is None else {
            "part": partial.part,
            "block": partial.block,
            "tally": encoded(partial.tally),
        },
    }
    return json.dumps({**content, "digest": digest(content)}).encode()


def digest(content: dict[str, Any]) -> str:
    """Return the checksum of the content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load(path: Path, settings: Settings) -> tuple[State, bytes]:
    """Return the state and the fingerprints from a resume file.

    Raises
    ------
    CommandError
        If the file cannot be read, is not a resume file, or comes from a run with other settings.
    """
    ours = comparable(settings)
    try:
        content = json.loads(read(path, settings.max_memory))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        given = content.pop("digest", None)
        theirs = {name: content["settings"][name] for name in ours}
        state = decoded(content)
        if given != digest(content):
            raise ValueError("the checksum does not match")
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    except NotRegularError as error:
        raise CommandError(str(error)) from None
    except MemoryError:
        raise CommandError(f"{path}: there is not enough memory to read it") from None
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise CommandError(f"{path}: is damaged: {reason}") from None
    for name, value in ours.items():
        if theirs[name] != value:
            raise CommandError(f"{path}: was written with {name} {theirs[name]}; this run has {value}")
    return state


def read(path: Path, most: int) -> bytes:
    """Return the bytes of a resume file.

    Raises
    ------
    CommandError
        If the file does not begin as `encode` begins one, or has more than `most` bytes.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(len(BEGINNING)) != BEGINNING:
            raise CommandError(f"{path}: is not a resume file of this version of fastbn stats")
        if size > most:
            raise CommandError(
                f"{path}: has {limits.shown(size)}; expected up to {limits.shown(most)}; see --max-memory")
        return BEGINNING + file.read(size)


def comparable(settings: Settings) -> dict[str, Any]:
    """Return the settings that must not change between runs."""
    nodata = settings.missing.nodata
    return {
        "axis": settings.axis, "members": list(settings.members), "bytes of a block": grid.BLOCK_BYTES,
        "treatment of NaN": settings.missing.nan, "nodata": None if nodata is None else str(nodata),
        "convert": settings.convert,
    }


def encoded(tally: Tally | None) -> dict[str, Any] | None:
    """Return a tally as lists of numbers, which JSON represents exactly."""
    if tally is None:
        return None
    stats = {name: vector.tolist() for name, vector in tally.stats.to_arrays().items()}
    return {"uint8": tally.uint8, "shape": tally.shape, "stats": stats, "omitted": tally.omitted.tolist()}


def tally_of(content: dict[str, Any] | None) -> Tally | None:
    """Return a tally from lists of numbers."""
    if content is None:
        return None
    stats = ChannelStats.from_arrays(**content["stats"])
    if stats.min is None or not isinstance(content["uint8"], bool):
        raise ValueError("it has no extrema, or uint8 is not a boolean")
    shape, omitted = content["shape"], [natural(number) for number in content["omitted"]]
    if len(omitted) != len(stats.mean):
        raise ValueError(f"it has {len(omitted)} numbers of values omitted, and {counted(len(stats.mean), 'channel')}")
    return Tally(stats, np.array(omitted, np.int64), content["uint8"],
                 None if shape is None else tuple(natural(length, 1) for length in shape))


def natural(value: object, least: int = 0) -> int:
    """Return an integer of 64 bits of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 63:
        raise ValueError(f"expected an integer of at least {least}, got {value!r}")
    return value


def decoded(content: dict[str, Any]) -> tuple[State, bytes]:
    """Return the state and the fingerprints from the content of a resume file."""
    partial = content["partial"]
    if partial is not None:
        partial = Partial(natural(partial["part"]), natural(partial["block"]), tally_of(partial["tally"]))
    total = tally_of(content["total"])
    known = [tally.kind for tally in (total, partial and partial.tally) if tally is not None]
    if len(set(known)) > 1:
        raise ValueError("channels or dtype of the unfinished input differ from those of the total")
    state = State(natural(content["finished"]), total, partial,
                  tuple((str(path), str(reason)) for path, reason in content["skipped"]))
    fingerprints = bytes.fromhex(content["fingerprints"])
    if len(fingerprints) != FINGERPRINT_BYTES * (state.finished + (partial is not None)):
        raise ValueError("the number of fingerprints is not that of the inputs")
    return state, fingerprints
