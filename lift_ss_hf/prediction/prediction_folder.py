"""The output directory of a run of `lift-ss predict`; once finished, the run can be read, and given more formats."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from .added_formats import most_exact, source_format, write_added
from .formats import Format, get_format
from .run_folder import PARTS, SETTINGS, RunFolder, read_run_json

logger = logging.getLogger(__name__)


def read_finished(folder: str | Path) -> dict[str, Any]:
    """Return the settings of the finished run in a directory.

    Raises:
        ValueError: if there is no run, or it is not finished.
    """
    path = Path(folder) / SETTINGS
    if not path.is_file():
        raise ValueError(f"{folder}: no {SETTINGS}. Expected the directory of a run of `lift-ss predict -o`.")
    if "layer" in read_run_json(path):
        raise ValueError(
            f"{folder}: a run of `lift-ss embed`, which has hidden states. Expected the directory of a run of "
            "`lift-ss predict -o`; or give the sequences to look at."
        )
    content = read_run_json(path, ["states"])
    if "formats" not in content:
        raise ValueError(
            f"{folder}: a run with Ray, whose results are the Parquet files in it. Expected the directory of a run of "
            "`lift-ss predict -o`; or give the sequences to look at."
        )
    if "digests" not in content:
        raise ValueError(f"{folder}: the run is not finished. Resume it with --resume.")
    return content


def stored_result(folder: Path, formats: Collection[str]) -> Path | None:
    """Return the result of a finished run that holds most, see `most_exact`; None if none holds probabilities."""
    held = most_exact(formats)
    return None if held is None else folder / get_format(held).file_name


class PredictionFolder(RunFolder):
    """The output directory of a run of predictions.

    Args:
        folder: the directory.
        settings: all that decides what is written: version, model, states, formats, precision, max_tokens.

    Raises:
        ValueError: if a format is unknown.
    """

    formats: Mapping[str, Format]
    remedies: ClassVar[Mapping[str, str]] = {"formats": "; a finished run can get more formats"}

    def __init__(self, folder: str | Path, settings: Mapping[str, Any]):
        super().__init__(folder, settings, _make_formats(settings))

    def _check_run(self, path: Path) -> None:
        """Check the run in the directory as every run; a finished one gets the formats that it does not have yet."""
        super()._check_run(path)
        content = read_run_json(path)
        held = content.get("formats", [])
        added = {name: form for name, form in self.formats.items() if name not in held}
        if "digests" in content and added:
            self._add_formats(added, held, content)

    def _with_formats(self, content: dict[str, Any]) -> dict[str, Any]:
        """Unite this run's formats with those of the finished run; return its settings with all of them."""
        if "digests" not in content:
            return content
        self.settings["formats"] = sorted({*self.settings["formats"], *content.get("formats", [])})
        self.formats = _make_formats(self.settings)
        return {**content, "formats": self.settings["formats"]}

    def _add_formats(self, added: Mapping[str, Format], held: Sequence[str], content: Mapping[str, Any]) -> None:
        """Write more formats from the results."""
        try:
            source = self.folder / get_format(source_format(held, list(added), self.settings["states"])).file_name
        except ValueError as error:
            raise ValueError(f"{self.folder}: {error} Give another directory to predict again.") from None
        folders = write_added(source, self.settings["states"], added, self.folder / PARTS)
        self._join_formats(added, folders)
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)
        counts = asdict(self.counts())
        self._write_settings({"counts": counts, "digests": content["digests"], "sizes": self._sizes()})
        logger.info("%s: written from %s, without predicting again", ", ".join(added), source)


def _make_formats(settings: Mapping[str, Any]) -> dict[str, Format]:
    return {name: get_format(name)(settings["states"]) for name in settings["formats"]}
