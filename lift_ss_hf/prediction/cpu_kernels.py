"""The large matrices of a backbone's blocks as oneDNN reads them, on a CPU: in fp32, or in dynamic int8.

Weights are laid out once, in the order in which the kernel wants them, and the activation after a product is computed
within it, while its output is in the cache. In fp32 that is the same function to the rounding of the numbers. In int8
weights are rounded to 8 bits, one scale for each row, and activations on the way in, one scale for each call. What was
trained (adapters, head) stays as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.activations import GELUActivation
from transformers.models.bert.modeling_bert import BertIntermediate
from transformers.models.t5.modeling_t5 import T5DenseActDense

from ..models.esm_blocks import OnePassIntermediate

SMALLEST = 1e-12  # of a range, for what is zero throughout
TYPICAL_ROW = 2048  # tokens that the layout is chosen for; any other number runs too

# Of a feed-forward part: its linear map, and the activation that follows at once.
FEED_FORWARD: dict[type[nn.Module], tuple[str, str]] = {
    BertIntermediate: ("dense", "intermediate_act_fn"),
    OnePassIntermediate: ("dense", "activation"),
    T5DenseActDense: ("wi", "act"),
}
ACTIVATIONS: dict[type[nn.Module], str] = {GELUActivation: "gelu", nn.GELU: "gelu", nn.ReLU: "relu"}  # oneDNN's names


class PackedLinear(nn.Module):
    """A linear map and the activation after it.

    Args:
        linear: whose weights are taken over.
        activation: `none`, `gelu` or `relu`.
    """

    weight = None  # T5's feed-forward asks for its type, to cast to it

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__()
        self.activation = activation
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(..., inputs) to (..., outputs), fp32."""
        raise NotImplementedError


class Fp32Linear(PackedLinear):
    """In fp32: exact."""

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__(linear, activation)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), TYPICAL_ROW)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(..., inputs) to (..., outputs), fp32."""
        return torch.ops.mkldnn._linear_pointwise(values, self.packed, self.bias, self.activation, [], "none")


class Int8Linear(PackedLinear):
    """In int8."""

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__(linear, activation)
        weight = linear.weight.detach()
        self.scales = weight.abs().amax(1).clamp(min=SMALLEST) / 127  # one for each output
        rounded = (weight / self.scales[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(..., inputs) to (..., outputs), fp32."""
        low, high = (bound.item() for bound in torch.aminmax(values))
        scale = max(max(high, 0.0) - min(low, 0.0), SMALLEST) / 255
        zero = round(-min(low, 0.0) / scale)
        rounded = values.mul(1 / scale).add_(zero).round_().clamp_(0, 255).to(torch.uint8)
        weights = (self.packed, self.scales, self.zeros, self.bias)
        return torch.ops.onednn.qlinear_pointwise(
            rounded, scale, zero, *weights, 1.0, 0, torch.float32, self.activation, [], "none"
        )


def pack(model: Any) -> None:
    """Lay out, in place, the linear maps of a backbone's blocks that no adapter changes; the model only predicts on.

    Nothing happens to a model that is not in fp32 on a CPU, nor where this torch is without oneDNN.
    """
    if _is_fp32_on_cpu(model) and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        _replace(model, Fp32Linear)


def quantise(model: Any) -> None:
    """As `pack`, in int8.

    Raises:
        ValueError: if the model is not on a CPU, in half precision, or this torch has no int8.
    """
    if not _is_fp32_on_cpu(model):
        raise ValueError("int8 runs on a CPU, over a backbone in fp32. Use --precision bf16 on a GPU.")
    if not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        raise ValueError("this torch has no int8 for this processor. Use --precision fp32.")
    _replace(model, Int8Linear)


def _is_fp32_on_cpu(model: Any) -> bool:
    return model.device.type == "cpu" and model.get_input_embeddings().weight.dtype == torch.float32


def _replace(model: Any, kind: type[PackedLinear]) -> None:
    for block in model.family.blocks(model.backbone):
        for parent in list(block.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.Linear) and _is_frozen(child):
                    setattr(parent, name, kind(child, _take_activation(parent, name)))


def _is_frozen(linear: nn.Linear) -> bool:
    """Whether a linear map is the backbone's alone: no adapter in it, and it none of an adapter."""
    return not linear.weight.requires_grad and not len(getattr(linear, "loras", ()))


def _take_activation(parent: nn.Module, name: str) -> str:
    """Name of the activation that follows a linear map at once, which its parent no longer computes; else `none`."""
    for kind, (linear, activation) in FEED_FORWARD.items():
        if isinstance(parent, kind) and name == linear:
            found = ACTIVATIONS.get(type(getattr(parent, activation)), "none")
            if found != "none":
                setattr(parent, activation, nn.Identity())
            return found
    return "none"
