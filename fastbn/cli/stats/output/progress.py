"""The progress bar."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from fastbn._core import extras
from fastbn.cli.console import printable, tell

if TYPE_CHECKING:
    from types import TracebackType


class ProgressBar:
    """Shows the bytes read, the rate and the remaining time on standard error, if it is a terminal.

    Parameters
    ----------
    total : int
        Stored bytes of all inputs.
    done : int
        Stored bytes read by an earlier run, which do not count for the rate.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self._bar: Any = None
        if not sys.stderr.isatty():
            return
        if importlib.util.find_spec("tqdm") is None:
            self.say(extras.missing("The progress bar", "tqdm", "stats"))
            return
        from tqdm import tqdm  # type: ignore[import-untyped]

        self._bar = tqdm(total=total or None, initial=done, unit="B", unit_scale=True, leave=False,
                         dynamic_ncols=True)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, stored: float) -> None:
        """Add to the bytes read."""
        if self._bar is not None:
            self._bar.update(stored)

    def say(self, line: str) -> None:
        """Print a line on standard error, above the bar."""
        if self._bar is None:
            tell(line)
        else:
            self._bar.write(printable(line), file=sys.stderr)
