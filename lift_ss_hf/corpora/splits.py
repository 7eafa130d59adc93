"""One split of a corpus: read from its source file, checked and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..models.wording import counted
from .catalogue import DEFAULT_CONFIG, SourceFile
from .chains import Chain, CorpusError
from .readers import READERS


@dataclass
class SplitCounts:
    """Counts of the chains that were read.

    Attributes:
        chains: number of chains.
        residues: number of residues.
        labelled: residues with a state.
        longest: length of the longest chain [residues].
        unlabelled_chains: chains without a single state.
        changes: number of changes that the reader made, by description.
    """

    chains: int = 0
    residues: int = 0
    labelled: int = 0
    longest: int = 0
    unlabelled_chains: int = 0
    changes: Counter[str] = field(default_factory=Counter)

    def count(self, chains: Iterable[Chain]) -> Iterator[Chain]:
        """Count chains and pass them on."""
        for chain in chains:
            self.chains += 1
            self.residues += chain.num_residues
            self.labelled += chain.num_labelled
            self.longest = max(self.longest, chain.num_residues)
            self.unlabelled_chains += chain.num_labelled == 0
            yield chain

    def __str__(self) -> str:
        return f"{counted(self.chains, 'chain')}, {counted(self.residues, 'residue')}, {self.labelled:,} with a state"


@dataclass(frozen=True)
class Split:
    """One split of one configuration, with its counts."""

    name: str
    chains: Sequence[Chain]
    counts: SplitCounts
    config: str = DEFAULT_CONFIG

    @classmethod
    def of(cls, name: str, chains: Iterable[Chain]) -> Split:
        """Count the chains, and return them as a split."""
        counts = SplitCounts()
        return cls(name, list(counts.count(chains)), counts)

    @property
    def label(self) -> str:
        """Return the split's name for messages and cards, after its configuration unless that is the default."""
        return split_label(self.name, self.config)


def split_label(split: str, config: str) -> str:
    """Return `test`, or `lt25id/train` for a configuration that is not the default."""
    return split if config == DEFAULT_CONFIG else f"{config}/{split}"


def read_source(source: SourceFile, path: Path, counts: SplitCounts | None = None) -> Iterator[Chain]:
    """Read a catalogued file, and compare the counts with those in the catalogue.

    Args:
        source: the entry of the catalogue.
        path: the file.
        counts: receives the counts.

    Raises:
        CorpusError: if the data is invalid, or the counts differ from the expected ones.
    """
    counts = SplitCounts() if counts is None else counts
    yield from counts.count(READERS[source.form](path, counts.changes))
    for name in ("chains", "residues", "labelled"):
        expected, found = getattr(source, name), getattr(counts, name)
        if expected is not None and expected != found:
            raise CorpusError(f"{path}: read {found} {name}, but the catalogue expects {expected}.")
