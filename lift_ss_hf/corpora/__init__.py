"""The corpora: where they come from, how they are read and built, and which may train for which test set.

May import `models` only, and the bundled sample of `assets`.
"""

from .cards import CardFacts
from .catalogue import crossed_tests, get_corpus, load_catalogue
from .chains import Chain, CorpusError
from .loading import load_corpus
from .readers import read_chains
from .splits import Split
from .writing import write_corpus

__all__ = [
    "CardFacts",
    "Chain",
    "CorpusError",
    "Split",
    "crossed_tests",
    "get_corpus",
    "load_catalogue",
    "load_corpus",
    "read_chains",
    "write_corpus",
]
