"""The error of all parts of folding."""


class FoldingError(ValueError):
    """A batch norm cannot be folded without changing results; the message gives the reason."""
