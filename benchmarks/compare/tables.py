"""Numbers and tables as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def count(number: int, noun: str) -> str:
    """Return a number of things."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def time(seconds: float | None) -> str:
    """Return a time with its unit."""
    if seconds is None:
        return ""
    unit, scale = ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
    value = seconds * scale
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def ratio(value: float | None, least: float = 0.0) -> str:
    """Return a ratio, bold below `least`."""
    if value is None:
        return ""
    return f"{value:.2f}" if value >= least else f"**{value:.2f}**"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first row is its heading."""
    # Padded, so that the terminal shows a table too. The first column is text; so is any that holds words.
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = [i == 0 or any(row[i].lstrip("*")[:1].isalpha() for row in rows[1:]) for i in range(len(widths))]
    lines = ["| " + " | ".join(text.ljust(width) if is_left else text.rjust(width)
                               for text, width, is_left in zip(row, widths, left, strict=True)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (width + 2) if is_left else "-" * (width + 1) + ":"
                          for width, is_left in zip(widths, left, strict=True)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
