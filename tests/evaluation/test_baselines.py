"""The baseline of amino acids: the state that each has most often in training."""

import pytest

from lift_ss_hf.evaluation.baselines import ResidueBaseline
from lift_ss_hf.evaluation.predictions import majority_accuracy
from lift_ss_hf.metrics.labels import encode_references


def test_each_amino_acid_gets_its_most_frequent_state_of_the_alphabet_asked_for():
    # A: H 3, G 2, E 4: E of nine states, but helix of three
    baseline = ResidueBaseline.of(["AAAAAAAAA", "VVX"], encode_references(["HHHGGEEEE", "EEX"]))
    tests = ["AV", "AA"]
    references = encode_references(["HE", "EX"])
    assert baseline.accuracy(tests, references, "q9") == pytest.approx(2 / 3)
    assert baseline.accuracy(tests, references, "q3") == pytest.approx(2 / 3)
    assert baseline.accuracy(["A"], encode_references(["E"]), "q9") == 1
    assert baseline.accuracy(["A"], encode_references(["E"]), "q3") == 0


def test_an_amino_acid_not_seen_gets_the_most_frequent_state_of_all():
    baseline = ResidueBaseline.of(["AAAV"], encode_references(["HHHE"]))
    assert baseline.accuracy(["W"], encode_references(["H"]), "q9") == 1


def test_states_that_do_not_depend_on_the_residue_give_the_majority():
    references = encode_references(["HHEH", "HEHH"])
    baseline = ResidueBaseline.of(["AAAA", "AAAA"], references)
    assert baseline.accuracy(["AAAA", "AAAA"], references, "q3") == majority_accuracy(references, "q3")


def test_no_residue_with_a_state_is_no_accuracy():
    baseline = ResidueBaseline.of(["A"], encode_references(["H"]))
    assert baseline.accuracy(["A"], encode_references(["X"]), "q3") == 0
