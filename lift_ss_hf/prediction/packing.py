"""Run a model on packed rows: chains laid end to end, without padding and without attention between chains.

`rows` runs the backbone's blocks. This module does the rest: it embeds each chain separately, so that learned positions
restart; cuts chains that are too long into windows; and runs the head on the residues of the row, with gaps between
chains that are as wide as the head's largest convolution reaches. The results are those of each chain alone, up to
floating-point rounding.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..models.adapter_methods import ADAPTERS, prefix_length
from ..models.windows import plan_windows
from .ensemble import Ensemble

# Rows are padded to multiples of these: oneDNN compiles and caches code for every length of a row.
HEAD_STEP = 128
BLOCK_STEP = 64  # smaller, as padding costs more here


def can_be_packed(model: Any) -> bool:
    """Return True if a model's chains can share a row.

    That needs a family that runs rows, and an adapter that fits them.
    """
    if isinstance(model, Ensemble) or not (model.config.adapter is None or ADAPTERS[model.config.adapter].fits_rows):
        return False
    return model.family.make_row(model.backbone, [1]) is not None


def shifted_prefix(config: Any) -> int:
    """Return the length of an adapter's prefix if it shifts the distances between tokens, else 0."""
    return prefix_length(config.adapter, config.adapter_options) if config.prefix_shift else 0


@dataclass(frozen=True)
class FrozenStates:
    """What the frozen lower blocks computed for the chains of a row, so that they need not run again.

    Attributes:
        chains: (outputs, windows, tokens, hidden) of each chain; see `batches.cached_chains.CachedChains`.
        num_blocks: how many blocks they have gone through.
    """

    chains: Sequence[torch.Tensor]
    num_blocks: int


class PackedModel:
    """A model that runs on packed rows.

    Args:
        model: in evaluation mode; `can_be_packed(model)` must be True.
    """

    def __init__(self, model: Any):
        self.model = model

    def logits(self, chains: Sequence[torch.Tensor], frozen: FrozenStates | None = None) -> list[torch.Tensor]:
        """Run chains in one row; chains too long for the model run in overlapping windows, joined before the head.

        Args:
            chains: tokens of each chain, special tokens included, (tokens,) int64 on the model's device.
            frozen: of these chains, if the frozen blocks were run before.

        Returns:
            Logits of each chain's residues, (residues, states) fp32.
        """
        residues = self._residues(chains, frozen=frozen).to(self.model.head_dtype)
        return self._classify(residues, self._num_residues(chains))

    def hidden_states(self, chains: Sequence[torch.Tensor], num_blocks: int | None = None) -> list[torch.Tensor]:
        """Run chains in one row as for `logits`, without the head.

        Args:
            chains: as for `logits`.
            num_blocks: as for the model's `hidden_states`; blocks above are not run.

        Returns:
            Hidden states of each chain's residues, (residues, hidden).
        """
        return list(self._residues(chains, num_blocks).split(self._num_residues(chains)))

    def _num_residues(self, chains: Sequence[torch.Tensor]) -> list[int]:
        special = self.model.num_leading + self.model.family.num_trailing
        return [len(chain) - special for chain in chains]

    def _residues(
        self, chains: Sequence[torch.Tensor], num_blocks: int | None = None, frozen: FrozenStates | None = None
    ) -> torch.Tensor:
        """Return (residues of all chains, hidden); of a chain in windows, each residue from one of them."""
        pieces, kept = self._cut(chains)
        lengths = [len(piece) for piece in pieces]
        hidden = self._hidden_states(pieces, num_blocks, frozen)[0, : sum(lengths)]  # (tokens, hidden)
        return torch.cat([piece[keep] for piece, keep in zip(hidden.split(lengths), kept, strict=True)])

    def _cut(self, chains: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[slice]]:
        """Return the windows of all chains, each with special tokens around it, and the slice to keep of each."""
        leading, trailing = self.model.num_leading, self.model.family.num_trailing
        pieces, kept = [], []
        for chain in chains:
            start, residues, end = chain.tensor_split([leading, len(chain) - trailing])
            for window in plan_windows(len(residues), self.model.max_residues, self.model.config.window_overlap):
                pieces.append(torch.cat([start, residues[window.start : window.stop], end]))
                offset = leading - window.start
                kept.append(slice(window.keep_start + offset, window.keep_stop + offset))
        return pieces, kept

    def _hidden_states(
        self, chains: Sequence[torch.Tensor], num_blocks: int | None, frozen: FrozenStates | None
    ) -> torch.Tensor:
        """Run chains that fit the model; return (1, tokens, hidden) for all, end to end, with padding at the end."""
        model, backbone = self.model, self.model.backbone
        own = [len(chain) for chain in chains]
        padding = -sum(own) % BLOCK_STEP
        lengths = [*own, padding] if padding else own
        mask = torch.ones(len(lengths), 1, dtype=torch.long, device=model.device)
        with model.autocast(), model.adapter_context(mask, lengths):
            outputs = [self._embedded(chains)] if frozen is None else self._cached(frozen, own)
            outputs = [F.pad(hidden, (0, 0, 0, padding)) for hidden in outputs]
            start = 0
            if frozen is not None:
                start = frozen.num_blocks
                outputs = model.run_first_adapter(outputs, start)
            row = model.family.make_row(backbone, lengths, shifted_prefix(model.config))
            mix = model.block_mix if num_blocks is None else None
            blocks = model.family.blocks(backbone)
            for block in blocks[start:num_blocks]:
                hidden = row.run_block(block, outputs[-1])
                outputs = [*outputs, hidden] if mix is not None else [hidden]
            if num_blocks in (None, len(blocks)):
                outputs[-1] = model.family.finish(backbone, outputs[-1])
            return outputs[-1] if mix is None else mix(outputs)

    def _embedded(self, chains: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the embeddings of chains, (1, tokens, hidden)."""
        embed, backbone = self.model.family.embed, self.model.backbone
        return torch.cat([embed(backbone, chain[None], torch.ones_like(chain)[None]) for chain in chains], dim=1)

    def _cached(self, frozen: FrozenStates, lengths: Sequence[int]) -> list[torch.Tensor]:
        """Return the cached outputs of the frozen blocks, (1, tokens, hidden) each.

        Args:
            frozen: of the chains of the row.
            lengths: of their windows, in which the cached states may be padded [tokens].
        """
        windows = [window for chain in frozen.chains for window in chain.unbind(1)]  # (outputs, tokens, hidden)
        kept = [window[:, :length] for window, length in zip(windows, lengths, strict=True)]
        return [output[None] for output in torch.cat(kept, dim=1).to(self.model.device)]

    def _classify(self, residues: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
        """Run the head on the residues of chains laid end to end, (residues, hidden); return each chain's logits."""
        gap = self.model.head.encoder.reach
        starts = list(itertools.accumulate((length + gap for length in lengths), initial=0))
        width = -(-starts.pop() // HEAD_STEP) * HEAD_STEP
        row = residues.new_zeros(1, width, residues.shape[-1])
        mask = torch.zeros(1, width, dtype=torch.bool, device=residues.device)
        spans = [slice(start, start + length) for start, length in zip(starts, lengths, strict=True)]
        for span, chain in zip(spans, residues.split(list(lengths)), strict=True):
            row[0, span], mask[0, span] = chain, True
        logits = self.model.head(row, mask).logits[0]
        return [logits[span] for span in spans]
