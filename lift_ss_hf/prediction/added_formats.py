"""Write more formats from the results of a finished run, without predicting again.

A format is written only from a result that holds all it needs, so that it gets the bytes that the run would have
written: Parquet holds the probabilities as predicted, text has them to four digits.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from .formats import Format, get_format
from .result import Prediction
from .stored import read_stored

PART_RESIDUES = 1 << 16  # in memory at once
STORED_FORMATS = ("parquet", "jsonl", "tsv", "csv")  # that hold probabilities, the most exact first
# Their numbers have at most four digits, and none is a mean of such numbers.
FOUR_DIGITS = ("three-line", "fasta", "tsv", "csv")


def most_exact(held: Collection[str]) -> str | None:
    """Return the format of a run that holds most: probabilities as predicted, or to four digits; None without any."""
    return next((name for name in STORED_FORMATS if name in held), None)


def source_format(held: Sequence[str], added: Sequence[str], alphabet: str) -> str:
    """Return the format of a finished run from which others can be written.

    Args:
        held: formats of the run.
        added: formats to write.
        alphabet: name of the alphabet that the run reports.

    Raises:
        ValueError: if no result holds all that the added formats need; the message says why.

    Example:
        >>> source_format(["jsonl", "parquet"], ["html"], "q9")
        'parquet'
        >>> source_format(["jsonl"], ["html"], "q9")
        Traceback (most recent call last):
        ...
        ValueError: html cannot be written from jsonl: it needs the probabilities as predicted, which only parquet has.
    """
    for name in added:
        needed = get_format(name).needs_results_in
        if needed is not None and alphabet not in needed:
            raise ValueError(
                f"{name} cannot be written from the results of a run with states {alphabet}: its probabilities come "
                "from those of the model's own states."
            )
        if "parquet" not in held and name not in FOUR_DIGITS:
            raise ValueError(
                f"{name} cannot be written from {', '.join(held)}: it needs the probabilities as predicted, which only "
                "parquet has."
            )
    source = most_exact(held)
    if source is None:
        raise ValueError(f"{', '.join(added)} cannot be written from {', '.join(held)}, which has no probabilities.")
    return source


def write_added(source: Path, alphabet: str, formats: Mapping[str, Format], scratch: Path) -> list[Path]:
    """Write the chains of a result in other formats, each part to a folder of its own.

    Args:
        source: the result that holds the chains.
        alphabet: name of the alphabet that it reports.
        formats: to write, by name.
        scratch: folder for the parts; what a killed writer left there is removed.

    Returns:
        The folders of the parts, in order; each has a file or folder per format.

    Raises:
        ValueError: if the result is damaged.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    parts = []
    for number, predictions in enumerate(_parts(read_stored(source, alphabet))):
        parts.append(scratch / f"{number:06d}")
        parts[-1].mkdir(parents=True)
        for form in formats.values():
            form.write_part(parts[-1] / form.file_name, predictions)
    return parts


def _parts(predictions: Iterable[Prediction]) -> Iterator[list[Prediction]]:
    part: list[Prediction] = []
    num_residues = 0
    for prediction in predictions:
        part.append(prediction)
        num_residues += len(prediction.sequence)
        if num_residues >= PART_RESIDUES:
            yield part
            part, num_residues = [], 0
    if part:
        yield part
