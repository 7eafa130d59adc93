"""Make the models and the pipeline known to transformers, at no cost to those who do not use them.

`import lift_ss_hf` imports neither torch nor transformers. When transformers' tables of configurations and of
pipelines are imported, our names are entered in them without their classes; the first look-up imports and registers
the real ones. It cannot be done any earlier: our models import transformers' models, and those import the Auto classes.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Mapping, Sequence, ValuesView
from typing import Any

from .on_import import call_on_import

# `model_type` of the classes in configuration.py, which this module must not import yet.
TASK = "protein-secondary-structure"  # as in pipeline.py
MODEL_TYPES = ("esm_secondary_structure", "t5_secondary_structure", "bert_secondary_structure")


def register() -> None:
    """Let `AutoConfig` and `AutoModelForTokenClassification` load the models; doing it again changes nothing."""
    from transformers import AutoConfig, AutoModelForTokenClassification

    from ..models.modeling import BertForSecondaryStructure, EsmForSecondaryStructure, T5ForSecondaryStructure

    for model in (EsmForSecondaryStructure, T5ForSecondaryStructure, BertForSecondaryStructure):
        AutoConfig.register(model.config_class.model_type, model.config_class, exist_ok=True)
        AutoModelForTokenClassification.register(model.config_class, model, exist_ok=True)


def register_pipeline() -> None:
    """Let `pipeline("protein-secondary-structure")` work: the bundled model, or the one that is named."""
    from transformers import AutoModelForTokenClassification
    from transformers.pipelines import PIPELINE_REGISTRY

    from ..models.backbones import BUNDLED, locate
    from ..models.pipeline import SecondaryStructurePipeline

    PIPELINE_REGISTRY.supported_tasks[TASK] = {
        "impl": SecondaryStructurePipeline,
        "pt": (AutoModelForTokenClassification,),
        "tf": (),
        "default": {"model": {"pt": (locate(BUNDLED, "predictor"), "main")}},
        "type": "text",
    }


class _Entries(dict[str, Any]):
    """A table of transformers with names of ours, whose values are None until one is looked up.

    Args:
        names: ours.
        entries: what the table has.
        fill: enters the values.
    """

    def __init__(self, names: Sequence[str], entries: Mapping[str, Any], fill: Callable[[], None]):
        super().__init__({**dict.fromkeys(names), **entries})
        self.fill = fill

    def __getitem__(self, key: str) -> Any:
        if super().__getitem__(key) is None:
            self.fill()
        return super().__getitem__(key)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]  # dict's own view types cannot be named
        return {key: self[key] for key in self}.items()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return {key: self[key] for key in self}.values()


def _announce() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    # What AutoConfig.register writes to. transformers 4.57 has no public way to enter a name without its class.
    CONFIG_MAPPING._extra_content = _Entries(MODEL_TYPES, CONFIG_MAPPING._extra_content, register)


def _announce_pipeline() -> None:
    from transformers.pipelines import PIPELINE_REGISTRY

    PIPELINE_REGISTRY.supported_tasks = _Entries((TASK,), PIPELINE_REGISTRY.supported_tasks, register_pipeline)


def register_on_use() -> None:
    """Register when an Auto class looks for one of our models, or when the models are imported by themselves."""
    call_on_import("transformers.models.auto.configuration_auto", _announce)
    call_on_import("lift_ss_hf.models.modeling", register)
    call_on_import("transformers.pipelines", _announce_pipeline)
