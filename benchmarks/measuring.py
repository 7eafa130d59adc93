"""Measure what a process used. Standard library only: programs of other environments import it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# the command, of this environment
LIFT_SS = [sys.executable, "-c", "from lift_ss_hf.cli.lift_ss import main; main()"]


def used_so_far() -> dict[str, float]:
    """Return the CPU time of this process and of its finished children, and the largest resident memory of one.

    Returns:
        `cpu_seconds` and `peak_mib`.
    """
    return _used(*map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def _used(*parts: resource.struct_rusage) -> dict[str, float]:
    return {
        "cpu_seconds": sum(part.ru_utime + part.ru_stime for part in parts),
        "peak_mib": max(part.ru_maxrss for part in parts) / 1024,
    }


def run_alone(command: Sequence[str], log: Path, folder: Path | None = None) -> dict[str, float]:
    """Run a command on one thread, without a network.

    Args:
        command: the program and its arguments.
        log: file to which its output is appended.
        folder: directory that it runs in (default: this one).

    Returns:
        `cpu_seconds` and `peak_mib` as `used_so_far`, and `seconds`, the wall time. Linux counts from before the
        program is loaded, so `peak_mib` is at least the resident memory of the process that calls this (350 MiB).

    Raises:
        RuntimeError: if it fails.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    started = time.monotonic()
    with log.open("a") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ... failed: see {log}")
    return _used(usage) | {"seconds": time.monotonic() - started}


# ---- programs that train a way, and predict the test chains --------------------------------------------------------


def read_chains(path: Path) -> list[tuple[str, str, str]]:
    """Return id, sequence and states of each chain of a file with three lines per chain."""
    lines = path.read_text("utf-8").splitlines()
    return [
        (header[1:], sequence, states)
        for header, sequence, states in zip(lines[::3], lines[1::3], lines[2::3], strict=True)
    ]


def finish(chains: str, predict: Callable[[list[str]], list[str]], **more: str) -> None:
    """Write what training used, to usage.json, and then the states of the test chains, to states.json.

    Args:
        chains: folder with tests.json.
        predict: returns the states of sequences.
        more: what else belongs into usage.json.
    """
    write_json(used_so_far() | more, Path("usage.json"))
    tests = json.loads(Path(chains, "tests.json").read_text("utf-8"))
    write_json({name: predict(sequences) for name, sequences in tests.items()}, Path("states.json"))


def write_json(content: object, path: Path) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content), "utf-8")
