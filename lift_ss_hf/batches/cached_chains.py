"""Chains that bring along what the frozen blocks make of them, so that training runs only the blocks it changes.

All that lies below the lowest trained block is a constant function of the chain, and below its adapter where that acts
on the block's output alone. `with_cached_prefixes` computes it once for each distinct chain and keeps it in a
`PrefixStore`. Frozen blocks run without dropout here as they do without the cache; what the cache changes is the
rounding of the states to 16 bits.

It is filled before the first step and not during the first epoch, which costs the same: each chain goes through the
frozen blocks once, and the first epoch reads what they made of it. But filled before, chains are sorted over the whole
corpus (no padding), all epochs see the same rounding (a run that fills draws the same curve as one that reads), what
cannot hold is told before the training and not in the midst of it, and the data loader's workers read only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers.integrations import is_deepspeed_zero3_enabled

from ..models.windows import plan_windows
from ..training.arguments import PREFIX_CACHE_OFF, RecipeTrainingArguments
from .collator import ChainCollator, budget_batches
from .prefix_store import BYTES_PER_VALUE, ORIGIN_FILE, PrefixStore, chain_key

logger = logging.getLogger(__name__)

Place = tuple[Any, int]  # a dataset, and the number of a chain in it

# What a configuration says of where it came from and how it is kept, and not of what it computes.
NOT_COMPUTED = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")


class CannotCacheError(Exception):
    """The states cannot be kept; the message says why, and training goes on without."""


class CachedChains(Dataset):
    """Chains with the states that go into the lowest trained block, as `prefix`.

    Args:
        chains: a dataset of `Features`, with `lengths`.
        store: opened, with the states of every chain.
        dtype: that the model computes the states in; 16 bits are a matter of the disk.
    """

    def __init__(self, chains: Any, store: PrefixStore, dtype: torch.dtype):
        self.chains, self.store, self.dtype = chains, store, dtype
        self.lengths = chains.lengths
        self.keys = keys_of(chains)

    def __len__(self) -> int:
        return len(self.chains)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.chains[index], "prefix": self.store.read(self.keys[index]).to(self.dtype)}


def keys_of(chains: Any) -> list[str]:
    """The key of each chain."""
    return [chain_key(chains[index]["input_ids"]) for index in range(len(chains))]


def with_cached_prefixes(
    model: Any, datasets: Sequence[Any], pad_token_id: int, training: RecipeTrainingArguments
) -> list[Any]:
    """Chains with cached states, as `training.prefix_cache` asks; unchanged where that cannot be, with a line why.

    Several processes share the work, and all of them use the cache or none does.

    Args:
        model: a secondary structure model; moved to the training device where there is something to compute.
        datasets: chains with `lengths`: for training, for validation.
        pad_token_id: of the backbone.
        training: its prefix_cache, prefix_cache_gb, device, precision.
    """
    if training.prefix_cache == PREFIX_CACHE_OFF:
        return list(datasets)
    model.max_prefix_blocks = training.prefix_cache_blocks
    try:
        return _cached(model, datasets, pad_token_id, training)
    except CannotCacheError as reason:
        model.max_prefix_blocks = None
        logger.warning("prefix cache: training goes on without it: %s.", reason)
        return list(datasets)


def _cached(
    model: Any, datasets: Sequence[Any], pad_token_id: int, training: RecipeTrainingArguments
) -> list[CachedChains]:
    _check_model(model)
    chains = {key: (dataset, index) for dataset in datasets for index, key in reversed([*enumerate(keys_of(dataset))])}
    model.to(training.device)
    filler = _Filler(model, ChainCollator(pad_token_id), training)
    shortest, index = min(chains.values(), key=lambda place: place[0].lengths[place[1]])
    dtype = filler.states([shortest[index]])[0].dtype
    process = PartialState()
    store = PrefixStore(training.prefix_cache, _origin(model, dtype, filler.autocast_dtype))
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
                _check_room(store, model, lengths, training.prefix_cache_gb)
            with _agreeing(process):
                filler.fill(
                    store, {key: chains[key] for key in missing[process.process_index :: process.num_processes]}
                )
    with _agreeing(process):
        if lacking := store.open(chains):
            raise CannotCacheError(f"{len(lacking)} chains cannot be read back from {store.folder}")
    logger.info("prefix cache: %d chains from %s, %d of them new", len(chains), store.folder, len(missing))
    return [CachedChains(dataset, store, dtype) for dataset in datasets]


@contextmanager
def _agreeing(process: PartialState) -> Iterator[None]:
    """What one process cannot do, none does: all raise the first one's reason."""
    reason = None
    try:
        yield
    except (CannotCacheError, OSError) as error:
        reason = str(error)
    reasons = gather_object([reason]) if process.num_processes > 1 else [reason]
    if first := next(filter(None, reasons), None):
        raise CannotCacheError(first)


def _check_model(model: Any) -> None:
    if model.num_prefix_blocks == 0:
        raise CannotCacheError(
            "the lowest block is trained, so that nothing below it stays the same (leave lower blocks out: "
            "--top_blocks, or --freeze N)"
        )
    if is_deepspeed_zero3_enabled():
        raise CannotCacheError("ZeRO-3 splits the frozen weights, which then cannot be run before training")


