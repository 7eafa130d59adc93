"""The expected calibration error is the gap between confidence and accuracy."""

import numpy as np
import pytest

from lift_ss_hf.metrics.calibration import NUM_BINS, calibration_bins, expected_calibration_error


def test_the_error_is_the_gap_between_confidence_and_accuracy():
    confidences = np.array([0.9] * 10 + [0.5] * 10, dtype=np.float32)
    correct = [True] * 7 + [False] * 3 + [True] * 5 + [False] * 5
    assert expected_calibration_error(confidences, correct) == pytest.approx(0.1)  # half of 0.9 - 0.7


def test_a_bin_includes_its_upper_edge_and_the_lowest_includes_zero():
    num_residues, confidence, accuracy = calibration_bins([0.0, 1 / NUM_BINS, 0.0667, 1.0], [True, True, False, True])
    assert list(num_residues[[0, 1, -1]]) == [2, 1, 1]
    assert num_residues.sum() == 4
    assert (accuracy[0], accuracy[1], accuracy[-1]) == (1, 0, 1)
    assert np.isnan(confidence[5])
    assert np.isnan(accuracy[5])


def test_a_confidence_rounded_to_more_than_one_counts_as_one():
    assert expected_calibration_error([np.float32(1.0000001), 0.0], [True, False]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("confidences", "correct"), [([], []), ([0.5], []), ([0.5], [True, True])])
def test_confidences_and_outcomes_come_in_pairs(confidences, correct):
    with pytest.raises(ValueError, match=r"\d confidences but \d outcomes\. Give one of each for every residue"):
        calibration_bins(confidences, correct)


@pytest.mark.parametrize("wrong", [77.3, -0.1])
def test_a_confidence_is_a_fraction(wrong):
    with pytest.raises(ValueError, match=rf"confidence {wrong:g} is not a fraction\. Expected 0 to 1; divide"):
        calibration_bins([0.5, wrong], [True, True])
