"""The corpora: where they come from, how they are read and built, and which may train for which test set.

May import `models` only, and the bundled sample of `assets`. Public names are loaded when they are first used:
predictions read FASTA files with this room, and do not need the datasets library.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
