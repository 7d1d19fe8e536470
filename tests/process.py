"""Runs Python in a fresh process, for what is decided once at import."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the interpreter; settings of fastbn and OpenMP are only those given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FASTBN_", "OMP_"))}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=clean | env, capture_output=True, text=True,
                          timeout=300, check=False)


def output(code: str, **env: str) -> str:
    """What a program that must succeed prints."""
    done = run("-c", code, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def error(code: str, **env: str) -> str:
    """The last line of the traceback of a program that must fail."""
    done = run("-c", code, **env)
    assert done.returncode == 1, f"ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stderr.strip().splitlines()[-1]
