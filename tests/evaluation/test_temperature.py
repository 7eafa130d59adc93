"""A temperature changes confidences and never a state: in evaluation, prediction, the pipeline and the the log."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import save_tiny_backbone

from lift_ss_hf.evaluation.predictions import predict, score_predictions
from lift_ss_hf.metrics.labels import encode_references
from lift_ss_hf.metrics.trainer_metrics import compute_metrics
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.pipeline import SecondaryStructurePipeline
from lift_ss_hf.models.states import ALPHABETS, Q9
from lift_ss_hf.models.tokenization import ResidueTokenizer
from lift_ss_hf.prediction.ensemble import Ensemble
from lift_ss_hf.prediction.predictor import Predictor
from lift_ss_hf.prediction.records import Record, split_into_parts
from lift_ss_hf.prediction.running import predict_part

RANDOM = np.random.default_rng(0)
SEQUENCES = ["".join(RANDOM.choice(list("ACDEFGHIKLMNPQRSTVWY"), length)) for length in (150, 90)]
REFERENCES = ["".join(RANDOM.choice(list(Q9.letters), len(sequence))) for sequence in SEQUENCES]
TEMPERATURES = [0.05, 0.5, 1.0, 2.0, 100.0]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_tiny_backbone(tmp_path_factory.mktemp("temperature") / "backbone", "esm")


def model_of(backbone, seed=0, **options):
    """A model whose logits are far apart and near each other."""
    torch.manual_seed(seed)
    model = SecondaryStructureModel.from_backbone(backbone, head_channels=16, head_dropout=0.0, **options)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(1.5)
    return model.eval()


def with_temperature(model, temperature):
    for index, member in enumerate(model.models if isinstance(model, Ensemble) else [model]):
        member.config.calibration_temperature = temperature * 0.8**index
    return model


def predicted(model, tokenizer, alphabet):
    """States and confidences by the way of `lift-ss predict`."""
    records = [Record(number, f"c{number}", sequence) for number, sequence in enumerate(SEQUENCES, start=1)]
    (part,) = split_into_parts(records, 10_000, 10, skip_bad=False)
    chains, _ = predict_part(Predictor(model, tokenizer), part, alphabet)
    for chain in chains:
        np.testing.assert_allclose(chain.probabilities.sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(chain.confidence, chain.probabilities.max(1), atol=1e-6)
    return [chain.states for chain in chains], np.concatenate([chain.confidence for chain in chains])


def evaluated(model, tokenizer, alphabet):
    """States and confidences by the way of an evaluation."""
    predictions = predict(model, tokenizer, SEQUENCES, quiet=True)
    states = [ALPHABETS[alphabet].decode(labels) for labels in predictions.labels(alphabet)]
    return states, np.concatenate([chain.max(1) for chain in predictions.calibrated(alphabet)])


def piped(model, tokenizer, alphabet):
    """States and confidences by the way of the pipeline."""
    found = SecondaryStructurePipeline(model, tokenizer)(SEQUENCES, states=alphabet)
    return [chain["states"] for chain in found], np.concatenate([chain["confidence"] for chain in found])


MODELS = {
    "model": lambda backbone: model_of(backbone),
    "similarities": lambda backbone: Ensemble([model_of(backbone), model_of(backbone, seed=1)]),
    "log probabilities": lambda backbone: Ensemble([model_of(backbone), model_of(backbone, 1, loss="cross_entropy")]),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_no_temperature_changes_a_state(backbone, kind, alphabet):
    model, tokenizer = MODELS[kind](backbone).eval(), ResidueTokenizer.from_pretrained(backbone)
    ways = [predicted, evaluated] + ([piped] if kind == "model" else [])
    states, _ = predicted(with_temperature(model, 1.0), tokenizer, alphabet)
    confidences = []
    for temperature in TEMPERATURES:
        with_temperature(model, temperature)
        found = [way(model, tokenizer, alphabet) for way in ways]
        assert [found_states for found_states, _ in found] == [states] * len(ways)
        for _, values in found:
            np.testing.assert_allclose(values, found[0][1], atol=1e-4)  # rounding in a row of 1e-6, times 1 / 0.05
        confidences.append(found[0][1])
    for colder, hotter in itertools.pairwise(confidences):
        assert (hotter <= colder + 1e-6).all()
        assert (colder - hotter).mean() > 0.02


def test_the_log_of_the_trainer_has_the_accuracies_of_an_evaluation(backbone):
    model, tokenizer = model_of(backbone), ResidueTokenizer.from_pretrained(backbone)
    with torch.no_grad():
        logits = [
            model(torch.from_numpy(tokenizer.encode_sequence(chain))[None]).logits[0, tokenizer.residue_slice()]
            for chain in SEQUENCES
        ]
    labels = np.concatenate([Q9.encode(chain) for chain in REFERENCES])
    gathered = SimpleNamespace(label_ids=labels[None], predictions=torch.cat(logits)[None].numpy())
    logged = compute_metrics("q9", also=["q8", "q3", "q3_lift_ss"])(gathered)
    predictions = predict(with_temperature(model, 2.0), tokenizer, SEQUENCES, quiet=True)
    scores = score_predictions(encode_references(REFERENCES), predictions, num_states=9)
    assert {name: scores[name][name] for name in ALPHABETS} == pytest.approx({name: logged[name] for name in ALPHABETS})
