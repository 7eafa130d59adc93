"""Write the report of a study: `study.md`, its figures, and two CSV files that its numbers come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..models.atomic import replacing, require_folder
from ..reports.figures import save_figure
from ..reports.provenance import environment
from ..reports.study import csv_text, study_markdown
from ..reports.study_figures import StudyPoint, plot_levels, plot_trained_parameters
from .arguments import ModelArguments
from .study import NOT_USED, PARAMETERS, Levels, Part
from .study_results import Spread, StudyResults
from .study_runs import cpu_seconds

PAGE, RUNS_TABLE, COMPARISONS_TABLE, FIGURES = "study.md", "study_runs.csv", "study_comparisons.csv", "figures"


def write_report(results: StudyResults, out: str | Path) -> Path:
    """Write the report of the runs that are finished.

    The tables depend on nothing but the runs; the page also names the version, commit and machine that wrote it.

    Args:
        results: the finished runs.
        out: folder to write to; `docs` for the documentation.

    Returns:
        The page.

    Raises:
        ValueError: if `out` is not a folder.
    """
    require_folder(out)
    out = Path(out)
    comparisons = results.comparison_rows()
    for name, rows in ((RUNS_TABLE, results.result_rows()), (COMPARISONS_TABLE, comparisons)):
        with replacing(out / name) as part:
            part.write_text(csv_text(rows), "utf-8")
    parts = [_part(part, results, out) for part in results.folder.study.parts]
    with replacing(out / PAGE) as page:
        page.write_text(study_markdown(parts, comparisons, _origin(results)), "utf-8")
    return out / PAGE


def _origin(results: StudyResults) -> dict[str, Any]:
    folder = results.folder
    num_chains, num_residues = results.num_tested
    return {
        "backbone": folder.study.base.get("backbone", ModelArguments.backbone),
        "runs": len(results.runs),
        "planned": len({*folder.tuning(), *folder.compared(results.rates)}),
        "chains": num_chains,
        "residues": num_residues,
        "seeds": len(folder.study.seeds),
        "cpu_hours": cpu_seconds([folder.folder(run) for run in results.runs]) / 3600,
        "tables": [RUNS_TABLE, COMPARISONS_TABLE],
        "environment": environment(),
    }


def _part(part: Part, results: StudyResults, out: Path) -> dict[str, Any]:
    """Return a part as the page takes it, and save its figure."""
    spreads = results.spreads(part)
    figures = {}
    if part.figure is not None and any(spread.accuracies for spread in spreads.values()):
        path = Path(FIGURES, f"study_{part.name}.svg")
        save_figure(_figure(part, results, spreads), out / path)
        figures[_caption(part)] = path.as_posix()
    points = []
    for levels, spread in spreads.items():
        difference = spread.difference
        point = {"levels": dict(levels), "learning_rate": results.rate(levels), "accuracies": spread.accuracies}
        point |= {"trained_parameters": results.trained_parameters[levels]}
        point |= {"difference": difference and difference.value}
        points.append(point | {"low": difference and difference.low, "high": difference and difference.high})
    return {"name": part.name, "title": part.title, "figures": figures, "points": points}


def _caption(part: Part) -> str:
    axis = "the number of trained parameters" if part.figure == PARAMETERS else part.figure
    first = ", ".join(level for _, level in part.points[0] if level != NOT_USED)
    return f"Q3 against {axis}: means over seeds; bars are 95 % intervals of the difference from {first}"


def _figure(part: Part, results: StudyResults, spreads: Mapping[Levels, Spread]) -> Any:
    """Draw a part's points along its factor; bars are intervals of the difference from the first point."""
    axis = str(part.figure)
    varied = [factor for factor, _ in part.points[0] if len({dict(levels)[factor] for levels in spreads}) > 1]
    places = list(results.folder.study.factors.get(axis, {}))
    reference = results.accuracy(part.points[0])
    points = []
    for levels, spread in spreads.items():
        accuracy = results.accuracy(levels)
        if accuracy is None or reference is None:
            continue
        own = dict(levels)
        low, high = (
            None if spread.difference is None else reference + getattr(spread.difference, end)
            for end in ("low", "high")
        )
        named = [own[factor] for factor in varied if factor != axis and own[factor] != NOT_USED]
        series = ", ".join(named) or axis
        if axis == PARAMETERS:
            points.append(StudyPoint(results.trained_parameters[levels], series, accuracy, low, high))
            continue
        # a point for which the factor makes no difference, such as the frozen backbone, is the same at every level
        at = places if own[axis] == NOT_USED else [own[axis]]
        points += [StudyPoint(place, series, accuracy, low, high) for place in at]
    if axis == PARAMETERS:
        return plot_trained_parameters(points)
    used = [place for place in places if any(point.place == place for point in points)]
    return plot_levels(points, used, axis)
