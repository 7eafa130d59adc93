"""From the catalogue to rows: the features of a corpus, and its chains read, checked and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Features, Sequence, Value

from .catalogue import SourceFile
from .chains import Chain, CorpusError
from .readers import READERS

BASE_FEATURES = {
    "id": Value("string"),
    "sequence": Value("string"),
    "states": Value("string"),
    "num_residues": Value("int32"),
}
PDB_FEATURES = {"pdb_id": Value("string"), "pdb_chain": Value("string")}
FORM_FEATURES = {
    "three_line": PDB_FEATURES,
    "cu_ssp_csv": {},
    "ps4_csv": {
        "chain": Value("string"),
        "chain_states": Value("string"),
        "resolved_mask": Sequence(Value("bool")),
        "domain_mask": Sequence(Value("bool")),
    },
}


def corpus_features(form: str) -> Features:
    """The columns of a corpus that is read from this form."""
    return Features({**BASE_FEATURES, **FORM_FEATURES[form]})


@dataclass
class SplitCounts:
    """What was read of one split.

    Attributes:
        chains, residues, labelled, longest: counts, [chains] and [residues].
        unlabelled_chains: chains without a single state.
        changes: what the reader had to change, and how often.
    """

    chains: int = 0
    residues: int = 0
    labelled: int = 0
    longest: int = 0
    unlabelled_chains: int = 0
    changes: Counter[str] = field(default_factory=Counter)

    def count(self, chains: Iterable[Chain]) -> Iterator[Chain]:
        """Pass chains on and count them."""
        for chain in chains:
            self.chains += 1
            self.residues += chain.num_residues
            self.labelled += chain.num_labelled
            self.longest = max(self.longest, chain.num_residues)
            self.unlabelled_chains += chain.num_labelled == 0
            yield chain


def read_source(source: SourceFile, path: Path, counts: SplitCounts | None = None) -> Iterator[Chain]:
    """Read the catalogue's file, and hold the counts against what the catalogue expects.

    Raises:
        CorpusError: for bad data, or other counts than expected.
    """
    counts = SplitCounts() if counts is None else counts
    yield from counts.count(READERS[source.form](path, counts.changes))
    for name in ("chains", "residues", "labelled"):
        expected, found = getattr(source, name), getattr(counts, name)
        if expected is not None and expected != found:
            raise CorpusError(f"{path}: {found} {name} read, but the catalogue expects {expected}.")
