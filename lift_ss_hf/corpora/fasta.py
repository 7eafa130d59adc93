"""Read FASTA files, plain or compressed, one record at a time."""

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
}  # by the first bytes of the file


def read_fasta(path: str | Path) -> Iterator[tuple[str, str]]:
    r"""Read a FASTA file as a stream of (name, sequence).

    Args:
        path: plain text, or compressed with gzip, bzip2, xz or zstd.

    Yields:
        the first word of the header, and the residues in upper case without blanks.

    Raises:
        ValueError: if the file is missing or does not start with a header.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "chains.fasta")
        ...     _ = path.write_text(">1abc_A a kinase\nmkv\n")
        ...     list(read_fasta(path))
        [('1abc_A', 'MKV')]
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file.")
    with path.open("rb") as file, open_text(file) as lines:
        for name, sequence in read_fasta_lines(lines, str(path)):
            yield name, sequence.upper()


def open_text(stream: Any) -> IO[str]:
    """Open a binary stream as text, decompressed if its first bytes say so.

    Bytes that are not UTF-8 are replaced by U+FFFD.
    """
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
    """Read the lines of a FASTA file as a stream of (name, sequence), with letters unchanged.

    Args:
        lines: the lines of one file.
        where: name of the file, for messages.

    Raises:
        ValueError: if there is text before the first header; the message gives the line.
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
