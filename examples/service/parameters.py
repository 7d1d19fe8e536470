"""The file of the parameters of the trained network."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def default_path() -> Path:
    """Return the default path, which is in the cache folder of the user."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "fastbn" / "digits.npz"


def save(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write the parameters atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
        try:
            np.savez(file, **arrays)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def restore(path: Path) -> dict[str, NDArray[Any]]:
    """Read the parameters.

    Raises
    ------
    ValueError
        If the file is not an archive of plain arrays.
    """
    try:
        # Opened here, because np.load does not close the file after an error.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds a single array")
            return dict(archive)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is not an archive of arrays ({error}); delete it to train the network again") from error