def _origin(model: Any, dtype: torch.dtype, autocast_dtype: torch.dtype | None) -> dict[str, Any]:
    """All that the states of a chain depend on, besides its tokens."""
    config = model.config
    backbone = {k: v for k, v in config.backbone_config.to_dict().items() if k not in NOT_COMPUTED}
    return {
        "weights": _weights_digest(model),
        "backbone": config.backbone_fingerprint,
        "backbone_config": json.loads(json.dumps(backbone, default=str)),
        "depth": model.num_prefix_blocks,
        "all_blocks": config.block_mix is not None,
        "max_residues": model.max_residues,
        "window_overlap": config.window_overlap,
        "dtype": str(dtype),
        "autocast": str(autocast_dtype),
        "torch": torch.__version__,
    }


def _weights_digest(model: Any) -> str:
    """SHA-256 of the frozen weights that the states depend on, exactly as they are in memory.

    The backbone's fingerprint rounds to bfloat16: it tells backbones apart, not the precision they are held in.
    """
    digest = hashlib.sha256()
    blocks = model.family.blocks(model.backbone)[: model.num_prefix_blocks]
    for module in (model.family.embeddings(model.backbone), *blocks):
        for name, weight in sorted(module.named_parameters()):
            if weight.requires_grad:  # the adapter that acts on what is kept
                continue
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_room(store: PrefixStore, model: Any, lengths: Sequence[int], limit_gb: float) -> None:
    """Announce what will be written for chains of so many tokens, and refuse what does not fit."""
    specials = model.family.num_leading + model.family.num_trailing
    needed = prefix_bytes(model, [length - specials for length in lengths])
    free, others = store.free_bytes(), store.others()
    of_others = sum(size for _, size in others)
    taken = store.num_bytes() + of_others
    logger.info("prefix cache: writing %.3f GB for %d chains to %s", needed / 1e9, len(lengths), store.folder)
    remedy = _how_to_make_room(store.folder.parent, others)
    if taken + needed > limit_gb * 1e9:
        raise CannotCacheError(
            f"it would need {needed / 1e9:.3f} GB, beside {taken / 1e9:.3f} GB that are there, and may take "
            f"{limit_gb:g} GB in all (--prefix_cache_gb){remedy}"
        )
    if needed > free:
        raise CannotCacheError(
            f"it would need {needed / 1e9:.3f} GB, and the disk of {store.folder} has {free / 1e9:.3f} GB left{remedy}"
        )
    if others:
        logger.info("prefix cache: not all of it is of this backbone and depth%s", remedy)


def _how_to_make_room(folder: Path, others: Sequence[tuple[Path, int]]) -> str:
    """What other backbones and depths take of the disk, and how to be rid of it; nothing where there are none."""
    if not others:
        return ""
    return (
        f". {sum(size for _, size in others) / 1e9:.3f} GB in {folder} are of {len(others)} other backbones or depths "
        f"(each one's {ORIGIN_FILE} says which). Remove what no run needs: "
        f"rm -r {' '.join(shlex.quote(str(path)) for path, _ in others)}"
    )


def prefix_bytes(model: Any, num_residues: Iterable[int]) -> int:
    """What the states of chains take on the disk [bytes].

    Args:
        model: a secondary structure model; its weights are not looked at.
        num_residues: of each chain.
    """
    specials = model.family.num_leading + model.family.num_trailing
    num_outputs = model.num_prefix_blocks + 1 if model.config.block_mix else 1
    num_tokens = 0
    for residues in num_residues:
        windows = plan_windows(residues, model.max_residues, model.config.window_overlap)
        num_tokens += sum(window.stop - window.start + specials for window in windows)
    return num_tokens * num_outputs * model.config.backbone_config.hidden_size * BYTES_PER_VALUE


class _Filler:
    """Runs the frozen blocks over chains."""

    def __init__(self, model: Any, collate: ChainCollator, training: RecipeTrainingArguments):
        self.model, self.collate, self.training = model, collate, training
        self.autocast_dtype = torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else None

    @torch.no_grad()
    def states(self, chains: Sequence[Any]) -> list[torch.Tensor]:
        """The states of chains that share a batch: (outputs, rows, tokens, hidden) each, without padding.

        Only a chain that is alone may be longer than the backbone's limit; its rows are its windows.
        """
        batch = self.collate(chains)
        ids, mask = (batch[name].to(self.training.device) for name in ("input_ids", "attention_mask"))
        enabled = self.autocast_dtype is not None
        with torch.autocast(self.training.device.type, dtype=self.autocast_dtype, enabled=enabled):
            outputs = torch.stack(self.model.frozen_prefix(ids, mask))
        if len(chains) == 1:
            return [outputs]
        return [outputs[:, row : row + 1, : len(chain["input_ids"])] for row, chain in enumerate(chains)]

    def fill(self, store: PrefixStore, chains: Mapping[str, Place]) -> None:
        """Compute and write the states of chains, in batches of similar length."""
        if not chains:
            return
        was_training = self.model.training
        self.model.eval()
        keys = list(chains)
        items = [dataset[index] for dataset, index in chains.values()]
        lengths = [len(item["input_ids"]) for item in items]
        limit = self.model.max_residues
        with (
            store.writing(keys) as add,
            tqdm(total=len(keys), unit="chain", desc="prefix cache", disable=self.training.disable_tqdm) as bar,
        ):
            for batch in budget_batches(lengths, self.training.max_tokens_per_batch):
                alone = limit is not None and lengths[batch[0]] > limit  # the longest is first
                for members in [[i] for i in batch] if alone else [batch]:
                    for i, states in zip(members, self.states([items[i] for i in members]), strict=True):
                        add(keys[i], states)
                bar.update(len(batch))
        self.model.train(was_training)
