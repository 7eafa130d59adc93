"""Run mmseqs2 (Steinegger & Söding 2017, Nature Biotechnology 35:1026)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .chains import CorpusError


class MissingMmseqsError(CorpusError):
    """mmseqs is not installed."""


def require_mmseqs() -> None:
    """Raise MissingMmseqsError, which says what to install, if mmseqs is not on the PATH."""
    if shutil.which("mmseqs") is None:
        raise MissingMmseqsError("mmseqs not found: sequences were not searched. Install mmseqs2 (Debian: mmseqs2).")


def run_mmseqs(*arguments: object) -> None:
    """Run mmseqs without output.

    Args:
        arguments: the command and its options, without `-v`.

    Raises:
        CorpusError: if it fails; the message ends with the end of its output.
    """
    command = ["mmseqs", *map(str, arguments), "-v", "1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        output = " ".join(done.stdout.split())[-300:] or "no output"
        raise CorpusError(f"mmseqs {arguments[0]} failed with status {done.returncode}: {output}")


def write_fasta(records: Iterable[tuple[str, str]], path: Path) -> Path:
    """Write names and sequences to a FASTA file, and return its path for use in a command line."""
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in records), "utf-8")
    return path
