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
        rows: with the same keys. Floats are rounded to six digits; None is an empty cell; a mapping is `key=value ...`.

    Example:
        >>> print(csv_text([{"seed": 0, "q3": 2 / 3}, {"seed": 1, "q3": None}]), end="")
        seed,q3
        0,0.666667
        1,
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def csv_cell(value: Any) -> Any:
    """Return a value as it stands in a CSV file of `csv_text`."""
    if isinstance(value, Mapping):
        return " ".join(f"{factor}={level}" for factor, level in value.items())
    return f"{value:.{SIGNIFICANT_DIGITS}g}" if isinstance(value, float) else value


def percentage_points(value: float) -> str:
    """Format a difference of two fractions in percentage points, with its sign.

    Example:
        >>> percentage_points(0.0031), percentage_points(-0.0004)
        ('+0.31', '-0.04')
    """
    return f"{100 * value:+.2f}"


def _with_interval(row: Mapping[str, Any]) -> str:
    """Format the difference of a row, and its interval."""
    if row["difference"] is None:
        return MISSING
    difference, low, high = (percentage_points(row[name]) for name in ("difference", "low", "high"))
    return f"{difference} [{low}, {high}]"


def short_names(points: Sequence[Mapping[str, str]]) -> list[str]:
    """Name points by the levels in which they differ.

    Args:
        points: for each point its level by factor; a dash where a factor makes no difference.

    Example:
        >>> short_names([{"adapter": "lora", "regime": "adapters"}, {"adapter": "–", "regime": "frozen"}])
        ['lora, adapters', 'frozen']
    """
    varied = [factor for factor in points[0] if len({point[factor] for point in points}) > 1]
    return [", ".join(point[factor] for factor in varied if point[factor] != MISSING) for point in points]


def study_markdown(
    parts: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
    rates: Sequence[Mapping[str, Any]],
    origin: Mapping[str, Any],
) -> str:
    """Return the page of a study.

    Args:
        parts: for each part its `name`, `title`, `figures` (paths by caption), `reference` (its name, or None) and
            `points`; each of them has `levels`, `learning_rate`, `trained_parameters`, `accuracies` [fraction],
            `seeds` (planned number of runs), and the `difference` from its reference, with `low` and `high`, or None.
        comparisons: rows of the comparisons, as in the CSV file.
        rates: the learning rates that were tried, as from `StudyResults.rate_rows`.
        origin: `backbone`, `runs`, `planned`, `chains`, `residues`, `seeds`, `seed_spreads` (standard deviation and
            number of runs, by group of points), `cpu_hours` of the `timed` runs, `without_chains` (number of
            compared runs of which single chains are not known), `taken_over` (number of comparisons of an earlier
            report), `commits` and `machines` of the runs, `tables` (names of the files, that of the
            chains last), `about` (path of the page that describes the study, or None) and `environment`.
    """
    lines = ["# A study of adapters", "", *_introduction(origin), "", "## Verdicts", "", _verdicts(comparisons), ""]
    for part in parts:
        lines += [f"## {part['title']}", ""]
        for caption, path in part["figures"].items():
            lines += [f"![{caption}]({path})", "", f"*{caption}*", ""]
        lines += [_points_table(part), ""]
        own = [row for row in comparisons if row["part"] == part["name"]]
        for claim in dict.fromkeys(row["claim"] for row in own):
            rows = [row for row in own if row["claim"] == claim]
            lines += [f"**{claim}** {rows[0]['verdict_of_claim'].capitalize()}.", "", _comparisons_table(rows), ""]
    lines += ["## Learning rates", "", *_learning_rates(rates), ""]
    return "\n".join([*lines, *_method(origin)]) + "\n"


def _introduction(origin: Mapping[str, Any]) -> list[str]:
    written = origin["environment"]
    state = f"{origin['runs']:,} runs"
    if origin["runs"] < origin["planned"]:
        state = (
            f"{origin['runs']:,} of {origin['planned']:,} planned runs are finished; comparisons with missing runs are "
            "undecided"
        )
    about = f" [About this study]({origin['about']})." if origin["about"] else ""
    commits = [_short(commit) for commit in origin["commits"]]
    *tables, chains = (f"[{name}]({name})" for name in origin["tables"])
    known = "" if origin["timed"] == origin["runs"] else f" (known for {origin['timed']:,} runs)"
    return [
        f"Backbone: {origin['backbone']}. {state}. CPU time: {origin['cpu_hours']:.1f} hours{known}. What is "
        f"found holds for this backbone, these chains and this length of training, and for no others.{about}",
        "",
        f"Runs were measured at commit{'s' * (len(commits) > 1)} {', '.join(commits)} on "
        f"{', '.join(origin['machines'])}; the page was written by lift_ss_hf {written['lift_ss_hf']} at commit "
        f"{_short(written['commit'])}: `{written['command']}`. Every number is from "
        f"{' and '.join(tables)}; {chains} has the number of residues of each test chain that each run predicts "
        "correctly.",
    ]


def _short(commit: str | None) -> str:
    """Return a commit's first characters, with the mark of a changed checkout.

    Example:
        >>> _short("3fe2815c66913ede3b84a45d67d0a5d76d57a7cc-modified"), _short(None)
        ('3fe2815-modified', 'unknown')
    """
    number, *changed = (commit or "unknown").split("-")
    return "-".join([number[:7], *changed])


