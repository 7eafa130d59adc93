"""The tables: what they show is what was measured."""

import pytest

from lift_ss_hf.metrics.scoring import score
from lift_ss_hf.reports.tables import (
    card_markdown,
    estimate_markdown,
    learnt_markdown,
    percent_with_interval,
    results_markdown,
    sweep_markdown,
)

ENVIRONMENT = {
    "lift_ss_hf": "0.1",
    "commit": None,
    "processor": "EPYC",
    "threads": 2,
    "accelerators": ["H100"],
    "command": "evaluate.py model",
}


def rows(table):
    """The cells of each row of each table."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]


def evaluated(*alphabets, duplicates=None):
    """Results of an evaluation, as in metrics.json."""
    references, predictions = ["HHHHEEEELLLL"], ["HHHHEEELLLLP"]
    scores = {name: score(references=references, predictions=predictions, states=name) for name in alphabets}
    scores[alphabets[0]] |= {f"{alphabets[0]}_low": 0.7, f"{alphabets[0]}_high": 0.9}
    return {
        "split": "test",
        "num_chains": 1_234,
        "num_residues": 56_789,
        "duplicates_in_training": duplicates,
        "residues_per_second": 1234.5,
        "majority": {},
        "scores": scores,
    }


def test_results_have_a_row_for_each_corpus_and_each_state():
    corpora = {"casp12": evaluated("q9", "q3", duplicates=0), "cb513": evaluated("q8")}
    text = results_markdown({"model": "mine", "environment": ENVIRONMENT, "corpora": corpora})
    assert text.startswith("# Results of mine\n")
    assert "in percent, with 95 % intervals from resampling chains." in text
    assert text.endswith("lift_ss_hf 0.1 at commit unknown on EPYC, 2 threads, H100: `evaluate.py model`.\n")
    first = next(row for row in rows(text) if row[0] == "casp12")
    sov99 = f"{100 * corpora['casp12']['scores']['q3']['sov99']:.1f}"
    assert first == ["casp12", "1,234", "56,789", "83.3 [70.0, 90.0]", "–", "91.7", "–", sov99, "0", "1,234"]
    assert next(row for row in rows(text) if row[0] == "cb513")[-2] == "not known"
    assert "## cb513: states (Q8)" in text
    assert next(row for row in rows(text) if row[0] == "E")[:4] == ["E", "4", "75.0", "100.0"]
    assert next(row for row in rows(text) if row[0] == "G") == ["G", "0", "–", "–", "–", "–", "–"]


def scores_of(text, corpus):
    """The tables below the heading of a corpus's scores, as rows."""
    return rows(text.split(f"## {corpus}: scores")[1].split("\n## ")[0])


REFERENCES, PREDICTIONS = ["LLLEEEHHHHXXPPTT", "HHGGLLBB"], ["LLEEEEHHHHHHLLTS", "HHHHLLLL"]


@pytest.mark.parametrize("states", ["q9", "q8"])
def test_one_table_of_a_corpus_has_all_scores(states):
    names = {"q9": ["q9", "q8", "q3", "q3_lift_ss"], "q8": ["q8", "q3", "q3_lift_ss"]}[states]
    scores = {name: score(references=REFERENCES, predictions=PREDICTIONS, states=name) for name in names}
    results = {"model": "", "environment": ENVIRONMENT, "corpora": {"mine": evaluated("q8") | {"scores": scores}}}
    text = results_markdown(results)
    assert "in percent." in text  # without intervals
    header, _, *table = scores_of(text, "mine")
    letters = "LBEGIHSTP" if states == "q9" else "LBEGIHST"
    assert header == ["score", "all", *letters, "C", "F1", "F1 (LIFT_SS)"]
    assert len(table) == 2 * len(names)
    titles = {"q9": "Q9", "q8": "Q8", "q3": "Q3 (P→C)", "q3_lift_ss": "Q3 (P→H)"}
    for name, accuracy, sov in zip(names, table[::2], table[1::2], strict=True):
        found = scores[name]
        assert (accuracy[0], sov[0]) == (titles[name], f"SOV'99 of {titles[name]}")
        assert (accuracy[1], sov[1]) == (f"{100 * found[name]:.2f}", f"{100 * found['sov99']:.2f}")
        assert accuracy[-2:] == [f"{100 * found[key]:.2f}" for key in ("macro_f1", "macro_f1_predicted")]
        for row, key in ((accuracy, "recall"), (sov, "sov99")):
            for letter, cell in zip(header[2:-2], row[2:-2], strict=True):
                value = found.get(f"{key}_{letter}")
                assert cell == ("–" if value is None else f"{100 * value:.2f}")


