"""Chains from the rows of a table: CSV, Parquet, or a data set of the datasets library.

The columns may have any of the names in use: `id`, `sequence`, `states`; NetSurfP-2.0's `input`, `dssp8`, `disorder`,
`cb513_mask`; and others. A column `split` says which part of the corpus a chain belongs to.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..models.states import UNRESOLVED
from ..models.wording import counted
from .chains import Chain, CorpusError, check_chain

# Names of columns, the preferred ones first; upper and lower case are the same.
NAME_COLUMNS = ("id", "name", "accession", "entry", "header", "chain_id")
SEQUENCE_COLUMNS = ("sequence", "seq", "residues", "protein", "input")
STATES_COLUMNS = (
    *("states", "dssp8", "sst8", "ss8", "dssp", "expected", "labels", "target", "dssp3", "sst3", "ss3"),
    *("secondary_structure", "structure"),
)
SPLIT_COLUMNS = ("split", "set")
SEPARATORS = {".csv": ",", ".tsv": "\t"}  # of columns, by the suffix of a file
MAX_TABLE_LINE = 1 << 24  # characters; of a cell as well, which may have several lines
# NetSurfP-2.0's columns of 0 and 1, one per residue: has coordinates, and is scored. Elsewhere `disorder` may mean the
# opposite, so it counts only beside these states.
MASK_COLUMNS = ("disorder", "cb513_mask")
NETSURFP_STATES = ("dssp8", "dssp3")

# How a split may be written: the start of its name in lower case, and ours.
SPLIT_NAMES = {"train": "train", "val": "validation", "dev": "validation", "test": "test"}


@dataclass(frozen=True)
class TableColumns:
    """The columns of a table that hold chains.

    Attributes:
        sequence, states: columns of residues and of states.
        name: column of ids; None if there is none.
        split: column of splits; None if there is none.
        masks: columns of 0 and 1; a residue with a 0 in any of them is unresolved.
    """

    sequence: str
    states: str
    name: str | None = None
    split: str | None = None
    masks: tuple[str, ...] = ()

    @classmethod
    def of(cls, columns: Sequence[str], where: str) -> TableColumns:
        """Find the columns by their names.

        Args:
            columns: names of all columns.
            where: the table, for messages.

        Raises:
            CorpusError: if there is no column of sequences or of states, or two columns have a name that is read.

        Example:
            >>> TableColumns.of(["ID", "Seq", "dssp3", "dssp8"], "chains.csv").states
            'dssp8'
        """
        sequence = require_column(columns, SEQUENCE_COLUMNS, "sequences", where)
        states = require_column(columns, STATES_COLUMNS, "states", where)
        has_masks = states.strip().lower() in NETSURFP_STATES
        masks = [find_column(columns, (name,), where) for name in MASK_COLUMNS if has_masks]
        return cls(
            sequence,
            states,
            find_column(columns, NAME_COLUMNS, where),
            find_column(columns, SPLIT_COLUMNS, where),
            tuple(mask for mask in masks if mask is not None),
        )


def find_column(columns: Sequence[str], names: Sequence[str], where: str) -> str | None:
    """Return the column with one of some names, in upper or lower case; None if there is none.

    Args:
        columns: names of all columns.
        names: the names, the preferred ones first.
        where: the table, for messages.

    Raises:
        CorpusError: if two columns have the name.
    """
    lower = [column.strip().lower() for column in columns]
    name = next((name for name in names if name in lower), None)
    if name is None:
        return None
    if lower.count(name) > 1:
        raise CorpusError(f"{where}: {lower.count(name)} columns are called {name!r}. Rename or remove all but one.")
    return columns[lower.index(name)]


def require_column(columns: Sequence[str], names: Sequence[str], part: str, where: str) -> str:
    """Return the column that `find_column` finds, and raise CorpusError if there is none of this part of a chain."""
    column = find_column(columns, names, where)
    if column is None:
        raise CorpusError(
            f"{where}: no column of {part}; found {', '.join(columns)[:200] or 'no columns'}. "
            f"Rename a column to {names[0]} (also read: {', '.join(names[1:])})."
        )
    return column


def open_table(
    lines: Iterable[str], separator: str, path: object
) -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    """Return the names of the columns of CSV or TSV, and its rows, which are read as needed.

    A quoted cell of CSV may contain separators and line breaks. TSV has no such cells: quotation marks around a whole
    cell are removed, as pandas and R write them, and any other one is a letter.

    Args:
        lines: the text of the table, with the ends of the lines.
        separator: of the columns, a value of `SEPARATORS`.
        path: the table, for messages.

    Returns:
        The names; and for each row where it is (`line 2`), and its values by column.

    Raises:
        CorpusError: if the text is damaged, a row has too few or too many cells, or a stray quotation mark has joined
            rows; also while the rows are read.
    """
    rows = _rows(lines, separator, path)
    _, header = next(rows, ("", []))
    names = [name.strip() for name in header]
    return names, ((location, dict(zip(names, row, strict=True))) for location, row in rows)


def _rows(lines: Iterable[str], separator: str, path: object) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of a table and where each starts: first the header, then rows of as many cells."""
    csv.field_size_limit(MAX_TABLE_LINE)  # 131,072 by default; for the whole process
    is_tsv = separator == SEPARATORS[".tsv"]
    reader = csv.reader(
        lines, delimiter=separator, quoting=csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL, strict=True
    )
    num_columns = 0
    while True:
        location = f"line {reader.line_num + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise CorpusError(
                f"{path}: {location}: {error} (a stray quotation mark, or damaged?). Remove the mark, or write it "
                "twice in a quoted cell. Get the file again if it is damaged."
            ) from None
        if row is None:
            return
        if not row:
            continue
        num_columns = num_columns or len(row)
        if len(row) != num_columns:
            raise CorpusError(
                f"{path}: {location}: {len(row)} fields, but the header has {num_columns} (truncated?). "
                "Get the file again."
            )
        if _has_joined_rows(row, separator):
            raise CorpusError(
                f"{path}: {location}: a quoted cell contains whole rows (a stray quotation mark?). Remove the "
                "mark, or write it twice in a quoted cell."
            )
        yield location, [_unquoted(cell) for cell in row] if is_tsv else row


