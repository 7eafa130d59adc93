"""What every command line of the project shares: one line for an error, and an exit status."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

RESUME_ME = 75  # EX_TEMPFAIL of sysexits.h: try again later


class RunStoppedError(Exception):
    """A run that was stopped from outside, and can be gone on with."""


def run(main: Callable[[], int | None]) -> None:
    """Run a command line and leave with its exit status.

    An error that its user can mend (ValueError, OSError and what derives from them) becomes one line on standard
    error and status 2, an interruption status 130, a run that a scheduler stopped and that can be resumed status 75.
    Anything else is our bug, and keeps its traceback. What the package logs is shown, by the first of several
    processes only.

    Args:
        main: returns the exit status, None for success.
    """
    logging.basicConfig(format="%(message)s")
    is_first = os.environ.get("RANK", "0") == "0"
    logging.getLogger("lift_ss_hf").setLevel(logging.INFO if is_first else logging.ERROR)
    try:
        check_launch(os.environ)
        status = main() or 0
    except BrokenPipeError:
        # The reader of our output left (`| head`): nothing to say, and nobody to say it to.
        sys.stderr.close()
        with Path(os.devnull).open("w") as nowhere:  # what is still buffered goes there, or Python ends with 120
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        status = 141
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except RunStoppedError as stop:
        print(stop, file=sys.stderr)
        status = RESUME_ME
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def check_launch(environment: Mapping[str, str]) -> None:
    """Refuse what accelerate does silently on a CPU: start one process where several were asked for.

    Args:
        environment: variables of the process.

    Raises:
        ValueError: with the configuration to use.
    """
    if environment.get("ACCELERATE_USE_CPU", "").lower() != "true":
        return
    # accelerate 1.15 names a port for several processes, and gives their number only if it starts them.
    if "MASTER_PORT" in environment and "WORLD_SIZE" not in environment and "PMI_SIZE" not in environment:
        raise ValueError(
            "several processes were asked for, but accelerate started one. On a CPU use "
            "--config_file accelerate_configs/cpu_ddp.yaml, or torchrun; for one process --num_processes 1."
        )
