"""Chains as tokens, and a corpus as tokens and labels, encoded once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ..models.states import IGNORE_INDEX
from ..models.tokenization import ResidueTokenizer
from .collator import Features


class EncodedChains(Dataset):
    """Chains as tokens, ready for `ChainCollator`.

    Args:
        items: `Features` of each chain.

    Attributes:
        lengths: number of tokens of each chain.
    """

    def __init__(self, items: Sequence[Features]):
        self.items = items
        self.lengths = [len(item["input_ids"]) for item in items]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Features:
        return self.items[index]


class LabelledChains(EncodedChains):
    """Tokens and labels of every chain of a corpus, ready for `ChainCollator`.

    Args:
        corpus: columns `id`, `sequence` and `states`, equally long: a `datasets.Dataset`, or a mapping of lists.
        tokenizer: the backbone's tokenizer.
        states: name of the alphabet of the labels: q9, q8, q3 or q3_lift_ss.

    Raises:
        ValueError: if a chain's residues and states differ in number, or a letter is invalid; names the chain.

    Example:
        >>> from lift_ss_hf.models.tokenization import ResidueTokenizer
        >>> tokenizer = ResidueTokenizer.from_pretrained("bundled")
        >>> corpus = {"id": ["1abc_A"], "sequence": ["MKV"], "states": ["XHH"]}
        >>> chains = LabelledChains(corpus, tokenizer, "q3")
        >>> chains.lengths
        [5]
        >>> chains[0]["labels"].tolist()
        [-100, -100, 2, 2, -100]
    """

    def __init__(self, corpus: Mapping[str, Sequence[str]] | Any, tokenizer: ResidueTokenizer, states: str):
        rows = zip(corpus["id"], corpus["sequence"], corpus["states"], strict=True)
        super().__init__([tokenizer.encode_chain(sequence, letters, states, name) for name, sequence, letters in rows])

    def class_counts(self, num_states: int) -> list[int]:
        """Return the number of residues labelled with each state."""
        labels = np.concatenate([item["labels"] for item in self.items])
        return np.bincount(labels[labels != IGNORE_INDEX], minlength=num_states).tolist()

    def sorted_by_length(self) -> LabelledChains:
        """Return the same chains, longest first, so that batches in this order need little padding."""
        chains = copy.copy(self)
        chains.items = sorted(self.items, key=lambda item: -len(item["input_ids"]))
        chains.lengths = [len(item["input_ids"]) for item in chains.items]
        return chains
