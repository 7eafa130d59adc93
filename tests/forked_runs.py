"""Our scripts in forked processes, as `accelerate launch` would start them, without importing everything anew.

A real launch of two processes costs some 20 seconds of CPU, most of it imports. A fork of the test's process costs
none of them, and a patch made in it can kill a run at an exact point instead of at about the right time.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import torch.distributed.run
from accelerate.commands import launch as launcher
from accelerate.state import AcceleratorState, GradientState
from small_runs import RECIPE, flags

DEADLINE = 240  # [s]
GRACE = 60  # [s] that the other processes may go on after one failed; most end by themselves


class Finished(NamedTuple):
    """How the processes of a run ended: a negative status is the signal that killed one."""

    statuses: list[int]
    stdout: str
    stderr: str


def launched_environment(*options: str) -> dict[str, str]:
    """Return the variables that `accelerate launch` with these options sets for each process it starts."""
    found: dict[str, str] = {}

    class NoProcess:
        returncode = 0

        def __init__(self, command: object, env: Mapping[str, str]) -> None:
            found.update(env)

        def wait(self) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "subprocess", type("NoProcesses", (), {"Popen": NoProcess}))
        patch.setattr(torch.distributed.run, "run", lambda arguments: found.update(os.environ))
        launcher.launch_command(launcher.launch_command_parser().parse_args([*options, str(RECIPE)]))
    return {name: value for name, value in found.items() if os.environ.get(name) != value}


def free_port() -> int:
    """Return a port on the loopback device that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_forked(
    arguments: list[str],
    out: Path,
    *,
    script: Path = RECIPE,
    num_processes: int = 1,
    environment: Mapping[str, str] | None = None,
    patch: Callable[[int], None] | None = None,
) -> Finished:
    """Run a script in forked processes that train together, and wait for them to end.

    Args:
        arguments: of the script.
        out: a folder for what they print.
        script: run as `__main__`, the training recipe by default.
        num_processes: 1 by default.
        environment: variables to set, beside those that torchrun sets.
        patch: called with the rank before the script is run.

    Returns:
        The statuses by rank, and what was printed. When one process fails, the others are ended, as by torchrun.
    """
    out.mkdir(parents=True, exist_ok=True)
    shared = dict(environment or {})
    if num_processes > 1:
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        shared |= {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes)}
    workers = []
    for rank in range(num_processes):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if num_processes > 1 else {}
        work = (script, arguments, shared | ranks, out, rank, patch)
        workers.append(multiprocessing.get_context("fork").Process(target=_run_script, args=work))
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + DEADLINE
    while any(worker.is_alive() for worker in workers):
        if any(worker.exitcode not in (None, 0) for worker in workers):
            deadline = min(deadline, time.monotonic() + GRACE)
        if time.monotonic() > deadline:
            for worker in workers:
                worker.kill()
        time.sleep(0.01)
    for worker in workers:
        worker.join()
    texts = ["".join(path.read_text() for path in sorted(out.glob(f"{name}.*"))) for name in ("stdout", "stderr")]
    return Finished([worker.exitcode or 0 for worker in workers], *texts)


def _run_script(script, arguments, environment, out, rank, patch):
    sys.stdin.close()
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(out / f"{name}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        setattr(sys, name, os.fdopen(number, "w", buffering=1))
    logging.root.handlers.clear()  # pytest's, which would swallow what the script logs
    os.environ.update(environment)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    if patch is not None:
        patch(rank)
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


def train_forked(data: Path, out: Path, *more: str, num_processes: int = 1, **options) -> Finished:
    """Run the training recipe in forked processes, two of them as accelerate_configs/cpu_ddp.yaml says."""
    if num_processes > 1:
        config = RECIPE.parents[1] / "accelerate_configs" / "cpu_ddp.yaml"
        options["environment"] = launched_environment("--config_file", str(config))
    return run_forked(flags(data, out, *more), out.with_name(f"{out.name}.log"), num_processes=num_processes, **options)


def signal_at(number: int, method: str, owner: type, sent: int = signal.SIGKILL) -> None:
    """Let this process send itself a signal when a method is called for the given time, before anything is done."""
    calls, original = [0], getattr(owner, method)

    def counted(*args, **kwargs):
        calls[0] += 1
        if calls[0] == number:
            os.kill(os.getpid(), sent)
        return original(*args, **kwargs)

    setattr(owner, method, counted)
