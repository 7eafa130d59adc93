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

from ..batches.collator import ChainCollator, budget_batches
from ..models.backbones import fingerprint
from ..models.safety import check_finite
from ..models.sequences import CleanSequence
from .allocator import return_free_memory
from .packing import PackedModel, can_be_packed

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

    def is_windowed(self, sequence: str | CleanSequence) -> bool:
        """Return True if a chain is too long for the model and runs in windows."""
        limit = self.model.max_residues
        return limit is not None and len(sequence) > limit

    def predict(self, sequences: Sequence[str | CleanSequence]) -> Iterator[tuple[int, np.ndarray]]:
        """Predict sequences; results come in the order of computation, not in that of the input.

        Returns:
            The index of a sequence and its probabilities before calibration, (residues, states) fp32.

        Raises:
            ResidueError: if a character is not a residue.
            ValueError: if the model computes something other than probabilities, because its weights are damaged.
        """
        chains = [self.tokenizer.encode_sequence(sequence) for sequence in sequences]
        if self.packed is not None:
            computed = self._run_rows(chains, self.packed.logits)
        else:
            computed = self._run_batches(chains, lambda batch: self.model(**batch, return_dict=True).logits)
        return ((index, check_finite(logits.float().softmax(-1).cpu().numpy())) for index, logits in computed)

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
        chains = [self.tokenizer.encode_sequence(sequence) for sequence in sequences]
        if self.packed is not None:
            computed = self._run_rows(chains, partial(self.packed.hidden_states, num_blocks=num_blocks))
        else:
            run = partial(self.model.hidden_states, num_blocks=num_blocks)
            computed = self._run_batches(chains, lambda batch: run(**batch))
        return ((index, hidden.float()) for index, hidden in computed)

    @torch.inference_mode()
    def _run_rows(
        self, chains: Sequence[np.ndarray], run: Callable[[list[torch.Tensor]], list[torch.Tensor]]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Run chains in packed rows; yield index and output, (residues, size), of each."""
        lengths = [len(chain) for chain in chains]
        for indices in returning_free_memory(plan_rows(lengths, self.max_tokens), lengths):
            row = [torch.from_numpy(chains[i]).to(self.model.device) for i in indices]
            yield from zip(indices, run(row), strict=True)

    @torch.inference_mode()
    def _run_batches(
        self, chains: Sequence[np.ndarray], run: Callable[[dict[str, torch.Tensor]], torch.Tensor]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Run chains in batches of similar length; yield index and output, (residues, size), of each."""
        collate = ChainCollator(self.tokenizer.pad_token_id)
        lengths = [len(chain) for chain in chains]
        for indices in returning_free_memory(budget_batches(lengths, self.max_tokens), lengths):
            batch = collate([{"input_ids": chains[i]} for i in indices])
            batch = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
            outputs, mask = run(batch), self.model.residue_mask(batch["attention_mask"])
            for row, index in enumerate(indices):
                yield int(index), outputs[row][mask[row]]


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
