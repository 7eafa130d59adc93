"""Predict many chains: in packed rows if the model allows it, otherwise in batches of similar length.

    predictor = Predictor(model, tokenizer)
    for index, probabilities in predictor.predict(sequences): ...    # (residues, states) of sequences[index]
    for index, hidden in predictor.hidden_states(sequences): ...     # (residues, hidden)

The probabilities are those before calibration: reduce them to the states to report, take the states, then calibrate
with `predictor.temperature`, as `result.Prediction` does.

Runs, evaluation and the command line all predict through it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device

from ..batches.collator import ChainCollator, budget_batches
from ..batches.labelled_chains import EncodedChains
from ..models.backbones import fingerprint
from ..models.safety import check_finite
from ..models.sequences import CleanSequence
from .allocator import return_free_memory
from .packing import FrozenStates, PackedModel, can_be_packed

MAX_TOKENS = 2048  # per row or batch: fastest on a CPU, whose caches hold it
TRIM_TOKENS = 2 * MAX_TOKENS  # between two returns of free memory


class Predictor:
    """A model and its tokenizer, run in the fastest exact way.

    Args:
        model: a secondary structure model or an ensemble; it is put into evaluation mode.
        tokenizer: the model's `ResidueTokenizer`.
        max_tokens: per row or batch; a longer chain gets its own [tokens].
        precision: `fp32`, `bf16` or `int8`, for the record only: the model must already have it.
        digest: `model_digest` of the model before its matrices were prepacked; computed by default.

    Raises:
        ValueError: if max_tokens is below 1, or the tokenizer has tokens that the model has no embeddings for.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        max_tokens: int = MAX_TOKENS,
        precision: str = "fp32",
        digest: str | None = None,
    ):
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}. Expected a number of tokens, at least 1.")
        if hasattr(tokenizer, "check_fits"):
            tokenizer.check_fits(model.config.vocab_size, model.family, model.config.leading_token)
        self.model, self.tokenizer, self.max_tokens = model.eval(), tokenizer, max_tokens
        self.precision, self._digest = precision, digest
        self.packed = PackedModel(model) if can_be_packed(model) else None

    @property
    def alphabet(self) -> str:
        """Name of the alphabet of the probabilities' last axis."""
        return self.model.config.states

    @property
    def temperature(self) -> float:
        """The temperature that calibrates the probabilities; see `states.temper_probabilities`."""
        return self.model.calibration_temperature

    @property
    def digest(self) -> str:
        """`model_digest` of the model."""
        return self._digest or model_digest(self.model)

    def predict(self, sequences: Sequence[str | CleanSequence]) -> Iterator[tuple[int, np.ndarray]]:
        """Predict sequences; results come in the order of computation, not in that of the input.

        Returns:
            The index of a sequence and its probabilities before calibration, (residues, states) fp32.

        Raises:
            ResidueError: if a character is not a residue.
            ValueError: if the model computes something other than probabilities, because its weights are damaged.
        """
        return self.predict_chains(self.encode(sequences))

    def predict_chains(self, chains: Any, indices: Sequence[int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Predict encoded chains as `predict` does.

        Args:
            chains: `EncodedChains`, or the `CachedChains` that have the hidden states of the frozen blocks.
            indices: of the chains to predict, in this order (default: all).

        Raises:
            ValueError: as for `predict`.
        """
        if self.packed is not None:
            computed = self._run_rows(chains, self._row_logits, indices)
        else:
            computed = self._run_batches(chains, lambda batch: self.model(**batch, return_dict=True).logits, indices)
        return ((index, check_finite(logits.float().softmax(-1).cpu().numpy())) for index, logits in computed)

    def encode(self, sequences: Sequence[str | CleanSequence]) -> EncodedChains:
        """Return sequences as tokens, special tokens included.

        Raises:
            ResidueError: if a character is not a residue.
        """
        return EncodedChains([{"input_ids": self.tokenizer.encode_sequence(sequence)} for sequence in sequences])

    def _row_logits(self, chains: Sequence[Any]) -> list[torch.Tensor]:
        packed: Any = self.packed
        frozen = None
        if "cached_states" in chains[0]:
            states = [chain["cached_states"] for chain in chains]
            frozen = FrozenStates(states, chains[0]["num_cached_blocks"])
        return packed.logits(self._tokens(chains), frozen)

    def _tokens(self, chains: Sequence[Any]) -> list[torch.Tensor]:
        return [torch.from_numpy(chain["input_ids"]).to(self.model.device) for chain in chains]

    def hidden_states(
        self, sequences: Sequence[str | CleanSequence], num_blocks: int | None = None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Compute the hidden states of sequences; results come in the order of computation, as for `predict`.

        Args:
            sequences: to run; a chain too long for the model runs in windows, and each residue's hidden state comes
                from the one in which it is farthest from an edge.
            num_blocks: take the output of this many blocks, 0 for the embeddings; None takes what the head sees.

        Returns:
            The index of a sequence and its hidden states, (residues, hidden) fp32.

        Raises:
            ResidueError: if a character is not a residue.
        """
        chains = self.encode(sequences)
        if (packed := self.packed) is not None:
            computed = self._run_rows(chains, lambda row: packed.hidden_states(self._tokens(row), num_blocks))
        else:
            run = partial(self.model.hidden_states, num_blocks=num_blocks)
            computed = self._run_batches(chains, lambda batch: run(**batch))
        return ((index, hidden.float()) for index, hidden in computed)

    @torch.inference_mode()
    def _run_rows(
        self, chains: Any, run: Callable[[list[Any]], list[torch.Tensor]], indices: Sequence[int] | None = None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Run chains in packed rows; yield index and output, (residues, size), of each."""
        for members in _planned(chains, indices, self.max_tokens, plan_rows):
            yield from zip(members, run([chains[i] for i in members]), strict=True)

    @torch.inference_mode()
    def _run_batches(
        self, chains: Any, run: Callable[[dict[str, Any]], torch.Tensor], indices: Sequence[int] | None = None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Run chains in batches of similar length; yield index and output, (residues, size), of each."""
        collate = ChainCollator(self.tokenizer.pad_token_id)
        for members in _planned(chains, indices, self.max_tokens, budget_batches):
            batch = send_to_device(collate([chains[i] for i in members]), self.model.device)
            outputs, mask = run(batch), self.model.residue_mask(batch["attention_mask"])
            for row, index in enumerate(members):
                yield index, outputs[row][mask[row]]


def _planned(
    chains: Any, indices: Sequence[int] | None, max_tokens: int, plan: Callable[..., Iterable[Any]]
) -> Iterator[list[int]]:
    """Yield the chains of each row or batch; return free memory to the system before some of them."""
    indices = range(len(chains)) if indices is None else indices
    lengths = [chains.lengths[index] for index in indices]
    for places in returning_free_memory(plan(lengths, max_tokens), lengths):
        yield [indices[place] for place in places]


def is_windowed(model: Any, sequence: str | CleanSequence) -> bool:
    """Return True if a chain is too long for a model and runs in windows."""
    return model.max_residues is not None and len(sequence) > model.max_residues


def model_digest(model: Any) -> str:
    """Return the SHA-256 of all that decides a model's predictions.

    That is its weights, rounded to bfloat16, and its configuration without the backbone's name and revision.
    """
    content = model.config.to_dict()
    for name in ("backbone_name", "backbone_revision"):
        content.pop(name, None)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode())
    digest.update(fingerprint(model).encode())
    return digest.hexdigest()


def returning_free_memory(batches: Iterable[Any], lengths: Sequence[int]) -> Iterator[Any]:
    """Pass on batches, and return free memory to the system before some of them: always before a very long chain.

    glibc keeps freed memory in pieces that seldom fit again, since every row has another length. Over the first 1,700
    of 20,000 UniProt sequences the peak was 985 MiB without this and 776 MiB with it (683 and 671 over the first 200);
    it costs up to 5 % of the CPU time. See benchmarks/prediction.md.

    Args:
        batches: indices of the chains of each.
        lengths: tokens of each chain.
    """
    tokens = 0
    for indices in batches:
        tokens += sum(lengths[index] for index in indices)
        if tokens > TRIM_TOKENS:
            return_free_memory()
            tokens = 0
        yield indices


def plan_rows(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Group consecutive chains into rows within a budget of tokens.

    Rows have no padding, so the chains of a row need not be of similar length, as in `batches.collator.budget_batches`.

    Args:
        lengths: tokens of each chain.
        max_tokens: per row; a longer chain is a row by itself [tokens].

    Returns:
        Indices of the chains of each row.

    Example:
        >>> list(plan_rows([3, 4, 9, 1, 1], max_tokens=7))
        [[0, 1], [2], [3, 4]]
    """
    row: list[int] = []
    tokens = 0
    for index, length in enumerate(lengths):
        if row and tokens + length > max_tokens:
            yield row
            row, tokens = [], 0
        row.append(index)
        tokens += length
    if row:
        yield row
