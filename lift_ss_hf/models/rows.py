"""Rows: chains laid end to end and run through a backbone's blocks without padding.

Everything in a block except attention acts on single tokens, so to it a row of many chains is one long chain. In
attention each chain attends to itself only, with positions that restart. This is exact: a chain's output is that of the
chain alone, up to rounding. Each family of backbones has its own subclass, beside the family:

    row = family.make_row(backbone, [len(chain) for chain in chains])
    for block in family.blocks(backbone):
        hidden = row.run_block(block, hidden)      # (1, tokens, hidden)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

varlen_attn: Any
try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None


def has_varlen_kernel(qkv: torch.Tensor) -> bool:
    """Return True if one kernel can attend to all chains of a row: flash attention on a GPU, in half precision."""
    return varlen_attn is not None and qkv.is_cuda and qkv.dtype in (torch.bfloat16, torch.float16)


class Row:
    """A row of chains.

    Args:
        backbone: the backbone whose blocks will be run.
        lengths: tokens of each chain.
    """

    def __init__(self, backbone: Any, lengths: Sequence[int]):
        self.lengths = list(lengths)
        self.ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=backbone.device)

    def run_block(self, block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Run one block: (1, tokens, hidden) to (1, tokens, hidden), each chain as in the block's own forward."""
        raise NotImplementedError

    def attend(self, qkv: torch.Tensor) -> torch.Tensor:
        """Let each chain attend to itself, with scores scaled by the root of the head size.

        Args:
            qkv: (tokens, 3, heads, head size), queries, keys and values.

        Returns:
            (1, tokens, heads x head size)
        """
        if has_varlen_kernel(qkv):
            query, key, value = qkv.unbind(1)
            ends, longest = self.ends, max(self.lengths)
            return varlen_attn(query, key, value, ends, ends, longest, longest).flatten(1)[None]
        attended = []
        for chain in qkv.split(self.lengths):
            query, key, value = chain.permute(1, 2, 0, 3)[:, None]  # each (1, heads, length, head size)
            output = F.scaled_dot_product_attention(query, key, value)
            attended.append(output[0].transpose(0, 1).flatten(1))
        return torch.cat(attended)[None]


def project(hidden: torch.Tensor, projections: Sequence[Any], heads: int) -> torch.Tensor:
    """Project (1, tokens, hidden) to queries, keys and values, (tokens, 3, heads, head size)."""
    qkv = torch.cat([projection(hidden) for projection in projections], dim=-1)
    return qkv.view(hidden.shape[1], 3, heads, -1)
