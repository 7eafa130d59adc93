"""Run a model over a whole input, to a directory part by part, or to a stream.

`run_to_folder` is what all runs to a directory share; the rest predicts. `embedding` has the runs of `lift-ss embed`.
"""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

from ..models.states import fold_index
from ..models.wording import counted
from ..version import __version__
from .formats import Format
from .inputs import Inputs
from .prediction_folder import PredictionFolder
from .predictor import Predictor, is_windowed
from .process_rank import ProcessRank
from .records import Part, Record, RecordError, split_into_parts
from .result import Prediction
from .run_folder import Counts, RunFolder

logger = logging.getLogger(__name__)

# Largest part: the most that a killed run loses, and the most in memory at once.
PART_RESIDUES, PART_RECORDS = 1 << 16, 1 << 12

Item = TypeVar("Item")
Computed = tuple[Sequence[Any], Counts]  # of a part: what its chains gave, and what to count
ComputePart = Callable[[Part, "Progress"], Computed]
WritePart = Callable[[Part, Sequence[Any], Counts], None]


@dataclass(frozen=True)
class RunOptions:
    """How to run over an input to a directory.

    Attributes:
        formats: names of those to write.
        resume: resume the run that is in the directory.
        skip_bad: list invalid records in rejected.tsv instead of stopping at the first.
        num_workers: additional processes that write while this one computes.
        quiet: show no progress bar.

    Raises:
        ValueError: if the number of processes is negative.
    """

    formats: Sequence[str]
    resume: bool = False
    skip_bad: bool = False
    num_workers: int = 0
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise ValueError(f"--num_workers is {self.num_workers}. Expected 0 or more.")


@dataclass(frozen=True)
class PredictionOptions(RunOptions):
    """How to predict an input to a directory, in formats of `formats.FORMATS`.

    Attributes:
        alphabet: name of the alphabet to report; None reports the model's.
    """

    formats: Sequence[str] = ("three-line",)
    alphabet: str | None = None


def predict_part(predictor: Predictor, part: Part, alphabet: str, bar: Any = None) -> tuple[list[Prediction], Counts]:
    """Predict the chains of a part, and return the predictions in the order of the input."""
    probabilities = in_order(predictor.predict([query.sequence for query in part.queries]), part, bar)
    predictions = [
        Prediction(
            number=query.number,
            name=query.name,
            sequence=str(query.sequence),
            model_alphabet=predictor.alphabet,
            model_probabilities=found,
            alphabet=alphabet,
            temperature=predictor.temperature,
        )
        for query, found in zip(part.queries, probabilities, strict=True)
    ]
    return predictions, count(predictor, part)


def in_order(results: Iterable[tuple[int, Item]], part: Part, bar: Any = None) -> list[Item]:
    """Return the results of a part's queries in their order.

    Args:
        results: the index of a query and its result, in any order.
        part: with the queries.
        bar: progress bar over residues, which follows the results.
    """
    found: dict[int, Item] = {}
    for index, result in results:
        found[index] = result
        if bar is not None:
            bar.update(len(part.queries[index].sequence))
    return [found[index] for index in range(len(part.queries))]


def count(predictor: Predictor, part: Part) -> Counts:
    """Return what is counted of a part."""
    return Counts(
        chains=len(part.queries),
        residues=part.num_residues,
        windowed=sum(is_windowed(predictor.model, query.sequence) for query in part.queries),
        rejected=len(part.rejected),
        gaps=sum(query.sequence.num_gaps for query in part.queries),
        lower_case=sum(query.sequence.num_lower_case for query in part.queries),
        replaced=sum(predictor.tokenizer.count_replaced(query.sequence) for query in part.queries),
    )


def predict_records(predictor: Predictor, records: Sequence[Record], alphabet: str | None = None) -> list[Prediction]:
    """Predict a few records, all in memory.

    Args:
        predictor: the model.
        records: of one input.
        alphabet: name of the alphabet to report; None reports the model's.

    Raises:
        RecordError: if a record is not a protein.
        ValueError: if the model's states do not reduce to the alphabet.
    """
    alphabet = alphabet or predictor.alphabet
    fold_index(predictor.alphabet, alphabet)
    everything = sum(len(record.sequence) for record in records), len(records)
    (part,) = split_into_parts(records, *everything, skip_bad=True)
    if part.rejected:  # without the advice to add --skip-bad, which only runs have
        raise RecordError(str(part.rejected[0]))
    return predict_part(predictor, part, alphabet)[0]


