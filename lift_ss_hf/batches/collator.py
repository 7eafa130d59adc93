"""Batches of chains: padding, and chains of similar length together under a budget of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..models.states import IGNORE_INDEX

Features = Mapping[str, Any]  # input_ids and labels of one chain, 1-D of equal length

BATCHES_IN_BUCKET = 4  # chains change partners within so many batches of similar length


class ChainCollator:
    """Pad chains to the longest of their batch.

    Works for the stock Trainer over a dataset of chains, and over `TokenBudgetBatches`, whose items are batches.

    Args:
        pad_token_id: the backbone's padding token.
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, items: Sequence[Features | Sequence[Features]]) -> dict[str, Any]:
        """Chains, or batches of chains, to tensors.

        Returns:
            input_ids, attention_mask and, if the chains have them, labels; each (chains, tokens) int64. If the chains
            have cached states also prefix, as the model's `frozen_prefix` gives it.
        """
        chains: list[Features] = []
        for item in items:
            chains += [item] if isinstance(item, Mapping) else item
        lengths = [len(chain["input_ids"]) for chain in chains]
        batch: dict[str, Any] = {
            "input_ids": self._padded(chains, "input_ids", lengths, self.pad_token_id),
            "attention_mask": (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long(),
        }
        if "labels" in chains[0]:
            batch["labels"] = self._padded(chains, "labels", lengths, IGNORE_INDEX)
        if "prefix" in chains[0]:
            batch["prefix"] = self._padded_states([chain["prefix"] for chain in chains])
        return batch

    @staticmethod
    def _padded_states(states: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """(outputs, rows, tokens, hidden) of each chain to `outputs` times (all rows, most tokens, hidden)."""
        outputs, _, _, hidden = states[0].shape
        rows, tokens = sum(chain.shape[1] for chain in states), max(chain.shape[2] for chain in states)
        padded = torch.zeros(outputs, rows, tokens, hidden, dtype=states[0].dtype)
        row = 0
        for chain in states:
            padded[:, row : row + chain.shape[1], : chain.shape[2]] = chain
            row += chain.shape[1]
        return list(padded)

    @staticmethod
    def _padded(chains: Sequence[Features], name: str, lengths: Sequence[int], value: int) -> torch.Tensor:
        padded = torch.full((len(chains), max(lengths)), value, dtype=torch.int64)
        for row, chain in enumerate(chains):
            padded[row, : lengths[row]] = torch.as_tensor(np.asarray(chain[name]))
        return padded


class TokenBudgetBatches(Dataset):
    """A dataset whose items are whole batches: chains of similar length, up to a budget of tokens with padding.

    With it the stock Trainer (one item a step, its own shuffling) pads next to nothing. Within a bucket of similar
    length the chains change partners every epoch; the number of batches stays, so that a run can be resumed.

    Args:
        chains: anything with a length whose items are `Features`.
        lengths: tokens of each chain.
        max_tokens: rows x longest chain of a batch; a longer chain is a batch of its own [tokens].
        seed: of the partners.
    """

    def __init__(self, chains: Any, lengths: Sequence[int], max_tokens: int, seed: int = 0):
        if len(chains) != len(lengths):
            raise ValueError(f"{len(chains)} chains but {len(lengths)} lengths.")
        self.chains, self.seed = chains, seed
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self._buckets = list(self._plan(max_tokens))
        self.set_epoch(0)

    def _plan(self, max_tokens: int):
        """Buckets of chains of similar length, longest first, each with its rows a batch."""
        order = np.argsort(-self.lengths, kind="stable")
        start = 0
        while start < len(order):
            rows = max(1, max_tokens // int(self.lengths[order[start]]))
            stop = start + rows * BATCHES_IN_BUCKET
            yield order[start:stop], rows
            start = stop

    def set_epoch(self, epoch: int) -> None:
        """Give every chain new partners, and new masks if it has any; `callbacks.NewBatches` calls it."""
        if hasattr(self.chains, "set_epoch"):
            self.chains.set_epoch(epoch)
        rng = np.random.default_rng((self.seed, epoch))
        self.batches: list[np.ndarray] = []
        for bucket, rows in self._buckets:
            members = rng.permutation(bucket)
            self.batches += [members[i : i + rows] for i in range(0, len(members), rows)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[Features]:
        return [self.chains[int(i)] for i in self.batches[index]]

    @property
    def padding_fraction(self) -> float:
        """Padding among all tokens of this epoch's batches [fraction]."""
        padded = sum(int(self.lengths[batch].max()) * len(batch) for batch in self.batches)
        return 1 - float(self.lengths.sum()) / padded


def budget_batches(lengths: Sequence[int], max_tokens: int) -> list[np.ndarray]:
    """Indices in batches of similar length, longest first: for prediction, where no partner need change.

    Args:
        lengths: tokens of each chain.
        max_tokens: rows x longest chain of a batch; a longer chain is a batch of its own [tokens].
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = max(1, max_tokens // int(lengths[order[start]]))
        batches.append(order[start : start + rows])
        start += rows
    return batches
