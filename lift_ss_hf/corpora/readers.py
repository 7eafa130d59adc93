"""Readers: functions that read chains from a source file and check them, one function per format.

The formats are `three_line` (`>id`, residues, states), `ps4_csv` (CB513 as NetSurfP-2.0 and ProtTrans use it),
`cu_ssp_csv` (id, len, input, expected) and `parquet` (written by this package); and of custom corpora, tables with a
column of sequences and one of states, and biotrainer's FASTA. Every reader is a generator, so that a corpus of any
size can be read. Harmless deviations are accepted: CRLF, a byte-order mark, trailing blanks, blank
lines between chains. Anything else raises a `CorpusError` that says where.
"""

from __future__ import annotations

import gzip
import io
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..models.states import COIL_SPELLINGS, NINE_STATES, UNRESOLVED
from ..models.wording import counted, first_line, no_such_file
from .chains import RESIDUES, Chain, CorpusError, check_chain, pdb_origin, require_unique_ids
from .fasta_pairs import all_or_no_sets, chains_of_pair, chains_with_targets, has_targets, read_records
from .file_kinds import BZIP2, DAMAGE_ERRORS, GZIP, START_BYTES, XZ, ZSTD, other_kind
from .tables import SEPARATORS, TableColumns, chains_of_rows, find_column, masked, open_table, read_mask, split_name

Reader = Callable[[Path, "Counter[str]"], Iterator[Chain]]