def predict_to_stream(
    predictor: Predictor, inputs: Inputs, form: Format, out: TextIO, skip_bad: bool = False, quiet: bool = False
) -> Counts:
    """Predict an input and write it as text, chain by chain.

    Args:
        predictor: the model.
        inputs: the chains.
        form: a text format.
        out: stream to write to.
        skip_bad: log and skip invalid records instead of stopping at the first.
        quiet: show no progress bar.

    Raises:
        ValueError: if the model's states do not reduce to the format's alphabet, or the input has no records.
        RecordError: if a record is invalid and `skip_bad` is False.
    """
    check_alphabets(predictor, [form])
    out.write(form.head())
    counts = Counts()
    with progress_bar(inputs, quiet or out.isatty()) as bar:
        for part in split_into_parts(inputs, PART_RESIDUES, PART_RECORDS, skip_bad):
            predictions, part_counts = predict_part(predictor, part, form.alphabet, bar)
            counts += part_counts
            out.writelines(map(form.chain, predictions))
            for record in part.rejected:
                logger.warning("skipped: %s", record)
            bar.estimate_total()
    if not counts.chains + counts.rejected:
        raise ValueError("the input has no records.")
    out.write(form.tail())
    out.flush()
    return counts


def predict_to_folder(
    predictor: Predictor,
    inputs: Inputs,
    out: str | Path,
    options: PredictionOptions | None = None,
    process: ProcessRank | None = None,
) -> Counts | None:
    """Predict an input to a directory; a run killed at any moment can be resumed.

    Args:
        predictor: the model.
        inputs: the chains.
        out: the directory; `run_folder` describes its content.
        options: see `PredictionOptions`.
        process: which of several processes this is; read from the environment by default.

    Returns:
        The counts of all processes; None while other processes have parts to do.

    Raises:
        ValueError: if the input, the directory or an option is invalid; parts already written are kept.
        ChildProcessError: if a process that writes was killed.
    """
    options = options or PredictionOptions()
    alphabet = options.alphabet or predictor.alphabet
    folder = PredictionFolder(out, {"states": alphabet, **run_settings(predictor, options)})
    check_alphabets(predictor, folder.formats.values())

    def compute(part: Part, bar: Progress) -> Computed:
        return predict_part(predictor, part, alphabet, bar)

    return run_to_folder(compute, inputs, folder, options, process, PART_RESIDUES)


def run_to_folder(
    compute: ComputePart,
    inputs: Inputs,
    folder: RunFolder,
    options: RunOptions,
    process: ProcessRank | None,
    part_residues: int,
) -> Counts | None:
    """Run over an input to a directory, part by part; a run killed at any moment can be resumed.

    Args:
        compute: returns what the formats of the directory write of a part, and its counts.
        inputs: the chains.
        folder: the directory.
        options: see `RunOptions`.
        process: which of several processes this is; None reads it from the environment.
        part_residues: letters in a part.

    Returns:
        The counts of all processes; None while other processes have parts to do.

    Raises:
        ValueError: if the input or the directory is invalid; parts already written are kept.
    """
    process = process or ProcessRank.from_environment()
    folder.open(options.resume, is_first=process.rank == 0)
    was_finished = folder.is_joined
    try:
        num_parts = _run_parts(compute, inputs, folder, options, process, part_residues)
    except ValueError:
        if process.size == 1:
            folder.discard_if_empty()
        raise
    if missing := folder.num_missing(num_parts):
        logger.info(
            "This process is done; other processes have %d of %d parts to do. If one of them died, start again with "
            "--resume.",
            missing,
            num_parts,
        )
        return None
    folder.join(num_parts)
    if was_finished:
        logger.info("the run in %s is finished: there was nothing left to do", folder.folder)
    if not folder.is_joined:
        return None
    logger.info("wrote %s to %s", ", ".join(folder.results()), folder.folder)
    return folder.counts()


def run_settings(predictor: Predictor, options: RunOptions) -> dict[str, Any]:
    """Return the settings of run.json that all runs have."""
    return {
        "version": __version__,
        "model": predictor.digest,
        "formats": sorted(set(options.formats)),
        "precision": predictor.precision,
        "max_tokens": predictor.max_tokens,
    }


