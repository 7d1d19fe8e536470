"""Hooks for PyInstaller, which finds them by the entry point ``pyinstaller40`` and cannot see imports by name."""

from __future__ import annotations

from pathlib import Path


def hook_dirs() -> list[str]:
    """Return the folders with hooks."""
    return [str(Path(__file__).parent)]
