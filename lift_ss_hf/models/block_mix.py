"""What the head sees of the backbone besides its last block: a mean of all blocks' outputs, or all of them.

A small backbone is narrow: what its lower blocks knew is overwritten on the way up. Side by side nothing is lost, for
little more work, since all but the head's first layer stays as wide as it was.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class BlockMean(nn.Module):
    """A learned weighted mean of the embeddings and the outputs of all blocks (Peters et al. 2018, ELMo)."""

    def __init__(self, num_outputs: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_outputs))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        """num_outputs x (batch, tokens, hidden) to (batch, tokens, hidden)."""
        shares = self.weights.softmax(0)
        return self.scale * torch.stack([share * out for share, out in zip(shares, outputs, strict=True)]).sum(0)


class BlockConcatenation(nn.Module):
    """The embeddings and the outputs of all blocks side by side, each normalised: residual streams grow on the way."""

    def __init__(self, num_outputs: int):
        super().__init__()
        self.num_outputs = num_outputs

    def forward(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        """num_outputs x (batch, tokens, hidden) to (batch, tokens, num_outputs x hidden)."""
        pairs = zip(range(self.num_outputs), outputs, strict=True)
        return torch.cat([F.layer_norm(output, output.shape[-1:]) for _, output in pairs], dim=-1)


BLOCK_MIXERS = {"mean": BlockMean, "concat": BlockConcatenation}