def _run_parts(
    compute: ComputePart,
    inputs: Inputs,
    folder: RunFolder,
    options: RunOptions,
    process: ProcessRank,
    part_residues: int,
) -> int:
    """Compute and write this process's parts that are not done yet; return the number of parts of all processes."""
    num_parts = 0
    with (
        progress_bar(inputs, options.quiet or process.rank > 0) as bar,
        part_writer(folder, options.num_workers) as write,
    ):
        for part in split_into_parts(inputs, part_residues, PART_RECORDS, options.skip_bad):
            num_parts = part.number + 1
            if folder.is_done(part) or part.number % process.size != process.rank:
                bar.skip(part.num_residues)
            else:
                write(part, *compute(part, bar))
            bar.estimate_total()
    if not num_parts:
        raise ValueError("the input has no records.")
    return num_parts


def check_alphabets(predictor: Predictor, formats: Iterable[Format]) -> None:
    """Raise ValueError unless the model's states reduce to the alphabets of all formats."""
    for form in formats:
        try:
            fold_index(predictor.alphabet, form.alphabet)
        except ValueError as error:
            raise ValueError(f"{error} Or give another --format, or a model that has these states.") from None


class Progress(tqdm):
    """A progress bar over residues, whose total is estimated from the bytes of the input read so far."""

    inputs: Inputs

    def skip(self, residues: int) -> None:
        """Advance over residues that this process does not compute; they do not count towards the speed."""
        if not self.disable:
            self.initial += residues
            self.update(residues)

    def estimate_total(self) -> None:
        """Estimate the total from the fraction of the input that was read."""
        fraction = self.inputs.fraction_read
        if fraction and not self.disable:
            self.total = max(self.n, round(self.n / min(fraction, 1.0)))


@contextmanager
def progress_bar(inputs: Inputs, quiet: bool) -> Iterator[Progress]:
    """Show a progress bar over an input from its first result on, unless `quiet`."""
    # The delay keeps an empty bar off the screen, also where the input is refused before there is a result.
    with Progress(unit=" residues", unit_scale=True, disable=quiet, delay=1e-3) as bar:
        bar.inputs = inputs
        yield bar


@contextmanager
def part_writer(folder: RunFolder, num_workers: int) -> Iterator[WritePart]:
    """Provide a function that writes parts, in this process or in others; all are written when the context ends.

    Raises:
        ChildProcessError: if one of the others was killed.
    """
    if not num_workers:
        yield folder.write_part
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads
    pending: list[concurrent.futures.Future[None]] = []
    try:
        with concurrent.futures.ProcessPoolExecutor(num_workers, context, initializer=end_with_parent) as pool:

            def submit(part: Part, chains: Sequence[Any], counts: Counts) -> None:
                while len(pending) > num_workers:  # so that few parts are in memory
                    pending.pop(0).result()
                pending.append(pool.submit(folder.write_part, part, chains, counts))

            yield submit
            for task in pending:
                task.result()
    except BrokenProcessPool:
        raise ChildProcessError(
            f"{folder.folder}: a process of --num_workers was killed, by the system if the memory was full. Finished "
            "parts stay; start again with --resume, and fewer of these processes."
        ) from None


def end_with_parent() -> None:
    """End this worker when its parent dies, even by SIGKILL: a pool's workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def wait() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()


def summarise(counts: Counts, seconds: float) -> str:
    """Return the summary of a run in one line.

    Example:
        >>> summarise(Counts(chains=3, residues=1042, gaps=5), seconds=2.5)
        '3 chains, 1,042 residues in 2.5 s; 5 gaps and stop codons removed.'
    """
    changed = [
        f"{counted(number, *nouns)} {what}"
        for number, nouns, what in (
            (counts.windowed, ["chain"], "run in windows"),
            (counts.gaps, ["gap or stop codon", "gaps and stop codons"], "removed"),
            (counts.lower_case, ["residue"], "in lower case"),
            (counts.replaced, ["residue"], "read as X"),
            (counts.rejected, ["record"], "rejected"),
        )
        if number
    ]
    line = f"{counted(counts.chains, 'chain')}, {counted(counts.residues, 'residue')} in {seconds:,.1f} s"
    return line + (f"; {', '.join(changed)}." if changed else ".")
