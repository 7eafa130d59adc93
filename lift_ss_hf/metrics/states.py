"""The DSSP states, for the modules of the metric.

`evaluate.load` copies only the siblings of a metric's module. `scoring` and its siblings therefore import `.states`,
which is this file here, and a link to `models/states.py` in `q8_sov/`.
"""

from ..models.states import (
    ALPHABETS,
    IGNORE_INDEX,
    NINE_STATES,
    UNRESOLVED,
    Alphabet,
    UnknownStateError,
    fold_index,
    get_alphabet,
    reduce_probabilities,
    temper_probabilities,
)

__all__ = [
    "ALPHABETS",
    "IGNORE_INDEX",
    "NINE_STATES",
    "UNRESOLVED",
    "Alphabet",
    "UnknownStateError",
    "fold_index",
    "get_alphabet",
    "reduce_probabilities",
    "temper_probabilities",
]
