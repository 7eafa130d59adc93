"""Turn strings of states or rows of labels into labels of the alphabet that is scored, and check them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .states import IGNORE_INDEX, NINE_STATES, UNRESOLVED, Alphabet, UnknownStateError, fold_index, get_alphabet

# References or predictions: one string of states, or one row of labels, per chain.
Chains = Sequence[str] | Sequence[Sequence[int]] | Sequence[np.ndarray] | np.ndarray

COMPATIBLE, MASKED = "compatible", "masked"
# Residues encoded and scored at once; memory is bounded by this or the longest chain. Of 2^13 to 2^17 this size gives
# the steadiest times: the arrays of a block stay under 128 KiB, above which glibc asks the kernel for each array.
BLOCK_RESIDUES = 1 << 14


class ChainLabels:
    """The references or the predictions, encoded one block of chains at a time.

    Args:
        chains: strings of states, or rows of integer labels.
        role: the name used in messages.
        alphabet: the alphabet that is scored.
        source: the alphabet of integer labels; strings do not need it.

    Raises:
        ValueError: if chains is not a list of strings or a list of rows.
    """

    def __init__(self, chains: Chains, role: str, alphabet: Alphabet, source: Alphabet):
        if isinstance(chains, (str, bytes)):
            raise ValueError(
                f"{role} is one string. Expected a list with one string of states, or one row of labels, per chain."
            )
        try:
            self.chains = list(chains)
        except TypeError:
            raise ValueError(f"{role} is {type(chains).__name__}. Expected a list of chains.") from None
        self.role, self.alphabet, self.source = role, alphabet, source
        self.are_strings = bool(self.chains) and isinstance(self.chains[0], str)
        for number, chain in enumerate(self.chains, start=1):
            if isinstance(chain, str) != self.are_strings or not hasattr(chain, "__len__"):
                raise ValueError(
                    f"{role}, chain {number}: found {type(chain).__name__}. "
                    "Expected only strings of states, or only rows of labels."
                )
        self.lengths = np.fromiter(map(len, self.chains), dtype=np.int64, count=len(self.chains))

    def __len__(self) -> int:
        return len(self.chains)

    def encode(self, first: int, last: int) -> np.ndarray:
        """Return the labels of chains `first` to `last - 1`, concatenated.

        Returns:
            (R,) int8 labels of the alphabet that is scored; `len(alphabet)` where unresolved.

        Raises:
            ValueError: if a state or label is unknown; the message names the chain and the position.
        """
        chains = self.chains[first:last]
        return self._encode_strings(chains, first) if self.are_strings else self._encode_rows(chains, first)

    def _encode_strings(self, chains: Sequence[str], first: int) -> np.ndarray:
        try:
            labels = self.alphabet.encode("".join(chains)).astype(np.int8)
        except UnknownStateError as error:
            number, position = self.locate(error.position - 1, first)
            own_error = UnknownStateError(error.found, position, NINE_STATES)
            raise ValueError(f"{self.role}, chain {number}: {own_error}") from None
        labels[labels == IGNORE_INDEX] = len(self.alphabet)
        return labels

    def _encode_rows(self, rows: Sequence[Sequence[int]], first: int) -> np.ndarray:
        arrays = [np.asarray(row) for row in rows if len(row)]
        for array in arrays:
            if array.ndim != 1 or array.dtype.kind not in "iu":
                raise ValueError(
                    f"{self.role} has rows of {array.ndim} dimension(s) and type {array.dtype}. "
                    "Expected one integer label per residue; take the argmax of logits or probabilities first."
                )
        labels = np.concatenate([np.zeros(0, dtype=np.int64), *arrays], dtype=np.int64, casting="unsafe")
        wrong = np.flatnonzero(((labels < 0) | (labels >= len(self.source))) & (labels != IGNORE_INDEX))
        if wrong.size:
            number, position = self.locate(int(wrong[0]), first)
            raise ValueError(
                f"{self.role}, chain {number}: label {labels[wrong[0]]} at position {position} is outside "
                f"{self.source.name} (0 to {len(self.source) - 1} for {self.source.letters}, {IGNORE_INDEX} for "
                "unresolved). Name the labels' alphabet with source=."
            )
        # IGNORE_INDEX becomes -1 and looks up the last entry.
        folded = np.append(fold_index(self.source, self.alphabet), len(self.alphabet)).astype(np.int8)
        return folded[np.where(labels == IGNORE_INDEX, -1, labels)]

    def locate(self, index: int, first: int) -> tuple[int, int]:
        """Return the 1-based chain and position of a residue in the block that begins with chain `first`."""
        ends = np.cumsum(self.lengths[first:])
        chain = int(np.searchsorted(ends, index, side="right"))
        return first + chain + 1, index - int(ends[chain] - self.lengths[first + chain]) + 1


class ScoredChains:
    """Checked references and predictions of the same chains, as labels of the alphabet that is scored.

    Args:
        references: strings of states or rows of labels; X or IGNORE_INDEX where unresolved.
        predictions: the same chains, as strings or labels independently of the references.
        states: the alphabet to score at: q9, q8, q3 or q3_lift_ss.
        mode: how to treat unresolved residues; see `scoring.score`.
        source: the alphabet of integer labels; None means `states`.
        role: the name of the predictions in messages.

    Raises:
        ValueError: if the alphabet or the mode is unknown, there are no chains, or references and predictions differ
            in number or length.
    """

    def __init__(
        self,
        references: Chains,
        predictions: Chains,
        states: str | Alphabet,
        mode: str | None,
        source: str | Alphabet | None,
        role: str = "predictions",
    ):
        self.alphabet = get_alphabet(states)
        source = self.alphabet if source is None else get_alphabet(source)
        fold_index(source, self.alphabet)  # raises if the source does not fold into the alphabet
        self.references = ChainLabels(references, "references", self.alphabet, source)
        self.predictions = ChainLabels(predictions, role, self.alphabet, source)
        self.mode = default_mode(self.references.are_strings) if mode is None else check_mode(mode)
        if len(self.references) != len(self.predictions):
            raise ValueError(
                f"{len(self.references)} references but {len(self.predictions)} {role}. "
                "Give one prediction per reference, in the same order."
            )
        if not len(self.references):
            raise ValueError("no chains: references and predictions are empty. Give at least one chain.")
        unequal = np.flatnonzero(self.references.lengths != self.predictions.lengths)
        if unequal.size:
            chain = unequal[0]
            raise ValueError(
                f"chain {chain + 1}: {self.references.lengths[chain]} reference states but "
                f"{self.predictions.lengths[chain]} predicted. Mark unresolved residues {UNRESOLVED} "
                f"(or {IGNORE_INDEX}) instead of dropping them."
            )

    def __len__(self) -> int:
        return len(self.references)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield blocks of chains for `segments.tally`: (R,) int8 references and predictions, (chains,) lengths.

        Raises:
            ValueError: if a state or label is unknown, or a residue has no prediction; the message names the chain and
                the position.
        """
        unresolved = len(self.alphabet)
        for first, last in _block_bounds(self.references.lengths):
            reference, prediction = self.references.encode(first, last), self.predictions.encode(first, last)
            lengths = self.references.lengths[first:last]
            needed = reference != unresolved
            missing = prediction == unresolved
            if self.mode == MASKED:
                missing &= needed
            if missing.any():
                hint = " Are references and predictions swapped?" if needed.all() else ""  # as a rule references have X
                number, position = self.predictions.locate(int(np.argmax(missing)), first)
                raise ValueError(
                    f"{self.predictions.role}, chain {number}: no state ({UNRESOLVED} or {IGNORE_INDEX}) "
                    f"at position {position}. Predict a state for every residue; only mode={MASKED!r} allows "
                    f"unresolved residues without one.{hint}"
                )
            if self.mode == MASKED and not needed.all():
                kept = np.concatenate([[0], np.cumsum(needed)])
                lengths = np.diff(kept[np.concatenate([[0], np.cumsum(lengths)])])
                reference, prediction = reference[needed], prediction[needed]
            yield reference, prediction, lengths


def check_mode(mode: str) -> str:
    """Return the mode if it is known.

    Raises:
        ValueError: if the mode is unknown; the message lists the choices.
    """
    if mode not in (COMPATIBLE, MASKED):
        raise ValueError(f"unknown mode {mode!r}. Choose one of: {COMPATIBLE}, {MASKED}.")
    return mode


def default_mode(are_strings: bool) -> str:
    """Return compatible for strings, and masked for labels, whose IGNORE_INDEX may also be padding."""
    return COMPATIBLE if are_strings else MASKED


def _block_bounds(lengths: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield consecutive ranges of chains with at most BLOCK_RESIDUES residues, or with one longer chain."""
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        begin = ends[first] - lengths[first]
        last = max(first + 1, int(np.searchsorted(ends, begin + BLOCK_RESIDUES, side="right")))
        yield first, last
        first = last
