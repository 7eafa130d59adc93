"""A study: learning rates by validation, verdicts from the runs, and a killed study that ends like any other."""

import csv
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import statistics
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from forked_runs import signal_at
from scripts import ROOT, run_script
from small_runs import write_data, write_finished_run
from transformers import Trainer

from lift_ss_hf.evaluation.corpora import states_file
from lift_ss_hf.reports.style import new_figure
from lift_ss_hf.training import points, study_report, study_runs
from lift_ss_hf.training.corpora import describe_corpora, load_training_corpora
from lift_ss_hf.training.points import point_name
from lift_ss_hf.training.recipes import RecipeError
from lift_ss_hf.training.study import read_study
from lift_ss_hf.training.study_records import CHAINS_TABLE, COMPARISONS_TABLE, RUNS_TABLE, read_published
from lift_ss_hf.training.study_report import PAGE, write_report
from lift_ss_hf.training.study_results import StudyResults
from lift_ss_hf.training.study_runs import Run, StudyFolder, describe_cost, estimate_study, run_study

RATES = {"adapters": [1.0e-2, 1.0e-3], "frozen": [1.0e-2]}
POINTS = [{"regime": ["frozen", "adapters"]}]
BETTER = {"claim": "Adapters are better.", "better": {"regime": "adapters"}, "than": {"regime": "frozen"}}
WORSE = {"claim": "Frozen is better.", "better": {"regime": "frozen"}, "than": {"regime": "adapters"}}
FROZEN = {"reference": {"regime": "frozen"}}
FACTORS = {
    "adapter": ["lora", "ia3"],
    "depth": {"half": {"top_share": "1/2"}, "all": {"top_share": 1}},
    "regime": {"adapters": {}, "frozen": {"adapter": "none"}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def write_study(folder, data, part=None, **changes):
    base = {"backbone": f"{data}/backbone", "head": "linear", "loss": "cross_entropy", "num_train_epochs": 2}
    base |= {"train": [f"{data}/train.txt"], "validation": [f"{data}/validation.txt"], "tests": [f"{data}/test.txt"]}
    base |= {"bootstrap": 0, "report_to": "none", "disable_tqdm": True}
    content = {"base": base, "factors": FACTORS, "learning_rates": RATES, "tuned": ["regime"], "seeds": [0, 1]}
    part = part or {"title": "Regimes?", "points": POINTS, "figure": "regime", "claims": [BETTER, WORSE]} | FROZEN
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base.yaml").write_text(yaml.safe_dump(content | changes, sort_keys=False))
    (folder / "1_part.yaml").write_text(yaml.safe_dump(part, sort_keys=False))
    return folder


# ---- the grid ------------------------------------------------------------------------------------------------------


def test_points_that_differ_in_nothing_are_one(data, tmp_path):
    points = [{"regime": "frozen", "adapter": ["lora", "ia3"]}, {"depth": ["half", "all"]}, {"regime": "adapters"}]
    study = read_study(write_study(tmp_path / "study", data, {"title": "t", "points": points}))
    found = [dict(levels) for levels in study.points()]
    assert found == [
        {"adapter": "–", "depth": "–", "regime": "frozen"},
        {"adapter": "lora", "depth": "half", "regime": "adapters"},
        {"adapter": "lora", "depth": "all", "regime": "adapters"},
    ]
    half = study.settings(study.points()[1], 0.01, 0)
    assert half == {"adapter": "lora", "top_blocks": 2, "learning_rate": 0.01, "seed": 0}  # of 4 blocks
    assert study.settings(study.points()[0], 0.01, 0) == {"adapter": "none", "learning_rate": 0.01, "seed": 0}


def test_the_study_of_the_recipes_is_valid(data, monkeypatch):
    """Every setting is an argument; nine methods at two depths, six depths, three heads and five amounts of data."""
    study = read_study(ROOT / "recipes" / "study", {"backbone": "bundled", "prefix_cache": "off"})
    folder = StudyFolder(study, "no_such_folder")
    numbers = {part.name: len(part.points) for part in study.parts}
    assert numbers == {"1_regimes": 3, "2_depth": 7, "3_data": 10, "4_heads": 6, "5_methods": 19, "6_full_heads": 6}
    assert len(study.seeds) == 3
    assert all(len(rates) == 4 for rates in study.learning_rates.values())
    rates = {group: study.rates(group)[0] for group in study.groups()}
    settings = [folder.job(run).settings for run in folder.compared(rates)]
    assert all(settings["keep_states"] for settings in settings)
    names = {folder.folder(run) for run in folder.compared(rates)}
    assert len(names) == len(settings)


def test_the_part_that_the_readme_shows_is_valid(data, tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "recipes" / "study" / "README.md").read_text(), re.DOTALL)
    shutil.copytree(ROOT / "recipes" / "study", tmp_path / "study")
    (tmp_path / "study" / "7_shown.yaml").write_text(text)
    study = read_study(tmp_path / "study", {"backbone": "bundled"})
    assert (study.parts[-1].title, len(study.parts[-1].points)) == ("Does LoRA need all blocks?", 3)
    assert [len(claim.comparisons) for claim in study.parts[-1].claims] == [1]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"title": "t", "points": [{"regmie": "frozen"}]}, r"no factor 'regmie'\. Did you mean 'regime'\?"),
        ({"title": "t", "points": [{"regime": "full"}]}, r"factor regime has no level 'full'\. Levels: adapters, fro"),
        ({"title": "t", "points": ["frozen"]}, r"expected factors with their levels, found 'frozen'"),
        ({"title": "t", "points": POINTS, "figure": "x"}, r"figure is 'x'\. Expected trained_parameters or a factor"),
        ({"title": "t", "points": POINTS, "claim": []}, r"unknown key 'claim'\. Expected .* Did you mean 'claims'\?"),
        ({"title": "t", "points": "frozen"}, r"`points:` is 'frozen'\. Expected a list"),
        ({"title": "t", "points": POINTS, "claims": [{**BETTER, "margin": "x"}]}, r"margin is 'x'\. Expected a num"),
        ({"title": "t", "points": POINTS, "claims": [{**BETTER, "than": "x"}]}, r"than is 'x'\. Expected factors"),
        ({"title": "t", "points": POINTS, "claims": [{**BETTER, "for_each": {"depth": "x"}}]}, r"for_each is .*lists"),
        ({"title": "t", "points": POINTS, "claims": [{**BETTER, "than": {"regime": ["frozen"]}}]}, r"a level each"),
        ({"title": "t", "points": POINTS, "reference": {"depth": "all"}}, r"reference needs .*, which is not under"),
        ({"title": "t", "points": POINTS, "reference": {"regime": ["frozen"]}}, r"reference is .* with a level each"),
        ({"title": "t", "points": POINTS, "lines": "yes"}, r"`lines:` is 'yes'\. Expected true or false"),
        ({"title": "t"}, r"1_part\.yaml: `points:` is missing or empty"),
        ({"title": "t", "points": POINTS, "claims": [{"claim": "c"}]}, r"expected a claim with claim, better, than"),
        (
            {"title": "t", "points": POINTS, "claims": [{**BETTER, "than": {"regime": "adapters"}}]},
            r"compares .* with itself",
        ),
        (
            {"title": "t", "points": POINTS, "claims": [{**BETTER, "better": {"adapter": "ia3"}}]},
            r"needs \{'adapter': 'ia3'.*\}, which is not under `points:`",
        ),
    ],
)
def test_an_invalid_part_is_an_error(data, tmp_path, part, message):
    with pytest.raises(RecipeError, match=message):
        read_study(write_study(tmp_path / "study", data, part))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates": {"adapters": [1.0e-3]}}, r"learning_rates of 'frozen' is None\. Expected a list"),
        ({"tuned": ["head"]}, r"tuned has 'head', which is not a factor"),
        ({"spread_by": ["head"]}, r"spread_by has 'head', which is not a factor\. Factors: adapter, depth, regime"),
        ({"base": ["x"]}, r"`base:` is \['x'\]\. Expected names with values"),
        ({"seeds": [0, 0]}, r"seeds is \[0, 0\]\. Expected different whole numbers"),
        ({"factors": {**FACTORS, "depth": {"half": {"top_share": "half"}}}}, r"not a fraction .*half"),
        ({"factors": {**FACTORS, "adapter": "lora"}}, r"factor adapter: expected a list of values, or levels"),
    ],
)
def test_an_invalid_base_is_an_error(data, tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        read_study(write_study(tmp_path / "study", data, **changes))


def test_a_setting_that_does_not_exist_is_an_error_before_the_first_run(data, tmp_path):
    factors = {**FACTORS, "head": {"linear": {"haed": "linear"}}}
    study = read_study(write_study(tmp_path / "study", data, factors=factors))
    with pytest.raises(RecipeError, match=r"unknown argument 'haed'\. Did you mean 'head'\?"):
        StudyFolder(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- made-up runs --------------------------------------------------------------------------------------------------

NUM_CHAINS, LENGTH = 60, 200


def write_run(folder, validation, accuracy, seed=0, corpora=None):
    """Write what a finished run leaves: an accuracy on validation chains, and correct residues of test chains."""
    rng = random.Random(f"{seed} {accuracy}")
    share = [sum(rng.random() < accuracy for _ in range(LENGTH)) / LENGTH for _ in range(NUM_CHAINS)]
    scores = {"q3": {"q3": accuracy, "sov99": 0.5, "chain_num_residues": [LENGTH] * NUM_CHAINS, "chain_q3": share}}
    result = {"num_chains": NUM_CHAINS, "scores": scores}
    (folder / "predicted").mkdir(parents=True)
    learnt = {"q3": {"trained": validation}}
    write_finished_run(folder, {"corpora": {"casp12": result, "cb513": result}, "learnt": learnt})
    (folder / "environment.json").write_text(
        json.dumps({"commit": "a" * 40, "processor": "made up", "accelerators": []})
    )
    (folder / "corpora.json").write_text(json.dumps(corpora or {}))
    for name in ("casp12", "cb513"):  # the same chains in both: each counts once
        chains = (f">c{number}\n{'A' * number}\n{'H' * number}\n" for number in range(1, NUM_CHAINS + 1))
        (folder / "predicted" / f"{name}.txt").write_text("".join(chains))


def made_up(data, tmp_path, accuracies, **changes):
    """Return the folder of a study in which every run is finished, with these test accuracies by regime."""
    folder = StudyFolder(read_study(write_study(tmp_path / "study", data, **changes)), tmp_path / "out")
    best = {group: folder.study.rates(group)[-1] for group in folder.study.groups()}
    one = folder.tuning()[0]
    ((_, corpora, _),) = points.parse_points([folder.job(one).settings], [folder.folder(one)])
    described = describe_corpora(load_training_corpora(corpora))
    for run in dict.fromkeys([*folder.tuning(), *folder.compared(best)]):
        is_best = run.learning_rate == best[folder.study.tuned_group(run.levels)]
        # the rate that is best on the tests is worse on the validation chains
        accuracy = accuracies[dict(run.levels)["regime"]] if is_best else 0.99
        write_run(folder.folder(run), 0.7 if is_best else 0.6, accuracy, run.seed, described)
    return folder


def results_of(folder):
    return StudyResults(folder, folder.choose_rates(), dict.fromkeys(folder.points, 100), resamples=300)


def test_learning_rates_are_chosen_on_the_validation_chains_alone(data, tmp_path):
    folder = made_up(data, tmp_path, {"frozen": 0.7, "adapters": 0.7})
    chosen = {dict(group)["regime"]: rate for group, rate in folder.choose_rates().items()}
    assert chosen == {"adapters": 1.0e-3, "frozen": 1.0e-2}
    rows = results_of(folder).result_rows()
    assert {(row["regime"], row["learning_rate"], row["compared"]) for row in rows} == {
        ("adapters", 1.0e-2, "no"),
        ("adapters", 1.0e-3, "yes"),
        ("frozen", 1.0e-2, "yes"),
    }


def test_of_equal_validation_accuracies_the_lowest_rate_is_chosen(data, tmp_path):
    folder = StudyFolder(read_study(write_study(tmp_path / "study", data)), tmp_path / "out")
    for run in folder.tuning():
        write_run(folder.folder(run), 0.7, 0.7)
    assert 1.0e-3 in folder.choose_rates().values()


@pytest.mark.parametrize(
    ("adapters", "expected"),
    [(0.75, ("supported", "refuted")), (0.70, ("undecided", "undecided")), (0.65, ("refuted", "supported"))],
)
def test_verdicts_follow_from_the_runs(data, tmp_path, adapters, expected):
    folder = made_up(data, tmp_path, {"frozen": 0.70, "adapters": adapters})
    rows = results_of(folder).comparison_rows()
    assert tuple(row["verdict_of_claim"] for row in rows) == expected
    assert rows[0]["difference"] == pytest.approx(-rows[1]["difference"])
    assert rows[0]["better"] == {"adapter": "lora", "depth": "half", "regime": "adapters"}


def test_a_claim_of_many_comparisons_is_corrected_for_them(data, tmp_path):
    part = {"title": "t", "points": [{"regime": "frozen"}, {"adapter": ["lora", "ia3"], "depth": ["half", "all"]}]}
    part["claims"] = [BETTER | {"for_each": {"adapter": ["lora", "ia3"], "depth": ["half", "all"]}}]
    rows = results_of(made_up(data, tmp_path, {"frozen": 0.7, "adapters": 0.72}, part=part)).comparison_rows()
    assert len(rows) == 4
    assert all(row["p_holm"] >= min(1, row["p_value"]) for row in rows)
    assert min(row["p_holm"] for row in rows) == pytest.approx(4 * min(row["p_value"] for row in rows))


def test_a_claim_with_a_missing_run_is_undecided(data, tmp_path):
    folder = made_up(data, tmp_path, {"frozen": 0.7, "adapters": 0.8})
    run = folder.compared(folder.choose_rates())[-1]
    assert run.seed == 1
    (folder.folder(run) / "metrics.json").unlink()
    results = results_of(folder)
    assert [row["verdict"] for row in results.comparison_rows()] == ["undecided", "undecided"]
    page = write_report(results, tmp_path / "report").read_text()
    assert "4 of 5 planned runs are finished; comparisons with missing runs are undecided" in page
    assert "| frozen | 0.01 | 100 | 1 of 2 |" in page or "| adapters | 0.001 | 100 | 1 of 2 |" in page
    assert "hollow markers: not all seeds are finished" in page


def test_the_page_of_the_recipes_is_written_as_soon_as_the_learning_rates_are_chosen(tmp_path, monkeypatch):
    """Each part then lacks points, of most its reference too; the default point of each regime has one run."""
    study = read_study(ROOT / "recipes" / "study", {"backbone": "bundled", "prefix_cache": "off"})
    folder = StudyFolder(study, tmp_path / "out")
    for run in folder.tuning():
        accuracy = 0.7 + 0.05 * (run.learning_rate == 3.0e-4)
        write_run(folder.folder(run), accuracy, accuracy)
    page = write_report(results_of(folder), tmp_path / "report").read_text()
    assert page.count("](figures/") == len(study.parts)
    assert "| undecided | 0 | 0 | 18 |" not in page
    assert "| supported |" not in page
    assert "0.0003: 75.00**" in page


@pytest.mark.parametrize("lines", [True, False])
def test_points_are_drawn_in_the_order_of_the_part_and_named_by_what_tells_them_apart(
    data, tmp_path, monkeypatch, lines
):
    drawn = {}
    monkeypatch.setattr(study_report, "plot_levels", lambda *a, **k: drawn.update(a=a, k=k) or new_figure(1, 1))
    points = [{"regime": ["frozen", "adapters"], "depth": ["all", "half"]}]
    part = {"title": "t", "points": points, "figure": "depth", "lines": lines} | FROZEN
    write_report(results_of(made_up(data, tmp_path, {"frozen": 0.7, "adapters": 0.75}, part=part)), tmp_path / "report")
    found, places, axis = drawn["a"]
    assert (places, axis, drawn["k"]) == (["all", "half"], "depth", {"lines": lines})
    assert [(point.place, point.colour, point.marker) for point in found] == [
        ("all", "frozen", ""),
        ("half", "frozen", ""),
        ("all", "adapters", ""),
        ("half", "adapters", ""),
    ]
    assert [point.low is None for point in found] == [True, True, False, False]
    assert found[2].low < found[2].accuracy < found[2].high


def test_a_best_rate_at_the_end_of_those_tried_is_said(data, tmp_path):
    page = write_report(
        results_of(made_up(data, tmp_path, {"frozen": 0.7, "adapters": 0.7})), tmp_path / "r"
    ).read_text()
    assert "The best of lora, half, adapters is at the end of those tried: a further one may be better." in page


@pytest.mark.parametrize(
    ("spread_by", "groups"), [([], {"": 2}), (["regime"], {"regime frozen": 1, "regime adapters": 1})]
)
def test_the_spread_between_seeds_is_that_of_all_points_that_share_it(data, tmp_path, spread_by, groups):
    folder = made_up(data, tmp_path, {"frozen": 0.7, "adapters": 0.8}, spread_by=spread_by)
    results = results_of(folder)
    assert {group: number for group, (_, number) in results.seed_spreads.items()} == {
        g: 2 * n for g, n in groups.items()
    }
    for group, (deviation, _) in results.seed_spreads.items():
        own = [levels for levels in folder.points if folder.study.spread_group(levels) == group]
        variances = [statistics.variance(results.accuracies(levels)) for levels in own]
        assert deviation == pytest.approx(statistics.mean(variances) ** 0.5)
    assert results.comparison_rows()[0]["low"] < results.comparison_rows()[0]["difference"]


def test_equal_chains_of_several_tests_count_once(data, tmp_path):
    results = results_of(made_up(data, tmp_path, {"frozen": 0.7, "adapters": 0.7}))
    assert (len(results.chains.names), results.chains.num_residues) == (NUM_CHAINS, NUM_CHAINS * LENGTH)
    assert {row["test"]: row["residues"] for row in results.result_rows()} == dict.fromkeys(
        ("casp12", "cb513", "all"), NUM_CHAINS * LENGTH
    )


def test_runs_on_other_chains_are_an_error(data, tmp_path):
    folder = made_up(data, tmp_path, {"frozen": 0.7, "adapters": 0.7})
    path = folder.folder(folder.compared(folder.choose_rates())[-1]) / "metrics.json"
    path.write_text(path.read_text().replace(f"[{LENGTH}, ", f"[{LENGTH - 1}, "))
    with pytest.raises(RecipeError, match=r"was not scored on the chains of .*\. Remove the run's directory"):
        results_of(folder).result_rows()


def test_runs_without_validation_chains_are_an_error(data, tmp_path):
    folder = made_up(data, tmp_path, {"frozen": 0.7, "adapters": 0.7})
    path = folder.folder(folder.tuning()[0]) / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"learnt": {}}))
    with pytest.raises(RecipeError, match=r"no validation chains, on which the learning rate is chosen"):
        folder.choose_rates()


