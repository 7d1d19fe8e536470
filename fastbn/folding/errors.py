"""The refusal that every part of folding shares."""


class FoldingError(ValueError):
    """A batch norm that cannot be folded without changing results; the text says why."""


def listed(channels: list[int], most: int = 8) -> str:
    """Return channel numbers as text, the first few of many.

    Examples
    --------
    >>> listed([0, 2, 5], most=2)
    '0, 2 and 1 more'
    """
    text = ", ".join(map(str, channels[:most]))
    return text if len(channels) <= most else f"{text} and {len(channels) - most} more"
