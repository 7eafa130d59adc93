"""Residues to tokens through a table of bytes, and states to labels on those tokens.

    tokenizer = ResidueTokenizer.from_pretrained("my_model")       # or a backbone
    tokenizer.encode("MKTAYIAK")                                   # (tokens,) int64, special tokens included
    tokenizer.encode_chain("MKTAYIAK", "LLEEEELL", "q9", name="1abc_A")   # {"input_ids", "labels"}

One residue is one token, by construction: the stock tokenizer of ESM makes one `<unk>` of a run of letters it does
not know, which shifts every label behind it. The table is made from the stock tokenizer's vocabulary, and gives the
same tokens for clean residues. It is also what makes tokenizing free: the stock tokenizer of ESM is pure Python.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from huggingface_hub.errors import HFValidationError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .artefact import read_backbone_location
from .backbones import get_family, in_one_line
from .sequences import RARE_RESIDUES, STANDARD_RESIDUES, UNKNOWN_RESIDUE, CleaningCounts, clean_residues
from .states import IGNORE_INDEX, Alphabet, get_alphabet

# Residues that go to the backbone as X, by family: LIFT_SS for ProtT5, and its authors' own advice for ProtBert.
REPLACED = {"esm": "", "t5": "BJOUZ", "bert": "BJOUZ"}
WORD_START = "▁"  # how sentencepiece spells the blank before a word; ProtT5 writes residues as words


class ResidueTokenizer:
    """Tokens of residues for one backbone.

    Args:
        tokenizer: the backbone's stock tokenizer, whose vocabulary and special tokens are used.
        model_type: the backbone's family: `esm`, `t5` or `bert`.

    Attributes:
        replaced: residues that go to the backbone as X.
        counts: what was changed in all chains so far.

    Raises:
        ValueError: if the tokenizer's special tokens are not the family's, or a standard residue has no token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model_type: str):
        self.stock = tokenizer
        self.family = get_family(model_type)
        self.counts = CleaningCounts()
        specials = list(tokenizer.build_inputs_with_special_tokens([]))
        if len(specials) != self.family.num_leading + self.family.num_trailing:
            raise ValueError(
                f"the tokenizer puts {len(specials)} special tokens around a chain, but a {model_type} backbone has "
                f"{self.family.num_leading} before and {self.family.num_trailing} after the residues. "
                "Use the tokenizer that belongs to the backbone."
            )
        self.leading, self.trailing = specials[: self.family.num_leading], specials[self.family.num_leading :]
        self.pad_token_id = int(tokenizer.pad_token_id)
        self._fill_table(model_type)

    def _fill_table(self, model_type: str) -> None:
        vocabulary = self.stock.get_vocab()

        residues = STANDARD_RESIDUES + RARE_RESIDUES
        tokens: dict[str, Any] = {}  # by residue; None where there is none
        for residue in residues:
            tokens[residue] = vocabulary.get(WORD_START + residue, vocabulary.get(residue))
        missing = [residue for residue in STANDARD_RESIDUES + UNKNOWN_RESIDUE if tokens[residue] is None]
        if missing:
            raise ValueError(
                f"the tokenizer has no token for {', '.join(missing)}: it is no tokenizer of protein residues. "
                "Use the one that belongs to the backbone."
            )
        lacking = {residue for residue in RARE_RESIDUES if tokens[residue] is None}
        self.replaced = "".join(sorted({*REPLACED[model_type], *lacking}))
        self._table = np.zeros(256, dtype=np.int64)  # by byte of a clean residue
        for residue in set(residues) - set(self.replaced):
            self._table[ord(residue)] = tokens[residue]

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike, backbone: str | os.PathLike | None = None, **options: Any
    ) -> ResidueTokenizer:
        """Load the tokenizer of a saved model or of a backbone.

        Args:
            name_or_path: Hub id or folder. A model's folder without tokenizer files leads on to its backbone.
            backbone: where a model's backbone is now, if not where its configuration says.
            options: for `AutoTokenizer.from_pretrained` (revision, cache_dir, token, ...).

        Raises:
            ValueError: if there is no tokenizer, or it belongs to no backbone that can be used here.
        """
        model_type, places = read_backbone_location(name_or_path, backbone, **options)
        reasons = []
        for place, revision in places:
            try:
                stock = AutoTokenizer.from_pretrained(place, **{**options, "revision": revision or "main"})
                return cls(stock, model_type)
            except (OSError, KeyError, HFValidationError) as error:
                reasons.append(f"{place}: {in_one_line(error)}")
        raise ValueError(f"no tokenizer was found ({'; '.join(reasons)}). Save the backbone's with the model.")

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write the stock tokenizer's files, which `AutoTokenizer.from_pretrained(folder)` loads."""
        self.stock.save_pretrained(folder)

    @property
    def mask_token_id(self) -> int:
        """What stands for a hidden residue: the vocabulary's mask, or X where it has none (ProtT5's)."""
        mask = self.stock.mask_token_id
        return int(self._table[ord(UNKNOWN_RESIDUE)] if mask is None else mask)

    @property
    def all_special_ids(self) -> list[int]:
        """Tokens that stand for no residue: those around a chain, and padding."""
        return sorted({*self.leading, *self.trailing, self.pad_token_id})

    def encode(self, sequence: str) -> np.ndarray:
        """Clean a chain and turn it into tokens.

        Args:
            sequence: residues, one letter each, length L; lower case and rare residues are taken care of and counted.

        Returns:
            (L + special tokens,) int64.

        Raises:
            ResidueError: for what is no residue, with its 1-based position.
            ValueError: for a chain without residues.
        """
        clean, counts = clean_residues(sequence, self.replaced)
        self.counts += counts
        tokens = self._table[np.frombuffer(clean.encode("ascii"), dtype=np.uint8)]
        return np.concatenate([self.leading, tokens, self.trailing]).astype(np.int64)

    def encode_labels(self, states: str, alphabet: str | Alphabet) -> np.ndarray:
        """Place one label on each residue's token.

        Args:
            states: DSSP states, one letter a residue, length L.
            alphabet: the reduction in use, or its name.

        Returns:
            (L + special tokens,) int64; IGNORE_INDEX on special tokens and unresolved residues.

        Raises:
            UnknownStateError: for a letter that is no state, with its 1-based position.
        """
        labels = get_alphabet(alphabet).encode(states)
        return np.pad(labels, (len(self.leading), len(self.trailing)), constant_values=IGNORE_INDEX)

    def encode_chain(
        self, sequence: str, states: str | None = None, alphabet: str | Alphabet = "q9", name: str = "chain"
    ) -> dict[str, np.ndarray]:
        """Tokens and labels of one chain, checked against one another.

        Args:
            sequence: residues.
            states: DSSP states of the same length; None for a chain that is to be predicted.
            alphabet: the reduction in use, or its name.
            name: what an error calls the chain.

        Returns:
            `input_ids` and, with states, `labels`; equally long.

        Raises:
            ValueError: if the lengths differ, or a letter is wrong; it names the chain.
        """
        try:
            chain = {"input_ids": self.encode(sequence)}
            if states is not None:
                chain["labels"] = self.encode_labels(states, alphabet)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if states is not None and len(chain["labels"]) != len(chain["input_ids"]):
            num_residues = len(chain["input_ids"]) - len(self.leading) - len(self.trailing)
            raise ValueError(
                f"{name}: {num_residues} residues but {len(states)} states. "
                "Mark unresolved residues X instead of dropping them."
            )
        return chain

    def residue_slice(self) -> slice:
        """Where the residues are among a chain's tokens: `logits[tokenizer.residue_slice()]`."""
        return slice(len(self.leading), -len(self.trailing) or None)

    def pad(self, chains: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Put chains of tokens in one batch.

        Returns:
            input_ids and attention_mask, (chains, longest) int64 each.

        Raises:
            ValueError: if there are no chains.
        """
        if not len(chains):
            raise ValueError("no chains to pad. Give at least one.")
        lengths = np.array([len(chain) for chain in chains])
        attention_mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        input_ids = np.full(attention_mask.shape, self.pad_token_id, dtype=np.int64)
        input_ids[attention_mask > 0] = np.concatenate(chains)
        return input_ids, attention_mask
