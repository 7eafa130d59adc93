"""Where a number comes from: versions, commit, hardware, and which chains a model was trained on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save

from ..models.atomic import replacing
from ..version import __version__

PACKAGES = ("torch", "transformers", "adapters", "datasets", "accelerate", "deepspeed", "numpy")
TRAINING_CHAINS = "training_chains.safetensors"
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
TOKEN_FLAGS = ("--hub_token", "--push_to_hub_token")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON in one step."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def environment() -> dict[str, Any]:
    """What a number was measured with: versions, commit, hardware, command. No user, host or path."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "lift_ss_hf": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": versions,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "command": shown_command(sys.argv),
    }


def shown_command(arguments: Sequence[str]) -> str:
    """A command line as one text, without the folder of its program and without tokens."""
    shown = [Path(arguments[0]).name]
    for before, argument in itertools.pairwise(arguments):
        flag, is_joined, _ = argument.partition("=")
        if before in TOKEN_FLAGS:
            argument = "(token)"
        elif flag in TOKEN_FLAGS and is_joined:
            argument = f"{flag}=(token)"
        shown.append(TOKEN.sub("(token)", argument))
    return " ".join(shown)


def commit() -> str | None:
    """The checkout's commit, with `-modified` if it has changes; None where the package is no checkout."""
    folder = Path(__file__).parent
    try:
        run = {"cwd": folder, "capture_output": True, "text": True, "check": True, "timeout": 10}
        inside = subprocess.run(["git", "ls-files", "--error-unmatch", Path(__file__).name], **run)  # type: ignore[call-overload]
        head = subprocess.run(["git", "rev-parse", "HEAD"], **run).stdout.strip()  # type: ignore[call-overload]
        changes = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **run)  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("-modified" if changes.stdout.strip() else "") if inside.stdout else None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def sequence_hashes(sequences: Iterable[str]) -> np.ndarray:
    """(n,) uint64, sorted and unique: the first 8 bytes of BLAKE2b of each sequence."""
    digests = b"".join(hashlib.blake2b(sequence.encode(), digest_size=8).digest() for sequence in sequences)
    return np.unique(np.frombuffer(digests, dtype=np.uint64))


def save_training_chains(folder: str | Path, sequences: Iterable[str]) -> None:
    """Keep which sequences a model was trained on, 8 bytes each, so that leakage can be counted anywhere."""
    with replacing(Path(folder) / TRAINING_CHAINS) as part:
        part.write_bytes(save({"hashes": sequence_hashes(sequences)}))


def load_training_chains(folder: str | Path) -> np.ndarray | None:
    """Hashes of the sequences that a model was trained on; None where they were not kept."""
    path = Path(folder) / TRAINING_CHAINS
    return load_file(path)["hashes"] if path.is_file() else None


def count_duplicates(training_chains: np.ndarray | None, sequences: Iterable[str]) -> int | None:
    """How many of the sequences a model was trained on; None where that is not known."""
    if training_chains is None:
        return None
    return sum(bool(np.isin(sequence_hashes([sequence]), training_chains)[0]) for sequence in sequences)
