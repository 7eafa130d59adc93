"""Read proteins one record at a time: FASTA, CSV, TSV, Parquet, a data set of `datasets`, or sequences as arguments.

Compression (gzip, bzip2, xz, zstd) is recognised by the first bytes, so it works for standard input too. Only one
record, or one batch of rows of a Parquet file, is in memory at a time, whatever the size of the input.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..corpora.fasta import MAX_RESIDUES, bounded_lines, damaged, open_text, read_fasta_lines, too_long
from ..corpora.file_kinds import DAMAGE_ERRORS, is_data_set
from ..corpora.tables import (
    MAX_TABLE_LINE,
    NAME_COLUMNS,
    SEPARATORS,
    SEQUENCE_COLUMNS,
    find_column,
    open_table,
    require_column,
)
from ..models.wording import close_paths, first_line, no_such_file
from .process_rank import ProcessRank
from .records import Record, printable_name

# As pandas, R and Excel write them. NAN, NA, NONE and NULL are peptides, too, but in a table that is far less likely.
MISSING_VALUES = ("nan", "none", "null", "na", "n/a", "<na>", "#n/a")
STANDARD_INPUT = "-"

Row = tuple[str, str, str]  # name and sequence as read, and why there is no sequence if a table has none


class ByteCounter(io.RawIOBase):
    """A binary stream that counts the bytes read from it.

    Attributes:
        count: bytes read so far.
    """

    def __init__(self, stream: Any):
        super().__init__()
        self.stream, self.count = stream, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read up to `len(buffer)` bytes into a buffer, and return how many."""
        data = self.stream.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


class Inputs:
    """The records of all inputs of a command line, in order, numbered from 1.

    Args:
        sources: files, `-` for standard input, `org/name` or `org/name@split` for a data set of `datasets`, and
            sequences. A word in lower case that resembles the name of a file is taken for a misspelt file.
        max_residues: longest sequence accepted.

    Attributes:
        sources: each with its size [bytes], 0 if it is not a file, as runs record them.

    Raises:
        ValueError: if a source is none of these, or several processes would share standard input or a pipe; raised
            before anything is read.

    Example:
        >>> [(record.number, record.name, record.sequence) for record in Inputs(["MKTAYIAK", "ACDEFG"])]
        [(1, 'record_1', 'MKTAYIAK'), (2, 'record_2', 'ACDEFG')]
    """

    def __init__(self, sources: Sequence[str], max_residues: int = MAX_RESIDUES):
        if max_residues < 1:
            raise ValueError(f"--max_residues is {max_residues}. Expected 1 or more.")
        if not sources:
            raise ValueError("no input. Give a FASTA file, - for standard input, or a sequence.")
        if list(sources).count(STANDARD_INPUT) > 1:
            raise ValueError("standard input (-) can be read only once.")
        if (stream := next(filter(_is_stream, sources), None)) and ProcessRank.from_environment().size > 1:
            raise ValueError(f"several processes cannot share {_shown(stream)}: each would read a part. Give a file.")
        self._readers = [(source, _reader(source)) for source in sources]
        self._sizes = [_file_size(Path(source)) for source in sources]
        self.sources = [list(pair) for pair in zip(sources, self._sizes, strict=True)]
        self._finished, self._counter = 0, ByteCounter(io.BytesIO())
        self.max_residues = max_residues

    def __iter__(self) -> Iterator[Record]:
        """Yield the records.

        Raises:
            ValueError: if a file is damaged or of an unknown format, or a sequence is too long; the message names the
                file and the line or row.
        """
        numbers = itertools.count(1)
        for (source, read), size in zip(self._readers, self._sizes, strict=True):
            try:
                for name, sequence, problem in read(self):
                    number = next(numbers)
                    if len(sequence) > self.max_residues:
                        raise ValueError(too_long(f"{_shown(source)}: record {number}", self.max_residues))
                    yield Record(number, printable_name(name, number), sequence, problem)
            except PermissionError:
                raise
            except (*DAMAGE_ERRORS, pa.ArrowException) as error:
                raise ValueError(damaged(_shown(source), error)) from None
            self._finished, self._counter = self._finished + size, ByteCounter(io.BytesIO())

    @contextlib.contextmanager
    def open(self, source: str) -> Iterator[IO[str]]:
        """Open a file or standard input as text; what is read counts towards `fraction_read`."""
        with contextlib.ExitStack() as stack:
            binary = sys.stdin.buffer if source == STANDARD_INPUT else stack.enter_context(Path(source).open("rb"))
            self._counter = ByteCounter(binary)
            yield open_text(self._counter, _shown(source))

    @property
    def fraction_read(self) -> float | None:
        """How much of all inputs has been read [fraction of bytes]; None if an input is not a file."""
        total = sum(self._sizes)
        return (self._finished + self._counter.count) / total if all(self._sizes) else None


def _shown(source: str) -> str:
    return "standard input" if source == STANDARD_INPUT else source[:80] if _is_sequence(source) else source


def _is_sequence(source: str) -> bool:
    """Return True for letters, with a stop codon at the end or not, unless they resemble the name of a file."""
    letters = source.rstrip("*")
    return letters.isascii() and letters.isalpha() and (letters.isupper() or not close_paths(source))


