"""The output directory of a run: its settings, its parts and, once all parts are done, the results.

    OUT/run.json            settings of the run (model, formats, ...); at the end also the counts and the sizes of the
                            results
    OUT/parts/000000/       one part: a file or folder per format, rejected records, digest and counts
    OUT/predictions.*       the parts joined in the order of the input; for embeddings OUT/embeddings.*

A part appears complete or not at all, so a killed run resumes after its last complete part. Any process or machine can
write any part, and those of the same kind write the same bytes; whichever finishes last joins the parts. Processes that
write a part share the lock of `OUT/.lock`; whoever starts a run, joins its parts or removes it holds that lock alone.
So a process whose parts another one has joined meanwhile finds the results, never half of them.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ..models.atomic import is_leftover, locked_file, remove_leftovers, replacing, replacing_folder, require_folder
from .formats import Format, table_field
from .records import Part, RejectedRecord

logger = logging.getLogger(__name__)

SETTINGS, PARTS, PART, REJECTED, LOCK = "run.json", "parts", "part.json", "rejected.tsv", ".lock"
FIRST_PROCESS_TIMEOUT = 600  # for the first process to create the directory, while the others wait [s]


class PartFormat(Protocol):
    """A format in which a run writes what it computed, part by part.

    Attributes:
        file_name: name of the result in the output directory.
    """

    file_name: str

    def write_part(self, path: Path, chains: Sequence[Any], /) -> None:
        """Write what was computed for the chains of one part to a new file or folder."""

    def join(self, paths: Iterable[Path], out: Path) -> None:
        """Join the parts' files in order; the result appears complete or not at all."""


@dataclass(frozen=True)
class Counts:
    """What was computed and what was changed; add counts up with `+`.

    Attributes:
        chains: predicted or embedded.
        residues: of these chains.
        windowed: chains too long for the model, which ran in windows.
        rejected: invalid records.
        gaps: gaps and stop codons removed.
        lower_case: residues that were lower case.
        replaced: residues that the backbone read as X.

    Example:
        >>> (Counts(chains=1, residues=120) + Counts(chains=2, residues=80)).residues
        200
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


def num_entries(folder: Path) -> int:
    """Return the number of files in a folder."""
    return sum(1 for _ in folder.iterdir())


def _size(path: Path) -> int:
    """Return the size of a file [bytes], or the number of files in a folder."""
    return num_entries(path) if path.is_dir() else path.stat().st_size


def read_run_json(path: Path, required: Collection[str] = ()) -> dict[str, Any]:
    """Read one of the JSON files of a run."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(content, dict) or not set(required) <= set(content):
        raise _damaged(path, f"expected an object with {', '.join(required) or 'the settings'}")
    lists = content.get("digests", []), content.get("formats", [])
    if not all(isinstance(value, list) for value in lists) or not isinstance(content.get("sizes", {}), dict):
        raise _damaged(path, "digests, formats or sizes of another type")
    return content


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is damaged ({reason}). Give another directory.")


