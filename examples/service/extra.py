"""The error message for a missing package of the extra."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

INSTALL = 'pip install ".[service]"'
# Modules of the extra, and their names for pip.
PACKAGES = {
    "PIL": "pillow", "falcon": "falcon", "gunicorn": "gunicorn", "matplotlib": "matplotlib",
    "prometheus_client": "prometheus-client", "psutil": "psutil", "sklearn": "scikit-learn",
    "threadpoolctl": "threadpoolctl", "tqdm": "tqdm", "uvicorn": "uvicorn", "uvicorn_worker": "uvicorn-worker",
}


@contextlib.contextmanager
def needs_extra() -> Iterator[None]:
    """Exit with a message that names the package and the extra, if an import in the block fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = PACKAGES.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        sys.exit(f"The service needs {package}, which is not installed: {INSTALL}")
