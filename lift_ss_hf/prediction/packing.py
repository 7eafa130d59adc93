"""A model on chains laid end to end in one row: no padding, and no attention between chains.

`rows` has the blocks. Here are the embeddings, chain by chain, whose learned positions start anew; windows of chains
that are too long; and the head, which sees the residues of a row with empty places between chains, as many as its
widest convolution reaches over. All of it is exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..models.windows import plan_windows
from .ensemble import Ensemble
from .rows import ROWS

# These change with the tokens around a chain: prefixes and gates are the chain's own, NoReFT counts from its start.
UNPACKABLE_ADAPTERS = ("mam", "noreft", "prefix_tuning", "unipelt")
POSITIONS = {"bert": ("absolute",), "esm": ("absolute", "rotary"), "t5": (None,)}  # that rows know; T5 has but one kind
# Places that rows grow by: oneDNN, which does a CPU's convolutions and products, keeps code for every length seen.
STEP = 128  # of the head's rows
TOKEN_STEP = 64  # of the blocks' rows, where an empty place costs more


def can_be_packed(model: Any) -> bool:
    """Whether a model's chains can share a row: positions that rows know, and an adapter that acts on each token."""
    if isinstance(model, Ensemble) or model.config.adapter in UNPACKABLE_ADAPTERS:
        return False
    positions = getattr(model.config.backbone_config, "position_embedding_type", None)
    return positions in POSITIONS[model.family.model_type]


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
        hidden = self._hidden_states(pieces)[0, : sum(lengths)]  # (tokens, hidden)
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

    def _hidden_states(self, chains: Sequence[torch.Tensor]) -> torch.Tensor:
        """Tokens of chains that fit the model, to (1, tokens, hidden) of all, end to end; empty places after them."""
        model, backbone = self.model, self.model.backbone
        lengths = [len(chain) for chain in chains]
        empty = -sum(lengths) % TOKEN_STEP
        with model._precision():
            alone = [model.family.embed(backbone, chain[None], torch.ones_like(chain)[None]) for chain in chains]
            hidden = F.pad(torch.cat(alone, dim=1), (0, 0, 0, empty))
            mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
            with model._adapter_context(hidden, mask):
                row = ROWS[model.family.model_type](backbone, [*lengths, empty] if empty else lengths)
                outputs = [hidden]
                for block in model.family.blocks(backbone):
                    hidden = row.run_block(block, hidden)
                    outputs = [*outputs, hidden] if model.block_mix is not None else [hidden]
                outputs[-1] = model.family.finish(backbone, hidden)
                return outputs[-1] if model.block_mix is None else model.block_mix(outputs)

    def _classify(self, residues: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
        """(residues, hidden) of chains end to end to logits of each chain."""
        gap = self.model.head.encoder.reach
        starts = list(itertools.accumulate((length + gap for length in lengths), initial=0))
        places = -(-starts.pop() // STEP) * STEP
        row = residues.new_zeros(1, places, residues.shape[-1])
        mask = torch.zeros(1, places, dtype=torch.bool, device=residues.device)
        spans = [slice(start, start + length) for start, length in zip(starts, lengths, strict=True)]
        for span, chain in zip(spans, residues.split(list(lengths)), strict=True):
            row[0, span], mask[0, span] = chain, True
        logits = self.model.head(row, mask).logits[0]
        return [logits[span] for span in spans]
