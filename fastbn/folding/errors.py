"""The refusal that every part of folding shares."""


class FoldingError(ValueError):
    """A batch norm that cannot be folded without changing results; the text says why."""
