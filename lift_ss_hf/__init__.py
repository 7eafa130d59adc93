"""Tune protein language models for secondary structure prediction with the stock Hugging Face Trainer.

Public names are loaded when they are first used, so that `import lift_ss_hf` is cheap and `lift_ss_hf.scoring` needs
numpy only. The models are known to transformers' Auto classes from the import on.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .hub.registration import register_on_use
from .version import __version__

if TYPE_CHECKING:
    from .corpora import load_corpus as load_corpus
    from .metrics import load_q8_sov as load_q8_sov
    from .metrics.trainer_metrics import compute_metrics as compute_metrics
    from .models.modeling import BertForSecondaryStructure as BertForSecondaryStructure
    from .models.modeling import EsmForSecondaryStructure as EsmForSecondaryStructure
    from .models.modeling import SecondaryStructureModel as SecondaryStructureModel
    from .models.modeling import T5ForSecondaryStructure as T5ForSecondaryStructure
    from .models.modeling import bundled_model as bundled_model
    from .models.tokenization import ResidueTokenizer as ResidueTokenizer
    from .prediction.ensemble import Ensemble as Ensemble
    from .scoring import compare as compare
    from .scoring import score as score

_MODULES = {
    "BertForSecondaryStructure": "models.modeling",
    "Ensemble": "prediction.ensemble",
    "EsmForSecondaryStructure": "models.modeling",
    "ResidueTokenizer": "models.tokenization",
    "SecondaryStructureModel": "models.modeling",
    "T5ForSecondaryStructure": "models.modeling",
    "bundled_model": "models.modeling",
    "compare": "scoring",
    "compute_metrics": "metrics.trainer_metrics",
    "load_corpus": "corpora",
    "load_q8_sov": "metrics",
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
