"""Read the predictions of a finished run back from its results, with all that these hold.

`predictions.parquet` holds the probabilities as they were predicted; text has them to four digits.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..models.states import get_alphabet
from .formats import Csv, Table
from .result import Prediction

ROWS = 1 << 16  # of a Parquet file, read at a time


@dataclass(frozen=True)
class StoredPrediction(Prediction):
    """A prediction read from a result: its probabilities are calibrated and those of the reported alphabet.

    Attributes:
        stored_states: as they were predicted. Rounded probabilities may have two largest ones.
    """

    stored_states: str = ""

    @property
    def states(self) -> str:
        """The predicted state of each residue, length L."""
        return self.stored_states


def read_stored(path: Path, alphabet: str) -> Iterator[StoredPrediction]:
    """Yield the chains of a result, in its order; only a few are in memory.

    Args:
        path: `predictions.parquet`, `.jsonl`, `.tsv` or `.csv` of a run.
        alphabet: name of the alphabet that the run reports.

    Raises:
        ValueError: if the file does not hold what a run writes.
    """
    try:
        yield from READERS[path.suffix](path, alphabet)
    except (ValueError, KeyError, IndexError, TypeError, OSError, pa.ArrowException, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged ({reason}). Predict again, to another directory.") from None


def _read_parquet(path: Path, alphabet: str) -> Iterator[StoredPrediction]:
    file = pq.ParquetFile(path.absolute())  # pyarrow takes a relative run:1/... for a URI
    rest = file.schema_arrow.empty_table()
    for batch in file.iter_batches(batch_size=ROWS):
        rows = pa.concat_tables([rest, pa.Table.from_batches([batch])])
        records = rows["record"].to_numpy()
        starts = [0, *(np.flatnonzero(np.diff(records)) + 1).tolist()]
        for start, stop in itertools.pairwise(starts):
            yield _of_rows(rows.slice(start, stop - start), alphabet)
        rest = rows.slice(starts[-1])  # the chain may continue in the next batch
    if len(rest):
        yield _of_rows(rest, alphabet)


def _of_rows(rows: pa.Table, alphabet: str) -> StoredPrediction:
    columns = [rows[f"p_{letter}"].to_numpy() for letter in get_alphabet(alphabet).letters]
    residues, states = ("".join(rows[name].to_pylist()) for name in ("residue", "state"))
    return _stored(rows["record"][0].as_py(), rows["name"][0].as_py(), residues, states, columns, alphabet)


def _read_jsonl(path: Path, alphabet: str) -> Iterator[StoredPrediction]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            chain = json.loads(line)
            columns = [chain["probabilities"][letter] for letter in get_alphabet(alphabet).letters]
            yield _stored(chain["record"], chain["name"], chain["sequence"], chain["states"], columns, alphabet)


def _read_table(path: Path, alphabet: str) -> Iterator[StoredPrediction]:
    names = [f"p_{letter}" for letter in get_alphabet(alphabet).letters]
    kind = Csv if path.suffix == ".csv" else Table
    with path.open(encoding="utf-8", newline="") as lines:
        table = csv.DictReader(lines, delimiter=kind.separator)
        for number, group in itertools.groupby(table, key=lambda row: int(row["record"])):
            rows = list(group)
            columns = [[float(row[name]) for row in rows] for name in names]
            residues, states = ("".join(row[name] for row in rows) for name in ("residue", "state"))
            yield _stored(number, kind.own_name(rows[0]["name"]), residues, states, columns, alphabet)


def _stored(number: int, name: str, sequence: str, states: str, columns: Any, alphabet: str) -> StoredPrediction:
    probabilities = np.stack([np.asarray(column) for column in columns], axis=1)
    if not len(sequence) == len(states) == len(probabilities):
        raise ValueError(f"record {number}: lengths of residues, states and probabilities differ")
    return StoredPrediction(number, name, sequence, alphabet, probabilities, alphabet, stored_states=states)


READERS = {".parquet": _read_parquet, ".jsonl": _read_jsonl, ".tsv": _read_table, ".csv": _read_table}
