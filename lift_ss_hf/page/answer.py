"""The answer to one visitor: the predictions of their chains, and the files to download."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..models.states import fold_index, reportable_alphabets
from ..prediction.formats import Format, get_format
from ..prediction.predictor import Predictor
from ..prediction.reading import PredictedChain
from ..prediction.result import Prediction
from ..prediction.running import predict_part, summarise
from ..reports.chain_figures import plot_chains
from ..reports.figures import save_figure
from .chains import Limits, read_chains

TABLES = ("ss2", "csv", "parquet")  # formats of prediction.formats
FIGURES = ("png", "svg")


@dataclass(frozen=True)
class Answer:
    """The predictions of a visitor's chains, with a temporary folder of files that goes when the answer goes.

    Attributes:
        predictions: one for each chain, in the order of the input.
        summary: what was predicted and what was changed, in a line.
        folder: of the files.
    """

    predictions: Sequence[Prediction]
    summary: str
    folder: tempfile.TemporaryDirectory

    def close(self) -> None:
        """Delete the files."""
        self.folder.cleanup()

    def write_tables(self) -> list[Path | None]:
        """Write the predictions of all chains in each format of `TABLES`, and return the files.

        There is None for a format whose states the model's do not reduce to: .ss2 of a model with P as helix.
        """
        first = self.predictions[0]
        known = reportable_alphabets(first.model_alphabet)
        forms = [get_format(name)(first.alphabet) for name in TABLES]
        return [self._write(form) if form.alphabet in known else None for form in forms]

    def write_figures(self, index: int) -> list[Path]:
        """Draw a chain, and return the files, one for each of `FIGURES`."""
        prediction = self.predictions[index]
        paths = [Path(self.folder.name) / f"chain_{prediction.number}.{kind}" for kind in FIGURES]
        figure = plot_chains([PredictedChain.of(prediction)])
        for path in paths:
            save_figure(figure, path)
        return paths

    def _write(self, form: Format) -> Path:
        """Write all predictions as one file; those of a format with a file for each chain become a ZIP archive."""
        folder = Path(self.folder.name)
        part, out = folder / f"part_{form.file_name}", folder / form.file_name
        form.write_part(part, self.predictions)
        form.join([part], out)
        if not out.is_dir():
            return out
        files = list(out.iterdir())
        return files[0] if len(files) == 1 else Path(shutil.make_archive(str(out), "zip", out))


def answer(
    text: str,
    predictor: Predictor,
    alphabet: str,
    limits: Limits,
    parent: Path,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Answer:
    """Predict the chains of a text.

    Args:
        text: as for `read_chains`.
        predictor: the model.
        alphabet: name of the alphabet to report.
        limits: of the page.
        parent: where the answer's folder is made.
        report: called with the number of residues that are predicted so far, and of all.

    Raises:
        ValueError: if the text or the alphabet is invalid.
    """
    started = time.monotonic()
    fold_index(predictor.alphabet, alphabet)
    part = read_chains(text, limits)
    report(0, part.num_residues)
    predictions, counts = predict_part(predictor, part, alphabet, _Progress(report, part.num_residues))
    summary = f"{summarise(counts, time.monotonic() - started)} {part.doubt}".strip()
    return Answer(predictions, summary, tempfile.TemporaryDirectory(dir=parent))


class _Progress:
    """Passes on the residues done so far, as a progress bar is told them."""

    def __init__(self, report: Callable[[int, int], None], total: int):
        self.report, self.done, self.total = report, 0, total

    def update(self, residues: int) -> None:
        self.done += residues
        self.report(self.done, self.total)
