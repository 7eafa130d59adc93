"""The study's page in the documentation agrees with its tables, and README with the page."""

import csv
import re
from statistics import mean, stdev

import pyarrow.parquet as pq
import pytest
from scripts import ROOT

from lift_ss_hf.training.study import read_study
from lift_ss_hf.training.study_records import CHAIN_COLUMNS, CHAINS_TABLE, COMPARISONS_TABLE, RUNS_TABLE
from lift_ss_hf.training.study_report import PAGE

DOCS = ROOT / "docs"


def rows_of(name):
    with (DOCS / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def page():
    return (DOCS / PAGE).read_text()


def points(value):
    return f"{100 * float(value):+.2f}"


def test_every_comparison_is_on_the_page_with_its_verdict(page):
    rows = rows_of(COMPARISONS_TABLE)
    study = read_study(ROOT / "recipes" / "study", {"backbone": "bundled"})  # its own is not here
    assert {row["part"] for row in rows} == {part.name for part in study.parts}
    for row in rows:
        difference = "–"
        if row["difference"]:
            difference = f"{points(row['difference'])} [{points(row['low'])}, {points(row['high'])}]"
        if not row["claim"]:  # shown in a table, and not tested
            assert difference == "–" or f"| {difference} |" in page
            continue
        assert f"| {difference} | {points(row['threshold'])} |" in page
        assert f"**{row['claim']}** {row['verdict_of_claim'].capitalize()}.\n" in page
        assert f"| {row['claim']} | {row['verdict_of_claim']} |" in page


def test_every_accuracy_of_a_point_is_the_mean_of_its_runs(page):
    accuracies: dict[str, list[float]] = {}
    for row in rows_of(RUNS_TABLE):
        if row["test"] == "all" and row["compared"] == "yes":
            point = " ".join(row[factor] for factor in ("adapter", "depth", "head", "data", "regime"))
            accuracies.setdefault(point, []).append(100 * float(row["q3"]))
    assert accuracies
    for found in accuracies.values():
        spread = f" ± {stdev(found):.2f}" if len(found) > 1 else ""
        assert f"| {mean(found):.2f}{spread} |" in page


def test_the_correct_residues_of_all_chains_give_the_accuracy_of_each_run():
    accuracies = {row["run"]: row["q3"] for row in rows_of(RUNS_TABLE) if row["test"] == "all"}
    table = pq.read_table(DOCS / CHAINS_TABLE)
    runs = [name for name in table.column_names if name not in CHAIN_COLUMNS]
    assert runs
    assert set(runs) <= set(accuracies)
    residues = sum(table["residues"].to_pylist())
    for name in runs:
        assert f"{sum(table[name].to_pylist()) / residues:.6g}" == accuracies[name]


def test_every_figure_of_the_page_is_there(page):
    figures = re.findall(r"!\[[^]]*\]\((\S+)\)", page)
    assert figures
    for figure in figures:
        assert (DOCS / figure).read_text().startswith("<?xml")


def test_readme_says_what_the_study_found():
    said = re.search(
        r"add ([\d.]+) percentage points, .* in all blocks ([\d.]+); full fine-tuning adds (\d+\.\d+)",
        (ROOT / "README.md").read_text(),
    )
    assert said is not None
    rows = [row for row in rows_of(RUNS_TABLE) if row["test"] == "all" and row["compared"] == "yes"]
    rows = [row for row in rows if (row["head"], row["data"]) == ("lift_ss", "all")]
    points = [("–", "–", "frozen"), ("bottleneck", "top third", "adapters"), ("bottleneck", "all blocks", "adapters")]
    frozen, *others = (
        mean(float(row["q3"]) for row in rows if (row["adapter"], row["depth"], row["regime"]) == point)
        for point in [*points, ("–", "–", "full")]
    )
    assert said.groups() == tuple(f"{100 * (accuracy - frozen):.2f}" for accuracy in others)
