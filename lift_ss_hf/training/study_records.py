"""What a study keeps of a finished run: read from the run's folder, written to the tables of a report, read from them.

The tables hold all that comparisons need, so a study can be resumed where the folders of its runs are not: on another
machine, or after they were removed.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..evaluation.corpora import states_file
from ..metrics.claims import Difference
from ..metrics.segments import CORRECT, LABELLED
from ..metrics.significance import chain_sums
from ..models.atomic import replacing
from ..reports.study import csv_cell
from .outcome import CORPORA_FILE, ENVIRONMENT_FILE
from .points import TIME_FILE, read_metrics
from .recipes import RecipeError

RUNS_TABLE, COMPARISONS_TABLE, CHAINS_TABLE = "study_runs.csv", "study_comparisons.csv", "study_chains.parquet"
COMPARED_AT = "q3"  # accuracy at which the tests are compared, and by which learning rates are chosen on validation
ALL_TESTS = "all"  # the row of the distinct chains of all tests
SCORES = ("q9", "q8", "q3")
TEST_COLUMNS = ("chains", "residues", *SCORES, "sov99_q3")
ORIGIN_COLUMNS = ("cpu_seconds", "corpora", "commit", "machine")
CHAIN_COLUMNS = ("test", "chain", "residues")
DIGEST_LENGTH = 16
SETTINGS_KEY = b"study"  # of the settings of all runs, in the metadata of the chains' table


@dataclass(frozen=True)
class DistinctChains:
    """The distinct chains of all tests, each under the first test that has it.

    Attributes:
        tests: the test of each chain.
        names: the name of each chain.
        labelled: (chains,) scored residues.
    """

    tests: Sequence[str]
    names: Sequence[str]
    labelled: np.ndarray

    @property
    def num_residues(self) -> int:
        """Number of scored residues of all chains."""
        return int(self.labelled.sum())

    def same_as(self, others: DistinctChains) -> bool:
        """Return True if the others are the same chains in the same order."""
        same = (list(self.tests), list(self.names)) == (list(others.tests), list(others.names))
        return same and np.array_equal(self.labelled, others.labelled)


@dataclass(frozen=True)
class RunRecord:
    """What is kept of a finished run.

    Attributes:
        validation_accuracy: on the validation chains [fraction].
        tests: columns of the table of runs (`TEST_COLUMNS`), by test.
        accuracy: on the distinct test chains [fraction].
        correct: (chains,) correct residues of the distinct test chains; None if they were not kept.
        cpu_seconds: CPU time [s]; None if it was not kept.
        corpora: digest of all chains that it was trained, validated and tested on; empty if it was not kept.
        commit: commit that it was measured at; several candidates, separated by spaces, if it is not known which; empty
            outside a checkout.
        machine: processor and accelerators that it was measured on.
    """

    validation_accuracy: float
    tests: Mapping[str, Mapping[str, float | int | None]]
    accuracy: float
    correct: np.ndarray | None
    cpu_seconds: float | None
    corpora: str
    commit: str
    machine: str


# ---- from the folder of a run ----------------------------------------------------------------------------------------


def validation_accuracy(folder: Path, metrics: Mapping[str, Any]) -> float:
    """Return the validation accuracy that a finished run ended with [fraction].

    Args:
        folder: the directory of the run.
        metrics: what `read_metrics` returns of it.

    Raises:
        RecipeError: if it had no validation chains.
    """
    learnt = metrics["learnt"]
    if COMPARED_AT not in learnt:
        raise RecipeError(
            f"{folder}: no validation chains, on which the learning rate is chosen. Name some: validation: [NAME]."
        )
    return learnt[COMPARED_AT]["trained"]


def distinct_chains(folder: Path) -> tuple[DistinctChains, np.ndarray]:
    """Return the distinct test chains of a finished run, and their indices among the chains of all tests in a row."""
    metrics = read_metrics(folder)
    tests, names, sequences = [], [], []
    for test in metrics["corpora"]:
        lines = states_file(folder, test).read_text("utf-8").splitlines()
        tests += [test] * len(lines[1::3])
        names += [line.removeprefix(">") for line in lines[::3]]
        sequences += lines[1::3]
    first: dict[str, int] = {}
    for number, sequence in enumerate(sequences):
        first.setdefault(sequence, number)
    indices = np.array(list(first.values()))
    labelled = _sums(metrics)[indices, LABELLED].astype(int)
    return DistinctChains(
        [tests[number] for number in indices], [names[number] for number in indices], labelled
    ), indices


def read_run(folder: Path, chains: DistinctChains, indices: np.ndarray) -> RunRecord:
    """Return what is kept of a finished run.

    Args:
        folder: the directory of the run.
        chains: the distinct test chains.
        indices: of these among the chains of all tests in a row.

    Raises:
        RecipeError: if it was scored on other chains, or had no validation chains.
    """
    metrics = read_metrics(folder)
    sums = _sums(metrics)
    if len(sums) <= indices[-1] or not np.array_equal(sums[indices, LABELLED], chains.labelled):
        raise RecipeError(
            f"{folder}: was not scored on the chains of the other runs. Remove the run's directory, and run the study "
            "again."
        )
    tests = {}
    for name, result in metrics["corpora"].items():
        scores = result["scores"]
        columns = {"chains": result["num_chains"], "residues": sum(scores[COMPARED_AT]["chain_num_residues"])}
        columns |= {alphabet: scores.get(alphabet, {}).get(alphabet) for alphabet in SCORES}
        tests[name] = columns | {"sov99_q3": scores[COMPARED_AT]["sov99"]}
    correct = sums[indices, CORRECT].astype(int)
    measured = json.loads((folder / ENVIRONMENT_FILE).read_text("utf-8"))
    time_file = folder / TIME_FILE  # without what killed runs did before
    return RunRecord(
        validation_accuracy=validation_accuracy(folder, metrics),
        tests=tests,
        accuracy=float(correct.sum() / chains.num_residues),
        correct=correct,
        cpu_seconds=json.loads(time_file.read_text("utf-8"))["cpu_seconds"] if time_file.is_file() else None,
        corpora=corpora_digest(json.loads((folder / CORPORA_FILE).read_text("utf-8"))),
        commit=measured["commit"] or "",
        machine=", ".join([measured["processor"], *measured["accelerators"]]),
    )


def corpora_digest(described: Mapping[str, Any]) -> str:
    """Return a short digest of the chains of a run, as `corpora.json` describes them."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:DIGEST_LENGTH]


