"""Load any corpus as a `datasets.Dataset`, without the Hub; a second load comes from the datasets cache."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TypeGuard

import datasets
import yaml
from huggingface_hub.constants import REPOCARD_NAME
from huggingface_hub.repocard import metadata_load

from ..assets import sample_corpus
from ..models.atomic import restore
from ..models.states import UNRESOLVED
from ..models.wording import no_such_file
from .catalogue import SPLIT_ORDER, CataloguedCorpus, find_corpus, get_corpus, load_catalogue
from .chains import Chain, CorpusError
from .custom import ChainsBySplit, fasta_pair, read_custom
from .dataset_builder import PsspCorpusBuilder
from .file_kinds import is_data_set
from .readers import read_chains

logger = logging.getLogger(__name__)

BUNDLED = "sample"  # name of the bundled corpus, drawn by dataset_scripts/sample.py

# A corpus of the catalogue; a file or folder; or the name of a pair of FASTA files or of a data set on the Hub.
Corpus = CataloguedCorpus | Path | str


def load_corpus(
    name: str,
    split: str | None = None,
    *,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    tests: Sequence[str] = (),
) -> datasets.Dataset | datasets.DatasetDict:
    """Load a corpus of the catalogue, the bundled sample or a custom corpus.

    Args:
        name: name of a corpus (`casp12`), with the configuration after a colon (`promod3:lt25id`); `sample`, the
            bundled corpus; the folder of a built corpus; or a custom corpus, which `custom.read_custom` reads: a file,
            a folder, or a data set on the Hub. A corpus without splits or with a single one is used for every split.
        split: `train`, `validation` or `test`; of a catalogued or built corpus also a slice (`test[:10]`) or a sum of
            them; None for all splits.
        data_dir: a folder that holds the source files. By default they come from the folder in the environment
            variable LIFT_SS_DATA_DIR, the cache or the network, in this order.
        cache_dir: the datasets cache; that of the datasets library by default.
        tests: corpora that will be used for testing. A warning names those that share chains with `name`.

    Returns:
        a Dataset with at least the columns id, sequence, states and num_residues; a DatasetDict if `split` is None.

    Raises:
        ValueError: if the corpus, configuration or split is unknown.
        MissingSourceError: if a source file is not available; the message lists the ways to get it.
        CorpusError: if the data is invalid.

    Example:
        >>> corpus = load_corpus("sample", "test")
        >>> len(corpus), corpus["states"][0][:10]
        (60, 'PPPHHHHHHH')
    """
    corpus = resolve_corpus(name)
    warn_if_crossed(name, tests)
    return load_resolved(corpus, split, data_dir, cache_dir)


def resolve_corpus(name: str) -> Corpus:
    """Return the corpus of the catalogue that a name selects, the path of the bundled sample, or a custom corpus.

    A custom corpus may not have the name of a catalogued one: write `./casp12` for a folder of that name.

    Raises:
        ValueError: if the name is neither in the catalogue nor an existing path, nor may be that of a data set.
    """
    if name == BUNDLED:
        return sample_corpus()
    if name not in load_catalogue():
        restore(name)
        if Path(name).exists():
            return Path(name)
        if fasta_pair(name) or is_data_set(name):
            return name
        if Path(name).name != name or Path(name).suffix:
            raise ValueError(f"{no_such_file(name)} Give chains with their states, or a corpus of the catalogue.")
    try:
        return get_corpus(name)
    except ValueError as error:
        raise ValueError(f"{error} Or give {BUNDLED}, or the path of an existing file or folder.") from None


def load_resolved(
    corpus: Corpus,
    split: str | None = None,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> datasets.Dataset | datasets.DatasetDict:
    """Load what `resolve_corpus` returned; arguments, result and errors as for `load_corpus`."""
    if not isinstance(corpus, CataloguedCorpus):
        return _load_folder(corpus, split, cache_dir) if _is_built(corpus) else _load_custom(corpus, split)
    if split is None:
        splits = {name: _load_split(corpus, name, data_dir, cache_dir) for name in corpus.config.splits}
        return datasets.DatasetDict(splits)
    parts = [_load_split(corpus, part.strip(), data_dir, cache_dir) for part in split.split("+")]
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def split_names(corpus: Corpus) -> list[str]:
    """Return the names of the splits of a corpus; one without any serves for all of them."""
    return own_splits(corpus) or list(SPLIT_ORDER)


def own_splits(corpus: Corpus) -> list[str]:
    """Return the names of the splits of a corpus; none if it is a custom corpus that does not say any."""
    if isinstance(corpus, CataloguedCorpus):
        return list(corpus.config.splits)
    if _is_built(corpus):
        return _folder_split_names(corpus)
    found = read_custom(corpus)
    return [split for split in SPLIT_ORDER if split in found]


def _is_built(corpus: Corpus) -> TypeGuard[Path]:
    """Return True for the folder of a built corpus."""
    return isinstance(corpus, Path) and (corpus / REPOCARD_NAME).is_file() and (corpus / "data").is_dir()


def _load_split(
    corpus: CataloguedCorpus, split: str, data_dir: str | Path | None, cache_dir: str | Path | None
) -> datasets.Dataset:
    """Load one split of a catalogued corpus, or a slice of it."""
    splits = corpus.config.splits
    base = re.match(r"\w*", split)[0]  # type: ignore[index]
    if base not in splits:
        raise ValueError(f"{corpus} has no split {base!r}. Choose one of: {', '.join(splits)}.")
    builder = PsspCorpusBuilder(corpus, base, data_dir, cache_dir)
    try:
        builder.download_and_prepare()
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, CorpusError):
            raise error.__cause__ from None
        raise
    return builder.as_dataset(split=split)


def _load_folder(
    folder: Path, split: str | None, cache_dir: str | Path | None
) -> datasets.Dataset | datasets.DatasetDict:
    """Load a built corpus."""
    available = _folder_split_names(folder)
    if len(available) == 1 and split in SPLIT_ORDER:
        split = available[0]
    # The datasets library does not notice when the files of a local folder change: name the cache by their content.
    base = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "lift_ss_hf"
    cache = base / _content_digest(folder)
    if not cache.exists():  # else these very bytes were checked before
        for file in _parquet_files(folder):
            for _ in read_chains(file):
                pass
    return datasets.load_dataset(str(folder), split=split, cache_dir=str(cache))


def _folder_split_names(folder: Path) -> list[str]:
    return datasets.get_dataset_split_names(str(folder))


def _content_digest(folder: Path) -> str:
    """Return a checksum of the names and bytes of a built corpus's data files."""
    digest = hashlib.sha256()
    for file in _parquet_files(folder):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _parquet_files(folder: Path) -> list[Path]:
    return sorted((folder / "data").glob("*.parquet"))