def test_the_columns_of_the_reference_have_its_order_and_its_f1():
    """The headers of the two sheets that the reference writes for nine and for three states."""
    scores = {name: score(references=REFERENCES, predictions=PREDICTIONS, states=name) for name in ("q9", "q3_lift_ss")}
    results = {"model": "", "environment": ENVIRONMENT, "corpora": {"mine": evaluated("q9") | {"scores": scores}}}
    nine, _, first, three, _, second = scores_of(results_markdown(results, "lift_ss"), "mine")
    assert nine == [*(f"Q_{s}" for s in "LBEGIHSTP"), "Q9", "F1-Score", *(f"SOV_{s}" for s in "BEGHILPST"), "SOV"]
    assert three == ["Q_C", "Q_E", "Q_H", "Q3", "F1-Score", "SOV_C", "SOV_E", "SOV_H", "SOV"]
    assert dict(zip(nine, first, strict=True))["F1-Score"] == f"{100 * scores['q9']['macro_f1_predicted']:.2f}"
    assert scores["q9"]["macro_f1_predicted"] > scores["q9"]["macro_f1"]  # B, G and P are never predicted
    found = dict(zip(three, second, strict=True))
    assert found["Q3"] == f"{100 * scores['q3_lift_ss']['q3_lift_ss']:.2f}"
    assert found["SOV_E"] == f"{100 * scores['q3_lift_ss']['sov99_E']:.2f}"
    assert found["Q_H"] == f"{100 * scores['q3_lift_ss']['recall_H']:.2f}"


def test_a_card_has_columns_for_what_was_scored():
    table = rows(card_markdown({"/data/mine": evaluated("q8", duplicates=2)}, lambda name: name.split("/")[-1]))
    assert table[0][3:] == ["Q8 accuracy", "SOV'99 (q8)", "in training"]
    assert table[2][:4] == ["mine", "test", "1,234", "91.7 [70.0, 90.0]"]
    assert table[2][-1] == "2"


def test_a_score_without_a_value_is_a_dash():
    assert percent_with_interval({}, "q3") == percent_with_interval({"q3": None, "q3_low": None}, "q3") == "–"
    assert percent_with_interval({"q3": 0.5, "q3_low": None, "q3_high": None}, "q3") == "50.0"


def test_what_was_learnt_has_a_row_for_each_alphabet():
    learnt = {"q3_lift_ss": {"majority": 0.4, "residue": 0.5, "untrained": 0.3, "trained": 0.7}}
    text = learnt_markdown(learnt, {"num_chains": 1_234, "duplicates_in_training": 5})
    assert rows(text)[2] == ["Q3 (P→H)", "40.0", "50.0", "30.0", "70.0"]
    assert "In training: 5 of the 1,234 validation chains." in text


def test_a_sweep_shows_mean_and_spread_over_seeds():
    runs = [
        {"adapter": "lora", "seed": seed, "scores": {"casp12": {"q9": value, "q3": value}}}
        for seed, value in enumerate([0.5, 0.6])
    ]
    runs.append({"top_blocks": 3, "scores": {"casp12": {"q9": 0.5}}})
    assert rows(sweep_markdown(runs))[2:] == [
        ["lora", "–", "2", "55.0 ± 7.1, 55.0 ± 7.1"],
        ["–", "3", "1", "50.0, –"],
    ]


def test_a_sweep_shows_corpora_and_alphabets_of_any_of_its_runs():
    runs = [
        {"tests": ["a", "b"], "scores": {"a": {"q9": 0.5, "q3": 0.7}, "b": {"q8": 0.6, "q3": 0.8}}},
        {"tests": ["a"], "scores": {"a": {"q3_lift_ss": 0.9}}},
        {"tests": ["none"], "scores": {}},
    ]
    header, _, *cells = rows(sweep_markdown(runs))
    assert header == ["tests", "runs", "a q9, q3, q3_lift_ss", "b q8, q3"]
    assert cells == [
        ["['a', 'b']", "1", "50.0, 70.0, –", "60.0, 80.0"],
        ["['a']", "1", "–, –, 90.0", "–, –"],
        ["['none']", "1", "–, –, –", "–, –"],
    ]


def test_a_sweep_without_tests_is_a_table_of_its_points():
    text = sweep_markdown([{"adapter_options": {"r": 4}, "seed": seed, "scores": {}} for seed in (0, 1)])
    assert "No tests were given." in text
    assert rows(text)[2:] == [["{'r': 4}", "2"]]


def test_memory_is_in_gigabytes():
    parameters = {"head": {"trained": 1234, "frozen": 0}}
    memory = {"alone": dict.fromkeys(("weights", "gradients", "optimizer", "activations", "total"), 1_500_000_000)}
    text = estimate_markdown(parameters, memory, 1, 2_000_000_000)
    assert ["head", "1,234", "0"] in rows(text)
    assert "Memory of one device [GB]:" in text
    assert ["alone", *["1.50"] * 5] in rows(text)
    assert text.endswith("On a CPU: 2.00 GB of resident memory for each process, with all of that.")
    text = estimate_markdown(parameters, memory, 4, 2_000_000_000, cached=1280)
    assert "Memory of each of 4 devices [GB]:" in text
    assert "The prefix cache, 1.28 GB for a million residues, is mapped from the disk" in text