def _reader(source: str) -> Callable[[Inputs], Iterator[Row]]:
    """Return the function that reads a source."""
    path = Path(source)
    if source == STANDARD_INPUT or path_kind(path) == "file":
        suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
        if ".parquet" in suffixes[-1:]:
            return lambda inputs: _parquet_rows(source)
        for suffix, separator in SEPARATORS.items():
            if suffix in suffixes:
                return lambda inputs: _table_rows(inputs, source, separator)
        return lambda inputs: _fasta_rows(inputs, source)
    if _is_sequence(source):
        return lambda inputs: iter([("", source, "")])
    name, _, split = source.rpartition("@") if "@" in source else (source, "", "")
    if path_kind(Path(name)) == "folder" or (is_data_set(name) and not close_paths(name)):
        return lambda inputs: _dataset_rows(name, split)
    raise ValueError(
        f"{no_such_file(source)} Give a file, - for standard input, a sequence (in capital letters, if it resembles a "
        "file's name), or a data set as org/name."
    )


def path_kind(path: Path) -> str | None:
    """Return `file` (or a named pipe or device), `folder`, or None if the path does not exist."""
    try:
        if path.is_file() or path.is_fifo() or path.is_char_device():
            return "file"
        return "folder" if path.is_dir() else None
    except (OSError, ValueError):  # the name is too long, or contains a zero byte
        return None


def _is_stream(source: str) -> bool:
    """Return True for standard input, a named pipe or a device, which can be read only once."""
    path = Path(source)
    return source == STANDARD_INPUT or (path_kind(path) == "file" and not path.is_file())


def _file_size(path: Path) -> int:
    """Return the size of a file [bytes], 0 for anything else."""
    return path.stat().st_size if path_kind(path) == "file" else 0


def _fasta_rows(inputs: Inputs, source: str) -> Iterator[Row]:
    with inputs.open(source) as lines:
        for name, sequence in read_fasta_lines(lines, _shown(source), inputs.max_residues):
            yield name, sequence, ""


def _table_rows(inputs: Inputs, source: str, separator: str) -> Iterator[Row]:
    shown = _shown(source)
    with inputs.open(source) as text:
        header, rows = open_table(bounded_lines(text, shown, MAX_TABLE_LINE), separator, shown)
        yield from _rows(_columns(header, shown), rows, shown)


def _columns(header: Sequence[str], where: str) -> tuple[str, str | None]:
    """Return the column of sequences and that of names, None if there are no names."""
    return require_column(header, SEQUENCE_COLUMNS, "sequences", where), find_column(header, NAME_COLUMNS, where)


def _parquet_rows(source: str) -> Iterator[Row]:
    try:
        table = pq.ParquetFile(Path(source).absolute())  # pyarrow takes a relative run:1/chains.parquet for a URI
    except PermissionError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{source}: not a complete Parquet file ({first_line(error)}).") from None
    columns = _columns(table.schema_arrow.names, source)
    yield from _rows(columns, _numbered(_parquet_values(table, [name for name in columns if name])), source)


def _parquet_values(table: pq.ParquetFile, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in table.iter_batches(batch_size=1024, columns=columns):
        yield from batch.to_pylist()


def _numbered(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _rows(columns: tuple[str, str | None], rows: Iterable[tuple[str, Mapping[str, Any]]], source: str) -> Iterator[Row]:
    sequence, name = columns
    for location, row in rows:
        label = row[name] if name is not None else None
        yield "" if label is None else str(label), *_sequence(row[sequence], f"{source}: {location}", sequence)


def _sequence(cell: Any, where: str, column: str) -> tuple[str, str]:
    """Return the sequence in a cell of a table, and why there is none if the cell is empty or means a missing value.

    Args:
        cell: its content.
        where: file and row, for messages.
        column: name of the column.

    Raises:
        ValueError: if the cell is neither text nor missing.
    """
    where, text = f"{where}, column {column!r}", "" if cell is None else str(cell).strip()
    if not text:
        return "", f"{where}: the cell is empty. Fill it in, or leave out the row."
    if text.lower() in MISSING_VALUES:
        peptide = " A peptide of these letters can be read from a FASTA file." if text.isalpha() else ""
        return "", f"{where}: {text!r} stands for a missing value. Leave out the row.{peptide}"
    if not isinstance(cell, str):
        raise ValueError(f"{where}: the sequence is {cell!r}. Expected a string.")
    return cell, ""


def _dataset_rows(name: str, split: str) -> Iterator[Row]:
    import datasets

    with _dataset_errors(name):
        splits = datasets.get_dataset_split_names(name)
        if not split and len(splits) > 1:
            raise ValueError(f"it has the splits {', '.join(splits)}. Choose one, for example {name}@{splits[0]}.")
        rows = datasets.load_dataset(name, split=split or splits[0], streaming=True)
    values = _dataset_values(rows, name)
    if first := next(values, None):  # which has the columns; `datasets` does not know those of CSV in advance
        yield from _rows(_columns(list(first), name), _numbered(itertools.chain([first], values)), name)


def _dataset_values(rows: Iterable[dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    try:
        yield from rows
    except Exception as error:  # of a dozen types, as in `_dataset_errors`
        raise ValueError(f"Cannot read the data set {name}: {first_line(error)}") from error


@contextlib.contextmanager
def _dataset_errors(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # `datasets` raises a dozen types; all mean that the data set cannot be read
        missing = "" if path_kind(Path(name)) else f"{no_such_file(name)} "
        raise ValueError(f"{missing}Cannot read the data set {name}: {first_line(error)}") from error
