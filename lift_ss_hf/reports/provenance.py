"""Where a number comes from: versions, commit, hardware, command, and the chains a model was trained on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import logging
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.numpy import load_file, save

from ..models.atomic import replacing
from ..models.wording import first_line
from ..version import __version__

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "adapters", "datasets", "accelerate", "deepspeed", "numpy")
TRAINING_CHAINS = "training_chains.safetensors"
# hf_jwt_ and hf_oauth_ are followed by capitals and digits too, unlike the names of options, as hf_oauth_scopes
TOKEN = re.compile(r"\bhf_([A-Za-z0-9]{8,}|(jwt|oauth)_(?=[a-z_]*[A-Z0-9])[A-Za-z0-9_.-]{8,})")
TOKENS = ("hub_token", "push_to_hub_token")
HASH_BYTES = 8


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON. The file appears whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def environment() -> dict[str, Any]:
    """Return what a number was measured with: versions, commit, hardware and command.

    There is no user, host or token. The command has the paths that were given to it.
    """
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
    """Return a command line as a shell reads it, without the folder of its program and without access tokens.

    Example:
        >>> shown_command(["recipes/train_q8.py", "--seed", "1", "--hub_token", "secret"])
        'train_q8.py --seed 1 --hub_token (token)'
        >>> shown_command(["evaluate.py", "my model"])
        "evaluate.py 'my model'"
    """
    shown = [Path(arguments[0]).name]
    for before, argument in itertools.pairwise(arguments):
        flag, equals, _ = argument.partition("=")
        if _precedes_token(before):
            shown.append("(token)")
        elif _precedes_token(flag) and equals:
            shown.append(f"{flag}=(token)")
        else:
            shown.append(TOKEN.sub("(token)", shlex.quote(argument)))
    return " ".join(shown)


def _precedes_token(flag: str) -> bool:
    """Return True for `--hub_token` and its like, which HfArgumentParser reads with hyphens too."""
    return flag.startswith("--") and flag[2:].replace("-", "_") in TOKENS


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


def load_training_chains(name: str | Path) -> np.ndarray | None:
    """Return the hashes of the sequences a model was trained on, or None if they were not saved with it.

    Args:
        name: Hub id or folder of the model. If the Hub cannot be asked, a warning says so and the result is None.
    """
    path = Path(name) / TRAINING_CHAINS
    if not path.is_file():
        if Path(name).is_dir():
            return None
        try:
            path = Path(hf_hub_download(os.fspath(name), TRAINING_CHAINS))
        except LocalEntryNotFoundError as error:
            logger.warning("%s: not known which chains it was trained on (%s)", name, first_line(error))
            return None
        except EntryNotFoundError:
            return None
    return load_file(path)["hashes"]


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
