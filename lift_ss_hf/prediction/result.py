"""The prediction of one chain: probabilities, states and confidences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..models.states import get_alphabet, reduce_probabilities, temper_probabilities


@dataclass(frozen=True)
class Prediction:
    """A predicted chain, reported in the model's alphabet or in a coarser one.

    Attributes:
        number: of its record in the input, from 1.
        name: of the chain.
        sequence: residues, length L.
        model_alphabet: name of the model's alphabet.
        model_probabilities: (L, states of the model) fp32, before calibration.
        alphabet: name of the alphabet to report: the model's own, or a coarser one.
        temperature: calibrates the probabilities of the reported alphabet. It never changes a state.

    Example:
        >>> import numpy as np
        >>> probabilities = np.array([[0.1, 0.7, 0.2], [0.2, 0.2, 0.6]])  # coil, strand, helix
        >>> prediction = Prediction(1, "1abc_A", "MK", "q3", probabilities, "q3")
        >>> prediction.states
        'EH'
        >>> prediction.confidence.round(2).tolist()
        [0.7, 0.6]
    """

    number: int
    name: str
    sequence: str
    model_alphabet: str
    model_probabilities: np.ndarray
    alphabet: str
    temperature: float = 1.0

    @cached_property
    def _uncalibrated(self) -> np.ndarray:
        """(L, states) fp32 in the reported alphabet, summed over the model's states that reduce to each."""
        return reduce_probabilities(self.model_probabilities, self.alphabet, self.model_alphabet)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(L, states) fp32 in the reported alphabet, calibrated."""
        return temper_probabilities(self._uncalibrated, self.temperature)

    @property
    def letters(self) -> str:
        """The reported alphabet's states, in the order of the probabilities."""
        return get_alphabet(self.alphabet).letters

    @cached_property
    def states(self) -> str:
        """The most probable state of each residue, length L."""
        return get_alphabet(self.alphabet).decode(self._uncalibrated.argmax(1))

    @cached_property
    def confidence(self) -> np.ndarray:
        """(L,) calibrated probability of each predicted state [fraction]."""
        return np.minimum(self.probabilities.max(1), 1.0)  # sums of fp32 may exceed 1

    @property
    def mean_confidence(self) -> float:
        """Mean confidence over the chain [fraction]."""
        return float(self.confidence.mean())

    def reduce(self, alphabet: str) -> Prediction:
        """Return the same prediction, reported in another alphabet."""
        return replace(self, alphabet=alphabet)
