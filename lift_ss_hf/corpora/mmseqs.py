"""mmseqs2, run quietly (Steinegger & Söding 2017, Nature Biotechnology 35:1026)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .chains import CorpusError


class MissingMmseqsError(CorpusError):
    """There is no mmseqs: homologues cannot be searched."""


def require_mmseqs() -> None:
    """Raise MissingMmseqsError, with what to install, unless mmseqs can be run."""
    if shutil.which("mmseqs") is None:
        raise MissingMmseqsError("mmseqs not found: sequences were not searched. Install mmseqs2 (Debian: mmseqs2).")


def run_mmseqs(*arguments: object) -> None:
    """Run mmseqs.

    Args:
        arguments: the command and its options, without `-v`.

    Raises:
        CorpusError: if it fails; with its last words.
    """
    command = ["mmseqs", *map(str, arguments), "-v", "1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        words = " ".join(done.stdout.split())[-300:] or "it said nothing"
        raise CorpusError(f"mmseqs {arguments[0]} failed with status {done.returncode}: {words}")


def write_fasta(records: Iterable[tuple[str, str]], path: Path) -> Path:
    """Write names and sequences; the path, for a command line."""
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in records), "ascii")
    return path
