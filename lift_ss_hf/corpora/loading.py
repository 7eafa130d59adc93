"""`load_corpus`: any corpus as a `datasets.Dataset`, without the Hub, from the datasets cache the second time."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

from ..assets import sample_corpus
from .catalogue import SPLIT_ORDER, CorpusName, SourceFile, crossed_tests, get_corpus, load_catalogue
from .chains import Chain, CorpusError
from .columns import corpus_features, read_source
from .readers import read_chains
from .sources import find_source

logger = logging.getLogger(__name__)

# Part of the cache's key: raise it whenever a reader gives other rows than before.
READER_VERSION = "1.0.0"

BUNDLED = "sample"  # the corpus in the package, drawn by dataset_scripts/sample.py


class PsspCorpusBuilder(datasets.GeneratorBasedBuilder):
    """Builds one split of one catalogued corpus.

    One split a builder, since a corpus's training file may be out of reach where its test file is at hand. The cache
    is keyed by the file's pinned checksum: a second load needs neither the source nor the network.

    Args:
        corpus: name, with the configuration after a colon.
        split: `train`, `validation` or `test`.
        data_dir: a folder that holds the sources.
        cache_dir: the datasets cache.
    """

    VERSION = datasets.Version(READER_VERSION)

    def __init__(
        self, corpus: str, split: str, data_dir: str | Path | None = None, cache_dir: str | Path | None = None
    ):
        name = CorpusName.parse(corpus)
        self.entry = get_corpus(name.corpus)
        self.split_name = split
        self.source: SourceFile = self.entry.config(name.config).splits[split]
        self.source_dir = data_dir
        super().__init__(
            cache_dir=None if cache_dir is None else str(cache_dir),
            dataset_name=f"lift_ss_{name.corpus}",
            config_name=f"{name.config}-{split}",
            hash=self.source.checksum.split(":")[1][:16],
        )

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=self.entry.summary,
            features=corpus_features(self.source.form),
            homepage=self.entry.origin.homepage,
            license=self.entry.origin.license,
            citation=self.entry.citation,
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        path = find_source(self.source, self.source_dir)
        return [datasets.SplitGenerator(name=self.split_name, gen_kwargs={"path": path})]

    def _generate_examples(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, chain in enumerate(read_source(self.source, path)):
            yield key, chain.row()


def load_corpus(
    name: str,
    split: str | None = None,
    *,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    tests: Sequence[str] = (),
) -> datasets.Dataset | datasets.DatasetDict:
    """Load a corpus of the catalogue without the Hub, or one of your own.

    Args:
        name: `casp12`, `pisces25`, ...; a configuration follows a colon: `promod3:lt25id`. Or the path of a built
            corpus (a folder), or of a file that `read_chains` reads; what is one split serves for any. Or `sample`,
            which is bundled.
        split: `train`, `validation`, `test`, a slice (`test[:10]`) or a sum of them; None for all.
        data_dir: a folder that holds the sources; else LIFT_SS_DATA_DIR, the cache, and the network.
        cache_dir: the datasets cache; the library's own by default.
        tests: the corpora to be tested on. Those that `name` must not train for are warned of.

    Returns:
        a Dataset with at least the columns id, sequence, states and num_residues; a DatasetDict where `split` is None.

    Raises:
        ValueError: for an unknown corpus, configuration or split.
        MissingSourceError: if a source is out of reach; the message lists the ways to get it.
        CorpusError: for bad data.
    """
    if is_own_corpus(name):
        return _load_own(sample_corpus() if name == BUNDLED else Path(name), split, cache_dir)
    corpus = CorpusName.parse(name)
    splits = get_corpus(corpus.corpus).config(corpus.config).splits
    warn_if_crossed(name, tests)
    if split is None:
        return datasets.DatasetDict({base: _load_split(name, base, data_dir, cache_dir) for base in splits})
    parts = [_load_split(name, part.strip(), data_dir, cache_dir) for part in split.split("+")]
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def is_own_corpus(name: str) -> bool:
    """Whether a name stands for the bundled sample or a folder or file of the user's, not for a catalogued corpus."""
    return name == BUNDLED or (name not in load_catalogue() and Path(name).exists())


def _load_split(name: str, split: str, data_dir: str | Path | None, cache_dir: str | Path | None) -> datasets.Dataset:
    """One split, or a slice of it."""
    corpus = CorpusName.parse(name)
    splits = get_corpus(corpus.corpus).config(corpus.config).splits
    base = re.match(r"\w*", split)[0]  # type: ignore[index]
    if base not in splits:
        raise ValueError(f"{name} has no split {base!r}. Choose one of: {', '.join(splits)}.")
    builder = PsspCorpusBuilder(name, base, data_dir, cache_dir)
    try:
        builder.download_and_prepare()
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, CorpusError):
            raise error.__cause__ from None
        raise
    return builder.as_dataset(split=split)


def _load_own(path: Path, split: str | None, cache_dir: str | Path | None) -> datasets.Dataset | datasets.DatasetDict:
    """A built corpus (folder) or a file of chains."""
    if path.is_dir():
        if not (path / "README.md").is_file():
            raise CorpusError(f"{path}: no built corpus (no README.md in it). Build one, or name a file of chains.")
        available = datasets.get_dataset_split_names(str(path))
        if len(available) == 1 and split in SPLIT_ORDER:
            split = available[0]  # as a file is: what is one split serves for any
        # The library's cache of a local folder does not look into its files: a corpus written anew needs a new place.
        base = Path(cache_dir or datasets.config.HF_DATASETS_CACHE)
        return datasets.load_dataset(str(path), split=split, cache_dir=str(base / "lift_ss_hf" / _digest(path)))
    if split is not None and split not in SPLIT_ORDER:
        raise ValueError(f"{path} is one file: it has no split {split!r}.")
    chains: list[Chain] = list(read_chains(path))
    return datasets.Dataset.from_list([chain.row() for chain in chains])


def _digest(folder: Path) -> str:
    """Checksum of a built corpus's files, each of which must be whole."""
    digest = hashlib.sha256()
    for file in sorted((folder / "data").glob("*.parquet")):
        for _ in read_chains(file):
            pass
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def warn_if_crossed(train: str, tests: Sequence[str]) -> list[str]:
    """Warn, in one line, of tests that a training corpus must not be used for; returns them."""
    crossed = crossed_tests(train, tests)
    if crossed:
        name = CorpusName.parse(Path(train).name)
        allowed = get_corpus(name.corpus).config(name.config).trains_for
        logger.warning(
            "%s is no training set for %s: they share chains or homologues, and scores would be too good. "
            "It may train for: %s.",
            train,
            ", ".join(crossed),
            ", ".join(allowed) or "no catalogued test",
        )
    return crossed
