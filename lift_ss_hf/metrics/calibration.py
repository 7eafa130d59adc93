"""Calibration: how well the confidence of predictions agrees with their accuracy. Needs numpy only.

Source: Guo et al. 2017, On Calibration of Modern Neural Networks, ICML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NUM_BINS = 15  # Guo et al. 2017
ROUNDING = 1e-4  # probabilities summed in single precision may exceed 1 by this much


class CalibrationBins(NamedTuple):
    """Residues binned by the confidence of their prediction, in bins of equal width from 0 to 1.

    Attributes:
        num_residues: (NUM_BINS,) residues in each bin.
        confidence: (NUM_BINS,) mean confidence [fraction]; nan in an empty bin.
        accuracy: (NUM_BINS,) share of correct predictions [fraction]; nan in an empty bin.
    """

    num_residues: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def calibration_bins(
    confidences: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray
) -> CalibrationBins:
    """Bin residues by the confidence of their prediction.

    Args:
        confidences: probability of the predicted state of each residue [fraction].
        correct: for each residue, True if the predicted state is the reference state.

    Raises:
        ValueError: if there are no residues, the lengths differ, or a confidence is not a fraction.
    """
    if len(confidences) != len(correct) or not len(correct):
        raise ValueError(
            f"{len(confidences)} confidences but {len(correct)} outcomes. Give one of each for every residue, and at "
            "least one residue."
        )
    values = np.asarray(confidences, dtype=float)
    wrong = values[(values < -ROUNDING) | (values > 1 + ROUNDING)]
    if wrong.size:
        raise ValueError(f"confidence {wrong[0]:g} is not a fraction. Expected 0 to 1; divide percentages by 100.")
    index = np.clip(np.ceil(values * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    num_residues = np.bincount(index, minlength=NUM_BINS).astype(float)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(index, values, NUM_BINS) / num_residues
        accuracy = np.bincount(index, np.asarray(correct, dtype=float), NUM_BINS) / num_residues
    return CalibrationBins(num_residues, confidence, accuracy)


def expected_calibration_error(
    confidences: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray
) -> float:
    """Return the mean gap between confidence and accuracy over 15 bins, weighted by their residues [fraction].

    Args:
        confidences: probability of the predicted state of each residue [fraction].
        correct: for each residue, True if the predicted state is the reference state.

    Raises:
        ValueError: if there are no residues, the lengths differ, or a confidence is not a fraction.

    Example:
        >>> round(expected_calibration_error([0.9, 0.9, 0.5, 0.5], [True, False, True, False]), 3)
        0.2
    """
    num_residues, confidence, accuracy = calibration_bins(confidences, correct)
    filled = num_residues > 0
    gaps = np.abs(confidence[filled] - accuracy[filled])
    return float(np.sum(num_residues[filled] * gaps) / num_residues.sum())
