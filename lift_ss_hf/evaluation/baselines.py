"""What anybody can predict without a model: accuracies to compare a model's with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..metrics.labels import REFERENCE_ALPHABET
from ..models.states import IGNORE_INDEX, fold_index

NUM_LETTERS = 128  # residues are ASCII letters


@dataclass(frozen=True)
class ResidueBaseline:
    """Predict for each residue the state that its amino acid has most often in training.

    Attributes:
        counts: (128, 9) residues by letter and q9 label, in the training chains.
    """

    counts: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence[str], references: Sequence[np.ndarray]) -> ResidueBaseline:
        """Count the states of each amino acid.

        Args:
            sequences: residues of each training chain.
            references: q9 labels of each chain, from `metrics.labels.encode_references`.

        Example:
            >>> from lift_ss_hf.metrics.labels import encode_references
            >>> baseline = ResidueBaseline.of(["AAV"], encode_references(["HHE"]))
            >>> baseline.accuracy(["AV", "A"], encode_references(["HH", "H"]), "q3")
            0.6666666666666666
        """
        letters, labels = _scored(sequences, references)
        counts = np.zeros((NUM_LETTERS, len(REFERENCE_ALPHABET)), np.int64)
        np.add.at(counts, (letters, labels), 1)
        return cls(counts)

    def accuracy(self, sequences: Sequence[str], references: Sequence[np.ndarray], alphabet: str) -> float:
        """Return the accuracy on other chains [fraction]; 0 if none of their residues has a state.

        Args:
            sequences: residues of each chain.
            references: q9 labels of each chain.
            alphabet: the alphabet to score at.
        """
        folding = fold_index(REFERENCE_ALPHABET, alphabet)
        folded = self.counts @ np.eye(folding.max() + 1, dtype=np.int64)[folding]  # (letters, states)
        # an amino acid that training does not have is predicted as the most frequent state of all
        predicted = np.where(folded.any(1), folded.argmax(1), folded.sum(0).argmax())
        letters, labels = _scored(sequences, references)
        return float((predicted[letters] == folding[labels]).mean()) if len(labels) else 0.0


def _scored(sequences: Sequence[str], references: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the letters and the labels of all residues that have a state."""
    letters = np.frombuffer("".join(sequences).encode("ascii"), np.uint8)
    labels = np.concatenate([np.empty(0, np.int8), *references]).astype(np.int64)
    known = labels != IGNORE_INDEX
    return letters[known], labels[known]
