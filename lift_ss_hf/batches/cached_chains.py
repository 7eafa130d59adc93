"""Chains with the hidden states of the frozen blocks, so that training runs only the blocks it changes.

Everything below the lowest trained block is a constant function of the chain, and so is that block itself if its
adapter acts on its output alone. `with_cached_states` computes it once for each distinct chain
and keeps it in a `PrefixStore`. Frozen blocks run without dropout with and without the cache; the only effect of the
cache is that hidden states are rounded to 16 bits.

The cache is filled before the first step. Filling it during the first epoch would take as long, but filled before,
chains are sorted over the whole corpus (no padding), all epochs see the same rounding (the run that fills the cache
has the same loss curve as one that reads it), a cache that does not fit is reported before training rather than during
it, and the workers of the data loader only read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers.integrations import is_deepspeed_zero3_enabled

from ..models.windows import plan_windows
from ..models.wording import counted
from .collator import ChainCollator, budget_batches
from .prefix_store import BYTES_PER_VALUE, ORIGIN_FILE, PrefixStore, chain_key

logger = logging.getLogger(__name__)

MEASURED_SECONDS = 3.0  # before it is said how long filling takes: the first batches allocate memory
LAST_CHECK = 0.5  # of the tokens
ChainLocation = tuple[Any, int]  # a dataset, and the index of a chain in it

# Entries of a backbone's configuration that say where it came from and how it is stored, not what it computes
NOT_COMPUTED = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")


@dataclass(frozen=True)
class PrefixCacheSettings:
    """Where cached hidden states are kept, and how they are computed.

    Attributes:
        folder: folder of all stores.
        limit_gb: upper bound of what the folder takes [GB].
        num_blocks: cache the output of at most this many of the lowest blocks (default: of all frozen blocks).
        device: device to run the frozen blocks on.
        autocast_dtype: dtype of autocast, as in training; None for no autocast.
        max_tokens: size of a batch [tokens].
        quiet: show no progress bar.
        max_seconds: give up if the first half of the tokens shows that filling takes longer; None waits [s].
    """

    folder: str | Path
    limit_gb: float = 50.0
    num_blocks: int | None = None
    device: torch.device | str = "cpu"
    autocast_dtype: torch.dtype | None = None
    max_tokens: int = 2048
    quiet: bool = False
    max_seconds: float | None = None


class CannotCacheError(Exception):
    """Hidden states cannot be cached. The message says why; the run goes on without the cache."""


class CachedChains(Dataset):
    """Chains with the hidden states of the frozen blocks, as `cached_states` and `num_cached_blocks`.

    Args:
        chains: a dataset of `Features`, with `lengths`.
        keys: of the chains in the store; see `chain_keys`.
        store: an opened store that has the hidden states of every chain.
        dtype: dtype the model computes in; the 16 bits of the store are converted to it.
        num_blocks: how many blocks the hidden states have gone through.
    """

    def __init__(self, chains: Any, keys: Sequence[str], store: PrefixStore, dtype: torch.dtype, num_blocks: int):
        self.chains, self.keys, self.store, self.dtype, self.num_blocks = chains, keys, store, dtype, num_blocks
        self.lengths = chains.lengths

    def __len__(self) -> int:
        return len(self.chains)

    def __getitem__(self, index: int) -> dict[str, Any]:
        hidden_states = self.store.read(self.keys[index]).to(self.dtype)
        return {**self.chains[index], "cached_states": hidden_states, "num_cached_blocks": self.num_blocks}


def chain_keys(chains: Any) -> list[str]:
    """Return the key of each chain in the store."""
    return [chain_key(chains[index]["input_ids"]) for index in range(len(chains))]


def with_cached_states(
    model: Any, datasets: Sequence[Any], pad_token_id: int, settings: PrefixCacheSettings
) -> list[Any]:
    """Add cached hidden states to chains; where that is impossible, log why and return the chains unchanged.

    Several processes share the work, and either all of them use the cache or none does.

    Args:
        model: a secondary structure model; moved to `settings.device`.
        datasets: datasets of chains with `lengths`: for training, for validation.
        pad_token_id: the backbone's padding token.
        settings: where to keep the hidden states, and how to compute them.

    Returns:
        One dataset for each of `datasets`.
    """
    try:
        return _cached(model, datasets, pad_token_id, settings)
    except CannotCacheError as reason:
        logger.warning("prefix cache: going on without it: %s.", reason)
        return list(datasets)


def _cached(
    model: Any, datasets: Sequence[Any], pad_token_id: int, settings: PrefixCacheSettings
) -> list[CachedChains]:
    num_blocks = min(model.num_frozen_blocks, settings.num_blocks or model.config.num_blocks)
    _check_model(num_blocks)
    keys = [chain_keys(dataset) for dataset in datasets]
    chains = {
        key: (dataset, index)
        for dataset, its_keys in zip(datasets, keys, strict=True)
        for index, key in reversed([*enumerate(its_keys)])
    }
    model.to(settings.device)
    filler = _Filler(model, ChainCollator(pad_token_id), settings, num_blocks)
    dataset, index = min(chains.values(), key=lambda location: location[0].lengths[location[1]])
    dtype = filler.hidden_states([dataset[index]])[0].dtype  # of the shortest chain
    process = PartialState()
    store = PrefixStore(settings.folder, _origin(model, num_blocks, dtype, settings.autocast_dtype))
    with ExitStack() as stack:
        with _agreeing(process):
            if process.is_main_process:
                stack.enter_context(store.locked())
        with _agreeing(process):
            missing = store.open(chains, repair=True) if process.is_main_process else []
        missing = gather_object([missing])[0] if process.num_processes > 1 else missing
        if missing:
            with _agreeing(process):
                lengths = [dataset.lengths[index] for dataset, index in (chains[key] for key in missing)]
                _check_room(store, model, num_blocks, lengths, settings.limit_gb)
            with _agreeing(process):
                filler.fill(
                    store, {key: chains[key] for key in missing[process.process_index :: process.num_processes]}
                )
    with _agreeing(process):
        if lacking := store.open(chains):
            raise CannotCacheError(f"{counted(len(lacking), 'chain')} cannot be read back from {store.folder}")
    logger.info("prefix cache: %s from %s, %d of them new", counted(len(chains), "chain"), store.folder, len(missing))
    return [
        CachedChains(dataset, its_keys, store, dtype, num_blocks)
        for dataset, its_keys in zip(datasets, keys, strict=True)
    ]


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode, and back into its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def _agreeing(process: PartialState) -> Iterator[None]:
    """Let all processes fail if one does: each raises the reason of the first that failed."""
    reason = None
    try:
        yield
    except (CannotCacheError, OSError) as error:
        reason = str(error)
    reasons = gather_object([reason]) if process.num_processes > 1 else [reason]
    if first := next(filter(None, reasons), None):
        raise CannotCacheError(first)


def _check_model(num_blocks: int) -> None:
    if num_blocks == 0:
        raise CannotCacheError(
            "the lowest block is trained, so nothing below it is constant (train upper blocks only: --top_blocks, or "
            "--freeze N)"
        )
    if is_deepspeed_zero3_enabled():
        raise CannotCacheError("ZeRO-3 shards the frozen weights, which therefore cannot be run before training")


def _origin(model: Any, num_blocks: int, dtype: torch.dtype, autocast_dtype: torch.dtype | None) -> dict[str, Any]:
    """Return everything that the hidden states of a chain depend on, besides its tokens."""
    config = model.config
    backbone = {k: v for k, v in config.backbone_config.to_dict().items() if k not in NOT_COMPUTED}
    return {
        "weights": _weights_digest(model, num_blocks),
        "backbone": config.backbone_fingerprint,
        "backbone_config": json.loads(json.dumps(backbone, default=str)),
        "depth": num_blocks,
        "all_blocks": config.block_mix is not None,
        "max_residues": model.max_residues,
        "window_overlap": config.window_overlap,
        "dtype": str(dtype),
        "autocast": str(autocast_dtype),
        "torch": torch.__version__,
    }


def _weights_digest(model: Any, num_blocks: int) -> str:
    """Return the SHA-256 of the frozen weights in use, exactly as they are in memory.

    The backbone's fingerprint rounds to bfloat16: it identifies the backbone, but not the precision it is held in.
    """
    digest = hashlib.sha256()
    blocks = model.family.blocks(model.backbone)[:num_blocks]
    for module in (model.family.embeddings(model.backbone), *blocks):
        for name, weight in sorted(module.named_parameters()):
            if weight.requires_grad:  # the adapter, which acts on what is cached
                continue
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_room(store: PrefixStore, model: Any, num_blocks: int, lengths: Sequence[int], limit_gb: float) -> None:
    """Log how much will be written for chains of these lengths [tokens]; raise CannotCacheError if it does not fit."""
    specials = model.num_leading + model.family.num_trailing
    needed = cached_states_bytes(model, num_blocks, [length - specials for length in lengths])
    free, others = store.free_bytes(), store.others()
    of_others = sum(size for _, size in others)
    taken = store.num_bytes() + of_others
    logger.info(
        "prefix cache: writing %.3f GB for %s to %s", needed / 1e9, counted(len(lengths), "chain"), store.folder
    )
    remedy = _how_to_make_room(store.folder.parent, others)
    if taken + needed > limit_gb * 1e9:
        raise CannotCacheError(
            f"it needs {needed / 1e9:.3f} GB, {taken / 1e9:.3f} GB are in use, and the limit is {limit_gb:g} GB "
            f"(--prefix_cache_gb){remedy}"
        )
    if needed > free:
        raise CannotCacheError(
            f"it needs {needed / 1e9:.3f} GB, and the disk of {store.folder} has {free / 1e9:.3f} GB left{remedy}"
        )
    if others:
        logger.info("prefix cache: other backbones or depths take a part of it%s", remedy)


def _how_to_make_room(folder: Path, others: Sequence[tuple[Path, int]]) -> str:
    """Return how much other backbones and depths take and how to remove them; empty if there are no others."""
    if not others:
        return ""
    return (
        f". In {folder}, {len(others)} other backbones or depths take {sum(size for _, size in others) / 1e9:.3f} GB "
        f"(see {ORIGIN_FILE} in each). Remove those that no run needs: "
        f"rm -r {' '.join(shlex.quote(str(path)) for path, _ in others)}"
    )


def cached_states_bytes(model: Any, num_blocks: int, num_residues: Iterable[int]) -> int:
    """Return how much the cached hidden states of chains take on disk [bytes].

    Args:
        model: a secondary structure model, with or without weights.
        num_blocks: how many of its lowest blocks are cached.
        num_residues: length of each chain [residues].
    """
    specials = model.num_leading + model.family.num_trailing
    num_outputs = num_blocks + 1 if model.config.block_mix else 1
    num_tokens = 0
    for residues in num_residues:
        windows = plan_windows(residues, model.max_residues, model.config.window_overlap)
        num_tokens += sum(window.stop - window.start + specials for window in windows)
    return num_tokens * num_outputs * model.config.backbone_config.hidden_size * BYTES_PER_VALUE


class _Filler:
    """Runs the frozen blocks over chains."""

    def __init__(self, model: Any, collate: ChainCollator, settings: PrefixCacheSettings, num_blocks: int):
        self.model, self.collate, self.settings, self.num_blocks = model, collate, settings, num_blocks

    @torch.no_grad()
    def hidden_states(self, chains: Sequence[Any]) -> list[torch.Tensor]:
        """Return the hidden states of chains of one batch: (outputs, rows, tokens, hidden) each, without padding.

        A chain may exceed the backbone's limit only if it is the only one; its rows are then its windows.
        """
        device, dtype = torch.device(self.settings.device), self.settings.autocast_dtype
        batch = self.collate(chains)
        ids, mask = (batch[name].to(device) for name in ("input_ids", "attention_mask"))
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            outputs = torch.stack(self.model.run_frozen_blocks(ids, mask, self.num_blocks))
        if len(chains) == 1:
            return [outputs]
        return [outputs[:, row : row + 1, : len(chain["input_ids"])] for row, chain in enumerate(chains)]

    def fill(self, store: PrefixStore, chains: Mapping[str, ChainLocation]) -> None:
        """Compute and write the hidden states of chains, in batches of similar length."""
        if not chains:
            return
        keys = list(chains)
        items = [dataset[index] for dataset, index in chains.values()]
        lengths = [len(item["input_ids"]) for item in items]
        limit = self.model.max_residues
        started, num_done, num_tokens = time.monotonic(), 0, sum(lengths)
        with (
            evaluating(self.model),
            store.writing(keys) as add,
            tqdm(total=len(keys), unit=" chains", desc="prefix cache", disable=self.settings.quiet) as bar,
        ):
            for batch in budget_batches(lengths, self.settings.max_tokens):
                alone = limit is not None and lengths[batch[0]] > limit  # the first is the longest
                for members in [[i] for i in batch] if alone else [batch]:
                    for i, hidden in zip(members, self.hidden_states([items[i] for i in members]), strict=True):
                        add(keys[i], hidden)
                bar.update(len(batch))
                num_done += sum(lengths[i] for i in batch)
                self._check_time(time.monotonic() - started, num_done / num_tokens)

    def _check_time(self, seconds: float, part: float) -> None:
        """Raise CannotCacheError if filling will take too long, from what a part of it took.

        When half of it is done, it goes on: giving up would lose more than it saves.
        """
        limit = self.settings.max_seconds
        if limit is None or part >= LAST_CHECK or seconds <= min(limit, MEASURED_SECONDS):
            return
        if seconds / part > limit:
            raise CannotCacheError(f"filling it would take about {seconds / part:.0f} s, of {limit:.0f} s at most")
