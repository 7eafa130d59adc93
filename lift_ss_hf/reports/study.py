"""The report of a study: CSV tables for programs, and a page with every number from them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from ..metrics.claims import REFUTED, SUPPORTED, UNDECIDED
from .tables import MISSING, markdown_table, mean_and_spread, percent

SIGNIFICANT_DIGITS = 6  # of numbers in the CSV files


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV, with a header; the same rows give the same text.

    Args:
        rows: with the same keys. Floats are rounded to six digits; None is an empty cell.

    Example:
        >>> print(csv_text([{"seed": 0, "q3": 2 / 3}, {"seed": 1, "q3": None}]), end="")
        seed,q3
        0,0.666667
        1,
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    return f"{value:.{SIGNIFICANT_DIGITS}g}" if isinstance(value, float) else value


def points_of_percent(value: float) -> str:
    """Format a difference of two fractions in points, with its sign.

    Example:
        >>> points_of_percent(0.0031), points_of_percent(-0.0004)
        ('+0.31', '-0.04')
    """
    return f"{100 * value:+.2f}"


def _with_interval(row: Mapping[str, Any]) -> str:
    """Format the difference of a row, and its interval."""
    if row["difference"] is None:
        return MISSING
    difference, low, high = (points_of_percent(row[name]) for name in ("difference", "low", "high"))
    return f"{difference} [{low}, {high}]"


def study_markdown(
    parts: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]], origin: Mapping[str, Any]
) -> str:
    """Return the page of a study.

    Args:
        parts: for each part its `name`, `title`, `figures` (paths by caption) and `points`; each of them has `levels`,
            `learning_rate`, `trained_parameters`, `accuracies` [fraction], and the `difference`, `low` and `high` from
            the first one, which are None for that one.
        comparisons: rows of the comparisons, as in the CSV file.
        origin: `backbone`, `runs`, `planned`, `chains`, `residues`, `seeds`, `cpu_hours`, `tables` (names of the CSV
            files) and `environment`.
    """
    lines = ["# A study of adapters", "", *_introduction(origin), "", "## Verdicts", "", _verdicts(comparisons), ""]
    for part in parts:
        lines += [f"## {part['title']}", ""]
        for caption, path in part["figures"].items():
            lines += [f"![{caption}]({path})", "", f"*{caption}*", ""]
        lines += [_points_table(part["points"]), ""]
        own = [row for row in comparisons if row["part"] == part["name"]]
        for claim in dict.fromkeys(row["claim"] for row in own):
            rows = [row for row in own if row["claim"] == claim]
            lines += [f"**{claim}** {rows[0]['verdict_of_claim'].capitalize()}.", "", _comparisons_table(rows), ""]
    return "\n".join([*lines, *_method(origin)]) + "\n"


def _introduction(origin: Mapping[str, Any]) -> list[str]:
    measured = origin["environment"]
    accelerators = "".join(f", {accelerator}" for accelerator in measured["accelerators"])
    state = f"{origin['runs']:,} runs"
    if origin["runs"] < origin["planned"]:
        missing = "what is missing leaves its claim undecided"
        state = f"{origin['runs']:,} of {origin['planned']:,} planned runs; {missing}"
    return [
        f"Backbone: {origin['backbone']}. {state}, {origin['cpu_hours']:.1f} CPU hours. What is found holds for this "
        "backbone, these chains and this length of training, and for no others.",
        "",
        f"Written by lift_ss_hf {measured['lift_ss_hf']} at commit {measured['commit'] or 'unknown'} on "
        f"{measured['processor']}{accelerators}: `{measured['command']}`; `environment.json` of each run says where it "
        "was measured. Every number is from "
        f"{' and '.join(f'[{name}]({name})' for name in origin['tables'])}.",
    ]


def _verdicts(comparisons: Sequence[Mapping[str, Any]]) -> str:
    by_claim: dict[str, list[Mapping[str, Any]]] = {}
    for row in comparisons:
        by_claim.setdefault(row["claim"], []).append(row)
    rows = []
    for claim, tested in by_claim.items():
        counts = [f"{sum(row['verdict'] == kind for row in tested)}" for kind in (SUPPORTED, REFUTED, UNDECIDED)]
        rows.append([claim, tested[0]["verdict_of_claim"], *counts])
    header = ["claim", "on this backbone", "comparisons that support it", "refute it", "are undecided"]
    return markdown_table(header, rows, "llrrr")


def _points_table(points: Sequence[Mapping[str, Any]]) -> str:
    """Return a row for each point; factors that are the same in all are left out."""
    factors = [factor for factor in points[0]["levels"] if len({point["levels"][factor] for point in points}) > 1]
    rows = []
    for point in points:
        accuracies = [100 * accuracy for accuracy in point["accuracies"]]
        rows.append(
            [point["levels"][factor] for factor in factors]
            + [f"{point['learning_rate']:g}", f"{point['trained_parameters']:,}", str(len(accuracies))]
            + [mean_and_spread(accuracies, digits=2)]
            + [_with_interval(point)]
        )
    header = [*factors, "learning rate", "trained parameters", "runs", "Q3 (P→C)", "minus the first row"]
    return markdown_table(header, rows, "l" * len(factors) + "rrrll")


def _comparisons_table(rows: Sequence[Mapping[str, Any]]) -> str:
    table = []
    for row in rows:
        sides = [row["better"], row["than"], percent(row["q3_better"], 2), percent(row["q3_than"], 2)]
        difference = _with_interval(row)
        p_value = MISSING if row["p_holm"] is None else f"{row['p_holm']:.4f}"
        table.append([*sides, difference, points_of_percent(row["threshold"]), p_value, row["verdict"]])
    header = ["A", "B", "A", "B", "A - B", "must exceed", "p (Holm)", "verdict"]
    return markdown_table(header, table, "llrrlrrl")


def _method(origin: Mapping[str, Any]) -> list[str]:
    return [
        "## How it was decided",
        "",
        f"Accuracies are Q3 (P as coil) over the {origin['residues']:,} labelled residues of the {origin['chains']:,} "
        f"distinct chains of all test sets, as the mean over {origin['seeds']} seeds; ± is their standard deviation. "
        "Intervals are 95 % bootstrap intervals over seeds and chains, with the same chains for both sides. The "
        "p-value is two-sided, of the hypothesis that the difference is the threshold, and adjusted by Holm's method "
        "for all comparisons of a claim. Below 0.05, a difference above the threshold supports the claim and one below "
        "it refutes it; a claim is refuted if any of its comparisons is, and supported if all are. Learning rates were "
        "chosen on the validation chains. All of this was fixed before the runs, in the files of the study.",
    ]
