"""Tune protein language models for secondary structure prediction with the stock Hugging Face Trainer.

Public names (listed in `__init__.pyi`) are loaded on first use, so that `import lift_ss_hf` is cheap and
`lift_ss_hf.scoring` needs numpy only. Importing the package makes its models known to transformers' Auto classes.
"""

import lazy_loader

from .hub.registration import register_on_use
from .version import __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *__all__]

register_on_use()