def test_a_folder_of_another_study_is_refused(data, tmp_path):
    study = write_study(tmp_path / "study", data)
    StudyFolder(read_study(study), tmp_path / "out").record()
    StudyFolder(read_study(study, {"source": "elsewhere"}), tmp_path / "out")  # the files may move
    with pytest.raises(RecipeError, match=r"holds a study with num_train_epochs 2, now it is 3\. Give another folder"):
        StudyFolder(read_study(study, {"num_train_epochs": 3}), tmp_path / "out")


def test_every_number_of_the_page_is_from_the_tables(data, tmp_path):
    results = results_of(made_up(data, tmp_path, {"frozen": 0.70, "adapters": 0.75}))
    page = write_report(results, tmp_path / "report").read_text()
    for name in (RUNS_TABLE, COMPARISONS_TABLE):
        assert f"[{name}]({name})" in page
    with (tmp_path / "report" / COMPARISONS_TABLE).open() as file:
        better, _ = (row for row in csv.DictReader(file) if row["claim"])
    interval = " ".join(f"{100 * float(better[key]):+.2f}" for key in ("difference", "low", "high"))
    value, low, high = interval.split()
    assert f"| {value} [{low}, {high}] | +0.00 | {float(better['p_holm']):.4f} | supported |" in page
    with (tmp_path / "report" / RUNS_TABLE).open() as file:
        whole = [row for row in csv.DictReader(file) if row["test"] == "all" and row["compared"] == "yes"]
    means = [sum(float(row["q3"]) for row in whole if row["regime"] == regime) / 2 for regime in ("frozen", "adapters")]
    for mean in means:
        assert f"{100 * mean:.2f}" in page
    assert "figures/study_1_part.svg" in page
    assert (tmp_path / "report" / "figures" / "study_1_part.svg").stat().st_size > 1000


