"""Evaluation: a chain is predicted in a batch as if alone, alphabets and scores are right, bad names are reported."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import save_tiny_backbone

from lift_ss_hf.corpora.chains import Chain
from lift_ss_hf.corpora.readers import write_three_line
from lift_ss_hf.evaluation.corpora import (
    EvaluationSettings,
    common_num_states,
    evaluate_saved,
    load_corpora,
    num_states_of,
)
from lift_ss_hf.evaluation.predictions import (
    Predictions,
    majority_accuracy,
    predict,
    scorable_alphabets,
    score_predictions,
)
from lift_ss_hf.metrics.labels import encode_references
from lift_ss_hf.metrics.scoring import score
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.states import get_alphabet, reduce_probabilities
from lift_ss_hf.models.tokenization import ResidueTokenizer
from lift_ss_hf.prediction.ensemble import Ensemble

RECIPE = Path(__file__).parents[2] / "recipes" / "evaluate.py"
SEQUENCES = ["MKVLAAGIVGLLLAQWERTY", "ACD", "GGGGSSSSPPPPTTTTNNNNQQQQHHHH", "MKV"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    save_tiny_backbone(folder / "backbone", "esm")
    torch.manual_seed(0)
    model = SecondaryStructureModel.from_backbone(folder / "backbone", top_blocks=2, head_channels=16, max_residues=16)
    model.save_pretrained(folder / "model")
    chains = [Chain(f"c{i}", s, "X" + "HEL"[i % 3] * (len(s) - 2) + "P") for i, s in enumerate(SEQUENCES)]
    write_three_line(iter(chains), folder / "test.txt")
    return folder


def test_a_chain_is_predicted_as_if_alone_and_in_its_place(folder):
    model = SecondaryStructureModel.from_pretrained(folder / "model").train()
    tokenizer = ResidueTokenizer.from_pretrained(folder / "model")
    together = predict(model, tokenizer, SEQUENCES, max_tokens=40, quiet=True)
    assert model.training  # as it was
    assert together.windowed == 2  # of more than 16 residues
    for sequence, probabilities in zip(SEQUENCES, together.probabilities, strict=True):
        alone = predict(model, tokenizer, [sequence], quiet=True).probabilities[0]
        assert probabilities.shape == (len(sequence), 9)
        assert np.allclose(probabilities, alone, atol=1e-5)
        assert np.allclose(probabilities.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("states", "num_states", "alphabets"),
    [
        ("q9", 9, ["q9", "q8", "q3", "q3_lift_ss"]),
        ("q9", 8, ["q8", "q3", "q3_lift_ss"]),  # its L is not the nine-state L
        ("q8", 9, ["q8", "q3", "q3_lift_ss"]),
        ("q3", 9, ["q3"]),
    ],
)
def test_a_model_is_scored_at_the_alphabets_that_mean_something(states, num_states, alphabets):
    assert scorable_alphabets(states, num_states) == alphabets


def test_scores_are_those_of_summed_probabilities():
    # L .2, S .2, T .2 against H .4: helix among nine states, coil among three
    nine = np.array([[0.2, 0, 0, 0, 0, 0.4, 0.2, 0.2, 0.0]] * 4, dtype=np.float32)
    result = score_predictions(encode_references(["HHCX"]), Predictions([nine], "q9", 1.0, 0), num_states=9)
    assert result["q9"]["q9"] == pytest.approx(2 / 3)
    assert result["q3"]["q3"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("states", ["q9", "q8", "q3"])
def test_labels_score_as_the_letters_to_the_digit(states):
    rng = np.random.default_rng(0)
    references = ["".join(rng.choice(list("LBEGIHSTPX"), length)) for length in (300, 1, 40, 77)]
    probabilities = [
        rng.dirichlet(np.ones(len(get_alphabet(states))), len(chain)).astype(np.float32) for chain in references
    ]
    predictions = Predictions(probabilities, states, 1.0, 0)
    found = score_predictions(encode_references(references), predictions, num_states=9, bootstrap=20)
    assert list(found) == scorable_alphabets(states, 9)
    for name, scores in found.items():
        alphabet = get_alphabet(name)
        letters = [alphabet.decode(reduce_probabilities(chain, name, states).argmax(-1)) for chain in probabilities]
        assert scores == score(references, letters, name, bootstrap=20, per_chain=True)
        assert scores["sov_mode"] == "compatible"


def test_several_models_are_scored_as_an_ensemble(folder, tmp_path):
    torch.manual_seed(1)
    other = SecondaryStructureModel.from_backbone(folder / "backbone", top_blocks=1, head_channels=16)
    other.config.calibration_temperature = 3.0
    other.save_pretrained(tmp_path / "other")
    names = [str(folder / "model"), str(tmp_path / "other")]
    evaluate_saved(names, [str(folder / "test.txt")], EvaluationSettings(bootstrap=0), out=str(tmp_path / "out"))
    results = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert results["model"] == "model + other"
    ensemble = Ensemble.from_pretrained(names)
    tokenizer = ResidueTokenizer.from_pretrained(names[0])
    for sequence, probabilities in zip(
        SEQUENCES, predict(ensemble, tokenizer, SEQUENCES, quiet=True).probabilities, strict=True
    ):
        tokens = torch.from_numpy(tokenizer.encode(sequence))[None]
        with torch.no_grad():
            logits = ensemble(tokens).logits[0, tokenizer.residue_slice()]
        assert np.allclose(probabilities, (logits / 2).softmax(-1), atol=1e-5)  # the mean of 1 and 3


def test_majority_and_number_of_states():
    assert majority_accuracy(encode_references(["HHHX", "LE"]), "q9") == pytest.approx(3 / 5)
    assert num_states_of("casp12", []) == 9
    assert num_states_of("test2016", []) == 8
    assert (num_states_of("mine.txt", ["LLP"]), num_states_of("mine.txt", ["LLH"])) == (9, 8)


def test_corpora_together_have_nine_states_only_if_each_has(folder, tmp_path):
    eight = tmp_path / "eight.txt"
    eight.write_text(">c1\nMKV\nLHH\n")
    nine = str(folder / "test.txt")
    assert common_num_states(load_corpora([nine, nine])) == 9
    assert common_num_states(load_corpora([nine, str(eight)])) == 8


def test_a_saved_model_is_evaluated_to_table_json_and_figures(folder, tmp_path):
    table = evaluate_saved(
        [str(folder / "model")], [str(folder / "test.txt")], EvaluationSettings(bootstrap=10), out=str(tmp_path)
    )
    assert "not known" in table  # whether it was trained on these chains
    result = next(iter(json.loads((tmp_path / "metrics.json").read_text())["corpora"].values()))
    assert (result["num_chains"], result["num_residues"]) == (4, sum(map(len, SEQUENCES)))
    assert set(result["scores"]) == {"q9", "q8", "q3", "q3_lift_ss"}
    assert result["scores"]["q3"]["q3_low"] <= result["scores"]["q3"]["q3"] <= result["scores"]["q3"]["q3_high"]
    assert len(list((tmp_path / "figures").glob("*.png"))) == 4
    assert (tmp_path / "results.md").read_text() == table


@pytest.mark.process
@pytest.mark.parametrize(
    ("model", "corpus", "message"),
    [
        ("{folder}/model", "casp99", "error: unknown corpus 'casp99'. Did you mean casp1"),
        ("{folder}/nothing", "sample", "nothing"),
        ("{folder}/backbone", "sample", "backbone"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(folder, model, corpus, message):
    command = [sys.executable, RECIPE, model.format(folder=folder), "--corpora", corpus]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
