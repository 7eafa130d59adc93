"""Make the models known to the Auto classes of transformers, at no cost to those who do not use them.

`import lift_ss_hf` imports neither torch nor transformers. When transformers' table of configurations is imported,
our model types are entered in it without their classes; the first look-up imports and registers the real ones. It
cannot be done any earlier: our models import transformers' models, and those import the Auto classes.
"""

from __future__ import annotations

from collections.abc import ItemsView, Mapping, ValuesView
from typing import Any

from .on_import import call_on_import

# `model_type` of the classes in configuration.py, which this module must not import yet.
MODEL_TYPES = ("esm_secondary_structure", "t5_secondary_structure", "bert_secondary_structure")


def register() -> None:
    """Let `AutoConfig` and `AutoModelForTokenClassification` load the models; doing it again changes nothing."""
    from transformers import AutoConfig, AutoModelForTokenClassification

    from .modeling import BertForSecondaryStructure, EsmForSecondaryStructure, T5ForSecondaryStructure

    for model in (EsmForSecondaryStructure, T5ForSecondaryStructure, BertForSecondaryStructure):
        AutoConfig.register(model.config_class.model_type, model.config_class, exist_ok=True)
        AutoModelForTokenClassification.register(model.config_class, model, exist_ok=True)


class _Configurations(dict[str, Any]):
    """Configuration classes by model type; ours are None until one is looked up."""

    def __init__(self, entries: Mapping[str, Any]):
        super().__init__({**dict.fromkeys(MODEL_TYPES), **entries})

    def __getitem__(self, key: str) -> Any:
        if super().__getitem__(key) is None:
            register()
        return super().__getitem__(key)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]  # dict's own view types cannot be named
        return {key: self[key] for key in self}.items()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return {key: self[key] for key in self}.values()


def _announce() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    # What AutoConfig.register writes to. transformers 4.57 has no public way to enter a name without its class.
    CONFIG_MAPPING._extra_content = _Configurations(CONFIG_MAPPING._extra_content)


def register_on_use() -> None:
    """Register when an Auto class looks for one of our models, or when the models are imported by themselves."""
    call_on_import("transformers.models.auto.configuration_auto", _announce)
    call_on_import(f"{__package__}.modeling", register)
