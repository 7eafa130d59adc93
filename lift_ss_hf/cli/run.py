"""Run a command line of this project: errors in one line, exit statuses, logging."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from ..corpora.file_kinds import printable


def run(main: Callable[[], int | None]) -> None:
    """Run a command line and exit with its status.

    Errors that the user can fix (ValueError, OSError and their subclasses) are printed in one line on standard error
    with status 2. An interruption gives status 130, an output closed by its reader 141. A SystemExit passes through: a
    training run stopped by a scheduler exits with 75. Any other exception is a bug of ours and keeps its traceback.
    Log messages of the package are shown by the first of several processes only.

    Args:
        main: the command line; returns the exit status, None for success.
    """
    logging.basicConfig(format="%(message)s")
    is_first = os.environ.get("RANK", "0") == "0"
    logging.getLogger("lift_ss_hf").setLevel(logging.INFO if is_first else logging.ERROR)
    try:
        check_launch(os.environ)
        status = main() or 0
    except BrokenPipeError:
        # The reader of our output closed it (`| head`): exit silently.
        sys.stderr.close()
        with Path(os.devnull).open("w") as devnull:  # takes what is still buffered, or Python exits with 120
            os.dup2(devnull.fileno(), sys.stdout.fileno())
        status = 141
    except (ValueError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def check_launch(environment: Mapping[str, str]) -> None:
    """Raise ValueError if accelerate silently started one process on a CPU although several were requested.

    Args:
        environment: variables of this process.

    Example:
        >>> check_launch({"ACCELERATE_USE_CPU": "true", "MASTER_PORT": "29500", "WORLD_SIZE": "2"})
    """
    if environment.get("ACCELERATE_USE_CPU", "").lower() != "true":
        return
    # accelerate 1.15 sets a port if several processes are requested, and their number only if it starts them.
    if "MASTER_PORT" in environment and "WORLD_SIZE" not in environment and "PMI_SIZE" not in environment:
        raise ValueError(
            "several processes were requested, but accelerate started one. On a CPU use "
            "--config_file accelerate_configs/cpu_ddp.yaml, or torchrun; for one process use --num_processes 1."
        )
