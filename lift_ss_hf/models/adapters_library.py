"""What we use of the `adapters` library: the only module that imports it, on transformers 4.57 and 5.

Only its core (configurations, bottlenecks, LoRA, IA3, prefixes, composition): blocks with places for adapters are ours,
in `adapted_blocks.py`.
"""

from __future__ import annotations

from .adapters_names import MISSING, give_missing_names

for _module in MISSING:
    give_missing_names(_module)

# in try, so that transformers does not look for the library before this module's code runs in a model repository
try:
    from adapters.composition import parse_composition
    from adapters.configuration import (
        ConfigUnion,
        DoRAConfig,
        IA3Config,
        LoRAConfig,
        NoReftConfig,
        ParBnConfig,
        PrefixTuningConfig,
        SeqBnConfig,
    )
    from adapters.context import AdapterSetup, ForwardContext
    from adapters.methods import modeling as bottleneck_maths
    from adapters.methods.bottleneck import BottleneckLayer
    from adapters.methods.lora import IA3, LoRA, LoRALinear
    from adapters.methods.prefix_tuning import PrefixTuningLayer
    from adapters.model_mixin import EmbeddingAdaptersMixin, ModelBaseAdaptersMixin
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] != "adapters":
        raise
    raise ImportError(
        "lift_ss_hf needs the adapters library. Install it: pip install --no-deps 'adapters>=1.3,<2'"
    ) from error

__all__ = [
    "IA3",
    "AdapterSetup",
    "BottleneckLayer",
    "ConfigUnion",
    "DoRAConfig",
    "EmbeddingAdaptersMixin",
    "ForwardContext",
    "IA3Config",
    "LoRA",
    "LoRAConfig",
    "LoRALinear",
    "ModelBaseAdaptersMixin",
    "NoReftConfig",
    "ParBnConfig",
    "PrefixTuningConfig",
    "PrefixTuningLayer",
    "SeqBnConfig",
    "bottleneck_maths",
    "parse_composition",
]
