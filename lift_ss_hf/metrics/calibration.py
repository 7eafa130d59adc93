"""Calibration: how well confidence agrees with accuracy, and the temperature that makes them agree.

Needs numpy only, except that `fit_temperature` needs scipy.

Source: Guo et al. 2017, On Calibration of Modern Neural Networks, ICML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .states import temper_probabilities

NUM_BINS = 15  # Guo et al. 2017
ROUNDING = 1e-4  # probabilities summed in single precision may exceed 1 by this much
TEMPERATURES = (0.05, 20.0)  # the range searched
SMALLEST = 1e-12  # a probability below this counts as this, so that its logarithm is finite


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

    @property
    def error(self) -> float:
        """The expected calibration error: the mean gap between confidence and accuracy, by residues [fraction]."""
        filled = self.num_residues > 0
        gaps = np.abs(self.confidence[filled] - self.accuracy[filled])
        return float(np.sum(self.num_residues[filled] * gaps) / self.num_residues.sum())


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
    return calibration_bins(confidences, correct).error


def log_likelihood(probabilities: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Return the mean log probability of the reference states at a temperature.

    Args:
        probabilities: (residues, states) before calibration.
        labels: (residues,) reference labels, in the same alphabet.
        temperature: see `states.temper_probabilities`.

    Example:
        >>> round(log_likelihood(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1]), 1.0), 4)
        -1.204
    """
    tempered = temper_probabilities(probabilities, temperature)
    return float(np.log(np.maximum(tempered[np.arange(len(labels)), labels], SMALLEST)).mean())


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature that maximises the likelihood of the reference states.

    Args:
        probabilities: (residues, states) before calibration.
        labels: (residues,) reference labels, in the same alphabet.

    Returns:
        The temperature, from 0.05 to 20.

    Example: nine to one, but right three times out of four:

        >>> probabilities = np.array([[0.9, 0.1]] * 4)
        >>> temperature = fit_temperature(probabilities, np.array([0, 0, 0, 1]))
        >>> round(temperature, 3), temper_probabilities(probabilities, temperature)[0].round(3)
        (2.0, array([0.75, 0.25]))
    """
    from scipy.optimize import minimize_scalar  # here, since the calibration error is needed without scipy

    found = minimize_scalar(
        lambda log_temperature: -log_likelihood(probabilities, labels, np.exp(log_temperature)),
        bounds=np.log(TEMPERATURES),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))
