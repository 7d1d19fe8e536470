"""The file from which an interrupted run goes on."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from fastbn._core.files import NotRegularError, open_regular
from fastbn.cli.stats import grid, limits
from fastbn.cli.stats.counting import Partial, State
from fastbn.cli.stats.errors import CommandError
from fastbn.cli.stats.inputs import FINGERPRINT_BYTES
from fastbn.cli.stats.settings import Settings
from fastbn.cli.stats.tally import Tally
from fastbn.statistics.channel_stats import ChannelStats

FORMAT = "fastbn stats, interrupted; version 3"
BEGINNING = json.dumps({"format": FORMAT})[:-1].encode()
NAME = "fastbn-stats{}.resume"


def unused_path() -> Path:
    """Return a path in the current folder that is not taken."""
    number = 1
    while os.path.lexists(name := NAME.format("" if number == 1 else f"-{number}")):
        number += 1
    return Path(name)


def encode(state: State, settings: Settings, fingerprints: bytes) -> bytes:
    """Return the content of a file that says what is known, and of which inputs.

    Parameters
    ----------
    state : State
    settings : Settings
    fingerprints : bytes
        Of the inputs that have been finished, one after the other, and of the one that has begun.
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
    """Return a checksum of all that a file says, so that a damaged one does not pass for another state."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load(path: Path, settings: Settings) -> tuple[State, bytes]:
    """Return the state and the fingerprints that `encode` was given.

    Raises
    ------
    CommandError
        If the file cannot be read, is of another kind, or comes from a run with other settings.
    """
    ours = comparable(settings)
    try:
        content = json.loads(read(path, settings.max_memory))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        given = content.pop("digest", None)
        theirs = {name: content["settings"][name] for name in ours}
        state = decoded(content)
        if given != digest(content):
            raise ValueError("its checksum is another")
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    except NotRegularError as error:
        raise CommandError(str(error)) from None
    except MemoryError:
        raise CommandError(f"{path}: there is not enough memory to read it") from None
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else error
        raise CommandError(f"{path}: is damaged: {reason}") from None
    for name, value in ours.items():
        if theirs[name] != value:
            raise CommandError(f"{path}: was written with the {name} {theirs[name]}; now it is {value}")
    return state


def read(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file that has no more than so many and begins as `encode` begins one.

    Raises
    ------
    CommandError
        If it is another.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(len(BEGINNING)) != BEGINNING:
            raise CommandError(f"{path}: is not a resume file of this version of python -m fastbn stats")
        if size > most:
            raise CommandError(
                f"{path}: has {limits.shown(size)}; expected up to {limits.shown(most)}; see --max-memory")
        return BEGINNING + file.read(size)


def comparable(settings: Settings) -> dict[str, Any]:
    """Return what must not have changed: all but the threads."""
    nodata = settings.missing.nodata
    return {
        "axis": settings.axis, "members": list(settings.members), "bytes of a block": grid.BLOCK_BYTES,
        "treatment of NaN": settings.missing.nan, "nodata": None if nodata is None else str(nodata),
        "convert": settings.convert,
    }


def encoded(tally: Tally | None) -> dict[str, Any] | None:
    """Return a tally as lists of numbers, which JSON keeps exactly."""
    if tally is None:
        return None
    stats = {name: vector.tolist() for name, vector in tally.stats.to_arrays().items()}
    return {"uint8": tally.uint8, "shape": tally.shape, "stats": stats}


def tally_of(content: dict[str, Any] | None) -> Tally | None:
    """Return the tally of lists of numbers."""
    if content is None:
        return None
    stats = ChannelStats.from_arrays(**content["stats"])
    if stats.min is None or not isinstance(content["uint8"], bool):
        raise ValueError("no extrema, or uint8 that is neither true nor false")
    shape = content["shape"]
    return Tally(stats, content["uint8"], None if shape is None else tuple(natural(length, 1) for length in shape))


def natural(value: object, least: int = 0) -> int:
    """Return an integer that is not too small."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{value!r} where an integer of at least {least} belongs")
    return value


def decoded(content: dict[str, Any]) -> tuple[State, bytes]:
    """Return what the content of a file says."""
    partial = content["partial"]
    if partial is not None:
        partial = Partial(natural(partial["part"]), natural(partial["block"]), tally_of(partial["tally"]))
    total = tally_of(content["total"])
    known = [tally.kind for tally in (total, partial and partial.tally) if tally is not None]
    if len(set(known)) > 1:
        raise ValueError("a part whose channels or dtype are not those of the total")
    state = State(natural(content["finished"]), total, partial,
                  tuple((str(path), str(reason)) for path, reason in content["skipped"]))
    fingerprints = bytes.fromhex(content["fingerprints"])
    if len(fingerprints) != FINGERPRINT_BYTES * (state.finished + (partial is not None)):
        raise ValueError("fingerprints that are not as many as the inputs")
    return state, fingerprints
