"""Reading FASTA, plain or compressed, one record at a time."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878
OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}  # by a file's first bytes


def read_fasta(path: str | Path) -> Iterator[tuple[str, str]]:
    """Read a FASTA file as a stream of (name, sequence).

    Args:
        path: plain text, or compressed as gzip, bzip2, xz or zstd.

    Returns:
        the first word of each header, and the residues in upper case without blanks.

    Raises:
        ValueError: if the file is missing, or does not start with a header; the line is named.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file.")
    with path.open("rb") as file, open_text(file) as lines:
        for name, sequence in read_fasta_lines(lines, str(path)):
            yield name, sequence.upper()


def open_text(stream: Any) -> IO[str]:
    """Text of a binary stream, decompressed if its first bytes say so; what is no UTF-8 is marked, not refused."""
    buffered = io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream
    start = buffered.peek(6)[:6]
    raw: Any = buffered
    for magic, opener in OPENERS.items():
        if start.startswith(magic):
            raw = opener(buffered, "rb")
    if start.startswith(ZSTD_MAGIC):
        import pyarrow as pa

        raw = io.BufferedReader(pa.input_stream(pa.PythonFile(buffered, mode="r"), compression="zstd"))
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace")


def read_fasta_lines(lines: Iterable[str], where: str) -> Iterator[tuple[str, str]]:
    """Names and sequences, letters as they are, of FASTA lines.

    Args:
        lines: of one file.
        where: what an error calls the file.

    Raises:
        ValueError: if there is text before the first header; the line is named.
    """
    name: str | None = None
    parts: list[str] = []
    for number, line in enumerate(lines, start=1):
        if line.startswith(">"):
            if name is not None:
                yield name, "".join(parts)
            words = line[1:].split(maxsplit=1)
            name, parts = (words[0] if words else f"record_{number}"), []
        elif not line.isspace():
            if name is None:
                raise ValueError(f"{where}: line {number}: expected '>' and a name, found {line[:20].strip()!r}.")
            parts.append("".join(line.split()))
    if name is not None:
        yield name, "".join(parts)
