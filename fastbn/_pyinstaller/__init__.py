"""Hooks for PyInstaller, which does not detect imports by name. The entry point ``pyinstaller40`` names the package."""

from __future__ import annotations

from pathlib import Path


def hook_dirs() -> list[str]:
    """Return the folders that contain hooks."""
    return [str(Path(__file__).parent)]
