"""Claims: Holm's correction by hand, intervals that cover, and verdicts."""

import numpy as np
import pytest

from lift_ss_hf.metrics.claims import bootstrap_difference, combined_verdict, holm, seed_deviations, verdict


def test_holm_is_that_of_a_hand_computed_example():
    # sorted: 0.005 x 4, 0.011 x 3, 0.02 x 2, 0.04 x 1, each at least the one before
    assert holm([0.02, 0.005, 0.04, 0.011]) == pytest.approx([0.04, 0.02, 0.04, 0.033])
    # 0.03 x 2 = 0.06 is above 0.04 x 1, which becomes 0.06 too
    assert holm([0.03, 0.04]) == pytest.approx([0.06, 0.06])
    assert holm([0.6, 0.9, 0.7]) == [1.0, 1.0, 1.0]
    assert holm([]) == []


def runs(rng, accuracy, labelled, num_seeds=3, spread=0.0):
    """Correct residues of runs whose accuracy varies between seeds by `spread`."""
    means = accuracy + spread * rng.standard_normal((num_seeds, 1))
    return rng.binomial(labelled, np.clip(means, 0, 1) * np.ones(len(labelled)))


def test_the_difference_is_that_of_the_pooled_accuracies():
    labelled = np.array([10, 30])
    worse, better = np.array([[5, 15], [7, 15]]), np.array([[6, 18], [8, 20]])
    found = bootstrap_difference(worse, better, labelled, resamples=100)
    assert found.value == pytest.approx((24 + 28) / 80 - (20 + 22) / 80)
    assert found.low <= found.value <= found.high


def test_under_the_null_as_few_are_found_as_the_level_says():
    """With the spread between seeds from ten settings; from the two alone, 2 to 3 times as many at p < 0.01."""
    rng = np.random.default_rng(0)
    labelled = rng.integers(50, 300, size=80)
    covered, found, found_alone = 0, 0, 0
    for number in range(400):
        settings = [runs(rng, 0.70, labelled, spread=0.01) for _ in range(10)]
        pooled = seed_deviations([correct.sum(axis=1) / labelled.sum() for correct in settings])
        difference = bootstrap_difference(
            *settings[:2], labelled, deviations=(pooled, pooled), resamples=500, seed=number
        )
        covered += difference.low <= 0 <= difference.high
        found += difference.p_value < 0.01
        found_alone += bootstrap_difference(*settings[:2], labelled, resamples=500, seed=number).p_value < 0.01
    assert 370 <= covered <= 392  # of 400; 380 expected, a standard deviation of 4.4
    assert found <= 12
    assert found_alone > found


def test_seeds_widen_the_interval():
    rng = np.random.default_rng(1)
    labelled = np.full(100, 200)
    same = [runs(rng, accuracy, labelled) for accuracy in (0.7, 0.7)]
    shifted = [correct + np.array([[-6], [0], [6]]) for correct in same]
    narrow, wide = (bootstrap_difference(*pair, labelled, resamples=500) for pair in (same, shifted))
    assert narrow.value == pytest.approx(wide.value)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_the_p_value_is_against_the_threshold():
    rng = np.random.default_rng(2)
    labelled = np.full(200, 200)
    worse, better = (runs(rng, accuracy, labelled) for accuracy in (0.70, 0.71))
    assert bootstrap_difference(worse, better, labelled, 0.0, resamples=500).p_value < 0.01
    assert bootstrap_difference(worse, better, labelled, 0.01, resamples=500).p_value > 0.05
    assert bootstrap_difference(worse, better, labelled, 0.03, resamples=500).p_value < 0.01
    assert bootstrap_difference(worse, worse, labelled, 0.0, resamples=500).p_value > 0.5


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 5), r"the first setting has 1 run\. Train it with 2 seeds"), ((3, 4), r"array of \(3, 4\)\. Expected \(se")],
)
def test_runs_that_cannot_be_compared_are_an_error(shape, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_difference(np.ones(shape), np.ones((3, 5)), np.full(5, 10))


@pytest.mark.parametrize(
    ("difference", "threshold", "p_value", "expected"),
    [
        (0.003, 0.0, 0.049, "supported"),
        (0.003, 0.0, 0.05, "undecided"),
        (-0.003, 0.0, 0.01, "refuted"),
        (-0.001, -0.002, 0.01, "supported"),
        (0.001, 0.002, 0.01, "refuted"),
    ],
)
def test_a_verdict_needs_evidence_on_its_side_of_the_threshold(difference, threshold, p_value, expected):
    assert verdict(difference, threshold, p_value) == expected


def test_a_claim_is_supported_by_all_comparisons_and_refuted_by_one():
    assert combined_verdict(["supported", "supported"]) == "supported"
    assert combined_verdict(["supported", "undecided"]) == "undecided"
    assert combined_verdict(["supported", "refuted"]) == "refuted"
    assert combined_verdict([]) == "undecided"
