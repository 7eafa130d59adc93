"""The families of backbones, and the model class of each.

`register_family` adds one, from here or from elsewhere. Modules of the families import `modeling`, so `modeling` and
`pretrained` import this one only when a family is looked up.
"""

from __future__ import annotations

import os
from typing import Any

from transformers import PretrainedConfig

from .backbones import BUNDLED, BackboneFamily, read_config_file
from .bert import BertForSecondaryStructure
from .esm import EsmForSecondaryStructure
from .safety import building, check_config_values
from .t5 import T5ForSecondaryStructure

MODEL_CLASSES: dict[str, type[Any]] = {}  # by the backbone's model type


def register_family(model_class: type[Any]) -> None:
    """Make a family of backbones known.

    Args:
        model_class: a subclass of `SecondaryStructureModel` with a `family` and a `config_class`.

    `lift_ss_hf.hub.registration.register` makes it known to transformers' Auto classes too.
    """
    MODEL_CLASSES[model_class.family.model_type] = model_class


for _model_class in (BertForSecondaryStructure, EsmForSecondaryStructure, T5ForSecondaryStructure):
    register_family(_model_class)


def get_model_class(model_type: str) -> type[Any]:
    """Return the model class over backbones of a model type.

    Raises:
        ValueError: if there is no such family.
    """
    if model_type not in MODEL_CLASSES:
        raise ValueError(
            f"a backbone of model type {model_type!r} cannot be used here. "
            f"Choose an encoder of type: {', '.join(sorted(MODEL_CLASSES))}."
        )
    return MODEL_CLASSES[model_type]


def get_family(model_type: str) -> BackboneFamily:
    """Return the family of a backbone's model type.

    Raises:
        ValueError: if there is no such family.

    Example:
        >>> get_family("t5").num_leading, get_family("esm").num_leading
        (0, 1)
    """
    return get_model_class(model_type).family


def read_backbone_config(name_or_path: str | os.PathLike, **options: Any) -> PretrainedConfig:
    """Read the configuration of a checkpoint that can be a backbone.

    Raises:
        ValueError: if there is no such checkpoint, or it is not an encoder of a known family.
    """
    content = read_config_file(name_or_path, **options)
    family = get_family(content["model_type"])
    where = repr(str(name_or_path))
    config_class: Any = family.model_class.config_class
    check_config_values(content, config_class, where)
    with building(where):
        config = config_class.from_dict(content, _commit_hash=None)
    for name in ("hidden_size", "num_hidden_layers", "vocab_size"):
        value = getattr(config, name, None)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"the config.json of {where} has {name} {value!r}. Expected a whole number.")
    family.check(config)
    return config


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
