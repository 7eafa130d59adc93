"""Write a corpus that the datasets library loads: parquet files and a dataset card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import datasets
import pyarrow.parquet as pq
from huggingface_hub.constants import REPOCARD_NAME

from ..models.atomic import replacing_folder, require_folder, restore
from .cards import CardFacts, dataset_card, file_name
from .catalogue import DEFAULT_CONFIG
from .chains import CorpusError
from .splits import Split


def write_corpus(
    folder: str | Path, splits: Sequence[Split], facts: CardFacts, features: datasets.Features | None = None
) -> None:
    """Write `folder/README.md` and `folder/data/*.parquet`, completely or not at all.

    An existing corpus in that folder is replaced, with all its splits; see `require_replaceable`.

    Args:
        folder: folder of the corpus; its name is the corpus's name on the Hub.
        splits: the splits; at least one, none of them empty.
        facts: what the card says.
        features: the columns; by default those of `Chain.row()` of the first chain.

    Raises:
        CorpusError: if there is nothing to write, or the folder holds anything but a corpus.
        ValueError: if the path is not a folder.

    Example:
        >>> import tempfile
        >>> from lift_ss_hf.corpora import CardFacts, Chain, Split, load_corpus, write_corpus
        >>> split = Split.of("train", [Chain("1abc_A", "MKV", "LHX")])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_corpus(f"{folder}/mine", [split], CardFacts("Mine", "One chain.", "cc0-1.0"))
        ...     load_corpus(f"{folder}/mine", "train", cache_dir=folder)["states"][0]
        'LHX'
    """
    folder = Path(folder)
    if not splits or any(not split.chains for split in splits):
        empty = ", ".join(split.name for split in splits if not split.chains) or "no split"
        raise CorpusError(f"{folder}: nothing to write ({empty} has no chains).")
    _require_corpus(folder)
    with replacing_folder(folder.absolute()) as part:  # pyarrow takes a relative run:1/... for a URI
        (part / "data").mkdir()
        sizes = {}
        for split in splits:
            rows = [chain.row() for chain in split.chains]
            table = datasets.Dataset.from_list(rows, features=features)
            features = table.features
            path = part / "data" / file_name(split.name, split.config)
            # Not Dataset.to_parquet, which shows a progress bar for each corpus. The schema carries the features.
            pq.write_table(table.data.table, path)
            sizes[split.config, split.name] = (table.data.nbytes, path.stat().st_size)
        assert features is not None
        card = dataset_card(_shown_path(folder), splits, facts, features, sizes)
        (part / REPOCARD_NAME).write_text(card, "utf-8")


def _shown_path(folder: Path) -> str:
    """Return the path of a folder from the current one; of a folder elsewhere only the name, which tells nothing."""
    folder, here = folder.resolve(), Path.cwd()
    return folder.relative_to(here).as_posix() if folder.is_relative_to(here) and folder != here else folder.name


def require_replaceable(folder: str | Path, splits: Iterable[str]) -> None:
    """Raise an error if `write_corpus` would refuse a folder, or remove splits from it that are not written.

    Call it before work whose result goes there; the folder need not exist.

    Args:
        folder: folder of the corpus.
        splits: names of the splits to write, of the default configuration.

    Raises:
        CorpusError: if the folder holds other splits, or anything but a corpus.
        ValueError: if the path is not a folder.
    """
    folder = Path(folder)
    _require_corpus(folder)
    ending = file_name("", DEFAULT_CONFIG)
    found = {path.name.removesuffix(ending) for path in folder.glob("data/*.parquet")}
    if lost := sorted(found.difference(splits)):
        raise CorpusError(
            f"{folder}: holds the split{'s' * (len(lost) > 1)} {', '.join(lost)}, which would be removed. Give another "
            "directory, or remove it."
        )


def _require_corpus(folder: Path) -> None:
    """Raise an error if a folder exists and holds anything but a corpus."""
    require_folder(folder)
    restore(folder)
    if folder.exists() and not _is_replaceable(folder):
        raise CorpusError(
            f"{folder}: contains files that do not belong to a corpus. Name another folder, or remove it."
        )


def _is_replaceable(folder: Path) -> bool:
    """Return True if a folder is empty or holds nothing but a corpus of ours, since replacing it removes everything."""
    names = {path.name for path in folder.iterdir()}
    if not names:
        return True
    card = folder / REPOCARD_NAME
    return (
        names == {REPOCARD_NAME, "data"}
        and "dataset_info:" in card.read_text("utf-8", errors="replace")
        and all(path.suffix == ".parquet" for path in (folder / "data").iterdir())
    )
