"""A grid of training runs: resumable, with one table and one figure of all points at the end; see `points`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from ..evaluation.corpora import file_stem
from ..models.atomic import replacing, require_folder
from ..reports import figures as plots
from ..reports.tables import ALPHABET_TITLES, sweep_markdown
from .arguments import ModelArguments, unless_none
from .points import plan_jobs, point_name, read_metrics, record_settings, run_jobs, shared_settings
from .recipes import RecipeError, read_recipe

SWEEP_FILE = "sweep.json"


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


def run_sweep(path: str | Path, out: str | Path, num_processes: int = 1) -> list[dict[str, Any]]:
    """Run the points of a grid, and summarise them. Finished points are not run again, killed ones are resumed.

    Writes `out/POINT/` (the directory of each run), `out/sweep.json` (the base), `out/results.md` and, if the grid has
    `top_blocks`, a figure for each test of accuracy against the number of blocks with adapters. Points without an
    adapter are lines in the figure: frozen backbone (`adapter: none`) and full fine-tuning (`adapter: none, freeze:
    none`).

    Args:
        path: the sweep's YAML file; see `read_points`.
        out: folder to write to. Further commands with the same folder take points that nobody runs yet.
        num_processes: how many points to run at a time.

    Returns:
        One row per point: its settings, and under `scores` the accuracies [fraction] by corpus and alphabet.

    Raises:
        ValueError: if `out` is not a folder.
        RecipeError: if the grid is invalid, or the folder holds a sweep with another base; before anything is run.
    """
    require_folder(out)
    base, points = read_points(path)
    out = Path(out)
    jobs = plan_jobs([base | point for point in points], [out / point_name(point) for point in points])
    record_settings(out / SWEEP_FILE, f"{out}: holds a sweep whose base has", shared_settings(base))
    rows = []
    for point, job in zip(points, run_jobs(jobs, num_processes), strict=True):
        rows.append(point | {"scores": _scores(read_metrics(job.folder))})
        with replacing(out / "results.md") as part:
            part.write_text(sweep_markdown(rows), "utf-8")
    if "top_blocks" in points[0]:
        for corpus in dict.fromkeys(corpus for row in rows for corpus in row["scores"]):
            if (figure := _figure(rows, base, corpus)) is not None:
                plots.save_figure(figure, out / f"blocks-{file_stem(corpus)}.png")
    return rows


def _scores(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        corpus: {alphabet: scores[alphabet] for alphabet, scores in result["scores"].items()}
        for corpus, result in results["corpora"].items()
    }


def _figure(rows: list[dict[str, Any]], base: Mapping[str, Any], corpus: str) -> Any:
    """Draw accuracy against the number of blocks with adapters, and points without an adapter as lines.

    Returns:
        The figure; None if there is nothing to draw, or no alphabet at which all points were scored.
    """
    rows = [row for row in rows if corpus in row["scores"]]
    alphabet = _coarsest_alphabet([row["scores"][corpus] for row in rows])
    if alphabet is None:
        return None
    curves: dict[str, dict[int, list[float]]] = {}
    without: dict[str, list[float]] = {"frozen": [], "full": []}
    for row in rows:
        accuracy = row["scores"][corpus][alphabet]
        settings = {"adapter": ModelArguments.adapter, "freeze": ModelArguments.freeze, **base, **row}
        adapter, freeze = unless_none(settings["adapter"]), unless_none(settings["freeze"])
        if adapter is None:
            regime = "full" if freeze is None else "frozen" if freeze == "all" else ""
            without.get(regime, []).append(accuracy)
        elif row.get("top_blocks") is not None:
            curves.setdefault(adapter, {}).setdefault(int(row["top_blocks"]), []).append(accuracy)
    if not curves:
        return None
    lines = {regime: mean(values) for regime, values in without.items() if values}
    return plots.plot_blocks(curves, title=f"{corpus}, {ALPHABET_TITLES[alphabet]}", **lines)


def _coarsest_alphabet(scores: list[Mapping[str, float]]) -> str | None:
    """Return Q3, or else the coarsest alphabet, of those at which all points were scored; None if there is none."""
    common = [alphabet for alphabet in ALPHABET_TITLES if all(alphabet in found for found in scores)]
    return "q3" if "q3" in common else common[-1] if common else None
