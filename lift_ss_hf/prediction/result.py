"""What is known of a chain once it is predicted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..models.states import get_alphabet, reduce_probabilities


@dataclass(frozen=True)
class Prediction:
    """A predicted chain.

    Attributes:
        number: of its record in the input, from 1.
        name: of the chain.
        sequence: residues, length L.
        model_states: alphabet of the model.
        model_probabilities: (L, states of the model) fp32, calibrated.
        level: alphabet to report: the model's own, or one that it folds into.
    """

    number: int
    name: str
    sequence: str
    model_states: str
    model_probabilities: np.ndarray
    level: str

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(L, states) fp32 at the reported level: summed over each group of states."""
        return reduce_probabilities(self.model_probabilities, self.level, self.model_states)

    @property
    def letters(self) -> str:
        """The states in the order of the probabilities."""
        return get_alphabet(self.level).letters

    @cached_property
    def states(self) -> str:
        """The most probable state of each residue, L letters."""
        return get_alphabet(self.level).decode(self.probabilities.argmax(1))

    @cached_property
    def confidence(self) -> np.ndarray:
        """(L,) calibrated probability of the state given [fraction]."""
        return np.minimum(self.probabilities.max(1), 1.0)

    @property
    def mean_confidence(self) -> float:
        """Mean over the chain [fraction]."""
        return float(self.confidence.mean())

    def at_level(self, level: str) -> Prediction:
        """The same chain reported in other states."""
        return Prediction(self.number, self.name, self.sequence, self.model_states, self.model_probabilities, level)
