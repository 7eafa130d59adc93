"""Write the report of a study: `study.md`, its figures, and the tables that its numbers come from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..models.atomic import replacing, require_folder
from ..reports.figures import save_figure
from ..reports.provenance import environment
from ..reports.study import csv_text, study_markdown
from ..reports.study_figures import StudyPoint, plot_levels, plot_trained_parameters
from .arguments import ModelArguments
from .recipes import RecipeError
from .study import NOT_USED, PARAMETERS, Levels, Part
from .study_records import CHAINS_TABLE, COMPARISONS_TABLE, RUNS_TABLE, write_chains
from .study_results import PointResult, StudyResults, difference_columns

ABOUT = "README.md"  # of a study's folder
PAGE, FIGURES = "study.md", "figures"


def write_report(results: StudyResults, out: str | Path) -> Path:
    """Write the report of the runs that are finished.

    The tables depend on nothing but the runs and what was published of others; the page also names the version, commit
    and machine that wrote it.

    Args:
        results: the finished runs.
        out: folder to write to; `docs` for the documentation.

    Returns:
        The page.

    Raises:
        ValueError: if `out` is not a folder.
        RecipeError: if the published tables are there, and have runs that would be lost.
    """
    require_folder(out)
    out = Path(out)
    _check_nothing_is_lost(results, out)
    written_by = environment()  # first: a page within a checkout changes it
    comparisons = results.comparison_rows()
    parts = [_part(part, results, out) for part in results.folder.study.parts]
    origin = _origin(results, out) | {"environment": written_by}
    folder = results.folder
    kept = {folder.folder(run).name: record for run, record in results.records.items()}
    # before the rows: a run that has rows and no chains would count as one whose chains were not kept
    write_chains(out / CHAINS_TABLE, folder.settings, results.chains, kept)
    tables = {RUNS_TABLE: results.result_rows(), COMPARISONS_TABLE: [*results.reference_rows(), *comparisons]}
    for name, rows in tables.items():
        with replacing(out / name) as table:
            table.write_text(csv_text(rows), "utf-8")
    with replacing(out / PAGE) as page:
        page.write_text(study_markdown(parts, comparisons, results.rate_rows(), origin), "utf-8")
    return out / PAGE


def _check_nothing_is_lost(results: StudyResults, out: Path) -> None:
    """Raise RecipeError if the report replaces tables with runs that are not in it."""
    folder = results.folder
    published = folder.published
    if published is None or published.folder.resolve() != out.resolve():
        return
    lost = published.runs.keys() - {folder.folder(run).name for run in results.runs}
    if lost:
        raise RecipeError(
            f"{out}: {len(lost)} of the {len(published.runs)} runs in its tables are not part of this report, "
            f"{min(lost)} for instance. Give another folder to --report, so that they are not lost."
        )


def _origin(results: StudyResults, out: Path) -> dict[str, Any]:
    folder, records = results.folder, results.records.values()
    about = folder.study.path / ABOUT
    seconds = [record.cpu_seconds for record in records if record.cpu_seconds is not None]
    return {
        "backbone": folder.study.base.get("backbone", ModelArguments.backbone),
        "runs": len(results.runs),
        "planned": results.num_planned,
        "chains": len(results.chains.names),
        "residues": results.chains.num_residues,
        "seeds": len(folder.study.seeds),
        "seed_spreads": results.seed_spreads,
        "cpu_hours": sum(seconds) / 3600,
        "timed": len(seconds),
        "taken_over": len(results.taken_over),
        "without_chains": sum(results.records[run].correct is None for run in results.compared),
        "commits": sorted({commit for record in records for commit in record.commit.split() or [""]}),
        "machines": list(dict.fromkeys(record.machine for record in records)),
        "tables": [RUNS_TABLE, COMPARISONS_TABLE, CHAINS_TABLE],
        "about": Path(os.path.relpath(about, out)).as_posix() if about.is_file() else None,
    }


def _part(part: Part, results: StudyResults, out: Path) -> dict[str, Any]:
    """Return a part as the page takes it, and save its figure."""
    found = results.point_results(part)
    figures = {}
    if part.figure is not None and any(point.accuracies for point in found.values()):
        path = Path(FIGURES, f"study_{part.name}.svg")
        save_figure(_figure(part, results, found), out / path)
        figures[_caption(part, found.values())] = path.as_posix()
    points = []
    for levels, result in found.items():
        point = {"levels": dict(levels), "learning_rate": results.rate(levels), "accuracies": result.accuracies}
        point |= {"trained_parameters": results.trained_parameters[levels], "seeds": len(results.folder.study.seeds)}
        points.append(point | difference_columns(result.difference))
    return {
        "name": part.name,
        "title": part.title,
        "figures": figures,
        "reference": part.reference,
        "points": points,
    }


def _caption(part: Part, found: Iterable[PointResult]) -> str:
    axis = "the number of trained parameters" if part.figure == PARAMETERS else part.figure
    caption = f"Q3 against {axis}: means over seeds"
    if any(result.difference is not None for result in found):
        caption += f"; bars are 95 % intervals of the difference from {part.reference}"
    if any(result.accuracies and not result.is_complete for result in found):
        caption += "; hollow markers: not all seeds are finished"
    return caption


def _figure(part: Part, results: StudyResults, found: Mapping[Levels, PointResult]) -> Any:
    """Draw a part's points along its factor; bars are intervals of the difference from their references."""
    axis = str(part.figure)
    names = _series(part, axis)
    points = []
    for levels, result in found.items():
        if not result.accuracies:
            continue
        ends = {}
        if result.difference is not None and result.reference is not None:
            ends = {end: result.reference + getattr(result.difference, end) for end in ("low", "high")}
        look = {"accuracy": result.accuracy, **ends, "is_complete": result.is_complete}
        places = [results.trained_parameters[levels]] if axis == PARAMETERS else _places(part, axis, dict(levels))
        points += [StudyPoint(place, *names[levels], **look) for place in places]
    if axis == PARAMETERS:
        return plot_trained_parameters(points)
    return plot_levels(points, _levels_along(part, axis), axis, lines=part.lines)


