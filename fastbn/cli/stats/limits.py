"""The memory that an input may take. A file can claim any size; ``--max-memory`` sets the limit."""

from __future__ import annotations

import argparse
import re

MOST_MEMORY = 512 << 20             # default of --max-memory
CHANNEL_BYTES = 1 << 10             # memory of a channel: 760 (uint8) to 1,080 (float64) bytes were measured
MOST_ARRAY_BYTES = (1 << 63) - 1    # the largest size of a file

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_SIZE = re.compile(r"([0-9]{1,15})([KMGT]?)(?:I?B)?", re.IGNORECASE)


def size(text: str) -> int:
    """Return a number of bytes, or raise the error that ``argparse`` reports.

    Examples
    --------
    >>> from fastbn.cli.stats.limits import size
    >>> size("1536"), size("2G"), size("512MiB")
    (1536, 2147483648, 536870912)
    """
    found = _SIZE.fullmatch(text)
    if found is None or not int(found[1]):
        raise argparse.ArgumentTypeError(f"expected a size such as 512M or 2G, got {text!r}")
    return int(found[1]) << 10 * " KMGT".index(found[2].upper() or " ")


def shown(count: int) -> str:
    """Return a number of bytes as text.

    Examples
    --------
    >>> from fastbn.cli.stats.limits import shown
    >>> shown(512 << 20), shown(4 * 10**11), shown(1536)
    ('512 MiB', '373 GiB', '1.5 KiB')
    """
    power = min(max(count.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    return f"{count / (1 << 10 * power):.3g} {_UNITS[power]}"