def _verdicts(comparisons: Sequence[Mapping[str, Any]]) -> str:
    by_claim: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in comparisons:
        by_claim.setdefault((row["part"], row["claim"]), []).append(row)
    rows = []
    for (_, claim), tested in by_claim.items():
        counts = [f"{sum(row['verdict'] == kind for row in tested)}" for kind in (SUPPORTED, REFUTED, UNDECIDED)]
        rows.append([claim, tested[0]["verdict_of_claim"], *counts])
    header = ["claim", "on this backbone", "comparisons that support it", "refute it", "are undecided"]
    return markdown_table(header, rows, "llrrr")


def _points_table(part: Mapping[str, Any]) -> str:
    """Return a row for each point; factors that are the same in all are left out."""
    points = part["points"]
    factors = [factor for factor in points[0]["levels"] if len({point["levels"][factor] for point in points}) > 1]
    rows = []
    for point in points:
        accuracies = [100 * accuracy for accuracy in point["accuracies"]]
        runs = f"{len(accuracies)}" if len(accuracies) == point["seeds"] else f"{len(accuracies)} of {point['seeds']}"
        row = [point["levels"][factor] for factor in factors]
        row += [f"{point['learning_rate']:g}", f"{point['trained_parameters']:,}", runs]
        rows.append([*row, mean_and_spread(accuracies, digits=2), _with_interval(point)])
    header = [*factors, "learning rate", "trained parameters", "runs", "Q3 (P→C)", f"minus {part['reference']}"]
    columns = len(header) if part["reference"] else len(header) - 1
    alignment = "l" * len(factors) + "rrrll"
    return markdown_table(header[:columns], [row[:columns] for row in rows], alignment[:columns])


def _comparisons_table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = short_names([row[side] for row in rows for side in ("better", "than")])
    table = []
    for number, row in enumerate(rows):
        sides = [*names[2 * number : 2 * number + 2], percent(row["q3_better"], 2), percent(row["q3_than"], 2)]
        p_value = MISSING if row["p_holm"] is None else f"{row['p_holm']:.4f}"
        table.append([*sides, _with_interval(row), percentage_points(row["threshold"]), p_value, row["verdict"]])
    header = ["A", "B", "Q3 of A", "Q3 of B", "A - B", "must exceed", "p (Holm)", "verdict"]
    return markdown_table(header, table, "llrrlrrl")


def _learning_rates(rates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table with a row for each group of points that has a learning rate of its own."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    named = dict.fromkeys(tuple(row["levels"].items()) for row in rates)
    names = dict(zip(named, short_names([dict(levels) for levels in named]), strict=True))
    for row in rates:
        groups.setdefault(names[tuple(row["levels"].items())], []).append(row)
    table, at_the_end = [], []
    for name, tried in groups.items():
        cells = [f"{row['learning_rate']:g}: {percent(row['accuracy'], 2)}" for row in tried]
        chosen = next(number for number, row in enumerate(tried) if row["is_chosen"])
        if tried[chosen]["is_last"] and len(tried) > 1:
            at_the_end.append(name)
        cells[chosen] = f"**{cells[chosen]}**"
        table.append([name, ", ".join(cells)])
    lines = [
        "Validation Q3 of one run for each learning rate; the one in bold is used for all points of its group.",
        "",
        markdown_table(["", "learning rate: Q3 (P→C)"], table, "ll"),
    ]
    if at_the_end:
        lines += ["", f"The best of {'; '.join(at_the_end)} is at the end of those tried: a further one may be better."]
    return lines


def _method(origin: Mapping[str, Any]) -> list[str]:
    kept = []
    if origin["without_chains"]:
        kept = [
            f"Per-chain results of {origin['without_chains']:,} compared runs were not kept. {origin['taken_over']:,} "
            "differences that involve them are those of an earlier report, with intervals and p-values from the spread "
            "between seeds known at the time; others need these runs to be repeated.",
            "",
        ]
    spreads = "; ".join(
        f"{100 * deviation:.2f} ({group + ', ' if group else ''}{number} runs)"
        for group, (deviation, number) in origin["seed_spreads"].items()
    )
    return [
        "## Decision rules",
        "",
        f"Accuracies are Q3 (P as coil) over the {origin['residues']:,} labelled residues of the {origin['chains']:,} "
        "distinct chains of all test sets, as the mean over the finished runs of a point, one for each of "
        f"{origin['seeds']} seeds; ± is their standard deviation. Intervals are 95 % bootstrap intervals over chains, "
        "the same for both sides, and seeds. The spread between seeds is estimated from many points together; its "
        f"standard deviation in percentage points: {spreads or 'unknown'}. The p-value is two-sided, of the "
        "hypothesis that the difference is the threshold, and adjusted by Holm's method for all comparisons of a "
        "claim; intervals are not adjusted, and nothing is corrected across claims. Below 0.05, a difference above the "
        "threshold supports the comparison and one below it refutes it. A claim is refuted if any of its comparisons "
        "is, and supported if all are.",
        "",
        *kept,
        "Learning rates were chosen on the validation chains. The first run of a group's default point is the one by "
        "which its rate was chosen, a slight advantage that all groups have. Intervals cover neither the choice of the "
        "rate nor that of the training chains.",
    ]
