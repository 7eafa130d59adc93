"""The secondary structure states: letters, order, reductions and labels. No other module spells the letters out.

The nine states that DSSP (version 4 and later) assigns, in the order of LIFT_SS, and `X` for a residue whose state is
unknown because it has no coordinates. Source of the states: Kabsch & Sander 1983, Biopolymers
22:2577; of P: Mansiaux et al. 2011, PLoS ONE 6:e18401; of the order and `Q3_LIFT_SS`: Yang et al. 2023,
bioRxiv 2023.03.22.530066.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

IGNORE_INDEX = -100  # ignored by torch's cross entropy; the label of an unresolved residue
UNRESOLVED = "X"
COIL = "L"

# One-letter state: (name, DSSP's definition), in LIFT_SS's order of labels.
STATE_MEANINGS: Mapping[str, tuple[str, str]] = {
    "L": ("coil", "none of the others; DSSP leaves it blank"),
    "B": ("beta-bridge", "residue in an isolated beta-bridge"),
    "E": ("strand", "extended strand, part of a beta-ladder"),
    "G": ("3-10 helix", "helix of three residues per turn"),
    "I": ("pi-helix", "helix of five residues per turn"),
    "H": ("alpha-helix", "helix of four residues per turn"),
    "S": ("bend", "chain direction changes by more than 70 degrees"),
    "T": ("turn", "hydrogen-bonded turn"),
    "P": ("polyproline II helix", "kappa-helix by its torsions; assigned by mkdssp 4 and later"),
}

# Coil on input: DSSP prints a blank, mkdssp 4 in mmCIF a '.', ProtTrans and three-state corpora C, others '-'.
COIL_SPELLINGS = "LC-. "


class UnknownStateError(ValueError):
    """A letter that is not a state.

    Attributes:
        found: the letter.
        position: 1-based.
    """

    def __init__(self, found: str, position: int, valid: str):
        self.found, self.position = found, position
        super().__init__(
            f"unknown state {found!r} at position {position}. Expected one of {' '.join(sorted(valid))} "
            f"or {UNRESOLVED} (unresolved); coil may also be written C, '-', '.' or blank."
        )


@dataclass(frozen=True)
class Alphabet:
    """An ordered set of states, and how the nine states reduce to it.

    Attributes:
        name: `q9`, `q8`, `q3` or `q3_lift_ss`; also the name of the accuracy over these states.
        letters: the states in the order of their labels.
        folding: the letter of this alphabet for each of the nine states.
    """

    name: str
    letters: str
    folding: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.letters)

    def __hash__(self) -> int:
        return hash(self.name)

    @cached_property
    def _byte_labels(self) -> np.ndarray:
        """(256,) int16: label of each byte, IGNORE_INDEX for X, IGNORE_INDEX - 1 for bytes that are not states."""
        table = np.full(256, IGNORE_INDEX - 1, dtype=np.int16)
        for state, letter in self.folding.items():
            table[ord(state)] = self.letters.index(letter)
        for spelling in COIL_SPELLINGS:
            table[ord(spelling)] = self.letters.index(self.folding[COIL])
        table[ord(UNRESOLVED)] = IGNORE_INDEX
        return table

    def encode(self, states: str) -> np.ndarray:
        """Turn states into labels, reducing finer states to this alphabet.

        Args:
            states: one letter per residue, of any finer or equal alphabet; length L.

        Returns:
            (L,) int64 labels; IGNORE_INDEX where unresolved.

        Raises:
            UnknownStateError: if a letter is not a state.

        Example:
            >>> Q3.encode("LHEX").tolist()
            [0, 2, 1, -100]
        """
        codes = np.frombuffer(states.encode("latin-1", "replace"), dtype=np.uint8)
        labels = self._byte_labels[codes]
        unknown = np.flatnonzero(labels < IGNORE_INDEX)
        if unknown.size:
            position = int(unknown[0])
            raise UnknownStateError(states[position], position + 1, "".join(self.folding))
        return labels.astype(np.int64)

    def decode(self, labels: np.ndarray | list[int]) -> str:
        """Turn labels into states; IGNORE_INDEX becomes X.

        Raises:
            ValueError: if a label is outside the alphabet; the message has its 1-based position.
        """
        labels = np.asarray(labels, dtype=np.int64)
        wrong = np.flatnonzero(((labels < 0) | (labels >= len(self))) & (labels != IGNORE_INDEX))
        if wrong.size:
            position = int(wrong[0])
            raise ValueError(
                f"label {labels[position]} at position {position + 1} is outside {self.name} "
                f"(0 to {len(self) - 1} for {self.letters}, {IGNORE_INDEX} for unresolved)."
            )
        letters = np.frombuffer((self.letters + UNRESOLVED).encode("ascii"), dtype=np.uint8)
        return letters[np.where(labels == IGNORE_INDEX, len(self), labels)].tobytes().decode("ascii")

    def reduce(self, states: str) -> str:
        """Reduce states of a finer alphabet to this one.

        Example:
            >>> Q3.reduce("LHGTP"), Q3_LIFT_SS.reduce("LHGTP")
            ('CHHCC', 'CHHCH')
        """
        return self.decode(self.encode(states))


NINE_STATES = "".join(STATE_MEANINGS)  # LBEGIHSTP


def _folding(**groups: str) -> dict[str, str]:
    """Map each of the nine states to the group that lists it, or else to itself."""
    folding = {state: letter for letter, members in groups.items() for state in members}
    return {state: folding.get(state, state) for state in NINE_STATES}


Q9 = Alphabet("q9", NINE_STATES, _folding())
Q8 = Alphabet("q8", "LBEGIHST", _folding(L="LP"))
# The field's three states: polyproline II is coil.
Q3 = Alphabet("q3", "CEH", _folding(C="LSTP", E="EB", H="HGI"))
# The reference's three states: polyproline II counts as helix.
Q3_LIFT_SS = Alphabet("q3_lift_ss", "CEH", _folding(C="LST", E="EB", H="HGIP"))

ALPHABETS: Mapping[str, Alphabet] = {alphabet.name: alphabet for alphabet in (Q9, Q8, Q3, Q3_LIFT_SS)}


def get_alphabet(name: str | Alphabet) -> Alphabet:
    """Return an alphabet by name; an alphabet is returned as it is.

    Raises:
        ValueError: if the name is unknown; the choices are listed.
    """
    if isinstance(name, Alphabet):
        return name
    if name not in ALPHABETS:
        raise ValueError(f"unknown alphabet {name!r}. Choose one of: {', '.join(sorted(ALPHABETS))}.")
    return ALPHABETS[name]


def normalise_states(states: str) -> str:
    """Spell coil as L in a string of nine or eight states; X stays.

    Raises:
        UnknownStateError: if a letter is not a state.

    Example:
        >>> normalise_states("HH-C.X")
        'HHLLLX'
    """
    return Q9.reduce(states)


def reduce_probabilities(
    probabilities: np.ndarray, alphabet: str | Alphabet, source: str | Alphabet = "q9"
) -> np.ndarray:
    """Sum the probabilities of the states that reduce to the same one.

    Args:
        probabilities: (..., len(source)) array, states in the order of `source`.
        alphabet: the coarser alphabet.
        source: the alphabet of the last axis; Q9 or Q8, or `alphabet` itself.

    Returns:
        (..., len(alphabet)) array.

    Raises:
        ValueError: if the last axis is not the source's, or the source cannot be reduced to the alphabet.
    """
    alphabet, source = get_alphabet(alphabet), get_alphabet(source)
    probabilities = np.asarray(probabilities)
    if probabilities.shape[-1] != len(source):
        raise ValueError(
            f"the last axis has {probabilities.shape[-1]} probabilities, but {source.name} has {len(source)} states."
        )
    if alphabet.name == source.name:
        return probabilities
    reduced = np.zeros((*probabilities.shape[:-1], len(alphabet)), dtype=probabilities.dtype)
    for index, target in enumerate(fold_index(source, alphabet)):
        reduced[..., target] += probabilities[..., index]
    return reduced


def temper_probabilities(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Calibrate probabilities: raise them to the power of 1 / temperature, and normalise.

    For the states of a model this is the softmax of logits / temperature. Reduce to a coarser alphabet first, and take
    the states from the probabilities before calibration: then a temperature changes confidences and never a state.

    Args:
        probabilities: (..., states) array.
        temperature: above 1 lowers the confidence, below 1 raises it.

    Returns:
        (..., states) array; each residue's states keep their order.

    Example:
        >>> temper_probabilities(np.array([0.1, 0.9]), 2.0).round(2)
        array([0.25, 0.75])
    """
    if temperature == 1:
        return probabilities
    powers = (probabilities / probabilities.max(axis=-1, keepdims=True)) ** (1 / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def reportable_alphabets(source: str | Alphabet) -> list[str]:
    """Return the names of the alphabets that predictions in `source` can be reported in: its own, and the coarser ones.

    Example:
        >>> reportable_alphabets("q8"), reportable_alphabets("q3_lift_ss")
        (['q8', 'q3', 'q3_lift_ss'], ['q3_lift_ss'])
    """
    source = get_alphabet(source)
    return [name for name, other in ALPHABETS.items() if _reduces_to(source, other)]


def _reduces_to(source: Alphabet, other: Alphabet) -> bool:
    return other.name == source.name or len(other) < len(source)


def fold_index(source: str | Alphabet, alphabet: str | Alphabet) -> np.ndarray:
    """Return which label of a coarser alphabet each label of `source` reduces to.

    Returns:
        (len(source),) int64.

    Raises:
        ValueError: if `alphabet` is neither `source` itself nor coarser.
    """
    source, alphabet = get_alphabet(source), get_alphabet(alphabet)
    if not _reduces_to(source, alphabet):
        raise ValueError(
            f"{source.name} ({source.letters}) cannot be reduced to {alphabet.name} ({alphabet.letters}). "
            f"Choose one of: {', '.join(reportable_alphabets(source))}."
        )
    if source.name == alphabet.name:  # whose letters need not be among the nine
        return np.arange(len(source), dtype=np.int64)
    return np.array([alphabet.letters.index(alphabet.folding[letter]) for letter in source.letters], dtype=np.int64)
