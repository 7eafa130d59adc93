"""A grid of training runs: resumable, with one table and one figure of all points at the end.

Points can share a prefix cache (`--prefix_cache`). The hidden states that enter the lowest trained block differ
between depths. Cached for each depth, they save the most time. Cached for the lowest depth only, they serve every
point, which then runs the frozen blocks above that depth in each epoch. So each depth has its own cache if all of them
fit into `prefix_cache_gb`, and all share one if not.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from ..batches.cached_chains import cached_states_bytes
from ..models.atomic import replacing, require_folder
from ..reports import figures as plots
from ..reports.tables import ALPHABET_TITLES, sweep_markdown
from .arguments import CorpusArguments, ModelArguments, RecipeTrainingArguments, unless_none
from .checkpoints import last_checkpoint
from .corpora import load_training_corpora
from .job import run_training
from .memory import fake_weights, planned_model
from .recipes import RecipeError, parse_settings, read_recipe

logger = logging.getLogger(__name__)

Point = tuple[ModelArguments, CorpusArguments, RecipeTrainingArguments]

# Models that agree in these, and in depth, compute the same hidden states of a chain.
SAME_STATES = ("backbone", "backbone_revision", "backbone_dtype", "block_mix", "max_residues")
SAME_CHAINS = (
    *("train", "validation", "tests", "validation_fraction", "test_fraction", "split_seed"),  # folds share their chains
    *("train_fraction", "max_train_residues", "source"),
)


def read_points(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read a sweep: `base` (settings of every run), `grid` (name: list of values), `also` (list of settings), `folds`.

    Returns:
        The settings of every run; and the further settings of each run: the points of the grid, then those of `also`,
        each with every seed of the grid, and with every fold if the file has `folds: K` for a cross-validation.

    Raises:
        RecipeError: if the file does not have that form.
    """
    settings = read_recipe(path)
    base, grid, also = settings.get("base") or {}, settings.get("grid"), settings.get("also") or []
    num_folds = settings.get("folds", 0)
    if (
        set(settings) - {"base", "grid", "also", "folds"}
        or not (
            isinstance(grid, dict) and grid and all(isinstance(values, list) and values for values in grid.values())
        )
        or not (isinstance(also, list) and all(isinstance(point, dict) and point for point in also))
    ):
        raise RecipeError(
            f"{path}: expected `base:` with settings, `grid:` with lists of values and, optionally, `also:` with a "
            f"list of settings and `folds:` with a number; found {settings}."
        )
    if num_folds and (type(num_folds) is not int or num_folds < 2):
        raise RecipeError(f"{path}: folds is {num_folds!r}. Expected a whole number from 2 on, or no `folds:`.")
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    seeds = [{"seed": seed} for seed in grid.get("seed", [])] or [{}]
    points += [{**point, **seed} for point in also for seed in seeds]
    folds = [{"fold": f"{number}/{num_folds}"} for number in range(1, num_folds + 1)] or [{}]
    return base, [point | fold for point in points for fold in folds]


def run_sweep(path: str | Path, out: str | Path) -> list[dict[str, Any]]:
    """Run the points of a grid, and summarise them. Finished points are not run again, killed ones are resumed.

    Writes `out/POINT/` (the directory of each run), `out/results.md` and, if the grid has `top_blocks`, the figure of
    accuracy against the number of blocks with adapters. Points of `also` without an adapter are lines in the figure:
    frozen backbone (`adapter: none`) and full fine-tuning (`adapter: none, freeze: none`).

    Args:
        path: the sweep's YAML file; see `read_points`.
        out: folder to write to.

    Returns:
        One row per point: its settings, and under `scores` the accuracies [fraction] by corpus and alphabet.

    Raises:
        ValueError: if `out` is not a folder.
        RecipeError: if the grid is invalid, before anything is run.
    """
    require_folder(out)
    base, points = read_points(path)
    out = Path(out)
    parsed = []
    for point in points:
        variables = dict(os.environ)
        parsed.append(_parse_point(base | point, out / point_name(point)))
        # transformers leaves the point's precision there, which the next points would take for the launcher's
        os.environ.clear()
        os.environ.update(variables)
    shared = shared_blocks(
        parsed
    )  # builds each point's model if it uses the cache, so errors show before the first run
    rows = []
    for number, (point, blocks) in enumerate(zip(points, shared, strict=True), start=1):
        folder = out / point_name(point)
        logger.info("point %d of %d: %s", number, len(points), point_name(point))
        if not _is_finished(folder):
            # In its own process: transformers and accelerate have process-wide state, such as the precision, that must
            # not pass from one point to the next.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(max_workers=1, mp_context=context) as process:
                sharing = {} if blocks is None else {"prefix_cache_blocks": blocks}
                process.submit(_run_point, base | point | sharing, folder).result()
        rows.append(point | {"scores": _scores(json.loads((folder / "metrics.json").read_text("utf-8")))})
        with replacing(out / "results.md") as part:
            part.write_text(sweep_markdown(rows), "utf-8")
    if "top_blocks" in points[0]:
        for corpus in rows[0]["scores"]:
            plots.save_figure(_figure(rows, corpus), out / f"blocks-{corpus.replace(':', '-').replace('/', '-')}.png")
    return rows