COMPRESSED = {
    GZIP: "compressed with gzip, but its name does not say so. Rename it, with .gz at the end.",
    **dict.fromkeys(
        [BZIP2, XZ, ZSTD, b"7z\xbc\xaf"],
        "a compressed file. Unpack it, or compress it with gzip.",
    ),
}  # by the first bytes
IS_FASTA = (
    "this is FASTA with sequences only, but a corpus needs the states. Write three lines per chain: >id, residues "
    "on one line, states on the next; or name a second FASTA file with the states of the same ids: "
    "SEQUENCES.fasta+STATES.fasta. To predict the states: lift-ss predict"
)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file without their ends, numbered from 1."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except PermissionError:
        raise
    except DAMAGE_ERRORS as error:
        raise CorpusError(f"{path}: cannot be read ({error}). Get the file again.") from None
    compressed = next((kind for magic, kind in COMPRESSED.items() if raw.startswith(magic)), None)
    if kind := compressed or other_kind(raw[:START_BYTES]):
        raise CorpusError(f"{path}: this is {kind}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise CorpusError(f"{path}: line {line}: not text (byte {error.start + 1}). Get the file again.") from None
    # Not splitlines(), which also breaks lines at control characters and would shift the numbers.
    for number, content in enumerate(io.StringIO(text, newline=None), start=1):
        yield number, content.rstrip("\n")


def read_three_line(path: Path, changes: Counter[str]) -> Iterator[Chain]:
    """Read the format of LIFT_SS: three lines per chain, with `>id`, residues and states.

    Args:
        path: the file, plain or gzip.
        changes: receives the number of changed letters, by description.

    Raises:
        CorpusError: if the file does not have this format.
    """
    return require_unique_ids(_three_line_chains(path, changes), path)


def _three_line_chains(path: Path, changes: Counter[str]) -> Iterator[tuple[str, Chain]]:
    lines = _lines(path)
    for number, header in lines:
        if not header.strip():
            continue
        if not header.startswith(">"):
            raise CorpusError(
                f"{path}: line {number}: expected '>' and the chain's id, found {header[:20]!r}. "
                "A chain is three lines: >id, residues, states."
            )
        chain_id = header[1:].strip()
        if not chain_id:
            raise CorpusError(f"{path}: line {number}: chain without an id. Write one after '>'.")
        body = [next(lines, None), next(lines, None)]
        if any(line and line[1].startswith(">") for line in body) or (
            body[0] and body[1] and _are_residues(body[1][1], len(body[0][1].strip()))
        ):
            raise CorpusError(f"{path}: line {number}: {chain_id}: {IS_FASTA} {path}.")
        if None in body:
            raise CorpusError(
                f"{path}: line {number}: {chain_id}: the file ends in the middle of the chain (truncated?). "
                "A chain is three lines: >id, residues, states."
            )
        sequence, states = (line for _, line in body)  # type: ignore[misc]
        sequence = sequence.rstrip()
        # A blank can stand for coil, so only blanks after the last residue are dropped.
        if len(states) > len(sequence) and not states[len(sequence) :].strip():
            states = states[: len(sequence)]
        where, states_where = f"{path}: line {number + 1}", f"{path}: line {number + 2}"
        sequence, states = check_chain(chain_id, sequence, states, where, changes, states_where)
        yield f"line {number}", Chain(chain_id, sequence, states, pdb_origin(chain_id))


def _are_residues(line: str, num_residues: int) -> bool:
    """Return True if a line of states is really one of residues.

    Then more than a third of its letters could not be states; or one, if it is not as long as the line of residues
    above it, which a broken line is not.
    """
    letters = line.strip().upper()
    others = sum(letter not in NINE_STATES + COIL_SPELLINGS + UNRESOLVED for letter in letters)
    are_other_letters = 3 * others > len(letters) or (others > 0 and len(letters) != num_residues)
    return are_other_letters and all(letter in RESIDUES for letter in letters)


def _open_table(path: Path, separator: str = ",") -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    return open_table((f"{line}\n" for _, line in _lines(path)), separator, path)


def _csv_with_columns(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Return the rows of a CSV file after checking that it has the given columns."""
    header, rows = _open_table(path)
    missing = [name for name in columns if name not in header]
    if missing:
        raise CorpusError(
            f"{path}: line 1: no column {', '.join(missing)}; found {', '.join(header) or 'nothing'}. "
            f"Expected {', '.join(columns)}."
        )
    for name in columns:  # must not be there twice
        find_column(header, (name,), f"{path}: line 1")
    return rows


def read_ps4_csv(path: Path, changes: Counter[str]) -> Iterator[Chain]:
    """Read CB513 in the format of NetSurfP-2.0: whole chains, of which each row scores one domain.

    `states` is X outside the row's domain and for unresolved residues; `chain_states` has the states of the whole
    chain, with X for unresolved residues only. `chain` numbers the distinct chains.

    Args:
        path: the file, plain or gzip.
        changes: receives the number of changed letters, by description.

    Raises:
        CorpusError: if the file does not have this format.
    """
    return require_unique_ids(_ps4_chains(path, changes), path)


def _ps4_chains(path: Path, changes: Counter[str]) -> Iterator[tuple[str, Chain]]:
    columns = ("input", "dssp8", "disorder", "cb513_mask")
    chain_numbers: dict[str, int] = {}
    for row_number, (location, row) in enumerate(_csv_with_columns(path, columns), start=1):
        chain_id, where = f"cb513_{row_number:03d}", f"{path}: {location}"
        residues, letters = ("".join(row[name].split()) for name in columns[:2])
        sequence, chain_states = check_chain(chain_id, residues, letters, where, changes)
        resolved, domain = (read_mask(row[name], name, len(sequence), where, chain_id) for name in columns[2:])
        chain_states = masked(chain_states, resolved)
        number = chain_numbers.setdefault(sequence, len(chain_numbers) + 1)
        extra = {
            "chain": f"cb513_chain_{number:03d}",
            "chain_states": chain_states,
            "resolved_mask": resolved,
            "domain_mask": domain,
        }
        yield location, Chain(chain_id, sequence, masked(chain_states, domain), extra)


def read_cu_ssp_csv(path: Path, changes: Counter[str]) -> Iterator[Chain]:
    """Read CSV with the columns id, len, input and expected: CullPDB and CB513 in the cu-ssp repository.

    Args:
        path: the file, plain or gzip.
        changes: receives the number of changed letters, by description.

    Raises:
        CorpusError: if the file does not have this format.
    """
    return require_unique_ids(_cu_ssp_chains(path, changes), path)


def _cu_ssp_chains(path: Path, changes: Counter[str]) -> Iterator[tuple[str, Chain]]:
    for location, row in _csv_with_columns(path, ("id", "len", "input", "expected")):
        where = f"{path}: {location}"
        if row["len"] != str(len(row["input"])):
            raise CorpusError(
                f"{where}: {row['id']}: len says {row['len']} but it has {counted(len(row['input']), 'residue')} "
                "(truncated?)."
            )
        sequence, states = check_chain(row["id"], row["input"], row["expected"], where, changes)
        yield location, Chain(row["id"], sequence, states)


def read_parquet(path: Path, changes: Counter[str]) -> Iterator[Chain]:
    """Read a corpus as written by `write_corpus`, or another table with a column of sequences and one of states.

    Args:
        path: the file.
        changes: receives the number of changed letters, by description.

    Raises:
        CorpusError: if the file is damaged, lacks a column or has an invalid chain.
    """
    return require_unique_ids(_parquet_chains(path, changes), path)


def _parquet_chains(path: Path, changes: Counter[str]) -> Iterator[tuple[str, Chain]]:
    try:
        table = pq.ParquetFile(path.absolute())  # pyarrow takes a relative run:1/chains.parquet for a URI
    except PermissionError:
        raise
    except (OSError, pa.ArrowException) as error:
        reason = first_line(error)
        raise CorpusError(f"{path}: not a complete parquet file ({reason}). Build it again.") from None
    names = table.schema_arrow.names
    columns = TableColumns.of(names, str(path))
    rows = ((f"row {number}", row) for number, row in enumerate(_parquet_rows(table, path), start=1))
    if not {"id", "sequence", "states", "num_residues"} <= set(names):  # not written by this package
        yield from chains_of_rows(rows, columns, path, changes)
        return
    for location, row in rows:
        where = f"{path}: {location}"
        for name in ("id", "sequence", "states"):
            if not isinstance(row[name], str):
                raise CorpusError(f"{where}: {name} is {row[name]!r}. Expected a string.")
        sequence, states = check_chain(row["id"], row["sequence"], row["states"], where, changes)
        extra = {k: v for k, v in row.items() if k not in ("id", "sequence", "states", "num_residues")}
        if columns.split is not None:
            extra["split"] = split_name(row[columns.split], f"{where}: {row['id']}")
        yield location, Chain(row["id"], sequence, states, extra)


def _parquet_rows(table: pq.ParquetFile, path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table, whose pages may be damaged even if its footer is intact."""
    batches = table.iter_batches()
    while True:
        try:
            rows = next(batches).to_pylist()
        except StopIteration:
            return
        except (OSError, ValueError, pa.ArrowException) as error:
            raise CorpusError(f"{path}: damaged ({first_line(error)}). Build it again.") from None
        yield from rows


READERS: dict[str, Reader] = {
    "three_line": read_three_line,
    "ps4_csv": read_ps4_csv,
    "cu_ssp_csv": read_cu_ssp_csv,
    "parquet": read_parquet,
}


def read_table(path: Path, changes: Counter[str]) -> Iterator[Chain]:
    """Read CSV or TSV with a column of sequences and one of states; see `tables.TableColumns` for their names.

    Args:
        path: the file, plain or gzip.
        changes: receives the number of changed letters, by description.

    Raises:
        CorpusError: if the file lacks a column or has an invalid chain.
    """
    return require_unique_ids(_table_chains(path, changes), path)


def _table_chains(path: Path, changes: Counter[str]) -> Iterator[tuple[str, Chain]]:
    header, rows = _open_table(path, SEPARATORS[_suffix(path)])
    yield from chains_of_rows(rows, TableColumns.of(header, f"{path}: line 1"), path, changes)


def read_fasta_with_targets(path: Path, changes: Counter[str]) -> Iterator[Chain]:
    """Read FASTA whose headers have the states, as biotrainer writes them; see `fasta_pairs`.

    Args:
        path: the file, plain or gzip.
        changes: receives the number of changed letters, by description.

    Raises:
        CorpusError: if the file does not have this format.
    """
    return require_unique_ids(all_or_no_sets(chains_with_targets(_lines(path), path, changes), path), path)


def read_fasta_pair(sequences: Path, labels: Path, masks: Path | None = None) -> Iterator[Chain]:
    """Read a FASTA file of sequences and one of states with the same ids; see `fasta_pairs`.

    Args:
        sequences: the file of residues, plain or gzip.
        labels: the file of states.
        masks: a file of 0 and 1; residues with 0 are unresolved.

    Raises:
        CorpusError: if a file is missing or invalid, or the ids differ.
    """
    for path in (sequences, labels):
        if not path.is_file():
            raise CorpusError(no_such_file(path))
    chains = chains_of_pair(
        read_records(_lines(sequences), sequences),
        read_records(_lines(labels), labels),
        read_records(_lines(masks), masks) if masks else None,
        (sequences, labels, masks),
        Counter(),
    )
    return require_unique_ids(all_or_no_sets(chains, sequences), sequences)


def _suffix(path: Path) -> str:
    """Return the suffix of a file in lower case, without that of compression."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _reader(path: Path) -> Reader:
    """Return the function that reads a file, by its name and first line."""
    suffix = _suffix(path)
    if suffix == ".parquet":
        return read_parquet
    if suffix in SEPARATORS:
        header, _ = _open_table(path, SEPARATORS[suffix])
        return read_cu_ssp_csv if {"len", "input", "expected"} <= set(header) else read_table
    return read_fasta_with_targets if has_targets(_lines(path)) else read_three_line


def read_chains(path: str | Path, changes: Counter[str] | None = None) -> Iterator[Chain]:
    r"""Read and check the chains of a file, one at a time.

    Args:
        path: `.parquet`; `.csv` or `.tsv` with a column of sequences and one of states (see `tables`); FASTA with the
            states in the headers (see `fasta_pairs`); or three lines per chain (`>id`, residues, states). Text may be
            compressed with gzip.
        changes: receives the number of changed letters, by description.

    Raises:
        CorpusError: if the file is missing or invalid.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "chains.txt")
        ...     _ = path.write_text(">1abc_A\nmkv\nCHX\n")
        ...     changes = Counter()
        ...     [(chain.id, chain.sequence, chain.states) for chain in read_chains(path, changes)]
        [('1abc_A', 'MKV', 'LHX')]
        >>> changes["coil written 'C', now L"]
        1
    """
    path = Path(path)
    if not path.is_file():
        raise CorpusError(no_such_file(path))
    return _reader(path)(path, Counter() if changes is None else changes)
