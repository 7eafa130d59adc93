"""Labels of one alphabet from labels or probabilities of a finer one. Needs numpy only."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .states import ALPHABETS, IGNORE_INDEX, Alphabet, UnknownStateError, fold_index, get_alphabet, reduce_probabilities

# The alphabet that references are encoded in: every other one folds out of it.
REFERENCE_ALPHABET = ALPHABETS["q9"]


def encode_references(states: Iterable[str]) -> list[np.ndarray]:
    """Encode the reference states of chains once, for all alphabets.

    Args:
        states: DSSP states, one string per chain; X where unresolved.

    Returns:
        One (residues,) int8 array of q9 labels per chain, IGNORE_INDEX where unresolved.

    Raises:
        ValueError: if a letter is not a state; the message has the 1-based chain and position.

    Example:
        >>> encode_references(["LHX", "E"])
        [array([   0,    5, -100], dtype=int8), array([2], dtype=int8)]
    """
    labels = []
    for number, chain in enumerate(states, start=1):
        try:
            labels.append(REFERENCE_ALPHABET.encode(chain).astype(np.int8))
        except UnknownStateError as error:
            raise ValueError(f"chain {number}: {error}") from None
    return labels


def fold_labels(labels: np.ndarray, source: str | Alphabet, alphabet: str | Alphabet) -> np.ndarray:
    """Fold labels into a coarser alphabet.

    Args:
        labels: integers of any shape; IGNORE_INDEX where there is nothing to score.
        source: the alphabet of the labels.
        alphabet: the alphabet to fold into, coarser than the source or the same.

    Returns:
        int8 labels of the same shape; IGNORE_INDEX stays.

    Raises:
        ValueError: if a label is outside the source, or the source does not fold into the alphabet.

    Example:
        >>> fold_labels(np.array([0, 5, -100]), "q9", "q3")
        array([   0,    2, -100], dtype=int8)
    """
    source = get_alphabet(source)
    wrong = ((labels < 0) | (labels >= len(source))) & (labels != IGNORE_INDEX)
    if wrong.any():
        raise ValueError(
            f"label {labels[wrong][0]} is outside {source.name} (0 to {len(source) - 1} for {source.letters}, "
            f"{IGNORE_INDEX} for nothing to score). Name the labels' alphabet with source=."
        )
    folded = np.append(fold_index(source, alphabet), IGNORE_INDEX).astype(np.int8)
    return folded[np.where(labels == IGNORE_INDEX, -1, labels)]  # -1 looks up the appended IGNORE_INDEX


def most_probable(probabilities: np.ndarray, source: str | Alphabet, alphabet: str | Alphabet) -> np.ndarray:
    """Return the labels with the highest probability, after summing over the states that fold into one.

    Args:
        probabilities: (..., len(source)) array; scores of any scale where `alphabet` is the source.
        source: the alphabet of the last axis.
        alphabet: the alphabet of the result, coarser than the source or the same.

    Returns:
        (...) int8 labels.

    Raises:
        ValueError: if the last axis does not match the source, or the source does not fold into the alphabet.

    Example:
        >>> most_probable(np.array([[0.2, 0, 0, 0, 0, 0.4, 0.2, 0.2, 0]]), "q9", "q3")  # L, S and T outweigh H
        array([0], dtype=int8)
    """
    return reduce_probabilities(probabilities, alphabet, source).argmax(axis=-1).astype(np.int8)
