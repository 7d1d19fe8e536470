"""What to say where a package of the extra is missing."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Modules that the extra brings, and what pip calls them.
PACKAGES = {
    "PIL": "pillow", "falcon": "falcon", "gunicorn": "gunicorn", "matplotlib": "matplotlib",
    "prometheus_client": "prometheus-client", "psutil": "psutil", "sklearn": "scikit-learn",
    "threadpoolctl": "threadpoolctl", "tqdm": "tqdm", "uvicorn": "uvicorn", "uvicorn_worker": "uvicorn-worker",
}


@contextlib.contextmanager
def needs_extra() -> Iterator[None]:
    """End the program with a message that names the package and the extra, if the block misses one."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = PACKAGES.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        sys.exit(f"The service needs {package}, which is not installed: pip install '.[service]'")
