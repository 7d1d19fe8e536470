"""Runs Python in a new process, for settings that are read once at import."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 3600     # seconds after which a process counts as hung, even on a slow machine
# A process inherits ignored signals, as those of nohup and of background jobs of a shell are.
DEFAULT_SIGNALS = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
"""


def settings(env: dict[str, str]) -> dict[str, Any]:
    """Arguments of subprocess: the environment has no settings of fastbn and OpenMP but the given ones."""
    # scikit-learn sets KMP_INIT_AT_FORK=FALSE when it is imported, and Intel's runtime then hangs at a fork.
    foreign = ("FASTBN_", "OMP_", "KMP_", "GOMP_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {"cwd": ROOT, "env": clean | env, "text": True}


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the interpreter, and wait for its end."""
    return subprocess.run(
        [sys.executable, *arguments], **settings(env), capture_output=True, timeout=PATIENCE, check=False)


def start(code: str, **env: str) -> subprocess.Popen[str]:
    """Start a program whose output is read while it runs."""
    return subprocess.Popen([sys.executable, "-c", code], **settings(env), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def output(code: str, **env: str) -> str:
    """Return the output of a program that must succeed."""
    done = run("-c", code, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def error(code: str, **env: str) -> str:
    """Return the last line of the traceback of a program that must fail."""
    done = run("-c", code, **env)
    assert done.returncode == 1, f"ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stderr.strip().splitlines()[-1]
