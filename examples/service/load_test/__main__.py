"""``python -m examples.service.load_test``: see ``--help``."""

import sys

from examples.service.extra import needs_extra

if __name__ == "__main__":
    with needs_extra():
        from examples.service.load_test.command import main

        sys.exit(main())
