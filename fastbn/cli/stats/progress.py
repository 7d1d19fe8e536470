"""A progress bar on a terminal, and lines beside it."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from fastbn.cli.console import printable, tell

if TYPE_CHECKING:
    from types import TracebackType


class Progress:
    """Shows stored bytes read, their rate and the time left, on standard error if that is a terminal.

    Parameters
    ----------
    total : int
        Bytes in all.
    done : int
        Bytes that had been read before, which are no part of the rate.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self._bar: Any = None
        if not sys.stderr.isatty():
            return
        if importlib.util.find_spec("tqdm") is None:
            self.say("no progress is shown without tqdm: pip install 'fastbn[stats]'")
            return
        from tqdm import tqdm  # type: ignore[import-untyped]

        self._bar = tqdm(total=total or None, initial=done, unit="B", unit_scale=True, leave=False,
                         dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, stored: float) -> None:
        """Tell that so many more bytes have been read."""
        if self._bar is not None:
            self._bar.update(stored)

    def say(self, line: str) -> None:
        """Print a line on standard error."""
        if self._bar is None:
            tell(line)
        else:
            self._bar.write(printable(line), file=sys.stderr)
