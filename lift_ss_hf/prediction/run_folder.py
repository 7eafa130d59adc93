"""The directory of a run: its settings, its parts, and what the parts become when all are there.

    OUT/run.json            what the run is: model, states, formats, ...; and, at the end, how much was predicted
    OUT/parts/000000/       a part: a file (or folder) for each format, rejects, digest and counts
    OUT/predictions.*       the parts joined, in the order of the input

A part appears whole or not at all, so a killed run goes on where it was. Parts do not depend on who makes them: several
processes or machines take turns, and whoever is last joins them. The same part made twice is the same bytes.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..models.atomic import replacing, replacing_folder
from .formats import FORMATS, Format
from .records import Part
from .result import Prediction

SETTINGS, PARTS, PART, REJECTED, LOCK = "run.json", "parts", "part.json", "rejected.tsv", ".lock"
SECONDS_FOR_FIRST = 600  # how long the others wait for the first process to open the directory


@dataclass(frozen=True)
class Counts:
    """How much was predicted; add up with `+`.

    Attributes:
        chains, residues: predicted.
        windowed: chains that were too long to be run whole.
        rejected: records that are no protein.
        gaps: gaps and stops taken out.
        lower_case: residues that were lower case.
        replaced: residues that the backbone saw as X.
    """

    chains: int = 0
    residues: int = 0
    windowed: int = 0
    rejected: int = 0
    gaps: int = 0
    lower_case: int = 0
    replaced: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


class RunFolder:
    """A run's directory.

    Args:
        folder: the directory.
        settings: everything that decides what is written: model, states, formats, precision, sizes.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any]):
        self.folder, self.settings = Path(folder), dict(settings)
        self.formats = {name: FORMATS[name](settings["states"]) for name in settings["formats"]}
        self._digests: list[str] | None = None  # of all parts, once they are joined

    # ---- opening ---------------------------------------------------------------------------------------------------

    def open(self, resume: bool, is_first: bool = True) -> None:
        """Begin a run, or go on with one.

        Args:
            resume: a run may be there already.
            is_first: of several processes; the others wait for its directory.

        Raises:
            ValueError: if there is another run, or something else, or a run that may not be gone on with.
        """
        path = self.folder / SETTINGS
        if self.folder.is_file():
            raise ValueError(f"{self.folder} is a file. Give a directory to write to.")
        if not is_first:
            self._wait_for(path)
        elif path.is_file() and not resume:
            raise ValueError(f"{self.folder} holds a run. Add --resume to go on with it, or give another directory.")
        elif not path.is_file() and self.folder.is_dir() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} is not empty, and holds no run. Give a new directory.")
        if path.is_file():
            found = self._read(path)
            self._check(found, path)
            self._digests = found.get("digests")
        else:
            self._write_settings({})

    def give_up(self) -> None:
        """Take back a run without a part, so that its directory can be used again."""
        if not self.is_joined and not (self.folder / PARTS).exists():
            (self.folder / SETTINGS).unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _wait_for(self, path: Path) -> None:
        until = time.monotonic() + SECONDS_FOR_FIRST
        while not path.is_file():
            if time.monotonic() > until:
                raise ValueError(f"{path}: the first process has not made it. See what it says.")
            time.sleep(0.1)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            return json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}). Give another directory.") from None

    def _check(self, found: Mapping[str, Any], path: Path) -> None:
        """Raise ValueError if what is there was made otherwise."""
        for name, value in self.settings.items():
            if found.get(name) != value:
                if name == "model":  # 64 digits each, which tell nobody anything
                    raise ValueError(f"{path}: that run is of another model. Give that one, or another directory.")
                raise ValueError(
                    f"{path}: that run has {name} {found.get(name)!r}, this one {value!r}. "
                    "Give another directory, or the same settings."
                )

    def _write_settings(self, more: Mapping[str, Any]) -> None:
        with replacing(self.folder / SETTINGS) as temporary:
            temporary.write_text(json.dumps({**self.settings, **more}, indent=2) + "\n", "utf-8")

    # ---- parts -----------------------------------------------------------------------------------------------------

    def is_done(self, part: Part) -> bool:
        """Whether a part is there, or was joined already.

        Raises:
            ValueError: if it was made from another input.
        """
        if self._digests is None:
            path = self.part_folder(part.number) / PART
            if not path.is_file():
                return False
            found = self._read(path)["digest"]
        else:
            found = self._digests[part.number] if part.number < len(self._digests) else None
        if found != part.digest:
            numbers = [chain.number for chain in part.chains] + [reject.number for reject in part.rejects]
            raise ValueError(
                f"{self.folder} holds a run over another input: from record {min(numbers)} on they differ. "
                "Give the same input, or another directory."
            )
        return True

    def part_folder(self, number: int) -> Path:
        """Where a part is."""
        return self.folder / PARTS / f"{number:06d}"

    def write_part(self, part: Part, predictions: Sequence[Prediction], counts: Counts) -> None:
        """Write a part in all formats, in one step."""
        with replacing_folder(self.part_folder(part.number)) as folder:
            for form in self.formats.values():
                form.write_part(folder / form.file_name, predictions)
            rejects = "".join(f"{reject.number}\t{reject.name}\t{reject.reason}\n" for reject in part.rejects)
            (folder / REJECTED).write_text(rejects, "utf-8")
            (folder / PART).write_text(json.dumps({"digest": part.digest, **asdict(counts)}), "utf-8")

    # ---- the end ---------------------------------------------------------------------------------------------------

    @property
    def is_joined(self) -> bool:
        """Whether the results are complete."""
        path = self.folder / SETTINGS
        return path.is_file() and "digests" in self._read(path)

    def counts(self) -> Counts:
        """What a finished run predicted."""
        return Counts(**self._read(self.folder / SETTINGS)["counts"])

    def missing(self, num_parts: int) -> int:
        """How many parts are not there yet."""
        if self.is_joined:
            return 0
        return sum(not (self.part_folder(number) / PART).is_file() for number in range(num_parts))

    def join(self, num_parts: int) -> None:
        """Join the parts to the results and remove them; does nothing if another process does it or has done it."""
        with self._alone() as is_alone:
            if not is_alone or self.is_joined:
                return
            folders = [self.part_folder(number) for number in range(num_parts)]
            for form in self.formats.values():
                form.join((folder / form.file_name for folder in folders), self.folder / form.file_name)
            counts, digests = Counts(), []
            for folder in folders:
                content = self._read(folder / PART)
                digests.append(content.pop("digest"))
                counts += Counts(**content)
            if counts.rejected:
                _Rejects("").join((folder / REJECTED for folder in folders), self.folder / REJECTED)
            self._write_settings({"counts": asdict(counts), "digests": digests})
            shutil.rmtree(self.folder / PARTS)

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other process is at it; a dead one is not."""
        with (self.folder / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True


class _Rejects(Format):
    """Records that are no protein: number, name, reason."""

    file_name = REJECTED

    def head(self) -> str:
        """Names of the columns."""
        return "record\tname\treason\n"
