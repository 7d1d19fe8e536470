"""``python -m examples.service``: run the service until it is interrupted."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import fastbn
from examples.service.extra import INSTALL, needs_extra
from examples.service.parameters import default_path, save
from fastbn.cli.arguments import positive_int

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service, or train the network.

    Returns
    -------
    int
        The exit code: 0 after training; 1 if the service cannot start. Otherwise Gunicorn ends the process.
    """
    options = parse(argv)
    with needs_extra():
        return train(options.model) if options.train else serve(options)


def train(model: Path) -> int:
    """Train the network and write its parameters."""
    from examples.service import training

    parameters, accuracy = training.train()
    save(model, parameters)
    print(f"{model}: test accuracy {accuracy:.1f} %")
    return 0


def serve(options: argparse.Namespace) -> int:
    """Run the service."""
    from examples.service.server import Server, Settings, application

    settings = Settings(options.interface, options.host, options.port, options.workers,
                        options.threads or threads_per_worker(options.workers), options.model)
    try:
        server = Server(settings, application(settings))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    fastbn.show_config()
    server.run()
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.service", description="Classify handwritten digits over HTTP.",
        epilog=f"Requires an extra: {INSTALL}")
    parser.add_argument("--interface", choices=("wsgi", "asgi"), default="wsgi",
                        help="workers of Gunicorn (wsgi) or of Uvicorn (asgi); default: %(default)s")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=port, default=8000, metavar="P",
                        help="default: %(default)s; 0 selects a free port")
    parser.add_argument("--workers", type=positive_int, default=2, metavar="N",
                        help="number of worker processes; default: %(default)s")
    parser.add_argument("--threads", type=positive_int, metavar="N",
                        help="threads of each worker; default: FASTBN_NUM_THREADS, or an equal share of the CPUs")
    parser.add_argument("--model", type=Path, default=default_path(), metavar="FILE",
                        help="parameters of the network; trained if the file does not exist; default: %(default)s")
    parser.add_argument("--train", action="store_true", help="train the network, print its accuracy, and exit")
    return parser.parse_args(argv)


def port(text: str) -> int:
    """Return the number of a port, or raise the error that ``argparse`` reports."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected an integer between 0 and 65535, got {text!r}")
    return int(text)


def threads_per_worker(workers: int) -> int:
    """Return FASTBN_NUM_THREADS if it is set, or an equal share of the CPUs."""
    count = fastbn.get_num_threads()
    return count if os.environ.get("FASTBN_NUM_THREADS") else max(1, count // workers)


if __name__ == "__main__":
    sys.exit(main())
