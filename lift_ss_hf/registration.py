"""Make the models known to the Auto classes of transformers."""

from __future__ import annotations


def register() -> None:
    """Let `AutoConfig` and `AutoModelForTokenClassification` load the models; doing it again changes nothing."""
    # Imported here, because the package registers the models whenever `modeling` is imported, this included.
    from transformers import AutoConfig, AutoModelForTokenClassification

    from .modeling import BertForSecondaryStructure, EsmForSecondaryStructure, T5ForSecondaryStructure

    for model in (EsmForSecondaryStructure, T5ForSecondaryStructure, BertForSecondaryStructure):
        AutoConfig.register(model.config_class.model_type, model.config_class, exist_ok=True)
        AutoModelForTokenClassification.register(model.config_class, model, exist_ok=True)
