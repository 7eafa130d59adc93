"""Reading FASTA, plain or compressed, one record at a time."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterator
from pathlib import Path


def read_fasta(path: str | Path) -> Iterator[tuple[str, str]]:
    """Read a FASTA file as a stream of (name, sequence).

    Args:
        path: plain text, `.gz` or `.xz`.

    Returns:
        the first word of each header, and the residues in upper case without blanks.

    Raises:
        ValueError: if the file is missing, or does not start with a header; the line is named.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file.")
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    name: str | None = None
    parts: list[str] = []
    with opener(path, "rt", encoding="utf-8") as file:  # type: ignore[operator]
        for number, line in enumerate(file, start=1):
            if line.startswith(">"):
                if name is not None:
                    yield name, "".join(parts)
                words = line[1:].split()
                name, parts = (words[0] if words else f"record_{number}"), []
            elif line.strip():
                if name is None:
                    raise ValueError(f"{path}: line {number}: expected '>' and a name, found {line[:20].strip()!r}.")
                parts.append("".join(line.split()).upper())
    if name is not None:
        yield name, "".join(parts)
