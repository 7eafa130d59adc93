"""Where a benchmark's numbers come from. Standard library only: a benchmark of memory must not load torch."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path


def origin(library: str, threads: str) -> str:
    """Return commit, versions and hardware in one line.

    Args:
        library: name and version of what does the work.
        threads: how many of them, in words.
    """
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=10"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    cpu_info = Path("/proc/cpuinfo")  # Linux only; platform.processor() is empty there
    lines = cpu_info.read_text().splitlines() if cpu_info.is_file() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return (
        f"commit {commit.stdout.strip() or 'unknown'}, Python {platform.python_version()}, {library}, "
        f"{models[0] if models else platform.processor()}, {threads}"
    )
