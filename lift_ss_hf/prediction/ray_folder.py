"""The output directory of a run with Ray, which writes it from many machines at once.

    OUT/run.json            settings of the run; at the end also the counts
    OUT/parts/chains/       the valid records of the input as Parquet: record, name, sequence
    OUT/parts/checkpoint/   the records whose results are complete, kept by Ray
    OUT/predictions/        the results: Parquet files with the columns of `predictions.parquet`
    OUT/rejected.tsv        the invalid records, if there are any

`parts` is removed once all is done. Files of results are named by Ray; a run in which processes were killed may have
files that do not count until it is resumed and finished.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from ..models.atomic import claimed_file, replacing_folder, require_folder
from ..models.wording import counted
from ..version import __version__
from .inputs import Inputs
from .predictor import Predictor
from .records import Part, Query, split_into_parts
from .run_folder import PART, PARTS, REJECTED, Counts, RejectedRecords, RunFolder, num_entries, read_run_json
from .running import PART_RECORDS, PART_RESIDUES, count, progress_bar

CHAINS, CHECKPOINT, PREDICTIONS, DRIVER = "chains", "checkpoint", "predictions", ".driver"
# int64 and unique, as Ray's checkpoint wants it
ID_COLUMN = "record"
CHAINS_SCHEMA = pa.schema([(ID_COLUMN, pa.int64()), ("name", pa.string()), ("sequence", pa.string())])
FILE_RESIDUES = 1 << 26  # of a file of chains: about 40 MB


class RayFolder(RunFolder):
    """The output directory of a run with Ray.

    Args:
        folder: the directory.
        predictor: the model, which only the directory's settings and counts are taken from.
        states: name of the alphabet to report.
        inputs: the chains.
    """

    lock_names: ClassVar[tuple[str, ...]] = (*RunFolder.lock_names, DRIVER)

    def __init__(self, folder: str | Path, predictor: Predictor, states: str, inputs: Inputs):
        settings: dict[str, Any] = {"version": __version__, "model": predictor.digest, "states": states}
        settings |= {"precision": predictor.precision, "max_tokens": predictor.max_tokens, "inputs": inputs.sources}
        super().__init__(Path(folder).resolve(), settings, formats={})
        self.inputs = inputs

    @property
    def chains(self) -> Path:
        """Folder of the valid records."""
        return self.folder / PARTS / CHAINS

    @property
    def checkpoint(self) -> Path:
        """Folder of Ray's checkpoint."""
        return self.folder / PARTS / CHECKPOINT

    @property
    def predictions(self) -> Path:
        """Folder of the results."""
        return self.folder / PREDICTIONS

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other runs out of the directory until the end of the context.

        Raises:
            ValueError: if another one is in it, or the path is not a directory.
        """
        require_folder(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        with claimed_file(self.folder / DRIVER) as is_mine:
            if not is_mine:
                raise ValueError(f"{self.folder}: another process is predicting to it. Wait for it, or end it first.")
            yield

    def prepare(self, predictor: Predictor, skip_bad: bool, quiet: bool) -> None:
        """Write the valid records of the input to `chains`, unless an earlier run has done it.

        Args:
            predictor: the model, which says what is counted.
            skip_bad: list invalid records instead of stopping at the first.
            quiet: show no progress bar.

        Raises:
            ValueError: if the input is invalid; a run that has just begun is removed then.
        """
        if self.chains.is_dir():
            return
        shutil.rmtree(self.predictions, ignore_errors=True)  # of a finished run, some of whose files were gone
        try:
            self._write_chains(predictor, skip_bad, quiet)
        except ValueError:
            shutil.rmtree(self.folder / PARTS, ignore_errors=True)
            self.discard_if_empty()
            raise

    def _write_chains(self, predictor: Predictor, skip_bad: bool, quiet: bool) -> None:
        """Write the valid and the invalid records and their counts; all appear together."""
        digest, counts = hashlib.sha256(), Counts()
        with replacing_folder(self.chains) as folder, progress_bar(self.inputs, quiet) as bar:
            with (folder / REJECTED).open("w", encoding="utf-8") as rejected, _ChainsWriter(folder) as writer:
                for part in split_into_parts(self.inputs, PART_RESIDUES, PART_RECORDS, skip_bad):
                    writer.write(part)
                    rejected.write(RejectedRecords.rows(part.rejected))
                    digest.update(part.digest.encode())
                    counts += count(predictor, part)
                    bar.update(part.num_residues)
                    bar.estimate_total()
            if not counts.chains:
                raise ValueError(
                    f"the input has {counted(counts.rejected, 'invalid record')} and no valid one."
                    if counts.rejected
                    else "the input has no records."
                )
            content = {"digest": digest.hexdigest(), **asdict(counts)}
            (folder / PART).write_text(json.dumps(content), "utf-8")

    def _write_results(self, folders: Sequence[Path]) -> None:
        """Record that the run is finished.

        Args:
            folders: ignored; the results are there already.

        Raises:
            RuntimeError: if the results are not one row for each residue.
        """
        content = read_run_json(self.chains / PART, ["digest"])
        counts = self._counts(content, self.chains / PART)
        num_rows = sum(pq.read_metadata(path).num_rows for path in self.predictions.iterdir())
        if num_rows != counts.residues:
            raise RuntimeError(f"{self.predictions}: {num_rows} rows, but the input has {counts.residues} residues.")
        if counts.rejected:
            RejectedRecords("").join([self.chains / REJECTED], self.folder / REJECTED)
        sizes = {PREDICTIONS: num_entries(self.predictions)}
        self._write_settings({"counts": asdict(counts), "digests": [content["digest"]], "sizes": sizes})

    def results(self) -> list[str]:
        """Return the names of what a finished run wrote, for its reader."""
        return [f"{PREDICTIONS}/", *super().results()]

    def _changed_results(self, content: Mapping[str, Any]) -> str | None:
        """Return the name of the folder of results if it is not as it was written; None if it is."""
        is_whole = self.predictions.is_dir() and num_entries(self.predictions) == content.get("sizes", {}).get(
            PREDICTIONS
        )
        return None if is_whole else PREDICTIONS


def chains_table(queries: Iterable[Query]) -> pa.Table:
    """Return valid records as a table with the columns of `CHAINS_SCHEMA`."""
    rows = [{ID_COLUMN: query.number, "name": query.name, "sequence": str(query.sequence)} for query in queries]
    return pa.Table.from_pylist(rows, schema=CHAINS_SCHEMA)


class _ChainsWriter:
    """Writes parts to Parquet files, one row group each; closes them at the end of the context."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._file: pq.ParquetWriter | None = None
        self._num_files, self._num_residues = 0, 0

    def __enter__(self) -> _ChainsWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def write(self, part: Part) -> None:
        """Write the valid records of a part."""
        if self._file is None:
            path = self.folder / f"{self._num_files:06d}.parquet"
            self._file = pq.ParquetWriter(path, CHAINS_SCHEMA, compression="zstd")
            self._num_files, self._num_residues = self._num_files + 1, 0
        self._file.write_table(chains_table(part.queries))
        self._num_residues += part.num_residues
        if self._num_residues > FILE_RESIDUES:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