class RunFolder:
    """The output directory of a run.

    Args:
        folder: the directory.
        settings: all that decides what is written: version, model, formats, precision, max_tokens, ...
        formats: the formats that the settings name.

    Attributes:
        remedies: what else can be done about a setting that differs from that of the run in the directory.
        lock_names: names of the files that processes lock.
    """

    formats: Mapping[str, PartFormat]
    lock_names: ClassVar[tuple[str, ...]] = (LOCK,)
    remedies: ClassVar[Mapping[str, str]] = {}

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], formats: Mapping[str, PartFormat]):
        self.folder, self.settings, self.formats = Path(folder), dict(settings), dict(formats)
        self._digests: list[str] | None = None  # of all parts, once they are joined

    def open(self, resume: bool, is_first: bool = True) -> None:
        """Start a run, or resume the one in the directory.

        Args:
            resume: allow the directory to hold this run already.
            is_first: True for the first of several processes. The others wait until it has started the run; with
                `resume`, whichever comes first starts it.

        Raises:
            ValueError: if the path is not a directory, or it holds other files, a run with other settings, or a run and
                `resume` is False.
        """
        path = self.folder / SETTINGS
        require_folder(self.folder)
        if not (is_first or resume):
            self._wait_for_settings(path)
            self._check_settings(read_run_json(path), path)
            return
        holds_others = self._holds_other_files()  # asked first: another process may be starting the run
        if not path.is_file() and holds_others:
            raise ValueError(f"{self.folder} is not empty and does not hold a run. Give a new directory.")
        with self._locked():
            if not path.is_file():
                self._write_settings({})
            elif not resume:
                raise ValueError(f"{self.folder} holds a run. Add --resume to resume it, or give another directory.")
            else:
                self._check_run(path)
            remove_leftovers(self.folder)  # of a process that was killed while it started or joined this run

    def _check_run(self, path: Path) -> None:
        """Check the settings of the run in the directory; start it again if it is finished and a result is gone."""
        content = read_run_json(path)
        self._check_settings(content, path)
        if "digests" in content and (changed := self._changed_results(content)):
            logger.warning("%s is missing or incomplete, so the run starts again.", self.folder / changed)
            self._write_settings({})

    def _with_formats(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of the run in the directory as they are compared with this run's."""
        return content

    def discard_if_empty(self) -> None:
        """Remove a run that has no parts yet, so that its directory can be used again."""
        with self._locked():
            if self.is_joined or (self.folder / PARTS).exists():
                return
            (self.folder / SETTINGS).unlink(missing_ok=True)
            if not self._holds_other_files():
                remove_leftovers(self.folder)
                for name in self.lock_names:
                    (self.folder / name).unlink(missing_ok=True)
                with suppress(OSError):  # another process is starting a run
                    self.folder.rmdir()

    def _locked(self, is_shared: bool = False) -> AbstractContextManager[None]:
        """Lock the directory, which another process may have discarded, against starting, joining and discarding."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return locked_file(self.folder / LOCK, is_shared)

    def _holds_other_files(self) -> bool:
        """Return True if the directory holds anything but what a run killed at its start left."""
        if not self.folder.is_dir():
            return False
        return not all(is_leftover(path) or path.name in self.lock_names for path in self.folder.iterdir())

    def _wait_for_settings(self, path: Path) -> None:
        deadline = time.monotonic() + FIRST_PROCESS_TIMEOUT
        while not path.is_file():
            if time.monotonic() > deadline:
                raise ValueError(f"{path}: the first process has not written it. See that process's messages.")
            time.sleep(0.1)

    def _changed_results(self, content: Mapping[str, Any]) -> str | None:
        """Return the name of a result of a finished run that is not as it was written; None if all are."""
        sizes = content.get("sizes", {})
        for form in (self.formats[name] for name in content.get("formats", [])):
            path = self.folder / form.file_name
            if not path.exists() or sizes.get(form.file_name, _size(path)) != _size(path):
                return form.file_name
        return None

    def _counts(self, content: Mapping[str, Any], path: Path) -> Counts:
        """Return the counts among the content of a file."""
        names = [field.name for field in fields(Counts)]
        if not all(isinstance(content.get(name), int) for name in names):
            raise _damaged(path, f"expected the counts {', '.join(names)}")
        return Counts(**{name: content[name] for name in names})

    def _check_settings(self, content: dict[str, Any], path: Path) -> None:
        """Raise ValueError if the run in the directory has other settings."""
        if unknown := [name for name in self.settings if name not in content]:
            raise ValueError(f"{path}: that run has no {unknown[0]}: another command wrote it. Give another directory.")
        content = self._with_formats(content)
        for name, value in self.settings.items():
            if content[name] == value:
                continue
            if name == "model":  # digests of 64 letters, which say nothing to a reader
                raise ValueError(f"{path}: that run used another model. Give that model, or another directory.")
            raise ValueError(
                f"{path}: that run has {name} {content[name]!r}, but this one has {value!r}. "
                f"Give another directory, or the same settings{self.remedies.get(name, '')}."
            )

    def _write_settings(self, more: Mapping[str, Any]) -> None:
        with replacing(self.folder / SETTINGS) as temporary:
            temporary.write_text(json.dumps({**self.settings, **more}, indent=2) + "\n", "utf-8")

    def is_done(self, part: Part) -> bool:
        """Return True if a part is complete, or already joined.

        Raises:
            ValueError: if it was predicted from another input.
        """
        with self._locked(is_shared=True):
            digests = self._joined_digests()
            if digests is None:
                path = self.part_folder(part.number) / PART
                if not path.is_file():
                    return False
                found = read_run_json(path, ["digest"])["digest"]
            else:
                found = digests[part.number] if part.number < len(digests) else None
        if found != part.digest:
            raise self._other_input(f"which differs from record {part.first_number} on")
        return True

    def _other_input(self, difference: str) -> ValueError:
        return ValueError(
            f"{self.folder} holds a run over another input, {difference}. Give the same input, or another directory."
        )

    def _joined_digests(self) -> list[str] | None:
        """Return the digests of all parts if they are joined, by this process or another one; else None."""
        if self._digests is None and self.is_joined:
            self._digests = read_run_json(self.folder / SETTINGS)["digests"]
        return self._digests

    def part_folder(self, number: int) -> Path:
        """Return the folder of a part."""
        return self.folder / PARTS / f"{number:06d}"

    def write_part(self, part: Part, chains: Sequence[Any], counts: Counts) -> None:
        """Write what was computed for the chains of a part in all formats; it appears complete or not at all."""
        with self._locked(is_shared=True):
            if not (self.folder / SETTINGS).is_file():
                self._write_settings({})  # another process, with an invalid input, has discarded the empty run
            if not self.is_joined:  # by another process, which has written this part too
                self._write_part(part, chains, counts)

    def _write_part(self, part: Part, chains: Sequence[Any], counts: Counts) -> None:
        with replacing_folder(self.part_folder(part.number)) as folder:
            for form in self.formats.values():
                form.write_part(folder / form.file_name, chains)
            (folder / REJECTED).write_text(RejectedRecords.rows(part.rejected), "utf-8")
            (folder / PART).write_text(json.dumps({"digest": part.digest, **asdict(counts)}), "utf-8")

    @property
    def is_joined(self) -> bool:
        """True if the results are complete."""
        path = self.folder / SETTINGS
        return path.is_file() and "digests" in read_run_json(path)

    def counts(self) -> Counts:
        """Return the counts of a finished run."""
        path = self.folder / SETTINGS
        counts = read_run_json(path, ["counts"])["counts"]
        return self._counts(counts if isinstance(counts, dict) else {}, path)

    def num_missing(self, num_parts: int) -> int:
        """Return how many parts of the whole input are not complete yet.

        Raises:
            ValueError: if the run is over an input of another length.
        """
        with self._locked():  # another process may be replacing a part, which is not there for a moment
            digests = self._joined_digests()
            done = {int(path.parent.name) for path in (self.folder / PARTS).glob(f"[0-9]*/{PART}")}
        is_other = max(done, default=0) >= num_parts if digests is None else len(digests) != num_parts
        if is_other:
            raise self._other_input("of another length")
        return num_parts - len(done) if digests is None else 0

    def join(self, num_parts: int) -> None:
        """Join the parts to the results and remove them, unless another process has done it; wait if it is doing it."""
        with self._locked():
            if not self.is_joined:
                self._write_results([self.part_folder(number) for number in range(num_parts)])
            shutil.rmtree(self.folder / PARTS, ignore_errors=True)

    def _write_results(self, folders: Sequence[Path]) -> None:
        """Write the results of the parts in these folders, and record that the run is finished."""
        self._join_formats(self.formats, folders)
        counts, digests = Counts(), []
        for folder in folders:
            content = read_run_json(folder / PART, ["digest"])
            digests.append(content["digest"])
            counts += self._counts(content, folder / PART)
        if counts.rejected:
            RejectedRecords("").join((folder / REJECTED for folder in folders), self.folder / REJECTED)
        self._write_settings({"counts": asdict(counts), "digests": digests, "sizes": self._sizes()})

    def _join_formats(self, formats: Mapping[str, PartFormat], folders: Sequence[Path]) -> None:
        for form in formats.values():
            form.join((folder / form.file_name for folder in folders), self.folder / form.file_name)

    def _sizes(self) -> dict[str, int]:
        return {form.file_name: _size(self.folder / form.file_name) for form in self.formats.values()}

    def results(self) -> list[str]:
        """Return the names of what a finished run wrote, for its reader."""
        names = [form.file_name for form in self.formats.values()]
        names = [name + ("/" if (self.folder / name).is_dir() else "") for name in names]
        return names + ([REJECTED] if (self.folder / REJECTED).is_file() else [])


class RejectedRecords(Format):
    """Table of the invalid records: number, name, reason."""

    file_name = REJECTED

    def head(self) -> str:
        """Return the column names."""
        return "record\tname\treason\n"

    @staticmethod
    def rows(records: Iterable[RejectedRecord]) -> str:
        """Return a row for each record."""
        return "".join(
            f"{record.number}\t{table_field(record.name)}\t{table_field(record.reason)}\n" for record in records
        )
