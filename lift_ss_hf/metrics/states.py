"""The states, under the name that the metric's modules know them by.

evaluate copies only the siblings of a metric's module. So `scoring` and the modules beside it import `.states`: here
that is this file, in `q8_sov/` a link to `models/states.py`.
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
]
