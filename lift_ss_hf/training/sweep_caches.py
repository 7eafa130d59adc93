"""How the points of a sweep share the frozen-prefix cache: a cache for each depth, or one for all.

The states that go into the lowest trained block are others for each depth. Kept for each depth, they save the most
time; kept for the lowest depth of all, they serve every point, which then runs the frozen blocks above it in each
epoch. So each depth has its own where all of them fit into `prefix_cache_gb`, and they share one where they do not.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from ..batches.cached_chains import cached_states_bytes
from .arguments import PREFIX_CACHE_OFF, CorpusArguments, ModelArguments, RecipeTrainingArguments
from .job import load_training_corpora
from .memory import planned_model

logger = logging.getLogger(__name__)

Point = tuple[ModelArguments, CorpusArguments, RecipeTrainingArguments]

# Besides the depth: two models that agree in these make the same states of a chain
SAME_STATES = ("backbone", "backbone_revision", "backbone_dtype", "block_mix", "max_residues")
CORPUS = ("train", "validation", "validation_fraction", "train_fraction", "max_train_residues", "source")


def shared_blocks(points: Sequence[Point]) -> list[int | None]:
    """What each point of a sweep should have as `prefix_cache_blocks`.

    Args:
        points: their arguments.

    Returns:
        for each point None, if it keeps the states of its own depth or none; or the number of lowest blocks whose
        states it shares with the others of its backbone.

    Raises:
        ValueError: for a model or corpora that cannot be had.
    """
    sizes: dict[str, dict[int, int]] = {}  # of each folder, backbone and precision: depth to bytes
    depths: list[tuple[str, int] | None] = []
    lengths: dict[str, list[int]] = {}
    for model, corpora, training in points:
        depths.append(None)
        if training.prefix_cache == PREFIX_CACHE_OFF or training.prefix_cache_blocks is not None:
            continue
        with FakeTensorMode():
            planned = planned_model(model)
        if planned.num_prefix_blocks == 0:
            continue
        corpus = _digest(corpora, CORPUS)
        if corpus not in lengths:
            lengths[corpus] = [n for part in load_training_corpora(corpora) for n in part["num_residues"][:]]
        origin = f"{training.prefix_cache} {_digest(model, SAME_STATES)} {training.bf16} {training.fp16} {corpus}"
        depths[-1] = origin, planned.num_prefix_blocks
        size = cached_states_bytes(planned, lengths[corpus])
        sizes.setdefault(origin, {})[planned.num_prefix_blocks] = size
    apart = sum(sum(of_depth.values()) for of_depth in sizes.values())
    limit = min((training.prefix_cache_gb for _, _, training in points), default=0)
    num_depths = sum(map(len, sizes.values()))
    if apart <= limit * 1e9 or num_depths == len(sizes):
        logger.info("prefix cache: %d depths, %.3f GB in all, each with its own states", num_depths, apart / 1e9)
        return [None] * len(points)
    together = sum(of_depth[min(of_depth)] for of_depth in sizes.values())
    logger.info(
        "prefix cache: %d depths would take %.3f GB, more than %g GB (--prefix_cache_gb): all share the states of the "
        "lowest, %.3f GB, and run the frozen blocks above it in each epoch",
        *(num_depths, apart / 1e9, limit, together / 1e9),
    )
    return [None if depth is None else min(sizes[depth[0]]) for depth in depths]


def _digest(arguments: Any, names: Sequence[str]) -> str:
    values = dataclasses.asdict(arguments)
    return json.dumps([values[name] for name in names])
