"""Training chains with some residues hidden from the backbone, different ones in every epoch.

A backbone with trained adapters overfits small corpora; a chain that never looks the same twice reduces that. The
backbones were pretrained on masked residues, so nothing else changes, and masked residues keep their labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ..models.tokenization import ResidueTokenizer


class MaskedChains(Dataset):
    """Chains with masked residues.

    Args:
        chains: a dataset of `Features`, with `lengths`.
        fraction: probability of each residue to be masked [fraction].
        tokenizer: the backbone's tokenizer; where it has no mask token (ProtT5), masked residues become X.
        seed: seed of the masks (default: 0); the same seed, epoch and chain give the same mask.
    """

    def __init__(self, chains: Any, fraction: float, tokenizer: ResidueTokenizer, seed: int = 0):
        self.chains, self.fraction, self.seed, self.epoch = chains, fraction, seed, 0
        self.lengths = chains.lengths
        self._residues = tokenizer.residue_slice()
        self._mask = tokenizer.masked_residue_id

    def set_epoch(self, epoch: int) -> None:
        """Mask other residues; `TokenBudgetBatches.set_epoch` calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.chains)

    def __getitem__(self, index: int) -> dict[str, Any]:
        chain = self.chains[index]
        tokens = np.array(chain["input_ids"])
        residues = tokens[self._residues]
        rng = np.random.default_rng((self.seed, self.epoch, index))
        residues[rng.random(len(residues)) < self.fraction] = self._mask
        return {**chain, "input_ids": tokens}
