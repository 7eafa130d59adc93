"""What every command line of the project shares: one line for an error, and an exit status."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable


def run(main: Callable[[], int | None]) -> None:
    """Run a command line and leave with its exit status.

    An error that its user can mend (ValueError, OSError and what derives from them) becomes one line on standard
    error and status 2, an interruption status 130. Anything else is our bug, and keeps its traceback. What the
    package logs is shown, by the first of several processes only.

    Args:
        main: returns the exit status, None for success.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger(__package__).setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    try:
        status = main() or 0
    except BrokenPipeError:
        # The reader of our output left (`| head`): nothing to say, and nobody to say it to.
        sys.stderr.close()
        status = 141
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