def _load_custom(corpus: Path | str, split: str | None) -> datasets.Dataset | datasets.DatasetDict:
    """Load a custom corpus; without splits, or with a single one, it serves for every split."""
    found = read_custom(corpus)
    if split is None:
        tables = {name: _table(chains) for name, chains in found.items()}
        return next(iter(tables.values())) if len(tables) == 1 else datasets.DatasetDict(tables)
    return _table(_chains_of_split(found, corpus, split))


def _chains_of_split(found: ChainsBySplit, corpus: Path | str, split: str) -> list[Chain]:
    if len(found) == 1 and split in SPLIT_ORDER:
        return next(iter(found.values()))
    if split not in found:
        choices = ", ".join(name for name in SPLIT_ORDER if len(found) == 1 or name in found)
        raise ValueError(f"{corpus} has no split {split!r}. Choose one of: {choices}.")
    return found[split]


def _table(chains: Sequence[Chain]) -> datasets.Dataset:
    return datasets.Dataset.from_list([chain.row() for chain in chains])


def require_labels(name: str, corpus: datasets.Dataset) -> None:
    """Check that a corpus with chains has at least one residue with a state.

    Args:
        name: its name, for the message.
        corpus: chains with the column `states`.

    Raises:
        CorpusError: if all states are X.
    """
    if len(corpus) and not any(states.strip(UNRESOLVED) for states in corpus["states"]):
        raise CorpusError(
            f"{name}: all states of its {len(corpus)} chains are {UNRESOLVED} (unresolved): there is nothing to "
            "train on or to score. Give a corpus with states."
        )


def warn_if_crossed(train: str, tests: Sequence[str]) -> None:
    """Warn if a training corpus shares chains with test corpora; see `crossed_tests`.

    A folder with the name of a catalogued corpus is taken for it, unless its card has another title, as that of the
    chains which `dataset_scripts/leakage.py` left.
    """
    corpus = find_corpus(PurePath(train).name)
    crossed = corpus.crossed_tests(tests) if corpus and _title(Path(train)) in (None, corpus.entry.title) else []
    if corpus and crossed:
        logger.warning(
            "%s is not a training set for %s: they share chains or homologues, so scores would be too high. "
            "It may be used for: %s.",
            train,
            ", ".join(crossed),
            ", ".join(corpus.config.trains_for) or "no catalogued test set",
        )


def _title(folder: Path) -> str | None:
    """Return the title on the card of a built corpus, None if there is none that can be read."""
    try:
        return (metadata_load(folder / REPOCARD_NAME) or {}).get("pretty_name")
    except (OSError, ValueError, yaml.YAMLError):
        return None
