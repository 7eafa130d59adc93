"""The PSSP corpora: where they come from, how they are read, and which may train for which."""

from .catalogue import crossed_tests, get_corpus, load_catalogue
from .chains import Chain, CorpusError
from .loading import load_corpus
from .readers import read_chains
from .writing import CardFacts, Split, write_corpus

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