def point_name(point: Mapping[str, Any]) -> str:
    """Return the name of a point's folder.

    Example:
        >>> point_name({"adapter": "lora", "top_blocks": 3, "fold": "2/5"})
        'adapter=lora,top_blocks=3,fold=2_5'
    """
    return ",".join(f"{key}={value}" for key, value in point.items()).replace("/", "_")


def _parse_point(settings: Mapping[str, Any], folder: Path) -> Any:
    classes = (ModelArguments, CorpusArguments, RecipeTrainingArguments)
    return parse_settings(classes, {**settings, "output_dir": str(folder)})


def _run_point(settings: Mapping[str, Any], folder: Path) -> None:
    start = {
        "resume_from_checkpoint": "last" if last_checkpoint(folder) else None,
        "overwrite_output_dir": True,  # if a killed run left files but no checkpoint
    }
    run_training(*_parse_point({**settings, **start}, folder))


def _is_finished(folder: Path) -> bool:
    path = folder / "metrics.json"
    return path.is_file() and "learnt" in json.loads(path.read_text("utf-8"))


def _scores(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        corpus: {alphabet: scores[alphabet] for alphabet, scores in result["scores"].items()}
        for corpus, result in results["corpora"].items()
    }


def _figure(rows: list[dict[str, Any]], corpus: str) -> Any:
    """Draw Q3 against the number of blocks with adapters, and points without an adapter as lines."""
    curves: dict[str, dict[int, list[float]]] = {}
    without: dict[str, list[float]] = {"frozen": [], "full": []}
    for row in rows:
        accuracy = row["scores"][corpus]["q3"]
        if row.get("top_blocks") is not None:
            curve = curves.setdefault(str(row.get("adapter", "adapter")), {})
            curve.setdefault(int(row["top_blocks"]), []).append(accuracy)
        elif unless_none(row.get("adapter")) is None:
            freeze = unless_none(row.get("freeze", "all"))
            regime = "full" if freeze is None else "frozen" if freeze == "all" else ""
            without.get(regime, []).append(accuracy)
    lines = {regime: mean(values) for regime, values in without.items() if values}
    return plots.plot_blocks(curves, title=f"{corpus}, {ALPHABET_TITLES['q3']}", **lines)


# ---- the prefix cache of a sweep -----------------------------------------------------------------------------------


def shared_blocks(points: Sequence[Point]) -> list[int | None]:
    """Return the `prefix_cache_blocks` of each point of a sweep.

    Args:
        points: the parsed arguments of each point.

    Returns:
        For each point the number of lowest blocks whose cached output it shares with the other points of its backbone;
        None if it has no cache, or one for its own depth.

    Raises:
        ValueError: if a model cannot be built, or a corpus cannot be loaded.
    """
    depths, sizes = _cache_sizes(points)
    separate = sum(sum(by_depth.values()) for by_depth in sizes.values())
    limit = min((training.prefix_cache_gb for _, _, training in points), default=0)
    num_depths = sum(map(len, sizes.values()))
    if separate <= limit * 1e9 or num_depths == len(sizes):
        logger.info("prefix cache: %d depths, %.3f GB in all, each with its own cache", num_depths, separate / 1e9)
        return [None] * len(points)
    together = sum(by_depth[min(by_depth)] for by_depth in sizes.values())
    logger.info(
        "prefix cache: %d depths would take %.3f GB, more than %g GB (--prefix_cache_gb): all share the cache of the "
        "lowest, %.3f GB, and run the frozen blocks above it in each epoch",
        *(num_depths, separate / 1e9, limit, together / 1e9),
    )
    return [None if depth is None else min(sizes[depth[0]]) for depth in depths]


def _cache_sizes(points: Sequence[Point]) -> tuple[list[tuple[str, int] | None], dict[str, dict[int, int]]]:
    """Return (origin, depth) of each point's cache, None without a cache; and the bytes by origin and depth.

    An origin is everything besides the depth that the cached hidden states depend on.
    """
    depths: list[tuple[str, int] | None] = []
    sizes: dict[str, dict[int, int]] = {}
    lengths: dict[str, list[int]] = {}
    for model, corpora, training in points:
        depths.append(None)
        if (cache := training.prefix_cache_settings) is None or training.prefix_cache_blocks is not None:
            continue
        with fake_weights():
            planned = planned_model(model)
        depth = planned.num_frozen_blocks
        if depth == 0:
            continue
        chains = _digest(corpora, SAME_CHAINS)
        if chains not in lengths:
            loaded = load_training_corpora(corpora)
            parts = [loaded.train, loaded.validation]
            parts += [loaded.held_out["test"]] if corpora.fold else []  # the runs of the other folds train on it
            lengths[chains] = [length for part in parts for length in part["num_residues"]]
        origin = f"{cache.folder} {_digest(model, SAME_STATES)} {training.bf16} {training.fp16} {chains}"
        depths[-1] = origin, depth
        sizes.setdefault(origin, {})[depth] = cached_states_bytes(planned, depth, lengths[chains])
    return depths, sizes


def _digest(arguments: Any, names: Sequence[str]) -> str:
    values = dataclasses.asdict(arguments)
    return json.dumps([values[name] for name in names])
