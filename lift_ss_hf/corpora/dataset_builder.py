"""The builder that makes the datasets library read and cache a catalogued corpus.

It is alone in its module because the datasets library replaces `Path` and `open` in the module of a builder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from .catalogue import CataloguedCorpus
from .columns import corpus_features
from .sources import find_source
from .splits import read_source

# Part of the cache key: increase it whenever a reader returns different rows than before.
READER_VERSION = "1.0.0"


class PsspCorpusBuilder(datasets.GeneratorBasedBuilder):
    """Build one split of a catalogued corpus.

    There is one builder for each split because a corpus's training file may be unavailable while its test file is
    not. The cache is keyed by the pinned checksum: a second load needs neither the source file nor the network.

    Args:
        corpus: the corpus.
        split: `train`, `validation` or `test`.
        data_dir: a folder that holds the source files.
        cache_dir: the datasets cache.
    """

    VERSION = datasets.Version(READER_VERSION)

    def __init__(
        self,
        corpus: CataloguedCorpus,
        split: str,
        data_dir: str | Path | None = None,
        cache_dir: str | Path | None = None,
    ):
        self.entry = corpus.entry
        self.split_name = split
        self.source = corpus.config.splits[split]
        self.source_dir = data_dir
        super().__init__(
            cache_dir=None if cache_dir is None else str(cache_dir),
            dataset_name=f"lift_ss_{corpus.entry.name}",
            config_name=f"{corpus.config.name}-{split}",
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
