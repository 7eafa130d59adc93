"""Dynamic int8 for the large matrices of a backbone's blocks, on a CPU: faster, and not exact.

Weights are rounded to 8 bits, one scale for each row; activations on the way in, one scale for each call. What was
trained (adapters, head) stays in fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

SMALLEST = 1e-12  # of a range, for what is zero throughout


class Int8Linear(nn.Module):
    """A linear map in int8.

    Args:
        linear: whose weights are taken over.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = linear.weight.detach()
        self.scales = weight.abs().amax(1).clamp(min=SMALLEST) / 127  # one for each output
        rounded = (weight / self.scales[:, None]).round().to(torch.int8)
        self.weight = None  # T5's feed-forward asks for its type, to cast to it
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(..., inputs) to (..., outputs)."""
        low, high = (bound.item() for bound in torch.aminmax(values))
        scale = max(max(high, 0.0) - min(low, 0.0), SMALLEST) / 255
        zero = round(-min(low, 0.0) / scale)
        rounded = values.mul(1 / scale).add_(zero).round_().clamp_(0, 255).to(torch.uint8)
        weights = (self.packed, self.scales, self.zeros, self.bias)
        return torch.ops.onednn.qlinear_pointwise(rounded, scale, zero, *weights, 1.0, 0, torch.float32, "none", [], "")


def quantise(model: Any) -> None:
    """Replace, in place, the linear maps of the backbone's blocks that no adapter changes; the model only predicts on.

    Raises:
        ValueError: if the model is not on a CPU, in half precision, or this torch has no int8.
    """
    if model.device.type != "cpu" or model.get_input_embeddings().weight.dtype != torch.float32:
        raise ValueError("int8 runs on a CPU, over a backbone in fp32. Use --precision bf16 on a GPU.")
    if not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        raise ValueError("this torch has no int8 for this processor. Use --precision fp32.")
    for block in model.family.blocks(model.backbone):
        for parent in list(block.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.Linear) and _is_frozen(child):
                    setattr(parent, name, Int8Linear(child))


def _is_frozen(linear: nn.Linear) -> bool:
    """Whether a linear map is the backbone's alone: no adapter in it, and it none of an adapter."""
    return not linear.weight.requires_grad and not len(getattr(linear, "loras", ()))
