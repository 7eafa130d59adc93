"""Tune protein language models for secondary structure prediction with the stock Hugging Face Trainer.

Public names are loaded when they are first used, so that `import lift_ss_hf` is cheap and `lift_ss_hf.scoring` needs
numpy only. The models are known to transformers' Auto classes from the import on.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .registration import register_on_use
from .version import __version__

if TYPE_CHECKING:
    from .corpora import load_corpus as load_corpus
    from .ensemble import Ensemble as Ensemble
    from .metrics import load_q8_sov as load_q8_sov
    from .modeling import BertForSecondaryStructure as BertForSecondaryStructure
    from .modeling import EsmForSecondaryStructure as EsmForSecondaryStructure
    from .modeling import SecondaryStructureModel as SecondaryStructureModel
    from .modeling import T5ForSecondaryStructure as T5ForSecondaryStructure
    from .modeling import bundled_model as bundled_model
    from .scoring import compare as compare
    from .scoring import score as score
    from .tokenization import ResidueTokenizer as ResidueTokenizer
    from .training_scores import compute_metrics as compute_metrics
    from .training_scores import predicted_labels as predicted_labels

_MODULES = {
    "BertForSecondaryStructure": "modeling",
    "Ensemble": "ensemble",
    "EsmForSecondaryStructure": "modeling",
    "ResidueTokenizer": "tokenization",
    "SecondaryStructureModel": "modeling",
    "T5ForSecondaryStructure": "modeling",
    "bundled_model": "modeling",
    "compare": "scoring",
    "compute_metrics": "training_scores",
    "load_corpus": "corpora",
    "load_q8_sov": "metrics",
    "predicted_labels": "training_scores",
    "score": "scoring",
}

__all__ = ["__version__", *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


register_on_use()