def _sums(metrics: Mapping[str, Any]) -> np.ndarray:
    """Return the (chains, 5) sums of all tests of a run, one after another."""
    results = metrics["corpora"].values()
    return np.concatenate([chain_sums(result["scores"][COMPARED_AT], COMPARED_AT) for result in results])


# ---- the tables of a report ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """The tables of an earlier report; see `read_published`.

    Attributes:
        folder: that they were read from.
        settings: of all runs, as a study records them.
        chains: the distinct test chains.
        runs: what is kept of each run, by the name of its folder.
        comparisons: by the runs of both points, the better one first, and the threshold as written.
    """

    folder: Path
    settings: Mapping[str, Any]
    chains: DistinctChains
    runs: Mapping[str, RunRecord]
    comparisons: Mapping[tuple[frozenset[str], frozenset[str], str], Difference]


def run_rows(run: Mapping[str, Any], record: RunRecord, chains: DistinctChains) -> list[dict[str, Any]]:
    """Return the rows of a run in the table of runs: one for each test set, and one for the distinct chains.

    Args:
        run: columns that tell which run it is.
        record: what is kept of it.
        chains: the distinct test chains.
    """
    whole = {"chains": len(chains.names), "residues": chains.num_residues, COMPARED_AT: record.accuracy}
    first = {**run, "validation_q3": record.validation_accuracy}
    last = {name: getattr(record, name) for name in ORIGIN_COLUMNS}
    empty = dict.fromkeys(TEST_COLUMNS)
    return [
        {**first, "test": test, **empty, **columns, **last}
        for test, columns in {**record.tests, ALL_TESTS: whole}.items()
    ]


def write_chains(
    path: Path, settings: Mapping[str, Any], chains: DistinctChains, runs: Mapping[str, RunRecord]
) -> None:
    """Write the correct residues of each distinct test chain (rows) by each run (columns).

    Args:
        path: the file, in Parquet.
        settings: of all runs.
        chains: the chains.
        runs: by name of the run's folder; those whose chains were not kept are left out.
    """
    columns = dict(zip(CHAIN_COLUMNS, (chains.tests, chains.names, chains.labelled.astype(np.int32)), strict=True))
    columns |= {name: run.correct.astype(np.int32) for name, run in runs.items() if run.correct is not None}
    table = pa.table(columns).replace_schema_metadata({SETTINGS_KEY: json.dumps(settings)})
    with replacing(path) as part:
        pq.write_table(table, part.absolute(), compression="zstd")  # pyarrow takes a relative run:1/... for a URI


def read_published(folder: str | Path) -> Published:
    """Read the tables of a report, whose runs need not be run again.

    Args:
        folder: with `study_runs.csv`, `study_comparisons.csv` and `study_chains.parquet`.

    Raises:
        RecipeError: if one of them is missing, or is not a table of a study.
    """
    folder = Path(folder)
    for name in (RUNS_TABLE, COMPARISONS_TABLE, CHAINS_TABLE):
        path = folder / name
        if not path.is_file():
            raise RecipeError(f"{path}: not found. Expected the tables of a study's report in {folder}.")
    try:
        path = folder / CHAINS_TABLE
        settings, chains, correct = _read_chains(path)
        path = folder / RUNS_TABLE
        rows: dict[str, list[dict[str, str]]] = {}
        points: dict[str, set[str]] = {}
        for row in _rows(path):
            rows.setdefault(row["run"], []).append(row)
            if row["compared"] == "yes":
                points.setdefault(_point(row), set()).add(row["run"])
        runs = {name: _record(own, correct.get(name), chains) for name, own in rows.items()}
        path = folder / COMPARISONS_TABLE
        comparisons = {
            (frozenset(points[row["better"]]), frozenset(points[row["than"]]), row["threshold"]): _difference(row)
            for row in _rows(path)
            if row["p_value"]
        }
    except (pa.ArrowException, csv.Error, OSError, KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"{path}: not a table of a study's report ({error!r}).") from None
    return Published(folder, settings, chains, runs, comparisons)


def _read_chains(path: Path) -> tuple[dict[str, Any], DistinctChains, dict[str, np.ndarray]]:
    """Return the settings of all runs, the chains, and the correct residues of these by run."""
    table = pq.read_table(path.absolute())
    settings = dict(json.loads(table.schema.metadata[SETTINGS_KEY]))
    columns = table.to_pydict()
    tests, names, residues = (columns.pop(name) for name in CHAIN_COLUMNS)
    labelled = np.array(residues)
    correct = {name: np.array(column) for name, column in columns.items()}
    for name, column in correct.items():
        if column.dtype.kind != "i" or (column < 0).any() or (column > labelled).any():
            raise ValueError(f"{name} has other values than 0 to the chain's residues")
    return settings, DistinctChains(tests, names, labelled), correct


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"row {number} has more or fewer cells than the header")
    return rows


def _point(row: Mapping[str, str]) -> str:
    """Return the levels of a row in the table of runs as the table of comparisons has them."""
    columns = list(row)
    factors = columns[columns.index("run") + 1 : columns.index("learning_rate")]
    return csv_cell({factor: row[factor] for factor in factors})


def _difference(row: Mapping[str, str]) -> Difference:
    return Difference(*(float(row[name]) for name in ("difference", "low", "high", "p_value")))


def _record(rows: Sequence[Mapping[str, str]], correct: np.ndarray | None, chains: DistinctChains) -> RunRecord:
    """Return what the rows of a run in the table say."""
    tests = {
        row["test"]: {name: _number(row[name]) for name in TEST_COLUMNS} for row in rows if row["test"] != ALL_TESTS
    }
    (whole,) = (row for row in rows if row["test"] == ALL_TESTS)
    return RunRecord(
        validation_accuracy=float(whole["validation_q3"]),
        tests=tests,
        accuracy=float(whole[COMPARED_AT]) if correct is None else float(correct.sum() / chains.num_residues),
        correct=correct,
        cpu_seconds=_number(whole["cpu_seconds"]),
        corpora=whole["corpora"],
        commit=whole["commit"],
        machine=whole["machine"],
    )


def _number(cell: str) -> float | int | None:
    return None if not cell else int(cell) if cell.isdigit() else float(cell)