def write_tables(folder, out):
    """Write the report of finished runs, remove the runs, and return what the report's tables say."""
    results = results_of(folder)
    write_report(results, out)
    for run in results.runs:
        shutil.rmtree(folder.folder(run))
    return read_published(out)


def tables_in(out):
    return {name: (out / name).read_bytes() for name in (RUNS_TABLE, COMPARISONS_TABLE, CHAINS_TABLE)}


def test_a_study_is_resumed_from_the_tables_of_its_report(data, tmp_path, monkeypatch):
    """The folders of its runs are gone: nothing is run again, and the report is the same, in the same place too."""
    folder = made_up(data, tmp_path, {"frozen": 0.70, "adapters": 0.75})
    rates = folder.choose_rates()
    published = write_tables(folder, tmp_path / "report")
    monkeypatch.setattr(points, "_run_in_process", lambda *_: pytest.fail("ran again"))
    again = StudyFolder(folder.study, tmp_path / "elsewhere", published)
    assert run_study(again) == rates
    said = describe_cost(again, estimate_study(again, speed=1e9), 1)
    assert said.startswith("5 runs (3 of them to choose learning rates), 5 finished.")
    before = tables_in(tmp_path / "report"), (tmp_path / "report" / PAGE).read_text()
    for out in ("again", "report"):
        write_report(results_of(again), tmp_path / out)
        assert (tables_in(tmp_path / out), (tmp_path / out / PAGE).read_text()) == before


