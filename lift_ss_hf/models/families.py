"""The families of backbones that come with the package; `register_family` adds others.

The modules of the families import `modeling` and, through it, `backbones`, which imports this module only when a family
is looked up.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from .backbones import BUNDLED
from .bert import BertForSecondaryStructure
from .esm import EsmForSecondaryStructure
from .modeling import SecondaryStructureModel
from .t5 import T5ForSecondaryStructure

MODEL_CLASSES: dict[str, type[Any]] = {
    model_class.family.model_type: model_class
    for model_class in (BertForSecondaryStructure, EsmForSecondaryStructure, T5ForSecondaryStructure)
}  # by the backbone's model type

if importlib.util.find_spec("transformers.models.esmc"):  # which transformers 4.57 does not have
    from .esmc import EsmcForSecondaryStructure

    MODEL_CLASSES["esmc"] = EsmcForSecondaryStructure


def add_family(model_class: type[Any]) -> None:
    """Add a family of backbones, for `lift_ss_hf.register_family`, which has the arguments and errors."""
    known = SecondaryStructureModel
    if not (isinstance(model_class, type) and issubclass(model_class, known) and hasattr(model_class, "family")):
        raise TypeError(f"expected a subclass of {known.__name__} with a family, found {model_class!r}.")
    if not model_class.config_class.backbone_config_class.model_type:
        raise TypeError(f"{model_class.__name__}.config_class names no backbone_config_class. Write a subclass for it.")
    model_type = model_class.family.model_type
    if MODEL_CLASSES.get(model_type, model_class) is not model_class:
        raise ValueError(
            f"backbones of model type {model_type!r} belong to {MODEL_CLASSES[model_type].__name__}. "
            "Give the family another model_type."
        )
    MODEL_CLASSES[model_type] = model_class


def bundled_model(**options: Any) -> EsmForSecondaryStructure:
    """Load the nine-state predictor that comes with the package, over the bundled backbone. Needs no network.

    It is small and no match for one over a large backbone; its card, `assets/predictor/README.md`, has the scores.

    Args:
        options: as for `EsmForSecondaryStructure.from_pretrained`.

    Example:
        >>> bundled_model().config.states
        'q9'
    """
    return EsmForSecondaryStructure.from_pretrained(BUNDLED, **options)
