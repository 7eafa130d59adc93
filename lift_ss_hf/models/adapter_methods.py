"""The adapters by name, with LIFT_SS's hyper-parameters, and how they are added to a backbone.

The adapters themselves come from the `adapters` library; here are the names, the widths that fit a backbone, and the
workarounds. Hyper-parameters are those of LIFT_SS (Yang et al. 2023, bioRxiv 2023.03.22.530066) for the methods that it
has, checked against its reference implementation by benchmarks/reference_adapters.py, and the library's own otherwise
(dora, noreft).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from .adapters_library import (
    ConfigUnion,
    DoRAConfig,
    ForwardContext,
    IA3Config,
    LoRAConfig,
    NoReftConfig,
    ParBnConfig,
    PrefixTuningConfig,
    PrefixTuningLayer,
    SeqBnConfig,
    parse_composition,
)

ADAPTER_NAME = "secondary_structure"  # in the names of the weights; a change is a change of format
REDUCTION_FACTOR = 64  # hidden size over bottleneck, LIFT_SS
PHM_DIM = 4  # hypercomplex dimension of the compacters, the adapters library's default

# LIFT_SS's bottlenecks read the output of a half block before the residual is added to it.
_BOTTLENECK = {"original_ln_before": False, "ln_before": True, "non_linearity": "relu"}
_PARALLEL = {"ln_before": True, "non_linearity": "relu", "scaling": 1.0, "init_weights": "bert"}
_HYPERCOMPLEX = {"phm_layer": True, "phm_dim": PHM_DIM}
_PREFIX = {"flat": True, "prefix_length": 16}
_GATED = {"use_gating": True}

# With these a sequential bottleneck is y + f(y) of its block's output y, where the backbone norms before each half of a
# block, as ESM and T5 do.
ON_BLOCK_OUTPUT = {
    "mh_adapter": False,
    "output_adapter": True,
    "is_parallel": False,
    "original_ln_before": True,
    "original_ln_after": True,
    "residual_before_ln": True,
    "adapter_residual_before_ln": False,
}

SIZES = ("bottleneck_size", "phm_dim", "phm_rank", "prefix_length", "r")
NUMBERS = ("alpha", "reduction_factor")
FRACTIONS = ("dropout", "stochastic_depth")


@dataclass(frozen=True)
class AdapterMethod:
    """One or more of the library's methods with their hyper-parameters.

    Attributes:
        components: pairs of a configuration class of `adapters` and what differs from its defaults.
        mergeable: it can be merged into the backbone's weights.
        fits_rows: it does not act on certain positions of a batch's rows, so that chains can share one.
    """

    components: Sequence[tuple[type, Mapping[str, Any]]]
    mergeable: bool = False
    fits_rows: bool = True

    def options(self) -> set[str]:
        """Return the names of the hyper-parameters that can be set; `leave_out` has its own argument."""
        names = {field.name for component, _ in self.components for field in dataclasses.fields(component)}
        return names - {"architecture", "leave_out", "layers", "init_weights_seed", "inv_adapter", "cross_adapter"}

    @property
    def has_bottleneck(self) -> bool:
        """True if a reduction factor applies."""
        return "reduction_factor" in self.options()

    @property
    def is_hypercomplex(self) -> bool:
        """True if the bottleneck's width must be a multiple of the hypercomplex dimension."""
        return any(settings.get("phm_layer") for _, settings in self.components)


