"""Error messages for optional packages, which the extras of fastbn install."""

from __future__ import annotations


def hint(extra: str) -> str:
    """Return the command that installs an extra.

    There is no release yet, so the command is the one for a checkout.

    Examples
    --------
    >>> from fastbn._core.extras import hint
    >>> print(hint("demo"))
    pip install ".[demo]"
    """
    return f'pip install ".[{extra}]"'


def missing(feature: str, package: str, extra: str) -> str:
    """Return the message for a package that is not installed.

    Parameters
    ----------
    feature : str
        What needs the package; the message begins with it.
    package : str
        The name of the package for pip.
    extra : str
        The extra that installs it.

    Examples
    --------
    >>> from fastbn._core.extras import missing
    >>> print(missing("The demo", "matplotlib", "demo"))
    The demo needs matplotlib, which is not installed: pip install ".[demo]"
    """
    return f"{feature} needs {package}, which is not installed: {hint(extra)}"
