"""The blocks of each family of backbones on a row: chains laid end to end, without padding.

All of a block but its attention looks at one token at a time, so a row of many chains is one long chain to it. Within
attention every chain is attended by itself, with positions that start anew. That is exact: a chain's output is that
of the chain alone, to the rounding of the numbers.

    row = T5Row(backbone, [len(chain) for chain in chains])
    for block in blocks: hidden = row.run_block(block, hidden)      # (1, tokens, hidden)
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


def attends_at_once(states: torch.Tensor) -> bool:
    """Whether one kernel can attend all chains of a row: flash attention of a GPU, in half precision."""
    return varlen_attn is not None and states.is_cuda and states.dtype in (torch.bfloat16, torch.float16)


class Row:
    """A row of chains.

    Args:
        backbone: whose blocks are run on it.
        lengths: tokens of each chain.
    """

    def __init__(self, backbone: Any, lengths: Sequence[int]):
        self.lengths = list(lengths)
        self.ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=backbone.device)

    def run_block(self, block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """(1, tokens, hidden) to (1, tokens, hidden), each chain as the block's own forward has it."""
        raise NotImplementedError

    def attend(self, states: torch.Tensor) -> torch.Tensor:
        """Attention of each chain to itself, scores scaled by the root of the head size.

        Args:
            states: (tokens, 3, heads, head size): queries, keys and values.

        Returns:
            (1, tokens, heads x head size)
        """
        if attends_at_once(states):
            query, key, value = states.unbind(1)
            ends, longest = self.ends, max(self.lengths)
            return varlen_attn(query, key, value, ends, ends, longest, longest).flatten(1)[None]
        attended = []
        for chain in states.split(self.lengths):
            query, key, value = chain.permute(1, 2, 0, 3)[:, None]  # each (1, heads, length, head size)
            output = F.scaled_dot_product_attention(query, key, value)
            attended.append(output[0].transpose(0, 1).flatten(1))
        return torch.cat(attended)[None]


def project(hidden: torch.Tensor, projections: Sequence[Any], heads: int) -> torch.Tensor:
    """(1, tokens, hidden) to queries, keys and values, (tokens, 3, heads, head size)."""
    states = torch.cat([projection(hidden) for projection in projections], dim=-1)
    return states.view(hidden.shape[1], 3, heads, -1)


class BertRow(Row):
    """BERT: learned positions, which are in the embeddings; norms after each half block."""

    def run_block(self, block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """As BertLayer on a batch."""
        hidden = block.attention.output(self.attend_with(block.attention.self, hidden), hidden)
        return block.output(block.intermediate(hidden), hidden)

    def attend_with(self, attention: Any, hidden: torch.Tensor) -> torch.Tensor:
        """(1, tokens, hidden) to (1, tokens, heads x head size) by a block's self-attention."""
        projections = (attention.query, attention.key, attention.value)
        return self.attend(self.place(project(hidden, projections, attention.num_attention_heads)))

    def place(self, states: torch.Tensor) -> torch.Tensor:
        """(tokens, 3, heads, head size) with positions, where those are no part of the embeddings."""
        return states


class EsmRow(BertRow):
    """ESM-2, whose queries and keys are rotated by their position, and ESM-1b; norms before each half block."""

    def __init__(self, backbone: Any, lengths: Sequence[int]):
        super().__init__(backbone, lengths)
        rotary = backbone.encoder.layer[0].attention.self.rotary_embeddings
        self.tables = None if rotary is None else rotary_tables(rotary.inv_freq, self.lengths)

    def run_block(self, block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """As EsmLayer on a batch."""
        normed = block.attention.LayerNorm(hidden)
        hidden = block.attention.output(self.attend_with(block.attention.self, normed), hidden)
        return block.output(block.intermediate(block.LayerNorm(hidden)), hidden)

    def place(self, states: torch.Tensor) -> torch.Tensor:
        """Rotate queries and keys."""
        if self.tables is not None:
            rotate_(states[:, :2], self.tables)
        return states


def rotary_tables(frequencies: torch.Tensor, lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of a row's positions, which start again with every chain.

    Args:
        frequencies: (head size / 2,) fp32, of the rotation of each pair of channels.
        lengths: tokens of each chain.

    Returns:
        cosines and sines, each (tokens, 1, 1, head size / 2).
    """
    positions = torch.cat([torch.arange(length, device=frequencies.device) for length in lengths])
    angles = torch.outer(positions.to(frequencies.dtype), frequencies)[:, None, None]
    return angles.cos(), angles.sin()


def rotate_(values: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Turn (tokens, ..., head size) by their positions, in place (Su et al. 2021, RoFormer)."""
    cosines, sines = tables
    low, high = values.chunk(2, dim=-1)
    turned = low * cosines - high * sines
    high.copy_(high * cosines + low * sines)
    low.copy_(turned)


class T5Row(Row):
    """T5: a bias on the scores, by head and distance, which block 0 holds for all; norms before each half block."""

    def __init__(self, backbone: Any, lengths: Sequence[int]):
        super().__init__(backbone, lengths)
        self.longest = max(self.lengths)
        attention = backbone.encoder.block[0].layer[0].SelfAttention
        here = torch.tensor([self.longest - 1], device=attention.relative_attention_bias.weight.device)
        table = attention.compute_bias(1, 2 * self.longest - 1, cache_position=here)  # of one residue to all others
        # (heads, distances), from longest - 1 down to 1 - longest; contiguous, or the kernel copies every bias
        self.table = table[0, :, 0].flip(-1).contiguous()

    def run_block(self, block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """As T5Block on a batch."""
        half = block.layer[0]
        attention = half.SelfAttention
        states = project(half.layer_norm(hidden), (attention.q, attention.k, attention.v), attention.n_heads)
        attended = attention.o(self.attend(states))
        if hasattr(half, "bottleneck_layer_forward"):  # of the adapters library
            hidden = half.bottleneck_layer_forward(attended, hidden, None)
        else:
            hidden = hidden + attended
        return block.layer[1](hidden)

    def attend(self, states: torch.Tensor) -> torch.Tensor:
        """As of any row, with the bias and without scaling; keys and values go in from the last to the first."""
        attended = []
        for chain in states.split(self.lengths):
            query = chain[:, 0].transpose(0, 1)  # (heads, length, head size)
            key, value = chain[:, 1:].flip(0).permute(1, 2, 0, 3)
            bias = self.bias(len(chain), states.dtype)
            output = F.scaled_dot_product_attention(query[None], key[None], value[None], bias[None], scale=1.0)
            attended.append(output[0].transpose(0, 1).flatten(1))
        return torch.cat(attended)[None]

    def bias(self, length: int, dtype: torch.dtype) -> torch.Tensor:
        """Bias of a chain's scores, (heads, queries, keys), keys from the last to the first.

        In that order it depends on the sum of query and key, so its rows are windows of the table, one step apart: a
        view without memory of its own, where titin's 34,350 residues squared, for 32 heads, would take 151 GB.
        """
        distances = slice(self.longest - length, self.longest + length - 1)
        return self.table[:, distances].to(dtype).unfold(-1, length, 1)


ROWS = {"bert": BertRow, "esm": EsmRow, "t5": T5Row}  # by the backbone's model type