ADAPTERS: Mapping[str, AdapterMethod] = {
    "bottleneck": AdapterMethod([(SeqBnConfig, _BOTTLENECK)]),
    "bottleneck_attention": AdapterMethod(
        [(SeqBnConfig, {**_BOTTLENECK, "mh_adapter": True, "output_adapter": False})]
    ),
    "bottleneck_both": AdapterMethod([(SeqBnConfig, {**_BOTTLENECK, "mh_adapter": True, "output_adapter": True})]),
    # Not LIFT_SS's: it reads the sum of half block and residual, so that its lowest block can be cached too.
    "output_bottleneck": AdapterMethod([(SeqBnConfig, {**_BOTTLENECK, "original_ln_before": True})]),
    "parallel_bottleneck": AdapterMethod([(ParBnConfig, _PARALLEL)]),
    "compacter": AdapterMethod([(SeqBnConfig, {**_BOTTLENECK, **_HYPERCOMPLEX})]),
    "parallel_compacter": AdapterMethod([(ParBnConfig, {**_PARALLEL, **_HYPERCOMPLEX})]),
    "lora": AdapterMethod([(LoRAConfig, {"r": 1, "alpha": 1})], mergeable=True),
    "lora_ff": AdapterMethod(
        [(LoRAConfig, {"r": 1, "alpha": 1, "selfattn_lora": False, "intermediate_lora": True, "output_lora": True})],
        mergeable=True,
    ),
    "ia3": AdapterMethod([(IA3Config, {})], mergeable=True),
    "prefix_tuning": AdapterMethod([(PrefixTuningConfig, _PREFIX)]),
    "mam": AdapterMethod([(PrefixTuningConfig, _PREFIX), (ParBnConfig, {**_PARALLEL, **_HYPERCOMPLEX})]),
    "unipelt": AdapterMethod(
        [
            (LoRAConfig, {"r": 1, "alpha": 1, **_GATED}),
            (PrefixTuningConfig, {**_PREFIX, **_GATED}),
            (ParBnConfig, {**_PARALLEL, **_HYPERCOMPLEX, **_GATED}),
        ]
    ),
    "dora": AdapterMethod([(DoRAConfig, {})]),
    # Acts on the first tokens of a chain only. LoReFT and DiReFT are left out: the diagonal of torch's orthogonal
    # parametrisation must stay exactly -1 or 1, and the first step with weight decay makes their projection zero.
    "noreft": AdapterMethod([(NoReftConfig, {})], fits_rows=False),
}

# What differed in models of format version 1.
_READ_OUTPUT, _SCALED = {"original_ln_before": True}, {"scaling": 4.0}
FORMAT_1: Mapping[str, Mapping[str, Any]] = {
    "bottleneck": _READ_OUTPUT,
    "bottleneck_attention": _READ_OUTPUT,
    "bottleneck_both": _READ_OUTPUT,
    "compacter": _READ_OUTPUT,
    "parallel_bottleneck": {**_SCALED, "init_weights": "mam_adapter"},
    "parallel_compacter": _SCALED,
    "mam": _SCALED,
    "unipelt": _SCALED,
}


def check_adapter(name: str, options: Mapping[str, Any], hidden_size: int) -> None:
    """Raise ValueError unless the adapter exists, has these hyper-parameters and fits the backbone's width."""
    if name not in ADAPTERS:
        raise ValueError(
            f"unknown adapter {name!r}. Choose one of: {', '.join(sorted(ADAPTERS))}; or None for no adapter."
        )
    method = ADAPTERS[name]
    unknown = sorted(set(options) - method.options())
    if unknown:
        raise ValueError(
            f"adapter {name!r} has no option {unknown[0]!r}. Choose from: {', '.join(sorted(method.options()))}."
        )
    for option, value in options.items():
        _check_value(name, option, value)
    if method.has_bottleneck:
        _check_width(name, options, hidden_size)


def _check_value(name: str, option: str, value: Any) -> None:
    """Raise ValueError for a value that is known to be wrong before a backbone is loaded."""
    if option in SIZES:
        holds, expected = type(value) is int and value >= 1, "a whole number of at least 1"
    elif option in NUMBERS:
        holds, expected = is_number(value) and value > 0, "a number above 0"
    elif option in FRACTIONS:
        holds, expected = is_number(value) and 0 <= value < 1, "a fraction of at least 0 and less than 1"
    elif option == "non_linearity":
        holds, expected = value in (None, "leakyrelu", *ACT2FN), f"one of: {', '.join(sorted(ACT2FN))}"
    else:
        return  # checked by the library when the adapter is built
    if not holds:
        raise ValueError(f"option {option} of adapter {name!r} is {value!r}. Expected {expected}.")


