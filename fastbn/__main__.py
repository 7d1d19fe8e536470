"""The command line: ``python -m fastbn``, or the console script ``fastbn``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from fastbn._core.startup import end_guard
from fastbn.cli.console import guarded

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments without the name of the program. By default, those of the process.

    Returns
    -------
    int
        The exit code: 0 on success; 1 if the command failed; 2 for wrong settings; 130 or 143 if the process was
        interrupted or terminated; 141 if the reader of standard output closed it.

    Raises
    ------
    SystemExit
        With code 2 for wrong arguments, and with code 0 after ``--help`` and ``--version``.
    """
    def command() -> int:
        end_guard()
        # Imported here, so that Ctrl-C during the import is handled too.
        from fastbn.cli.parser import run

        return run(sys.argv[1:] if argv is None else argv)

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