@pytest.mark.parametrize("regime", ["frozen", "adapters"])
def test_runs_of_the_tables_and_of_the_folder_are_compared_with_each_other(data, tmp_path, regime):
    folder = made_up(data, tmp_path, {"frozen": 0.70, "adapters": 0.75})
    expected = results_of(folder).comparison_rows()
    write_report(results_of(folder), tmp_path / "report")
    for run in folder.compared(folder.choose_rates()):
        if dict(run.levels)["regime"] == regime:
            shutil.rmtree(folder.folder(run))
    mixed = StudyFolder(folder.study, folder.out, read_published(tmp_path / "report"))
    assert results_of(mixed).comparison_rows() == expected


def test_settings_of_a_machine_may_differ(data, tmp_path):
    folder = made_up(data, tmp_path, {"frozen": 0.70, "adapters": 0.75})
    published = write_tables(folder, tmp_path / "report")
    study = read_study(folder.study.path, {"prefix_cache_gb": 50, "report_to": "tensorboard", "source": "elsewhere"})
    assert StudyFolder(study, tmp_path / "elsewhere", published).choose_rates()
    with pytest.raises(RecipeError, match=r"report: holds a study with num_train_epochs 2, now it is 3"):
        StudyFolder(read_study(folder.study.path, {"num_train_epochs": 3}), tmp_path / "elsewhere", published)


