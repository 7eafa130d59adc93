"""Predicting all of an input: to a directory, part by part, or to a stream."""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from ..models.states import fold_index
from ..version import __version__
from .formats import Format
from .inputs import Inputs
from .predictor import Predictor
from .records import Part, divide
from .result import Prediction
from .run_folder import Counts, RunFolder

logger = logging.getLogger(__name__)

# Of a part: what a killed run loses at most, and what is in memory at once.
PART_RESIDUES, PART_RECORDS = 1 << 16, 1 << 12


@dataclass(frozen=True)
class Place:
    """Which of several processes this is.

    Attributes:
        rank: from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def from_environment(cls) -> Place:
        """As accelerate and torchrun tell it. The processes need not talk to each other, so none is waited for."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def predict_part(predictor: Predictor, part: Part, level: str, bar: Any = None) -> tuple[list[Prediction], Counts]:
    """Predict the chains of a part, in the order of the input."""
    before = predictor.tokenizer.counts
    probabilities: dict[int, Any] = {}
    for index, found in predictor.predict([chain.sequence for chain in part.chains]):
        probabilities[index] = found
        if bar is not None:
            bar.update(len(found))
    predictions = [
        Prediction(chain.number, chain.name, chain.sequence, predictor.states, probabilities[index], level)
        for index, chain in enumerate(part.chains)
    ]
    cleaned = predictor.tokenizer.counts
    return predictions, Counts(
        chains=len(part.chains),
        residues=part.num_residues,
        windowed=sum(predictor.is_windowed(chain.sequence) for chain in part.chains),
        rejected=len(part.rejects),
        gaps=sum(chain.num_gaps for chain in part.chains),
        lower_case=sum(chain.num_lower_case for chain in part.chains),
        replaced=sum(cleaned.replaced.values()) - sum(before.replaced.values()),
    )


def predict_to_stream(
    predictor: Predictor, inputs: Inputs, form: Format, out: TextIO, skip_bad: bool = False, quiet: bool = False
) -> Counts:
    """Predict an input and write it as text, chain by chain.

    Raises:
        RecordError: for a record that is no protein, unless they are skipped; skipped ones are logged.
    """
    out.write(form.head())
    counts = Counts()
    with progress(inputs, quiet or out.isatty()) as bar:
        for part in divide(inputs, PART_RESIDUES, PART_RECORDS, skip_bad):
            predictions, found = predict_part(predictor, part, form.level, bar)
            counts += found
            out.writelines(map(form.chain, predictions))
            for reject in part.rejects:
                logger.warning("left out: %s", reject)
            bar.estimate()
    if not counts.chains + counts.rejected:
        raise ValueError("the input holds no record.")
    out.write(form.tail())
    out.flush()
    return counts


def predict_to_folder(
    predictor: Predictor,
    inputs: Inputs,
    out: str | Path,
    formats: Iterable[str] = ("three-line",),
    level: str | None = None,
    precision: str = "fp32",
    resume: bool = False,
    skip_bad: bool = False,
    num_workers: int = 0,
    quiet: bool = False,
    place: Place | None = None,
) -> Counts | None:
    """Predict an input to a directory; killed at any moment, it can be gone on with.

    Args:
        predictor: the model.
        inputs: the chains.
        out: directory, see `run_folder`.
        formats: names of `formats.FORMATS`.
        level: states to report; the model's own by default.
        precision: the predictor was brought to; noted with the run.
        resume: go on with the run that is there.
        skip_bad: keep what is no protein in rejected.tsv instead of stopping.
        num_workers: processes that write while this one predicts.
        quiet: no progress bar.
        place: which of several processes this is; from the environment by default.

    Returns:
        What was predicted, by all; None while parts of other processes are missing.

    Raises:
        ValueError: for an input, a directory or settings that do not do; nothing that was written is lost.
    """
    place = place or Place.from_environment()
    level = level or predictor.states
    settings = {
        "version": __version__,
        "model": predictor.identity,
        "states": level,
        "formats": sorted(set(formats)),
        "precision": precision,
        "max_tokens": predictor.max_tokens,
    }
    folder = RunFolder(out, settings)
    folder.open(resume, is_first=place.rank == 0)
    num_parts = 0
    try:
        with progress(inputs, quiet or place.rank > 0) as bar, writing(folder, num_workers) as write:
            for part in divide(inputs, PART_RESIDUES, PART_RECORDS, skip_bad):
                num_parts = part.number + 1
                if folder.is_done(part) or part.number % place.size != place.rank:
                    bar.skip(part.num_residues)
                else:
                    write(part, *predict_part(predictor, part, level, bar))
                bar.estimate()
        if not num_parts:
            raise ValueError("the input holds no record.")
    except ValueError:
        if place.size == 1:
            folder.give_up()
        raise
    if missing := folder.missing(num_parts):
        logger.info(
            "done here; %d of %d parts are with other processes. If one of them died, start again with --resume.",
            missing,
            num_parts,
        )
        return None
    folder.join(num_parts)
    return folder.counts() if folder.is_joined else None


def check_levels(states: str, levels: Iterable[str]) -> None:
    """Raise ValueError unless a model's states fold into all levels that are to be written."""
    for level in levels:
        fold_index(states, level)


class Progress(tqdm):
    """Residues done, per second, and the time left as the bytes read so far foretell it."""

    inputs: Inputs

    def skip(self, residues: int) -> None:
        """Residues that were not predicted here; they do not count for the speed."""
        if not self.disable:
            self.initial += residues
            self.update(residues)

    def estimate(self) -> None:
        """Guess the whole from the fraction that was read."""
        fraction = self.inputs.fraction_read
        if fraction and not self.disable:
            self.total = max(self.n, round(self.n / min(fraction, 1.0)))


@contextmanager
def progress(inputs: Inputs, quiet: bool) -> Iterator[Progress]:
    """A bar over an input."""
    with Progress(unit="residue", unit_scale=True, disable=quiet) as bar:
        bar.inputs = inputs
        yield bar


@contextmanager
def writing(folder: RunFolder, num_workers: int) -> Iterator[Any]:
    """How parts are written: here, or by processes that do it meanwhile; all are written in the end."""
    if num_workers < 1:
        yield folder.write_part
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads
    with concurrent.futures.ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        pending: list[concurrent.futures.Future[None]] = []

        def submit(*arguments: Any) -> None:
            while len(pending) > num_workers:
                pending.pop(0).result()
            pending.append(pool.submit(folder.write_part, *arguments))

        yield submit
        for task in pending:
            task.result()


def summarise(counts: Counts, seconds: float) -> str:
    """One line at the end of a run."""
    changed = [
        f"{number:,} {what}"
        for number, what in (
            (counts.windowed, "chains in windows"),
            (counts.gaps, "gaps and stops taken out"),
            (counts.lower_case, "residues in lower case"),
            (counts.replaced, "residues read as X"),
            (counts.rejected, "records rejected"),
        )
        if number
    ]
    line = f"{counts.chains:,} chains, {counts.residues:,} residues in {seconds:,.1f} s"
    return line + (f"; {', '.join(changed)}." if changed else ".")
