"""ESM with rotary positions on chains laid end to end in one row: no padding, and no attention between chains.

All of a block but its attention looks at one token at a time, so a row of many chains is one long chain to it. Within
attention every chain is attended by itself, with positions that start at 0. The inception head, whose convolutions
reach over four residues, sees the residues of a row with four empty places between chains. Both are exact: a chain's
output is that of the chain alone, to the rounding of fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..ensemble import Ensemble
from ..heads import KERNEL
from ..windows import plan_windows

# These change with the tokens around a chain: prefixes and gates are the chain's own, NoReFT counts from its start.
UNPACKABLE_ADAPTERS = ("mam", "noreft", "prefix_tuning", "unipelt")
GAP = KERNEL // 2  # empty places between chains: the reach of the widest convolution


def can_be_packed(model: Any) -> bool:
    """Whether a model's chains can share a row: ESM with rotary positions and an adapter that acts on each token."""
    if isinstance(model, Ensemble) or model.family.model_type != "esm":
        return False
    backbone = model.config.backbone_config
    return backbone.position_embedding_type == "rotary" and model.config.adapter not in UNPACKABLE_ADAPTERS


def rotary_tables(frequencies: torch.Tensor, lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of a row's positions, which start again with every chain.

    Args:
        frequencies: (head size / 2,) fp32, of the rotation of each pair of channels.
        lengths: tokens of each chain.

    Returns:
        cosines and sines, each (tokens, 1, 1, head size).
    """
    positions = torch.cat([torch.arange(length, device=frequencies.device) for length in lengths])
    angles = torch.outer(positions.to(frequencies.dtype), frequencies).repeat(1, 2)[:, None, None]
    return angles.cos(), angles.sin()


def rotate(values: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turn (tokens, ..., head size) by their positions (Su et al. 2021, RoFormer)."""
    cosines, sines = tables
    low, high = values.chunk(2, dim=-1)
    return (values * cosines + torch.cat([-high, low], dim=-1) * sines).to(values.dtype)


def attend_within(states: torch.Tensor, lengths: Sequence[int], scale: float) -> torch.Tensor:
    """Attention of each chain of a row to itself.

    Args:
        states: (tokens, 3, heads, head size): queries, keys and values.
        lengths: tokens of each chain.
        scale: of the scores.

    Returns:
        (tokens, heads x head size)
    """
    attended = []
    for chain in states.split(list(lengths)):
        query, key, value = chain.permute(1, 2, 0, 3)[:, None]  # each (1, heads, length, head size)
        output = F.scaled_dot_product_attention(query, key, value, scale=scale)
        attended.append(output[0].transpose(0, 1).flatten(1))
    return torch.cat(attended)


class PackedModel:
    """A model that runs rows of chains.

    Args:
        model: one that `can_be_packed`, in evaluation mode.
    """

    def __init__(self, model: Any):
        self.model = model

    def logits(self, chains: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run chains in one row; those too long for the model in overlapping windows, stitched before the head.

        Args:
            chains: tokens of each, special ones included, (tokens,) int64 on the model's device.

        Returns:
            logits of each chain's residues, (residues, states) fp32.
        """
        pieces, kept = self._cut(chains)
        lengths = [len(piece) for piece in pieces]
        hidden = self._hidden_states(torch.cat(pieces)[None], lengths)[0]  # (tokens, hidden)
        parts = [piece[keep] for piece, keep in zip(hidden.split(lengths), kept, strict=True)]
        residues = torch.cat(parts).to(self.model.head_dtype)  # of all chains, end to end
        family = self.model.family
        return self._classify(residues, [len(chain) - family.num_leading - family.num_trailing for chain in chains])

    def _cut(self, chains: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[slice]]:
        """Windows of all chains, each with the chain's special tokens, and where their kept residues are in them."""
        leading, trailing = self.model.family.num_leading, self.model.family.num_trailing
        pieces, kept = [], []
        for chain in chains:
            start, residues, end = chain.tensor_split([leading, len(chain) - trailing])
            for window in plan_windows(len(residues), self.model.max_residues, self.model.config.window_overlap):
                pieces.append(torch.cat([start, residues[window.start : window.stop], end]))
                offset = leading - window.start
                kept.append(slice(window.keep_start + offset, window.keep_stop + offset))
        return pieces, kept

    def _hidden_states(self, input_ids: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        model, backbone = self.model, self.model.backbone
        mask = torch.ones_like(input_ids)
        with model._precision():
            hidden = model.family.embed(backbone, input_ids, mask)
            with model._adapter_context(hidden, mask):
                blocks = model.family.blocks(backbone)
                outputs = [hidden]
                tables = rotary_tables(blocks[0].attention.self.rotary_embeddings.inv_freq, lengths)
                for block in blocks:
                    hidden = self._run_block(block, hidden, lengths, tables)
                    outputs = [*outputs, hidden] if model.block_mix is not None else [hidden]
                outputs[-1] = model.family.finish(backbone, hidden)
                return outputs[-1] if model.block_mix is None else model.block_mix(outputs)

    def _run_block(
        self, block: Any, hidden: torch.Tensor, lengths: Sequence[int], tables: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """(1, tokens, hidden) to (1, tokens, hidden), as EsmLayer does it on a batch."""
        attention = block.attention.self
        normed = block.attention.LayerNorm(hidden)
        states = torch.cat([project(normed) for project in (attention.query, attention.key, attention.value)], dim=-1)
        states = states.view(-1, 3, attention.num_attention_heads, attention.attention_head_size)
        turned = rotate(states[:, :2], tables)
        states = torch.cat([turned, states[:, 2:]], dim=1)
        attended = attend_within(states, lengths, attention.attention_head_size**-0.5)
        hidden = block.attention.output(attended[None], hidden)
        # torch's own gelu is the same function as ESM's, in one pass over memory instead of five
        return block.output(F.gelu(block.intermediate.dense(block.LayerNorm(hidden))), hidden)

    def _classify(self, residues: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
        """(residues, hidden) of chains end to end to logits of each chain."""
        chains = residues.split(list(lengths))
        row = torch.cat([F.pad(chain, (0, 0, 0, GAP)) for chain in chains])
        mask = torch.cat([F.pad(chain.new_ones(len(chain), dtype=torch.bool), (0, GAP)) for chain in chains])
        logits = self.model.head(row[None], mask[None]).logits[0]
        return [chain[:-GAP] for chain in logits.split([length + GAP for length in lengths])]