def _levels_along(part: Part, axis: str) -> list[str]:
    """Return the levels along the axis of a figure, in the order of the part's points."""
    return [level for level in dict.fromkeys(dict(levels)[axis] for levels in part.points) if level != NOT_USED]


def _places(part: Part, axis: str, own: Mapping[str, str]) -> list[str]:
    """Return where a point stands: everywhere if the factor makes no difference to it, as to the frozen backbone."""
    return _levels_along(part, axis) if own[axis] == NOT_USED else [own[axis]]


def _series(part: Part, axis: str) -> dict[Levels, tuple[str, str]]:
    """Return two names for each point: that of its colour, and that of its marker, which may be empty.

    They are the levels that are needed, besides the place along the axis, to tell the points of the figure apart.
    """
    points = [dict(levels) for levels in part.points]
    needed = [factor for factor in points[0] if factor != axis and len({point[factor] for point in points}) > 1]
    for factor in [*needed]:
        rest = [other for other in needed if other != factor]
        seen = [
            (place, *(point[other] for other in rest))
            for point in points
            for place in (_places(part, axis, point) if axis in point else [axis])
        ]
        if len(set(seen)) == len(seen):
            needed = rest
    names = {}
    for levels, point in zip(part.points, points, strict=True):
        own = [point[factor] for factor in needed]
        if own and all(level == NOT_USED for level in own):  # the factors make no difference to it
            own[0] = next(level for level in reversed(point.values()) if level != NOT_USED)
        colour, *markers = own or [""]
        names[levels] = colour, ", ".join(marker for marker in markers if marker != NOT_USED)
    return names
