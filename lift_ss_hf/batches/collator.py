"""Batches of chains: padding, and grouping chains of similar length within a budget of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..models.states import IGNORE_INDEX
from ..models.wording import counted

Features = Mapping[str, Any]  # input_ids and labels of one chain, 1-D of equal length

BATCHES_IN_BUCKET = 4  # chains of this many neighbouring batches are shuffled among them every epoch


class ChainCollator:
    """Pad chains to the longest of their batch.

    Works with the stock Trainer, both over a dataset of chains and over `TokenBudgetBatches`, whose items are batches.

    Args:
        pad_token_id: the backbone's padding token.

    Example:
        >>> ChainCollator(0)([{"input_ids": [5, 6]}, {"input_ids": [5, 6, 7]}])["input_ids"].tolist()
        [[5, 6, 0], [5, 6, 7]]
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, items: Sequence[Features | Sequence[Features]]) -> dict[str, Any]:
        """Turn chains, or batches of chains, into tensors.

        Returns:
            input_ids, attention_mask and, if the chains have them, labels; each (chains, tokens) int64. If the chains
            have cached states, also `cached_states` and `num_cached_blocks`, as the model's forward takes them.
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
        if "cached_states" in chains[0]:
            batch["cached_states"] = self._padded_states([chain["cached_states"] for chain in chains])
            batch["num_cached_blocks"] = chains[0]["num_cached_blocks"]
        return batch

    @staticmethod
    def _padded_states(hidden_states: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Pad (outputs, rows, tokens, hidden) of each chain to a list of `outputs` (all rows, most tokens, hidden)."""
        outputs, _, _, hidden = hidden_states[0].shape
        rows, tokens = sum(chain.shape[1] for chain in hidden_states), max(chain.shape[2] for chain in hidden_states)
        padded = torch.zeros(outputs, rows, tokens, hidden, dtype=hidden_states[0].dtype)
        row = 0
        for chain in hidden_states:
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
    """A dataset whose items are whole batches: chains of similar length, up to a budget of tokens, padding included.

    With it the stock Trainer, at one item per step and with its own shuffling, pads very little. Chains are shuffled
    among neighbouring batches every epoch. The number of batches stays the same, so that a run can be resumed.

    Args:
        chains: a dataset of `Features`.
        lengths: number of tokens of each chain.
        max_tokens: upper bound of rows x longest chain; a longer chain is a batch of its own [tokens].
        seed: seed of the shuffling.

    Raises:
        ValueError: if there are not as many lengths as chains.

    Example:
        >>> batches = TokenBudgetBatches(["a", "b", "c"], [10, 12, 11], max_tokens=24)
        >>> [len(batch) for batch in batches], sorted(chain for batch in batches for chain in batch)
        ([2, 1], ['a', 'b', 'c'])
    """

    def __init__(self, chains: Any, lengths: Sequence[int], max_tokens: int, seed: int = 0):
        if len(chains) != len(lengths):
            raise ValueError(f"{counted(len(chains), 'chain')} but {counted(len(lengths), 'length')}.")
        self.chains, self.seed, self.max_tokens = chains, seed, max_tokens
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self._buckets = budget_batches(self.lengths, max_tokens, num_batches=BATCHES_IN_BUCKET)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of an epoch, and new masks if the chains are masked; `callbacks.NewBatches` calls it."""
        if hasattr(self.chains, "set_epoch"):
            self.chains.set_epoch(epoch)
        rng = np.random.default_rng((self.seed, epoch))
        self.batches: list[np.ndarray] = []
        for bucket in self._buckets:
            rows = _rows_within(self.max_tokens, self.lengths[bucket[0]])
            members = rng.permutation(bucket)
            self.batches += [members[i : i + rows] for i in range(0, len(members), rows)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[Features]:
        return [self.chains[int(i)] for i in self.batches[index]]

    @property
    def padding_fraction(self) -> float:
        """Share of padding among the tokens of this epoch's batches [fraction]."""
        padded = sum(int(self.lengths[batch].max()) * len(batch) for batch in self.batches)
        return 1 - float(self.lengths.sum()) / padded


def budget_batches(
    lengths: Sequence[int] | np.ndarray, max_tokens: int, *, order: np.ndarray | None = None, num_batches: int = 1
) -> list[np.ndarray]:
    """Group chains of similar length within a budget of tokens.

    Args:
        lengths: number of tokens of each chain.
        max_tokens: upper bound of rows x length of the group's first chain; at least one row [tokens].
        order: indices of the chains, by length (default: longest first, so that the budget includes padding).
        num_batches: batches a group is to be split into by the caller (default: 1, the group is the batch).

    Returns:
        Indices of the chains of each group.

    Example:
        >>> [batch.tolist() for batch in budget_batches([10, 30, 12], max_tokens=30)]
        [[1], [2, 0]]
    """
    if order is None:
        order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    groups, start = [], 0
    while start < len(order):
        stop = start + _rows_within(max_tokens, lengths[order[start]]) * num_batches
        groups.append(order[start:stop])
        start = stop
    return groups


def _rows_within(max_tokens: int, length: int) -> int:
    return max(1, max_tokens // int(length))
