"""Run a script, or the command lift-ss, in this process, with the output and the exit status that a user gets."""

import contextlib
import importlib.util
import io
import logging
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from unittest import mock

from lift_ss_hf.cli import lift_ss

ROOT = Path(__file__).parents[1]
BUILD_FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")  # what a build reads beside lift_ss_hf/


class FinishedScript(NamedTuple):
    """What a script printed, and its exit status."""

    returncode: int
    stdout: str
    stderr: str


def load_module(path: Path) -> ModuleType:
    """Import a file that belongs to no package, under a name made of its folder's and its own."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(path: str, *arguments: object) -> FinishedScript:
    """Run a script, given by its path below the project, with the arguments of a command line."""
    command = [str(ROOT / path), *map(str, arguments)]
    return _run(command, lambda: runpy.run_path(command[0], run_name="__main__"))


def run_lift_ss(*arguments: object) -> FinishedScript:
    """Run the command lift-ss with the arguments of a command line."""
    return _run(["lift-ss", *map(str, arguments)], lift_ss.main)


def _run(command: list[str], call: Callable[[], object]) -> FinishedScript:
    stdout, stderr, status = io.StringIO(), io.StringIO(), 0
    logger = logging.getLogger("lift_ss_hf")
    level = logger.level
    try:
        with (
            mock.patch.object(sys, "argv", command),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            call()
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        logger.setLevel(level)
    return FinishedScript(status, stdout.getvalue(), stderr.getvalue())
