"""Run a script of the project in this process, with the output and the exit status that a user gets."""

import contextlib
import io
import logging
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]


@dataclass
class FinishedScript:
    """What a script printed, and its exit status."""

    returncode: int
    stdout: str
    stderr: str


def run_script(path: str, *arguments: object) -> FinishedScript:
    """Run a script, given by its path below the project, with the arguments of a command line."""
    stdout, stderr, status = io.StringIO(), io.StringIO(), 0
    logger = logging.getLogger("lift_ss_hf")
    level = logger.level
    command = [str(ROOT / path), *map(str, arguments)]
    try:
        with (
            mock.patch.object(sys, "argv", command),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        logger.setLevel(level)
    return FinishedScript(status, stdout.getvalue(), stderr.getvalue())