def is_number(value: Any) -> bool:
    """Return True for a finite real number that is not a boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_width(name: str, options: Mapping[str, Any], hidden_size: int) -> None:
    factor = _reduction_factor(name, options, hidden_size)
    width = int(hidden_size // factor) if factor > 0 else 0
    multiple = options.get("phm_dim", PHM_DIM) if ADAPTERS[name].is_hypercomplex else 1
    if width < 1 or width % multiple or hidden_size % multiple:
        raise ValueError(
            f"adapter {name!r} with reduction_factor {factor:g} on a backbone of width {hidden_size} has a "
            f"bottleneck of {width}. Expected a multiple of {multiple}, at least {multiple}: "
            "choose another reduction_factor."
        )


def _reduction_factor(name: str, options: Mapping[str, Any], hidden_size: int) -> float:
    """Return the requested factor, or LIFT_SS's 64 with the width rounded up to one that the method allows."""
    if "reduction_factor" in options:
        return options["reduction_factor"]
    multiple = options.get("phm_dim", PHM_DIM) if ADAPTERS[name].is_hypercomplex else 1
    width = -(-hidden_size // REDUCTION_FACTOR)  # rounded up
    return hidden_size / (-(-width // multiple) * multiple)


def adapter_config(name: str, options: Mapping[str, Any], leave_out: Sequence[int], hidden_size: int, num_blocks: int):
    """Return the `adapters` configuration of a named adapter for one backbone.

    Args:
        name: one of `ADAPTERS`.
        options: hyper-parameters that differ; each goes to every component that has it.
        leave_out: numbers of the blocks without an adapter.
        hidden_size: width of the backbone.
        num_blocks: its depth.
    """
    method = ADAPTERS[name]
    if method.has_bottleneck:
        options = {**options, "reduction_factor": _reduction_factor(name, options, hidden_size)}
    configs = []
    for component, settings in method.components:
        fields = {field.name for field in dataclasses.fields(component)}
        chosen = {**settings, **{key: value for key, value in options.items() if key in fields}}
        if "leave_out" in fields:
            chosen["leave_out"] = list(leave_out)
        else:  # ReFT counts the blocks it is in
            chosen["layers"] = [block for block in range(num_blocks) if block not in leave_out]
        configs.append(component(**chosen))
    return configs[0] if len(configs) == 1 else ConfigUnion(*configs)


def most_parameters(name: str, options: Mapping[str, Any], backbone: Mapping[str, Any], num_blocks: int) -> float:
    """Return at most how many parameters an adapter has, from sizes alone: before anything is allocated.

    Args:
        name: one of `ADAPTERS`, with options that `check_adapter` has accepted.
        options: hyper-parameters that differ.
        backbone: the values of its configuration.
        num_blocks: number of blocks with an adapter.
    """

    def size(*names: str) -> float:
        return float(max(backbone.get(key) or 0 for key in names))

    hidden, wide = size("hidden_size", "d_model"), size("intermediate_size", "d_ff")
    inner = max(hidden, size("num_heads") * size("d_kv"))
    total = 0.0
    for component, settings in ADAPTERS[name].components:
        chosen = _chosen(component, settings, options)
        if "reduction_factor" in chosen:
            width = hidden // _reduction_factor(name, options, int(hidden))
            total += num_blocks * 2 * 2 * (hidden + 1) * width  # down and up, after attention and feed-forward
        elif "prefix_length" in chosen:
            length, bottleneck = chosen["prefix_length"], chosen["bottleneck_size"]
            keys = 2 * inner * num_blocks
            total += length * keys if chosen["flat"] else length * hidden + bottleneck * (hidden + keys)
        elif "r" in chosen:
            total += num_blocks * chosen["r"] * (4 * (hidden + inner) + 2 * (hidden + wide) + 2 * hidden)
    return total


def prefix_length(name: str | None, options: Mapping[str, Any]) -> int:
    """Return the number of keys that an adapter puts before the residues in attention; 0 for most."""
    components = ADAPTERS[name].components if name is not None else ()
    for component, settings in components:
        if component is PrefixTuningConfig:
            return options.get("prefix_length", settings["prefix_length"])
    return 0


def acts_on_block_output(name: str | None, options: Mapping[str, Any]) -> bool:
    """Return True if an adapter needs only its block's output; see `ON_BLOCK_OUTPUT`.

    Example:
        >>> acts_on_block_output("bottleneck", {}), acts_on_block_output("output_bottleneck", {"reduction_factor": 2})
        (False, True)
    """
    components = ADAPTERS[name].components if name is not None else ()
    if len(components) != 1 or components[0][0] is not SeqBnConfig:
        return False
    chosen = _chosen(*components[0], options)
    return all(chosen[option] == value for option, value in ON_BLOCK_OUTPUT.items())


def _chosen(component: type, settings: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all hyper-parameters of one component of an adapter: the library's, ours over them, and `options`."""
    defaults = {field.name: field.default for field in dataclasses.fields(component)}
    return {**defaults, **settings, **{key: value for key, value in options.items() if key in defaults}}


def add_adapter(
    backbone: Any, name: str, options: Mapping[str, Any], leave_out: Sequence[int], num_blocks: int
) -> None:
    """Add a named adapter to a backbone that is ready for adapters, and activate it."""
    try:
        config = adapter_config(name, options, leave_out, backbone.config.hidden_size, num_blocks)
        backbone.add_adapter(ADAPTER_NAME, config=config)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # the library does not check its options and can fail at any point
        raise ValueError(f"adapter {name!r} cannot be built with the options {dict(options)}: {error}.") from error
    # set_active_adapters does the same, after a warning that no adapter is active
    backbone.adapters_config.active_setup = parse_composition(ADAPTER_NAME)
    for module in list(backbone.modules()):
        # adapters 1.3.0 registers the norm before a bottleneck under two names, which safetensors refuses; the
        # other name, in `adapter_down`, is the one it runs. Drop when adapters registers it once.
        if "adapter_norm_before" in module._modules and "adapter_down" in module._modules:
            module._modules.pop("adapter_norm_before")
        # The same refusal: every block registers the one pool of prefixes again.
        if isinstance(module, PrefixTuningLayer):
            object.__setattr__(module, "pool", module._modules.pop("pool"))
        for gate in getattr(module, "prefix_gates", {}).values():
            gate.__class__ = ChainGate
        if isinstance(gate := module._modules.get("gate"), nn.Linear):
            gate.__class__ = TokenGate


class ChainGate(nn.Linear):
    """A gate that is averaged over each chain.

    UniPELT's gates are `sigmoid(linear(x)).mean(1)` in adapters 1.3.0, padding and the other chains of a row included,
    so a chain's output would depend on its neighbours. This layer returns the logit of the mean over the tokens of each
    chain; sigmoid and mean then give that mean.
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (batch, tokens, width) to (chains, 1, gates)."""
        gates = torch.sigmoid(super().forward(hidden).float())
        context = ForwardContext.get_context()
        if context.chain_lengths is not None:
            means = torch.cat([chain.mean(1, keepdim=True) for chain in gates.split(context.chain_lengths, dim=1)])
        else:
            mask = context.token_mask[..., None].to(gates.dtype)  # (batch, tokens, 1)
            means = (gates * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        return torch.logit(means, eps=1e-6).to(hidden.dtype)


class TokenGate(ChainGate):
    """A gate of what is added to tokens, so that those of a row have their chain's."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (batch, tokens, width) to (batch, 1, 1), or in a row to (1, 1, tokens), to which an axis is added."""
        logits = super().forward(hidden)
        lengths = ForwardContext.get_context().chain_lengths
        if lengths is None:
            return logits
        return torch.cat([logit.expand(1, 1, length) for logit, length in zip(logits, lengths, strict=True)], dim=-1)


def merge_adapter(backbone: Any) -> None:
    """Merge a LoRA or IA3 adapter into the backbone's weights, in place, and remove its modules."""
    backbone.merge_adapter(ADAPTER_NAME)
    backbone.adapters_config.active_setup = None
    for module in backbone.modules():
        loras = getattr(module, "loras", None)
        if loras is not None and ADAPTER_NAME in loras:
            change = loras[ADAPTER_NAME]
            if change.composition_mode == "scale" and module.bias is not None:
                # adapters 1.3.0 scales only the weight, though the layer's whole output was scaled. Drop when it
                # scales the bias too.
                module.bias.data = change.com(module.bias.data, change.delta_w.data.flatten())
            del loras[ADAPTER_NAME]
            module.merged = None
