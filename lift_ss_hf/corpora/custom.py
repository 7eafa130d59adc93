"""Custom corpora: files, folders and data sets of the datasets library, as their owners have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets

from ..models.wording import first_line
from .chains import Chain, CorpusError, require_unique_ids
from .fasta_pairs import MASKS_FILE, PAIR, SEQUENCES_FILE, STATES_FILE
from .readers import read_chains, read_fasta_pair
from .tables import TableColumns, chains_of_rows, split_name

SAVED_DATASET, SAVED_DATASETS = "dataset_info.json", "dataset_dict.json"  # of Dataset(Dict).save_to_disk

ChainsBySplit = dict[str | None, list[Chain]]


def fasta_pair(name: str) -> tuple[Path, Path] | None:
    """Return the files of a name `SEQUENCES+STATES`, of which at least one exists; None for any other name."""
    parts = name.split(PAIR)  # the names of the files, or of their folders, may have the sign, too
    pairs = [(Path(PAIR.join(parts[:i])), Path(PAIR.join(parts[i:]))) for i in range(1, len(parts))]
    num_files = [sum(path.is_file() for path in pair) for pair in pairs]
    return pairs[num_files.index(max(num_files))] if any(num_files) else None


def read_custom(corpus: Path | str) -> ChainsBySplit:
    """Read the chains of a custom corpus by the split that they belong to, None for those of no split.

    Args:
        corpus: a file that `read_chains` reads; a folder written by `save_to_disk`, or with biotrainer's
            `sequences.fasta` and `labels.fasta`; the name of a pair of FASTA files; or of a data set on the Hub.

    Raises:
        CorpusError: if it cannot be read.
    """
    if isinstance(corpus, str):
        pair = fasta_pair(corpus)
        return _by_split(read_fasta_pair(*pair)) if pair else _of_data_set(corpus)
    if corpus.is_file():
        return _by_split(read_chains(corpus))
    if (corpus / SAVED_DATASET).is_file() or (corpus / SAVED_DATASETS).is_file():
        return _of_saved(corpus)
    if (corpus / SEQUENCES_FILE).is_file() and (corpus / STATES_FILE).is_file():
        masks = corpus / MASKS_FILE
        files = corpus / SEQUENCES_FILE, corpus / STATES_FILE
        return _by_split(read_fasta_pair(*files, masks if masks.is_file() else None))
    raise CorpusError(
        f"{corpus}: not a corpus. Expected a folder that was built (README.md and data/), written by save_to_disk, or "
        f"with {SEQUENCES_FILE} and {STATES_FILE}; or name a file of chains."
    )


def _by_split(chains: Iterable[Chain]) -> ChainsBySplit:
    found: ChainsBySplit = {}
    for chain in chains:
        found.setdefault(chain.extra.get("split"), []).append(chain)
    return found


def _of_saved(folder: Path) -> ChainsBySplit:
    try:
        return _of_tables(datasets.load_from_disk(str(folder)), str(folder))
    except (OSError, KeyError, TypeError) as error:
        raise CorpusError(f"{folder}: cannot be read ({first_line(error)}). Save it again with save_to_disk.") from None


def _of_data_set(name: str) -> ChainsBySplit:
    try:
        tables = datasets.load_dataset(name)
    except Exception as error:  # `datasets` raises a dozen types; all mean that the data set cannot be read
        raise CorpusError(
            f"{name}: neither a corpus of the catalogue, nor an existing file or folder, nor a data set that can be "
            f"loaded from the Hub ({first_line(error)}). Correct the name."
        ) from error
    return _of_tables(tables, name)


def _of_tables(tables: datasets.Dataset | Mapping[Any, datasets.Dataset], name: str) -> ChainsBySplit:
    """Read one table, or one for each split."""
    if isinstance(tables, datasets.Dataset):
        return _by_split(_chains_of(tables, name))
    if len(tables) == 1:  # `load_dataset` calls a single table train
        return _by_split(_chains_of(next(iter(tables.values())), name))
    found: ChainsBySplit = {}
    for split, table in tables.items():
        found.setdefault(split_name(split, name), []).extend(_chains_of(table, f"{name}: {split}"))
    return found


def _chains_of(table: datasets.Dataset, name: str) -> Iterator[Chain]:
    columns = TableColumns.of(table.column_names, name)
    rows = ((f"row {number}", row) for number, row in enumerate(table, start=1))
    return require_unique_ids(chains_of_rows(rows, columns, name, Counter()), name)
