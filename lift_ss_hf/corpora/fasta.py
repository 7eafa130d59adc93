"""Read FASTA files, plain or compressed, one record at a time."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..models.states import NINE_STATES, UNRESOLVED
from ..models.wording import first_line, no_such_file
from .file_kinds import BZIP2, DAMAGE_ERRORS, GZIP, START_BYTES, XZ, ZSTD, other_kind

OPENERS: dict[bytes, Any] = {GZIP: gzip.open, BZIP2: bz2.open, XZ: lzma.open}  # by the first bytes of the file

# Titin, the longest human protein, has about 35,000 residues. A longer record is more likely a genome or a
# damaged file, and is refused before it fills the memory.
MAX_RESIDUES = 100_000
MAX_HEADER = 100_000  # characters

PIR_PROTEINS = ("P1", "F1")  # complete and fragment; the other codes of the format are nucleic acids
PIR_CODES = (*PIR_PROTEINS, "DL", "DC", "RL", "RC", "N1", "N3", "XX")
STATE_LETTERS = frozenset(NINE_STATES + "C" + UNRESOLVED)
UNKNOWN_STATES = frozenset("-~?.")
MIN_STATES = 10  # nobody breaks the lines of a sequence earlier


def read_fasta(path: str | Path) -> Iterator[tuple[str, str]]:
    r"""Read a FASTA or PIR file as a stream of (name, sequence).

    Args:
        path: plain text, or compressed with gzip, bzip2, xz or zstd.

    Yields:
        the first word of the header, `record_N` if there is none, and the residues in upper case without blanks.

    Raises:
        ValueError: if the file is missing or damaged, or as in `read_fasta_lines`.

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
        raise ValueError(no_such_file(path))
    with path.open("rb") as file:
        try:
            records = read_fasta_lines(open_text(file, str(path)), str(path), MAX_RESIDUES)
            for number, (name, sequence) in enumerate(records, start=1):
                yield name or f"record_{number}", sequence.upper()
        except DAMAGE_ERRORS as error:
            raise ValueError(damaged(str(path), error)) from None


def open_text(stream: Any, where: str) -> IO[str]:
    """Open a binary stream as text, decompressed if its first bytes say so.

    Bytes that are not UTF-8 are replaced by U+FFFD.

    Args:
        stream: a binary stream.
        where: name of the file, for messages.

    Raises:
        ValueError: if the file is not text.
    """
    buffered = io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream
    start = buffered.peek(6)[:6]
    raw: Any = buffered
    for magic, opener in OPENERS.items():
        if start.startswith(magic):
            raw = opener(buffered, "rb")
    if start.startswith(ZSTD):
        import pyarrow as pa

        raw = io.BufferedReader(pa.input_stream(pa.PythonFile(buffered, mode="r"), compression="zstd"))
    if kind := other_kind(raw.peek(START_BYTES)[:START_BYTES]):
        raise ValueError(f"{where}: this is {kind}")
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace")


def read_fasta_lines(stream: IO[str], where: str, max_residues: int) -> Iterator[tuple[str, str]]:
    """Read a FASTA file as a stream of (name, sequence), with letters unchanged; the name may be empty.

    PIR (NBRF) is read too: its headers start with `>P1;`, a line of title follows, and `*` ends the sequence.

    Args:
        stream: the text of one file.
        where: name of the file, for messages.
        max_residues: longest record accepted.

    Raises:
        ValueError: if there is text before the first header, if a record is too long, if it has a line of states, or is
            incomplete PIR; the message gives the line.
    """
    record: _Record | None = None
    for number, line in enumerate(bounded_lines(stream, where, max_residues + MAX_HEADER), start=1):
        if line.startswith(">"):
            if record is not None:
                yield record.name, record.sequence()
            if len(line) > MAX_HEADER:
                raise ValueError(f"{where}: line {number}: a header of more than {MAX_HEADER:,} characters.")
            record = _Record(line, f"{where}: line {number}", max_residues)
        elif not line.isspace() or (record is not None and record.expects_title):
            if record is None:
                raise ValueError(f"{where}: line {number}: expected '>' and a name, found {line[:20].strip()!r}.")
            record.add(line)
    if record is not None:
        yield record.name, record.sequence()


def bounded_lines(stream: IO[str], where: str, max_characters: int) -> Iterator[str]:
    """Yield the lines of a text, and raise ValueError at one so long that it would fill the memory."""
    number = 0
    max_characters = min(max_characters, sys.maxsize)  # readline accepts no more
    while line := stream.readline(max_characters):
        number += 1
        if len(line) == max_characters and not line.endswith("\n"):
            raise ValueError(f"{where}: line {number} has {max_characters:,} characters or more. Is this a text file?")
        yield line


class _Record:
    """A record whose lines are still being read.

    Attributes:
        name: the first word of its header, without the code of PIR; may be empty.
        expects_title: the next line is the title of a PIR record.
    """

    def __init__(self, header: str, where: str, max_residues: int):
        words = header[1:].split(maxsplit=1)
        self.name = words[0] if words else ""
        self._where, self._max_residues = where, max_residues
        self._lines: list[str] = []
        self._length = 0
        code, semicolon, name = self.name.partition(";")
        self._is_pir = self.expects_title = bool(semicolon) and code in PIR_CODES
        if self._is_pir:
            self.name = name
            if code not in PIR_PROTEINS:
                raise ValueError(f"{where}: {code} is PIR's code for a nucleic acid. Leave it out, or translate it.")

    def add(self, line: str) -> None:
        """Add a line of the sequence, or skip the title."""
        if self.expects_title:
            self.expects_title = False
            return
        self._lines.append("".join(line.split()))
        self._length += len(self._lines[-1])
        if self._length > self._max_residues:
            raise ValueError(too_long(f"{self._where}: the record", self._max_residues))

    def sequence(self) -> str:
        """Return the whole sequence."""
        sequence = "".join(self._lines)
        if self._is_pir:
            if not sequence.endswith("*"):
                raise ValueError(
                    f"{self._where}: in PIR a title follows the header and '*' ends the sequence, but there is no '*'. "
                    "If this is FASTA, remove what stands before the ';' in the headers."
                )
            return sequence[:-1]
        if len(self._lines) == 2 and _are_states(*self._lines):
            raise ValueError(
                f"{self._where}: the second line after the header looks like states (three-line text: name, residues, "
                "states). Remove the lines of states."
            )
        return sequence


def _are_states(residues: str, states: str) -> bool:
    """Return True if the second of two lines can only be the states of the first, and the first is residues."""
    num_states = sum(letter in STATE_LETTERS for letter in states)
    known = len(states) - sum(letter in UNKNOWN_STATES for letter in states)  # in an alignment `-` and `.` are gaps
    looks_like_states = MIN_STATES <= num_states == known
    return len(residues) == len(states) and looks_like_states and not set(residues.upper()) <= STATE_LETTERS


def too_long(what: str, max_residues: int) -> str:
    """Return the message that something has more residues than accepted."""
    return (
        f"{what} has more than {max_residues:,} residues; the longest human protein has 35,000. Remove it; if it is a "
        "protein, `lift-ss predict --max_residues` accepts it."
    )


def damaged(where: str, error: Exception) -> str:
    """Return the message that a file cannot be read to its end."""
    return f"{where}: damaged or truncated ({first_line(error)}). Download or copy the file again."
