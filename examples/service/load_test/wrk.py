"""Runs wrk, https://github.com/wg/wrk, with a script that checks every answer."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from examples.service.app import as_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCRIPT = Path(__file__).with_name("wrk.lua")
INSTALL = "wrk is not installed; Debian and Ubuntu have it: apt-get install wrk"


@dataclass(frozen=True)
class Figures:
    """Results of a run of wrk.

    Attributes
    ----------
    requests : int
        Number of answers.
    seconds : float
    p50_ms, p99_ms : float
        Percentiles of the latency.
    broken : int
        Failed connections: not established, reset, or timed out.
    refused : int
        Answers with a status other than 2xx or 3xx.
    wrong : int
        Answers with status 200 and a wrong body.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    broken: int
    refused: int
    wrong: int

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.requests / self.seconds


def installed() -> bool:
    """Return whether wrk is installed."""
    return shutil.which("wrk") is not None


def write_digits(path: Path, images: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
    """Write images and their expected answers as a Lua table for the script."""
    rows = [f"{{body = {lua_string(image.tobytes())}, answer = {lua_string(as_json(scores[None]))}}},\n"
            for image, scores in zip(images, logits, strict=True)]
    path.write_text(f"return {{\n{''.join(rows)}}}\n")


def lua_string(data: bytes) -> str:
    r"""Return bytes as a Lua literal.

    Examples
    --------
    >>> print(lua_string(b'a"'))
    "\097\034"
    """
    return '"' + "".join(f"\\{byte:03d}" for byte in data) + '"'


def start(port: int, path: str, connections: int, seconds: int, digits: Path | None) -> subprocess.Popen[str]:
    """Start wrk with one thread; `finish` waits for its end."""
    arguments = [path] if digits is None else [path, str(digits)]
    return subprocess.Popen(
        ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "-s", str(SCRIPT),
         f"http://127.0.0.1:{port}", "--", *arguments], stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> Figures:
    """Wait for wrk, and return its results.

    Raises
    ------
    RuntimeError
        If wrk failed.
    """
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"wrk ended with {process.returncode}:\n{output}")
    return Figures(**json.loads(output.splitlines()[-1]))