def change_chains(report, change):
    """Change the table of chains of a report."""
    path = report / CHAINS_TABLE
    table = pq.read_table(path)
    pq.write_table(change(table), path)


def test_tables_of_other_test_chains_are_an_error(data, tmp_path):
    folder = made_up(data, tmp_path, {"frozen": 0.70, "adapters": 0.75})
    write_report(results_of(folder), tmp_path / "report")
    change_chains(tmp_path / "report", lambda table: table.set_column(2, "residues", [[LENGTH + 1] * NUM_CHAINS]))
    mixed = StudyFolder(folder.study, folder.out, read_published(tmp_path / "report"))
    with pytest.raises(RecipeError, match=r"was not scored on the chains of the tables in .*report\. The corpora diff"):
        results_of(mixed).comparison_rows()


def test_runs_on_other_training_chains_are_an_error_before_the_first_run(data, tmp_path, monkeypatch):
    """Another machine may build other corpora under the same name."""
    folder = made_up(data, tmp_path, {"frozen": 0.70, "adapters": 0.75})
    write_report(results_of(folder), tmp_path / "report")
    run = folder.compared(folder.choose_rates())[-1]
    corpora = json.loads((folder.folder(run) / "corpora.json").read_text())
    corpora["train"]["sha256_of_sequences_and_states"] = "0" * 64
    (folder.folder(run) / "corpora.json").write_text(json.dumps(corpora))
    with pytest.raises(RecipeError, match=r"seed=1: its corpora have other chains than those of .*seed=0\. Remove"):
        results_of(folder).comparison_rows()
    path = tmp_path / "report" / RUNS_TABLE
    text = path.read_text()
    path.write_text(text.replace(next(csv.DictReader(text.splitlines()))["corpora"], "0" * 16))
    monkeypatch.setattr(points, "_run_in_process", lambda *_: pytest.fail("started"))
    elsewhere = StudyFolder(folder.study, tmp_path / "elsewhere", read_published(tmp_path / "report"))
    with pytest.raises(RecipeError, match=r"study_runs\.csv: .* had other chains than the corpora have now"):
        run_study(elsewhere)


