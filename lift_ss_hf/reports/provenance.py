"""Where a number comes from: versions, commit, hardware, command, and the chains a model was trained on."""

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
TOKENS = ("hub_token", "push_to_hub_token")
TOKEN_FLAGS = tuple(f"--{name}" for name in TOKENS)
HASH_BYTES = 8


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON. The file appears whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def environment() -> dict[str, Any]:
    """Return what a number was measured with: versions, commit, hardware and command, but no user, host or path."""
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
    """Return a command line as one string, without the folder of its program and without access tokens.

    Example:
        >>> shown_command(["recipes/train_q8.py", "--seed", "1", "--hub_token", "secret"])
        'train_q8.py --seed 1 --hub_token (token)'
    """
    shown = [Path(arguments[0]).name]
    for before, argument in itertools.pairwise(arguments):
        flag, equals, _ = argument.partition("=")
        if before in TOKEN_FLAGS:
            argument = "(token)"
        elif flag in TOKEN_FLAGS and equals:
            argument = f"{flag}=(token)"
        shown.append(TOKEN.sub("(token)", argument))
    return " ".join(shown)


def commit() -> str | None:
    """Return the commit of the checkout, followed by `-modified` if it has changes; None outside a checkout."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # fails if the package only lies in another repository
        head = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}-modified" if changes else head


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    folder = Path(__file__).parent
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def sequence_hashes(sequences: Iterable[str]) -> np.ndarray:
    """Return (n,) uint64: the distinct hashes of the sequences, sorted.

    Example:
        >>> sequence_hashes(["MKV", "ACD", "MKV"]).shape
        (2,)
    """
    return np.unique(_hashes(sequences))


def _hashes(sequences: Iterable[str]) -> np.ndarray:
    """Return the first 8 bytes of the BLAKE2b digest of each sequence as uint64."""
    digests = (hashlib.blake2b(sequence.encode(), digest_size=HASH_BYTES).digest() for sequence in sequences)
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def save_training_chains(folder: str | Path, sequences: Iterable[str]) -> None:
    """Save which sequences a model was trained on as hashes of 8 bytes, so that anyone can test for leakage."""
    with replacing(Path(folder) / TRAINING_CHAINS) as part:
        part.write_bytes(save({"hashes": sequence_hashes(sequences)}))


def load_training_chains(folder: str | Path) -> np.ndarray | None:
    """Return the hashes of the sequences a model was trained on, or None if they were not saved with it."""
    path = Path(folder) / TRAINING_CHAINS
    return load_file(path)["hashes"] if path.is_file() else None


def in_training(training_chains: np.ndarray | None, sequences: Iterable[str]) -> np.ndarray | None:
    """Return (n,) bool: True for each sequence that a model was trained on; None if `training_chains` is None.

    Args:
        training_chains: what `load_training_chains` or `sequence_hashes` returns.
        sequences: residues of each chain.

    Example:
        >>> in_training(sequence_hashes(["MKV", "ACD"]), ["MKV", "MKL"])
        array([ True, False])
    """
    return None if training_chains is None else np.isin(_hashes(sequences), training_chains)


def count_duplicates(training_chains: np.ndarray | None, sequences: Iterable[str]) -> int | None:
    """Count the sequences that a model was trained on. Arguments as for `in_training`; None if that is not known."""
    known = in_training(training_chains, sequences)
    return None if known is None else int(known.sum())
