"""Proteins from anywhere, one record at a time: FASTA, CSV, TSV and Parquet, a `datasets` name, letters as they are.

Compression (gzip, bzip2, xz, zstd) is told by the first bytes, so that it works on standard input too. Nothing is
held but the record in hand, whatever the size of the input.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..corpora.fasta import open_text, read_fasta_lines
from .records import Record, printable_name

SEQUENCE_COLUMNS = ("sequence", "seq", "residues", "protein", "input")
NAME_COLUMNS = ("id", "name", "accession", "entry", "header", "chain_id")
STANDARD_INPUT = "-"
TABLES = {".csv": ",", ".tsv": "\t"}
# What damaged files raise on the way, besides our own ValueError.
DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error, pa.ArrowException, csv.Error)

Pair = tuple[str, str]  # name and sequence, as read


class ByteCounter(io.RawIOBase):
    """A binary stream that knows how far it has been read [bytes]."""

    def __init__(self, stream: Any):
        super().__init__()
        self.stream, self.count = stream, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer."""
        data = self.stream.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


class Inputs:
    """All records of a command line's inputs, in order, numbered from 1.

    Args:
        sources: files, `-` for standard input, `org/name` or `org/name@split` of `datasets`, and sequences in capitals.

    Raises:
        ValueError: for a source that is nothing of these, before anything is read.
    """

    def __init__(self, sources: Sequence[str]):
        if not sources:
            raise ValueError("no input. Give a FASTA file, - for standard input, or a sequence.")
        if list(sources).count(STANDARD_INPUT) > 1:
            raise ValueError("standard input (-) can be read only once.")
        self._readers = [(source, _reader(source)) for source in sources]
        self._sizes = [Path(source).stat().st_size if Path(source).is_file() else 0 for source in sources]
        self._finished, self._counter = 0, ByteCounter(io.BytesIO())

    def __iter__(self) -> Iterator[Record]:
        """Read.

        Raises:
            ValueError: for a file that is damaged or of no known form; it names the file and the line or row.
        """
        numbers = itertools.count(1)
        for (source, read), size in zip(self._readers, self._sizes, strict=True):
            pairs = read(self)
            while True:
                try:
                    name, sequence = next(pairs)
                except StopIteration:
                    break
                except DAMAGE as error:
                    reason = (str(error).splitlines() or [type(error).__name__])[0]
                    raise ValueError(
                        f"{_shown(source)}: damaged or cut short ({reason}). Get the file again."
                    ) from None
                number = next(numbers)
                yield Record(number, printable_name(name, number), sequence)
            self._finished, self._counter = self._finished + size, ByteCounter(io.BytesIO())

    @contextlib.contextmanager
    def open(self, source: str) -> Iterator[IO[str]]:
        """The text of a file or of standard input; how far it is read counts towards `fraction_read`."""
        with contextlib.ExitStack() as stack:
            binary = sys.stdin.buffer if source == STANDARD_INPUT else stack.enter_context(Path(source).open("rb"))
            self._counter = ByteCounter(binary)
            yield open_text(self._counter)

    @property
    def fraction_read(self) -> float | None:
        """How much of all inputs has been read [fraction of bytes]; None where that is not known."""
        total = sum(self._sizes)
        return (self._finished + self._counter.count) / total if all(self._sizes) else None


def _shown(source: str) -> str:
    return "standard input" if source == STANDARD_INPUT else source


def _reader(source: str) -> Callable[[Inputs], Iterator[Pair]]:
    """How a source is read."""
    path = Path(source)
    is_file, _ = _exists(path)
    if source == STANDARD_INPUT or is_file:
        kinds = [suffix.lower() for suffix in path.suffixes[-2:]]
        if ".parquet" in kinds[-1:]:
            return lambda inputs: _parquet_pairs(inputs, source)
        for kind, separator in TABLES.items():
            if kind in kinds:
                return lambda inputs: _table_pairs(inputs, source, separator)
        return lambda inputs: _fasta_pairs(inputs, source)
    if source.isascii() and source.isalpha() and source.isupper():
        return lambda inputs: iter([("", source)])
    name, _, split = source.rpartition("@") if "@" in source else (source, "", "")
    if name.count("/") == 1 or _exists(Path(name))[1]:
        return lambda inputs: _dataset_pairs(name, split)
    raise ValueError(
        f"{source[:80]}: no such file. Give a file, - for standard input, a sequence in capital letters, or a data set "
        "as org/name."
    )


def _exists(path: Path) -> tuple[bool, bool]:
    """Whether there is a file, or a folder, of that name."""
    try:
        return path.is_file() or path.is_fifo(), path.is_dir()
    except (OSError, ValueError):  # longer than a name may be, or with a zero byte in it
        return False, False


def _fasta_pairs(inputs: Inputs, source: str) -> Iterator[Pair]:
    with inputs.open(source) as lines:
        yield from read_fasta_lines(lines, _shown(source))


def _table_pairs(inputs: Inputs, source: str, separator: str) -> Iterator[Pair]:
    with inputs.open(source) as lines:
        rows = csv.reader(lines, delimiter=separator)
        header = next(rows, [])
        sequence, name = _columns(header, _shown(source))
        for row in filter(None, rows):
            if len(row) != len(header):
                raise ValueError(
                    f"{_shown(source)}: line {rows.line_num}: {len(row)} fields, but the header has {len(header)}."
                )
            yield row[name] if name is not None else "", row[sequence]


def _columns(header: Sequence[str], where: str) -> tuple[int, int | None]:
    """Which columns hold the sequence and, if any, the name."""
    lower = [column.strip().lower() for column in header]
    sequence = next((lower.index(column) for column in SEQUENCE_COLUMNS if column in lower), None)
    if sequence is None:
        raise ValueError(
            f"{where}: no column of sequences; found {', '.join(header)[:200] or 'nothing'}. "
            f"Call it one of: {', '.join(SEQUENCE_COLUMNS)}."
        )
    return sequence, next((lower.index(column) for column in NAME_COLUMNS if column in lower), None)


def _parquet_pairs(inputs: Inputs, source: str) -> Iterator[Pair]:
    try:
        table = pq.ParquetFile(source)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{source}: no whole Parquet file ({str(error).splitlines()[0]}).") from None
    yield from _rows(table.schema_arrow.names, _parquet_rows(table), source)


def _parquet_rows(table: pq.ParquetFile) -> Iterator[dict[str, Any]]:
    for batch in table.iter_batches(batch_size=1024):
        yield from batch.to_pylist()


def _rows(columns: Sequence[str], rows: Iterator[dict[str, Any]], where: str) -> Iterator[Pair]:
    sequence, name = _columns(columns, where)
    for number, row in enumerate(rows, start=1):
        value = row[columns[sequence]]
        if not isinstance(value, str):
            raise ValueError(f"{where}: row {number}: the sequence is {value!r}. Expected a string.")
        yield str(row[columns[name]] or "") if name is not None else "", value


def _dataset_pairs(name: str, split: str) -> Iterator[Pair]:
    import datasets

    with _dataset_errors(name):
        splits = datasets.get_dataset_split_names(name)
        if not split and len(splits) > 1:
            raise ValueError(f"it has the splits {', '.join(splits)}. Name one: {name}@{splits[0]}.")
        rows = datasets.load_dataset(name, split=split or splits[0], streaming=True)
    columns = list(rows.column_names or next(iter(rows)))
    yield from _rows(columns, iter(rows), name)


@contextlib.contextmanager
def _dataset_errors(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # datasets raises a dozen kinds, and all of them mean that the name is of no use
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the data set {name} cannot be read: {reason}") from error