# ---- runs of which single chains were not kept, as in tables from before there was one of the chains


def without_chains(report, *kept):
    change_chains(report, lambda table: table.select(["test", "chain", "residues", *kept]))
    return read_published(report)


def test_comparisons_of_runs_without_chains_are_taken_over(data, tmp_path):
    folder = made_up(data, tmp_path, {"frozen": 0.70, "adapters": 0.75})
    expected = results_of(folder).comparison_rows()
    write_tables(folder, tmp_path / "report")
    published = without_chains(tmp_path / "report")
    again = StudyFolder(folder.study, tmp_path / "out", published)
    results = results_of(again)
    for found, before in zip(results.comparison_rows(), expected, strict=True):
        assert found["verdict"] == before["verdict"]
        assert found["low"] == pytest.approx(before["low"], rel=1e-5)
        assert found["q3_better"] == pytest.approx(before["q3_better"], rel=1e-5)
    page = write_report(results, tmp_path / "again").read_text()
    assert "Per-chain results of 4 compared runs were not kept. 2 differences that involve them are those of an" in page
    assert len(again.missing(again.choose_rates())) == 4  # they are repeated, the runs that chose the rates are not


def test_a_difference_is_taken_over_for_the_same_runs_only(data, tmp_path):
    folder = made_up(data, tmp_path, {"frozen": 0.70, "adapters": 0.75}, seeds=[0, 1, 2])
    write_tables(folder, tmp_path / "report")
    published = without_chains(tmp_path / "report")
    fewer = StudyFolder(read_study(write_study(tmp_path / "fewer", data, seeds=[0, 1])), tmp_path / "out", published)
    results = results_of(fewer)
    assert [row["verdict"] for row in results.comparison_rows()] == ["undecided", "undecided"]
    assert not results.taken_over


def test_a_point_with_and_without_chains_is_compared_once_its_runs_are_repeated(data, tmp_path):
    folder = made_up(data, tmp_path, {"frozen": 0.70, "adapters": 0.75})
    write_report(results_of(folder), tmp_path / "report")
    expected = results_of(folder).comparison_rows()
    runs = folder.compared(folder.choose_rates())
    for run in runs[1:]:
        shutil.move(folder.folder(run), tmp_path / folder.folder(run).name)
    published = without_chains(tmp_path / "report", folder.folder(runs[1]).name)
    some = StudyFolder(folder.study, folder.out, published)
    path = tmp_path / "report" / COMPARISONS_TABLE
    assert [row["verdict"] for row in results_of(some).comparison_rows()] == ["supported", "refuted"]  # taken over
    path.write_text(path.read_text().splitlines()[0] + "\n")
    some = StudyFolder(folder.study, folder.out, read_published(tmp_path / "report"))
    assert [row["verdict"] for row in results_of(some).comparison_rows()] == ["undecided", "undecided"]
    missing = some.missing(some.choose_rates())
    assert missing == runs[2:]
    for run in missing:
        shutil.move(tmp_path / folder.folder(run).name, folder.folder(run))
    assert results_of(some).comparison_rows() == expected


# ---- tables that cannot be used


