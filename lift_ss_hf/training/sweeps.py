"""A grid of training runs: resumable, one table and one figure at the end."""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from ..models.atomic import replacing
from ..reports import figures as plots
from ..reports.tables import ALPHABET_TITLES, sweep_markdown
from .arguments import CorpusArguments, ModelArguments, RecipeTrainingArguments
from .checkpoints import last_checkpoint
from .job import run_training
from .recipes import RecipeError, parse_settings, read_recipe
from .sweep_caches import shared_blocks

logger = logging.getLogger(__name__)


def read_points(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A sweep's file: `base` (settings of every run), `grid` (name: list of values), `also` (list of settings).

    Returns:
        the settings of every run; and what each run has of its own: the grid's points, then those of `also`, each
        with every seed of the grid.

    Raises:
        RecipeError: if it is not of that form.
    """
    settings = read_recipe(path)
    base, grid, also = settings.get("base") or {}, settings.get("grid"), settings.get("also") or []
    if (
        set(settings) - {"base", "grid", "also"}
        or not (
            isinstance(grid, dict) and grid and all(isinstance(values, list) and values for values in grid.values())
        )
        or not (isinstance(also, list) and all(isinstance(point, dict) and point for point in also))
    ):
        raise RecipeError(
            f"{path}: expected `base:` with settings, `grid:` with lists of values and, if wanted, `also:` with a list "
            f"of settings; found {settings}."
        )
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    seeds = [{"seed": seed} for seed in grid.get("seed", [])] or [{}]
    return base, [*points, *({**point, **seed} for point in also for seed in seeds)]


def run_sweep(path: str | Path, out: str | Path) -> list[dict[str, Any]]:
    """Run every point of a grid that has not been run yet, go on with one that was killed, and sum up.

    With `prefix_cache` the points share frozen states, as `sweep_caches` says.

    Writes `out/POINT/` (a run's directory each), `out/results.md` and, where the grid has `top_blocks`, the figure of
    accuracy against the number of blocks with adapters. In it, runs of `also` without an adapter are lines: frozen
    backbone (`adapter: none`) and full fine-tuning (`adapter: none, freeze: none`).

    Returns:
        one row a point: its settings, and the scores of each corpus.

    Raises:
        RecipeError: for a wrong grid, before anything is run.
    """
    base, points = read_points(path)
    out = Path(out)
    parsed = [_parse_point(base | point, out / point_name(point)) for point in points]
    shared = shared_blocks(parsed)  # so all are checked before the first is run
    rows = []
    for number, (point, blocks) in enumerate(zip(points, shared, strict=True), start=1):
        folder = out / point_name(point)
        logger.info("point %d of %d: %s", number, len(points), point_name(point))
        if not _is_finished(folder):
            # In a process of its own: what transformers and accelerate keep for a process, precision above all, must
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
    """`adapter=lora,top_blocks=3`: the folder of a point."""
    return ",".join(f"{key}={value}" for key, value in point.items())


def _parse_point(settings: Mapping[str, Any], folder: Path) -> Any:
    classes = (ModelArguments, CorpusArguments, RecipeTrainingArguments)
    return parse_settings(classes, {**settings, "output_dir": str(folder)})


def _run_point(settings: Mapping[str, Any], folder: Path) -> None:
    arguments = _parse_point(settings, folder)
    training = arguments[-1]
    training.resume_from_checkpoint = "last" if last_checkpoint(folder) else None
    training.overwrite_output_dir = True  # what a killed run left before its first checkpoint
    run_training(*arguments)


def _is_finished(folder: Path) -> bool:
    path = folder / "metrics.json"
    return path.is_file() and "learnt" in json.loads(path.read_text("utf-8"))


def _scores(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        corpus: {alphabet: scores[alphabet] for alphabet, scores in result["scores"].items()}
        for corpus, result in results["corpora"].items()
    }


def _figure(rows: list[dict[str, Any]], corpus: str) -> Any:
    curves: dict[str, dict[int, list[float]]] = {}
    without: dict[str, list[float]] = {"frozen": [], "full": []}
    for row in rows:
        accuracy = row["scores"][corpus]["q3"]
        if row.get("top_blocks") is not None:
            curve = curves.setdefault(str(row.get("adapter", "adapter")), {})
            curve.setdefault(int(row["top_blocks"]), []).append(accuracy)
        elif str(row.get("adapter")).lower() == "none":
            regime = {"all": "frozen", "none": "full"}.get(str(row.get("freeze", "all")).lower())
            without.get(regime or "", []).append(accuracy)
    lines = {regime: mean(values) for regime, values in without.items() if values}
    return plots.plot_blocks(curves, title=f"{corpus}, {ALPHABET_TITLES['q3']}", **lines)
