"""The tables: what they show is what was measured."""

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
    assert text.endswith("lift_ss_hf 0.1 at commit unknown on EPYC, 2 threads, H100: `evaluate.py model`.\n")
    first = next(row for row in rows(text) if row[0] == "casp12")
    sov99 = f"{100 * corpora['casp12']['scores']['q3']['sov99']:.1f}"
    assert first == ["casp12", "1,234", "56,789", "83.3 [70.0, 90.0]", "–", "91.7", "–", "–", sov99, "–", "0", "1,234"]
    assert next(row for row in rows(text) if row[0] == "cb513")[-2] == "not known"
    assert "## cb513: states (Q8)" in text
    assert next(row for row in rows(text) if row[0] == "E")[:4] == ["E", "4", "75.0", "100.0"]
    assert next(row for row in rows(text) if row[0] == "G") == ["G", "0", "–", "–", "–", "–", "–"]


def test_a_card_has_columns_for_what_was_scored():
    table = rows(card_markdown({"/data/mine": evaluated("q8", duplicates=2)}, lambda name: name.split("/")[-1]))
    assert table[0][3:] == ["Q8 accuracy", "SOV'99 (q8)", "in training"]
    assert table[2][:4] == ["mine", "test", "1,234", "91.7 [70.0, 90.0]"]
    assert table[2][-1] == "2"


def test_a_score_without_a_value_is_a_dash():
    assert percent_with_interval({}, "q3") == percent_with_interval({"q3": None, "q3_low": None}, "q3") == "–"
    assert percent_with_interval({"q3": 0.5, "q3_low": None, "q3_high": None}, "q3") == "50.0"


def test_what_was_learnt_has_a_row_for_each_alphabet():
    learnt = {"q3_lift_ss": {"majority": 0.4, "untrained": 0.3, "trained": 0.7}}
    text = learnt_markdown(learnt, {"num_chains": 1_234, "duplicates_in_training": 5})
    assert rows(text)[2] == ["Q3 (P→H)", "40.0", "30.0", "70.0"]
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


def test_memory_is_in_gigabytes():
    parameters = {"head": {"trained": 1234, "frozen": 0}}
    memory = {"alone": dict.fromkeys(("weights", "gradients", "optimizer", "activations", "total"), 1_500_000_000)}
    text = estimate_markdown(parameters, memory, 1)
    assert ["head", "1,234", "0"] in rows(text)
    assert "Memory of one device [GB]:" in text
    assert ["alone", *["1.50"] * 5] in rows(text)
    assert "Memory of each of 4 devices [GB]:" in estimate_markdown(parameters, memory, 4)
