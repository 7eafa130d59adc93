"""Calibration: the temperature that made the logits is found again, from nine states or eight, and is kept."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lift_ss_hf.evaluation.calibration import calibrate, calibrate_saved, store_temperature
from lift_ss_hf.evaluation.predictions import Predictions
from lift_ss_hf.metrics.labels import encode_references
from lift_ss_hf.models.states import get_alphabet
from lift_ss_hf.reports.provenance import save_training_chains


def overconfident(temperature, states="q9", alphabet="q9", seed=0):
    """Predictions whose logits are `temperature` times what the states were drawn from, and those states."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (40, 200, len(get_alphabet(states))))
    true = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = (true.cumsum(-1) < rng.random((40, 200, 1))).sum(-1)
    shown = np.exp(temperature * logits)
    probabilities = list((shown / shown.sum(-1, keepdims=True)).astype(np.float32))
    references = [get_alphabet(alphabet).reduce(get_alphabet(states).decode(row)) for row in labels]
    return Predictions(probabilities, states, seconds=1.0, windowed=0), encode_references(references)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_and_confidences_become_right(temperature):
    result = calibrate(*overconfident(temperature), num_states=9)
    assert result["temperature"] == pytest.approx(temperature, rel=0.06)
    assert result["error_after"] < 0.02
    assert result["num_residues"] == 8000
    if temperature != 1.0:
        assert result["error_after"] < 0.5 * result["error_before"]


def test_a_model_of_nine_states_is_calibrated_on_a_corpus_of_eight():
    result = calibrate(*overconfident(2.0, alphabet="q8"), num_states=8)
    assert result["temperature"] == pytest.approx(2.0, rel=0.08)


def test_a_calibrated_model_is_calibrated_to_the_same_temperature():
    predictions, references = overconfident(2.0)
    first = calibrate(predictions, references, 9)
    again = calibrate(replace(predictions, temperature=first["temperature"]), references, 9)
    assert again["temperature"] == first["temperature"]
    assert again["error_before"] == again["error_after"] == first["error_after"] < first["error_before"]


def test_without_states_there_is_nothing_to_fit():
    predictions, references = overconfident(1.0)
    with pytest.raises(ValueError, match="no residue with a state"):
        calibrate(predictions, encode_references("X" * len(labels) for labels in references), 9)


def test_training_chains_are_refused_before_the_model_is_loaded(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_training_chains(tmp_path, ["MKV"])
    (tmp_path / "chains.txt").write_text(">a\nMKV\nHHH\n>b\nMKV\nHHL\n")
    with pytest.raises(ValueError, match=r"chains\.txt: the model was trained on all 2 chains of the split validation"):
        calibrate_saved(str(tmp_path), str(tmp_path / "chains.txt"))


def test_only_the_temperature_of_a_saved_model_changes(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", "calibration_temperature": 1.0}))
    store_temperature(tmp_path, 1.5)
    assert json.loads((tmp_path / "config.json").read_text()) == {"model_type": "x", "calibration_temperature": 1.5}
