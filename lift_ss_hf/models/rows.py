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


def has_varlen_kernel(query: torch.Tensor) -> bool:
    """Return True if one kernel can attend to all chains of a row: flash attention on a GPU, in half precision."""
    return varlen_attn is not None and query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)


class Row:
    """A row of chains.

    Args:
        backbone: the backbone whose blocks will be run.
        lengths: tokens of each chain.

    Attributes:
        has_bias: something is added to the scores, which the kernel for all chains cannot do.
    """

    has_bias = False

    def __init__(self, backbone: Any, lengths: Sequence[int]):
        self.lengths = list(lengths)
        self.ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=backbone.device)

    def run_block(self, block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Run one block: (1, tokens, hidden) to (1, tokens, hidden), each chain as in the block's own forward."""
        raise NotImplementedError

    def attend(
        self, attention: Any, hidden: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Let each chain attend to itself, and to the prefix that an adapter puts before it.

        Args:
            attention: the block's attention.
            hidden: (1, tokens, hidden), its input, of which a gate decides how much the prefix counts.
            query: (tokens, heads, head size).
            key: of the same shape.
            value: of the same shape.

        Returns:
            (1, tokens, heads x head size)
        """
        key, value = key.to(query.dtype), value.to(query.dtype)
        key, value, num_prefix = self._with_prefixes(attention, hidden, key, value)
        if not self.has_bias and has_varlen_kernel(query):
            key_ends = self.ends
            if num_prefix:
                key_ends = key_ends + num_prefix * torch.arange(len(key_ends), dtype=torch.int32, device=query.device)
            longest = max(self.lengths)
            return varlen_attn(query, key, value, self.ends, key_ends, longest, longest + num_prefix).flatten(1)[None]
        num_keys = [length + num_prefix for length in self.lengths]
        chains = zip(query.split(self.lengths), key.split(num_keys), value.split(num_keys), strict=True)
        attended = [self.attend_chain(*(states.transpose(0, 1)[None] for states in chain)) for chain in chains]
        return torch.cat([chain.transpose(1, 2) for chain in attended], dim=1).flatten(2)

    def attend_chain(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Let one chain attend to itself, with scores scaled by the root of the head size.

        Args:
            query: (1, heads, length, head size).
            key: (1, heads, prefix + length, head size).
            value: of the same shape.

        Returns:
            (1, heads, length, head size)
        """
        return F.scaled_dot_product_attention(query, key, value)

    def _with_prefixes(
        self, attention: Any, hidden: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Return keys and values with each chain's prefix before those of its tokens, and the prefix's length."""
        layer = getattr(attention, "prefix_tuning", None)
        if layer is None or not layer.prefixes:
            return key, value, 0
        none = key.new_empty(len(self.lengths), key.shape[1], 0, key.shape[2])  # (chains, heads, 0, head size)
        prefixes = [states.to(key.dtype).transpose(1, 2) for states in layer(none, none, hidden)[:2]]
        key, value = (
            torch.cat([part for pair in zip(prefix, states.split(self.lengths), strict=True) for part in pair])
            for prefix, states in zip(prefixes, (key, value), strict=True)
        )
        return key, value, prefixes[0].shape[1]


def add_residual(half: Any, output: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Add the output of half a block to its input, (batch, tokens, hidden); `half` holds the bottleneck, if any."""
    if hasattr(half, "bottleneck_layer_forward"):  # of the adapters library
        return half.bottleneck_layer_forward(output, hidden, None)
    return hidden + output


def project(hidden: torch.Tensor, projections: Sequence[Any], heads: int) -> list[torch.Tensor]:
    """Project (1, tokens, hidden) to queries, keys and values, each (tokens, heads, head size)."""
    return [projection(hidden).view(hidden.shape[1], heads, -1) for projection in projections]
