"""The JSON that a checkpoint may hold: objects of strings and lists of integers, and nothing else."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_DIMENSIONS = 32

_SPACE = re.compile(r"[ \t\n\r]*")
_LIST = re.compile(r"\[([0-9, \t\n\r]{0,2000})\]")
_INTEGER = re.compile(r"0|[1-9][0-9]{0,18}")
_decode = json.JSONDecoder().raw_decode


class Scanner:
    """Reads JSON from front to back, each value only as the type that is expected there.

    A general parser would build whatever a hostile header nests before anyone could look at it, at many times the
    header's size. This one stops at the first character that does not belong.

    Parameters
    ----------
    text : str
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def members(self) -> Iterator[str]:
        """Yield the keys of an object; whoever iterates must read the value of each before going on."""
        self._take("{")
        if self._accept("}"):
            return
        seen: set[str] = set()
        while True:
            key = self.string()
            if key in seen:
                raise ValueError(f"header has the name {shortened(key)} twice")
            seen.add(key)
            self._take(":")
            yield key
            if self._accept("}"):
                return
            self._take(",")

    def string(self) -> str:
        """Read a string."""
        self._skip()
        if not self._text.startswith('"', self._at):
            raise self._unexpected("a string")
        try:
            value, self._at = _decode(self._text, self._at)
        except json.JSONDecodeError as error:
            raise ValueError(f"header is not JSON: {error.msg} at character {error.pos}") from None
        assert isinstance(value, str)
        return value

    def integers(self) -> tuple[int, ...]:
        """Read a list of integers from 0 to 10**19 - 1."""
        self._skip()
        found = _LIST.match(self._text, self._at)
        if found is None:
            raise self._unexpected("a list of integers")
        items = [item.strip(" \t\n\r") for item in found[1].split(",")] if found[1].strip(" \t\n\r") else []
        if len(items) > MOST_DIMENSIONS or not all(map(_INTEGER.fullmatch, items)):
            raise self._unexpected(f"a list of up to {MOST_DIMENSIONS} integers")
        self._at = found.end()
        return tuple(map(int, items))

    def end(self) -> None:
        """Read white space up to the end."""
        self._skip()
        if self._at < len(self._text):
            raise self._unexpected("the end")

    def _skip(self) -> None:
        found = _SPACE.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _accept(self, char: str) -> bool:
        self._skip()
        if self._text.startswith(char, self._at):
            self._at += 1
            return True
        return False

    def _take(self, char: str) -> None:
        if not self._accept(char):
            raise self._unexpected(repr(char))

    def _unexpected(self, expected: str) -> ValueError:
        found = repr(self._text[self._at:self._at + 20]) if self._at < len(self._text) else "the end"
        return ValueError(f"header has {found} at character {self._at}; expected {expected}")


def shortened(name: str) -> str:
    """Return the repr of a name that came from a file, cut to a readable length."""
    return repr(name if len(name) <= 80 else f"{name[:80]}...")
