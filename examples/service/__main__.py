"""``python -m examples.service``: runs the service until it is interrupted."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import fastbn
from examples.service.parameters import default_path
from fastbn.__main__ import positive_int

# Modules that the extra brings, and what pip calls them.
EXTRA = {
    "PIL": "pillow", "falcon": "falcon", "gunicorn": "gunicorn", "prometheus_client": "prometheus-client",
    "sklearn": "scikit-learn", "threadpoolctl": "threadpoolctl", "tqdm": "tqdm", "uvicorn": "uvicorn",
    "uvicorn_worker": "uvicorn-worker",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service.

    Returns
    -------
    int
        The exit code, if it could not start. Else the process ends with Gunicorn's.
    """
    options = parse(argv)
    try:
        from examples.service.server import Service, Settings, application

        settings = Settings(options.interface, options.host, options.port, options.workers,
                            options.threads or threads_per_worker(options.workers), options.model)
        service = Service(settings, application(settings))
    except ModuleNotFoundError as error:
        missing = EXTRA.get((error.name or "").partition(".")[0])
        if missing is None:
            raise
        print(f"The service needs {missing}, which is not installed: pip install '.[service]'", file=sys.stderr)
        return 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    fastbn.show_config()
    service.run()
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.service", description="Tell handwritten digits apart over HTTP.",
        epilog="Needs the extra: pip install '.[service]'")
    parser.add_argument("--interface", choices=("wsgi", "asgi"), default="wsgi",
                        help="Gunicorn's own workers (wsgi, the default) or Uvicorn's (asgi)")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=port, default=8000, metavar="P",
                        help="default: %(default)s; 0 for any that is free")
    parser.add_argument("--workers", type=positive_int, default=2, metavar="N", help="processes; default: %(default)s")
    parser.add_argument("--threads", type=positive_int, metavar="N",
                        help="of each worker; default: FASTBN_NUM_THREADS, or else its share of the CPUs")
    parser.add_argument("--model", type=Path, default=default_path(), metavar="FILE",
                        help="the parameters, trained if the file is not there; default: %(default)s")
    return parser.parse_args(argv)


def port(text: str) -> int:
    """Return the number of a port, or raise the error that argparse shows."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected an integer between 0 and 65535, got {text!r}")
    return int(text)


def threads_per_worker(workers: int) -> int:
    """Return what FASTBN_NUM_THREADS says, or else a fair share of the CPUs."""
    count = fastbn.get_num_threads()
    return count if os.environ.get("FASTBN_NUM_THREADS") else max(1, count // workers)


if __name__ == "__main__":
    sys.exit(main())