@pytest.mark.parametrize("name", [RUNS_TABLE, COMPARISONS_TABLE, CHAINS_TABLE])
def test_missing_and_broken_tables_are_one_line(data, tmp_path, name):
    folder = made_up(data, tmp_path, {"frozen": 0.70, "adapters": 0.75})
    write_tables(folder, tmp_path / "report")
    path = tmp_path / "report" / name
    whole = path.read_bytes()
    broken = [b"run,x\n1,2\n", whole[: 2 * len(whole) // 3], whole.replace(b",q3", b',"q3', 1), b"\xff\xfe" + whole[9:]]
    for content in broken:
        path.write_bytes(content)
        if content != whole:
            with pytest.raises(RecipeError, match=rf"{name}: not a table of a study's report"):
                read_published(tmp_path / "report")
    path.unlink()
    with pytest.raises(RecipeError, match=rf"{name}: not found\. Expected the tables of a study's report"):
        read_published(tmp_path / "report")


@pytest.mark.parametrize("value", [LENGTH + 1, -1, None, 0.5, "x"])
def test_impossible_numbers_of_correct_residues_are_an_error(data, tmp_path, value):
    write_tables(made_up(data, tmp_path, {"frozen": 0.70, "adapters": 0.75}), tmp_path / "report")
    column = [value, *[type(value)(1) if value is not None else 1] * (NUM_CHAINS - 1)]
    change_chains(tmp_path / "report", lambda table: table.set_column(3, table.column_names[3], [column]))
    with pytest.raises(RecipeError, match=r"study_chains\.parquet: not a table of a study's report"):
        read_published(tmp_path / "report")


def test_published_runs_that_the_report_lacks_are_not_overwritten(data, tmp_path):
    folder = made_up(data, tmp_path, {"frozen": 0.70, "adapters": 0.75})
    published = write_tables(folder, tmp_path / "report")
    one_rate = RATES | {"adapters": [1.0e-3]}
    less = StudyFolder(read_study(write_study(tmp_path / "less", data, learning_rates=one_rate)), tmp_path, published)
    before = tables_in(tmp_path / "report")
    with pytest.raises(
        RecipeError, match=r"report: 1 of the 5 runs in its tables are not part of this report, .*rate=0.01"
    ):
        write_report(results_of(less), tmp_path / "report")
    assert tables_in(tmp_path / "report") == before
    assert write_report(results_of(less), tmp_path / "other").is_file()


def test_the_command_resumes_from_tables(data, tmp_path):
    folder = made_up(data, tmp_path, {"frozen": 0.70, "adapters": 0.75})
    write_tables(folder, tmp_path / "report")
    flags = ("--out", tmp_path / "empty", "--hours", "0", "--teraflops", "0.001", "--report", tmp_path / "again")
    done = run_script("recipes/study.py", folder.study.path, *flags, "--published", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("the report of 5 of 5 runs.\n")
    refused = run_script("recipes/study.py", folder.study.path, *flags, "--published", tmp_path / "none")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.endswith("study_runs.csv: not found. Expected the tables of a study's report in "
                                   f"{tmp_path / 'none'}.\n")  # fmt: skip


# ---- real runs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def forking(monkeypatch):
    """Runs are forked from this process: no imports to wait for, and what is patched here is patched there."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)
    return fork


def finish(study: Path, out: Path) -> dict[str, bytes | list[dict[str, str]]]:
    """Run a study to its end and return its tables, without the CPU time of the runs."""
    folder = StudyFolder(read_study(study), out)
    rates = run_study(folder)
    assert rates is not None
    write_report(StudyResults(folder, rates, dict.fromkeys(folder.points, 1), resamples=100), out / "report")
    with (out / "report" / RUNS_TABLE).open(newline="") as file:
        runs = [{name: cell for name, cell in row.items() if name != "cpu_seconds"} for row in csv.DictReader(file)]
    return tables_in(out / "report") | {RUNS_TABLE: runs}


@pytest.mark.process
@pytest.mark.slow
def test_a_killed_and_resumed_study_ends_like_an_uninterrupted_one(data, tmp_path, forking, caplog):
    study = write_study(tmp_path / "study", data)
    expected = finish(study, tmp_path / "whole")
    killed = tmp_path / "killed"
    with pytest.MonkeyPatch.context() as patch:  # in the second epoch of the first run
        patch.setattr(Trainer, "_save_checkpoint", Trainer._save_checkpoint)
        signal_at(2, "_save_checkpoint", Trainer)
        with pytest.raises(ChildProcessError, match=r"process of this run was killed, .*give the same command again"):
            finish(study, killed)
    assert len(list(killed.glob("*/checkpoint-*"))) == 1
    with pytest.MonkeyPatch.context() as patch:  # the command itself, between choosing the rates and using them
        patch.setattr(StudyFolder, "compared", lambda self, rates: os.kill(os.getpid(), signal.SIGKILL))
        command = forking.Process(target=finish, args=(study, killed))
        command.start()
        command.join(120)
        assert command.exitcode == -signal.SIGKILL
    assert len(list(killed.glob("*/metrics.json"))) == 3
    assert finish(study, killed) == expected
    assert not list(killed.glob("*/checkpoint-*"))
    assert len(list(killed.glob("*/metrics.json"))) == 5
    assert len(expected[RUNS_TABLE]) == 5 * 2  # a test and all tests of five runs
    for run in killed.glob("*/metrics.json"):
        assert len(states_file(run.parent, f"{data}/test.txt").read_text().splitlines()) == 3 * 10
    assert (killed / "report" / PAGE).is_file()


def test_points_whose_rate_is_known_are_run_while_another_command_tries_rates(data, tmp_path, monkeypatch):
    folder = StudyFolder(read_study(write_study(tmp_path / "study", data)), tmp_path / "out")
    groups = {dict(group)["regime"]: group for group in folder.study.groups()}
    (elsewhere, *_) = [run for run in folder.tuning() if run.levels == groups["adapters"]]
    runs = {folder.folder(run): run for rate in RATES["adapters"] for run in folder.compared(all_rates(folder, rate))}
    runs |= {folder.folder(run): run for run in folder.tuning()}
    started = []

    def run_in_process(job, num_threads):
        run = runs[job.folder]
        started.append((dict(run.levels)["regime"], run.learning_rate, run.seed))
        is_ours = run != elsewhere or len(started) > 6  # the other command finishes it at last
        if is_ours:
            write_run(job.folder, 0.7, 0.7)
        return is_ours

    monkeypatch.setattr(points, "_run_in_process", run_in_process)
    monkeypatch.setattr(points, "WAIT_SECONDS", 0.0)
    assert len(run_study(folder)) == 2
    held = ("adapters", elsewhere.learning_rate, 0)
    assert started[:5] == [("frozen", 1.0e-2, 0), held, ("adapters", 1.0e-3, 0), ("frozen", 1.0e-2, 1), held]
    assert started[-1] == ("adapters", 1.0e-3, 1)


def all_rates(folder, rate):
    return dict.fromkeys(folder.study.groups(), rate)


def test_a_study_without_time_says_so_and_runs_nothing(data, tmp_path):
    folder = StudyFolder(read_study(write_study(tmp_path / "study", data)), tmp_path / "out")
    assert run_study(folder, hours=0) is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["study.json"]


def test_the_cost_of_runs_follows_from_their_operations(data, tmp_path):
    folder = StudyFolder(read_study(write_study(tmp_path / "study", data)), tmp_path / "out")
    cost = estimate_study(folder, speed=1e9)
    regimes = {dict(run.levels)["regime"]: operations for run, operations in cost.operations.items()}
    assert regimes["adapters"] > 1.1 * regimes["frozen"]  # a backward pass through two of four blocks
    assert cost.seconds(list(cost.operations)) == pytest.approx(sum(cost.operations.values()) / 1e9)
    linear = 32 * 9 + 9
    frozen = next(model for levels, model in cost.models.items() if dict(levels)["regime"] == "frozen")
    assert frozen.trained_parameters == linear
    # 4 blocks: four projections of 32 x 32, two of 32 x 48, attention to 256 tokens, and the head; 2 for each product
    assert frozen.forward == 2 * (4 * (4 * 32 * 32 + 2 * 32 * 48 + 2 * 256 * 32) + 32 * 9)


def test_the_command_says_beforehand_what_it_costs(data, tmp_path):
    study = write_study(tmp_path / "study", data)
    done = run_script("recipes/study.py", study, "--out", tmp_path / "out", "--dry_run", "--teraflops", "0.001")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("5 runs (3 of them to choose learning rates), 0 finished.\n")
    assert "at 1e+09 a second: about" in done.stdout
    assert done.stdout.endswith("  learning rates: 3 runs, 4 s\n  1_part: 2 runs, 3 s\n")
    assert not (tmp_path / "out").exists()
    refused = run_script("recipes/study.py", study, "--out", tmp_path / "out", "--backbone", f"{data}/none")
    assert refused.returncode == 2


def test_a_finished_study_has_nothing_left_at_the_rates_that_were_chosen(data, tmp_path):
    folder = made_up(data, tmp_path, {"frozen": 0.7, "adapters": 0.7})
    said = describe_cost(folder, estimate_study(folder, speed=1e9), 1)
    assert said.startswith("5 runs (3 of them to choose learning rates), 5 finished.\n0 floating-point operations")
    assert said.endswith("  1_part: 0 runs, 0 s")


def test_the_speed_is_that_of_one_of_several_processes(data, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    seen = []
    monkeypatch.setattr(study_runs, "measure_speed", lambda *arguments: seen.append(torch.get_num_threads()) or 1.0)
    before = torch.get_num_threads()
    estimate_study(StudyFolder(read_study(write_study(tmp_path / "study", data)), tmp_path / "out"), None, 2)
    assert (seen, torch.get_num_threads()) == ([3], before)


def test_a_folder_that_another_study_took_in_the_meantime_is_refused(data, tmp_path):
    study = write_study(tmp_path / "study", data)
    late = StudyFolder(read_study(study, {"num_train_epochs": 3}), tmp_path / "out")
    StudyFolder(read_study(study), tmp_path / "out").record()
    with pytest.raises(RecipeError, match=r"holds a study with num_train_epochs 2, now it is 3"):
        late.record()


def test_a_number_of_processes_below_one_is_an_error_before_anything_runs(data, tmp_path):
    study = write_study(tmp_path / "study", data)
    flags = ("--out", tmp_path / "out", "--processes", 0, "--teraflops", "0.001")
    done = run_script("recipes/study.py", study, *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith("0 processes. Expected at least 1 run at a time.")
    assert not (tmp_path / "out").exists()


def test_the_speed_of_a_model_with_margins_is_measured(data, tmp_path):
    base = yaml.safe_load((write_study(tmp_path / "study", data) / "base.yaml").read_text())["base"]
    study = read_study(write_study(tmp_path / "study", data, base=base | {"loss": "ldam"}))
    assert estimate_study(StudyFolder(study, tmp_path / "out")).speed > 0


def test_a_speed_of_nothing_is_an_error(data, tmp_path):
    folder = StudyFolder(read_study(write_study(tmp_path / "study", data)), tmp_path / "out")
    with pytest.raises(ValueError, match=r"a speed of 0 operations a second\. Expected more than 0\."):
        estimate_study(folder, 0.0)


def test_a_run_is_known_by_its_settings(data, tmp_path):
    study = read_study(write_study(tmp_path / "study", data))
    levels = study.levels({"adapter": "ia3"})
    folder = StudyFolder(study, tmp_path).folder(Run(levels, 0.01, 1))
    assert folder.name == point_name({"adapter": "ia3", "top_blocks": 2, "learning_rate": 0.01, "seed": 1})
