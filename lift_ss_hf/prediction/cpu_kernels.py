"""Faster linear layers for a CPU: weights prepacked for oneDNN, in fp32 or in dynamic int8.

Prepacking reorders weights once, into the layout that oneDNN's kernel reads, and fuses the activation into the matrix
product, which computes it while the output is in the cache. In fp32 the results are the same up to floating-point
rounding. In int8, weights are rounded to 8 bits with one scale per output, and inputs with one scale per call. Only
frozen layers of the backbone's blocks are replaced; adapters and head stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.activations import GELUActivation

SMALLEST_RANGE = 1e-12  # of values that are all zero, whose scale must not be zero
TYPICAL_ROW = 2048  # tokens that oneDNN chooses the layout for; any other number works too

ACTIVATIONS: dict[type[nn.Module], str] = {GELUActivation: "gelu", nn.GELU: "gelu", nn.ReLU: "relu"}  # oneDNN's names


class PrepackedLinear(nn.Module):
    """A linear layer and the activation after it, with prepacked weights.

    Args:
        linear: the layer to replace.
        activation: `none`, `gelu` or `relu`.
    """

    weight = None  # T5's feed-forward module casts its input to this tensor's dtype, if there is one

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__()
        self.activation = activation
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) fp32 to (..., outputs) fp32."""
        raise NotImplementedError


class Fp32Linear(PrepackedLinear):
    """A prepacked linear layer in fp32."""

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__(linear, activation)
        self.prepacked = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), TYPICAL_ROW)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) fp32 to (..., outputs) fp32."""
        return torch.ops.mkldnn._linear_pointwise(values, self.prepacked, self.bias, self.activation, [], "none")


class Int8Linear(PrepackedLinear):
    """A prepacked linear layer in dynamic int8."""

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__(linear, activation)
        weight = linear.weight.detach()
        self.scales = weight.abs().amax(1).clamp(min=SMALLEST_RANGE) / 127  # (outputs,)
        rounded = (weight / self.scales[:, None]).round().to(torch.int8)
        self.prepacked = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) fp32 to (..., outputs) fp32."""
        low, high = (bound.item() for bound in torch.aminmax(values))
        scale = max(max(high, 0.0) - min(low, 0.0), SMALLEST_RANGE) / 255
        zero = round(-min(low, 0.0) / scale)
        rounded = values.mul(1 / scale).add_(zero).round_().clamp_(0, 255).to(torch.uint8)
        weights = (self.prepacked, self.scales, self.zeros, self.bias)
        return torch.ops.onednn.qlinear_pointwise(
            rounded, scale, zero, *weights, 1.0, 0, torch.float32, self.activation, [], "none"
        )


def prepack(model: Any) -> None:
    """Replace, in place, the frozen linear layers of a backbone's blocks by prepacked ones in fp32.

    The model can only predict afterwards. It is left unchanged if it is not in fp32 on a CPU, or if this torch is built
    without oneDNN.
    """
    if _is_fp32_on_cpu(model) and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        _replace(model, Fp32Linear)


def quantise(model: Any) -> None:
    """Replace, in place, the frozen linear layers of a backbone's blocks by prepacked ones in int8.

    The model can only predict afterwards.

    Raises:
        ValueError: if the model is not in fp32 on a CPU, or this torch has no int8 kernels.
    """
    if not _is_fp32_on_cpu(model):
        raise ValueError("int8 runs on a CPU, over a backbone in fp32. Use --precision bf16 on a GPU.")
    if not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        raise ValueError("this torch has no int8 kernels for this processor. Use --precision fp32.")
    _replace(model, Int8Linear)


def _is_fp32_on_cpu(model: Any) -> bool:
    return model.device.type == "cpu" and model.get_input_embeddings().weight.dtype == torch.float32


def _replace(model: Any, replacement: type[PrepackedLinear]) -> None:
    for block in model.family.blocks(model.backbone):
        for parent in list(block.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.Linear) and _is_frozen(child):
                    setattr(parent, name, replacement(child, _take_activation(model.family, parent, name)))


def _is_frozen(linear: nn.Linear) -> bool:
    """Return True for a linear layer of the backbone without LoRA in it; layers of adapters are trainable."""
    return not linear.weight.requires_grad and not len(getattr(linear, "loras", ()))


def _take_activation(family: Any, parent: nn.Module, name: str) -> str:
    """Return the name of the activation right after a linear layer, and remove it from the parent; `none` if none."""
    for kind, (linear, activation) in family.feed_forward.items():
        if isinstance(parent, kind) and name == linear:
            found = ACTIVATIONS.get(type(getattr(parent, activation)), "none")
            if found != "none":
                setattr(parent, activation, nn.Identity())
            return found
    return "none"
