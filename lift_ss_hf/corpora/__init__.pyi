# The public names of the room. lazy_loader reads this file; so do type checkers.
from .cards import CardFacts as CardFacts
from .catalogue import crossed_tests as crossed_tests
from .catalogue import get_corpus as get_corpus
from .catalogue import load_catalogue as load_catalogue
from .chains import Chain as Chain
from .chains import CorpusError as CorpusError
from .loading import load_corpus as load_corpus
from .readers import read_chains as read_chains
from .splits import Split as Split
from .writing import write_corpus as write_corpus
