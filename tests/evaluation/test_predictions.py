"""A chain is predicted in a batch as if alone; predictions are scored at every alphabet that is meaningful."""

import numpy as np
import pytest
import torch
from tiny_models import save_tiny_backbone

from lift_ss_hf.batches.cached_chains import PrefixCacheSettings
from lift_ss_hf.evaluation.predictions import (
    Predictions,
    majority_accuracy,
    predict,
    predict_corpora,
    scorable_alphabets,
    score_predictions,
)
from lift_ss_hf.metrics.labels import encode_references
from lift_ss_hf.metrics.scoring import score
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.states import get_alphabet, reduce_probabilities
from lift_ss_hf.models.tokenization import ResidueTokenizer

SEQUENCES = ["MKVLAAGIVGLLLAQWERTY", "ACD", "GGGGSSSSPPPPTTTTNNNNQQQQHHHH", "MKV"]


def test_a_chain_is_predicted_as_if_alone_and_in_its_place(tmp_path):
    save_tiny_backbone(tmp_path, "esm")
    torch.manual_seed(0)
    model = SecondaryStructureModel.from_backbone(tmp_path, top_blocks=2, head_channels=16, max_residues=16).train()
    tokenizer = ResidueTokenizer.from_pretrained(tmp_path)
    together = predict(model, tokenizer, SEQUENCES, max_tokens=40, quiet=True)
    assert model.training  # as it was
    assert together.windowed == 2  # of more than 16 residues
    for sequence, probabilities in zip(SEQUENCES, together.probabilities, strict=True):
        alone = predict(model, tokenizer, [sequence], quiet=True).probabilities[0]
        assert probabilities.shape == (len(sequence), 9)
        assert np.allclose(probabilities, alone, atol=1e-5)
        assert np.allclose(probabilities.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("esm", {"adapter": None, "block_mix": "mean"}),
        ("esm", {"adapter": "lora", "top_blocks": 2}),
        ("esm", {"adapter": "output_bottleneck", "top_blocks": 2}),  # acts on a frozen block's output
        ("t5", {"adapter": "output_bottleneck", "top_blocks": 1, "adapter_options": {"use_gating": True}}),
        ("esm", {"adapter": "prefix_tuning", "top_blocks": 1, "block_mix": "concat"}),
        ("esm", {"adapter": "noreft", "top_blocks": 1}),  # in batches
        ("t5", {"adapter": "bottleneck", "top_blocks": 2}),
        ("bert", {"adapter": None}),
    ],
)
def test_predictions_from_the_prefix_cache_are_those_without(tmp_path, monkeypatch, family, options):
    save_tiny_backbone(tmp_path / "backbone", family)
    torch.manual_seed(0)
    model = SecondaryStructureModel.from_backbone(tmp_path / "backbone", head_channels=16, max_residues=16, **options)
    tokenizer = ResidueTokenizer.from_pretrained(tmp_path / "backbone")
    expected = predict(model, tokenizer, SEQUENCES, quiet=True)
    cache = PrefixCacheSettings(tmp_path / "cache", quiet=True)
    predict(model, tokenizer, SEQUENCES, quiet=True, cache=cache)
    row, ran = type(model.family.make_row(model.backbone, [1])), []
    run_block = row.run_block
    monkeypatch.setattr(
        row, "run_block", lambda self, block, hidden: ran.append(block) or run_block(self, block, hidden)
    )
    found = predict(model, tokenizer, SEQUENCES, max_tokens=40, quiet=True, cache=cache)
    cached = [*model.family.blocks(model.backbone)][: model.num_frozen_blocks]
    assert cached and not any(block in cached for block in ran)
    assert found.windowed == expected.windowed == 2
    for chain, other in zip(found.probabilities, expected.probabilities, strict=True):
        assert np.allclose(chain, other, atol=1e-2)  # rounding to 16 bits


def test_a_chain_of_several_corpora_is_predicted_once(tmp_path, monkeypatch):
    model, tokenizer = (
        SecondaryStructureModel.from_backbone(
            save_tiny_backbone(tmp_path, "esm"), top_blocks=2, head_channels=16, max_residues=16
        ),
        ResidueTokenizer.from_pretrained(tmp_path),
    )
    corpora = {"a": SEQUENCES[:3], "b": [SEQUENCES[3], SEQUENCES[0], SEQUENCES[0]]}
    encoded = []
    encode = ResidueTokenizer.encode_sequence
    monkeypatch.setattr(
        ResidueTokenizer, "encode_sequence", lambda self, sequence: encoded.append(sequence) or encode(self, sequence)
    )
    found = predict_corpora(model, tokenizer, corpora)
    assert encoded == SEQUENCES
    assert {name: predictions.windowed for name, predictions in found.items()} == {"a": 2, "b": 2}
    for name, sequences in corpora.items():
        expected = predict(model, tokenizer, sequences, quiet=True)
        for chain, other in zip(found[name].probabilities, expected.probabilities, strict=True):
            assert np.allclose(chain, other, atol=1e-5)
    assert predict_corpora(model, tokenizer, {}) == {}


@pytest.mark.parametrize(
    ("states", "num_states", "alphabets"),
    [
        ("q9", 9, ["q9", "q8", "q3", "q3_lift_ss"]),
        ("q9", 8, ["q8", "q3", "q3_lift_ss"]),  # its L is not the nine-state L
        ("q8", 9, ["q8", "q3", "q3_lift_ss"]),
        ("q3", 9, ["q3"]),
    ],
)
def test_a_model_is_scored_at_the_meaningful_alphabets(states, num_states, alphabets):
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
        assert scores == score(references=references, predictions=letters, states=name, bootstrap=20, per_chain=True)
        assert scores["sov_mode"] == "compatible"


def test_the_majority_accuracy_leaves_out_unresolved_residues():
    assert majority_accuracy(encode_references(["HHHX", "LE"]), "q9") == pytest.approx(3 / 5)