def _has_joined_rows(row: Sequence[str], separator: str) -> bool:
    """Return True if a cell with line breaks starts and ends within a row, and all lines between are whole rows.

    A text with line breaks hardly ever has separators in just these places.
    """
    last = len(row) - 1
    for index, cell in enumerate(row):
        if "\n" in cell:
            start, *between, end = (line.count(separator) for line in re.split(r"\n+", cell))
            if (start, end) == (last - index, index) and set(between) <= {last}:
                return True
    return False


def _unquoted(cell: str) -> str:
    is_quoted = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return cell[1:-1].replace('""', '"') if is_quoted else cell


def chains_of_rows(
    rows: Iterable[tuple[str, Mapping[str, Any]]], columns: TableColumns, path: object, changes: Counter[str]
) -> Iterator[tuple[str, Chain]]:
    """Read and check the chains of a table.

    Args:
        rows: where each row is in the table (`line 2`), and its values by column.
        columns: which columns to read; without a column of ids, chains are called `chain_1`, `chain_2`, ...
        path: the table, for messages.
        changes: receives the number of changed letters, by description.

    Yields:
        Where each chain is, and the chain; its id is empty where the cell is. Its split, if the table has them, is
            `extra["split"]`.

    Raises:
        CorpusError: if a row is not a chain.
    """
    for number, (location, row) in enumerate(rows, start=1):
        where = f"{path}: {location}"
        chain_id = f"chain_{number}" if columns.name is None else _id(row[columns.name])
        sequence = "".join(_text(row[columns.sequence], columns.sequence, where).split())
        states = _text(row[columns.states], columns.states, where)
        if len(states) != len(sequence):  # else a blank stands for coil
            states = "".join(states.split())
        sequence, states = check_chain(chain_id, sequence, states, where, changes)
        for name in columns.masks:
            states = masked(states, read_mask(row[name], name, len(sequence), where, chain_id))
        extra = {} if columns.split is None else {"split": split_name(row[columns.split], f"{where}: {chain_id}")}
        yield location, Chain(chain_id, sequence, states, extra)


def _id(value: Any) -> str:
    return "" if value is None else str(value)


def _text(value: Any, name: str, where: str) -> str:
    """Return a cell of letters, which may be a list of them."""
    if isinstance(value, list) and all(isinstance(letter, str) for letter in value):
        value = "".join(value)
    if not isinstance(value, str):
        raise CorpusError(f"{where}: {name} is {repr(value)[:40]}. Expected letters, one per residue.")
    return value


def read_mask(values: Any, name: str, num_residues: int, where: str, chain_id: str) -> list[bool]:
    """Return a mask, True where a residue counts, from 0 and 1: a list, numbers between blanks, or digits."""
    tokens = values if isinstance(values, list) else str(values).split()
    if len(tokens) == 1 and set(str(tokens[0])) <= {"0", "1"}:  # without blanks
        tokens = list(str(tokens[0]))
    if len(tokens) != num_residues:
        raise CorpusError(
            f"{where}: {chain_id}: {counted(num_residues, 'residue')} but {counted(len(tokens), 'value')} of {name}."
        )
    for position, token in enumerate(tokens, start=1):
        if str(token) not in ("0", "1", "0.0", "1.0", "True", "False"):
            raise CorpusError(f"{where}: {chain_id}: {name} is {token!r} at position {position}. Expected 0 or 1.")
    return [str(token) in ("1", "1.0", "True") for token in tokens]


def masked(states: str, mask: Sequence[bool]) -> str:
    """Mark the residues unresolved where the mask is False."""
    return "".join(state if kept else UNRESOLVED for state, kept in zip(states, mask, strict=True))


def split_name(value: Any, where: str) -> str:
    """Return our name of a split: `train`, `validation` or `test`.

    Example:
        >>> split_name("VAL", "line 2"), split_name("testing", "line 3")
        ('validation', 'test')
    """
    for start, name in SPLIT_NAMES.items():
        if str(value).lower().startswith(start):
            return name
    raise CorpusError(f"{where}: unknown split {str(value)[:40]!r}. Write train, validation or test.")
