"""Decide a claim about two settings from their runs: a bootstrap over seeds and chains, Holm's correction, a verdict.

A claim says that the accuracy of one setting exceeds that of another by more than a threshold, in each of one or more
comparisons. `supported` and `refuted` both need evidence; everything else is `undecided`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .significance import bootstrap_totals, percentile_interval

SUPPORTED, REFUTED, UNDECIDED = "supported", "refuted", "undecided"
ALPHA = 0.05  # of all comparisons of a claim together
MIN_SEEDS = 2  # one run says nothing of the spread between seeds


@dataclass(frozen=True)
class Difference:
    """The difference of two accuracies, and how certain it is.

    Attributes:
        value: second minus first accuracy, each the mean over its seeds [fraction].
        low: lower end of the 95 % interval [fraction].
        high: its upper end [fraction].
        p_value: two-sided, of the hypothesis that the difference is the threshold.
    """

    value: float
    low: float
    high: float
    p_value: float


def seed_deviations(settings: Sequence[Sequence[float]]) -> np.ndarray:
    """Return how far runs are from the mean of their setting, over several settings.

    Two or three seeds say little of the spread between seeds, several settings together say more; this takes the spread
    to be the same in all of them. Deviations from the mean of n runs are smaller than those from the mean of all seeds,
    by a factor of (n - 1) / n in variance; they are enlarged by sqrt(n / (n - 1)) to make up for it.

    Args:
        settings: of each setting the accuracies of its runs [fraction]; settings with one run are left out.

    Returns:
        (runs,) deviations in accuracy [fraction].

    Example:
        >>> seed_deviations([[0.75, 0.77], [0.75, 0.76], [0.7]]).round(4).tolist()
        [-0.0141, 0.0141, -0.0071, 0.0071]
    """
    deviations = [
        np.sqrt(number / (number - 1)) * (np.asarray(accuracies) - np.mean(accuracies))
        for accuracies in settings
        if (number := len(accuracies)) >= MIN_SEEDS
    ]
    return np.concatenate([np.zeros(0), *deviations])


def bootstrap_difference(
    correct_a: np.ndarray,
    correct_b: np.ndarray,
    labelled: np.ndarray,
    threshold: float = 0.0,
    *,
    deviations: tuple[np.ndarray, np.ndarray] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Compare two settings, each trained with several seeds, on the same chains.

    Each resample draws as many chains as there are, with replacement and the same for both settings, and for each
    setting as many deviations between seeds as it has runs. The p-value is twice the smaller share of resamples on
    either side of the threshold, with one added to both counts.

    Args:
        correct_a: (seeds, chains) correct residues of the first setting's runs.
        correct_b: (seeds, chains) those of the second setting's; the number of seeds may differ.
        labelled: (chains,) scored residues.
        threshold: the difference to test against [fraction].
        deviations: for each setting the (runs,) of `seed_deviations`, of all settings with the same spread between
            seeds; by default of these two, with which intervals of three seeds are too narrow.
        resamples: number of resamples.
        seed: seed of the resamples.

    Raises:
        ValueError: if the shapes do not fit, or a setting has fewer than two seeds.

    Source: Davison & Hinkley 1997, Bootstrap Methods and their Application, sections 2.3 and 3.8.

    Example:
        >>> correct = np.array([[80, 70, 90, 60], [82, 71, 88, 61]])
        >>> found = bootstrap_difference(correct, correct + 5, np.full(4, 100), resamples=200)
        >>> round(found.value, 4), found.low > 0, found.p_value < 0.05
        (0.05, True, True)
    """
    for name, correct in (("first", correct_a), ("second", correct_b)):
        if correct.ndim != 2 or correct.shape[1] != len(labelled):
            raise ValueError(
                f"the {name} setting has an array of {correct.shape}. Expected (seeds, {len(labelled)}): one row for "
                "each seed, and in it the correct residues of each chain."
            )
        if len(correct) < MIN_SEEDS:
            raise ValueError(f"the {name} setting has {len(correct)} run. Train it with {MIN_SEEDS} seeds or more.")
    if deviations is None:
        deviations = (seed_deviations([_accuracies(correct, labelled) for correct in (correct_a, correct_b)]),) * 2
    gained = correct_b.mean(axis=0) - correct_a.mean(axis=0)  # (chains,) residues
    rng = np.random.default_rng(seed)
    drawn_gains, drawn_labelled = bootstrap_totals(np.stack([gained, labelled], axis=1), resamples, rng).T
    drawn = drawn_gains / np.maximum(drawn_labelled, 1)
    for correct, around, sign in zip((correct_a, correct_b), deviations, (-1, 1), strict=True):
        drawn += sign * rng.choice(around, (resamples, len(correct))).mean(axis=1)
    low, high = percentile_interval(drawn)
    below, above = (drawn <= threshold).sum(), (drawn >= threshold).sum()
    p_value = min(1.0, 2 * (1 + min(below, above)) / (1 + resamples))
    return Difference(float(gained.sum() / labelled.sum()), low, high, float(p_value))


def _accuracies(correct: np.ndarray, labelled: np.ndarray) -> list[float]:
    """Return the pooled accuracy of each seed [fraction]."""
    return (correct.sum(axis=1) / labelled.sum()).tolist()


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for being several, so that the chance of any false finding stays below the level.

    Returns:
        The adjusted p-values, in the order of the given ones; at most 1.

    Source: Holm 1979, Scand J Statist 6:65.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(difference: float, threshold: float, adjusted_p: float) -> str:
    """Say whether a difference is above a threshold: `supported`, `refuted`, or `undecided` if p is 0.05 or more.

    Example:
        >>> verdict(0.004, 0.0, 0.01), verdict(0.001, 0.002, 0.01), verdict(0.004, 0.0, 0.2)
        ('supported', 'refuted', 'undecided')
    """
    if adjusted_p >= ALPHA:
        return UNDECIDED
    return SUPPORTED if difference > threshold else REFUTED


def combined_verdict(verdicts: Sequence[str]) -> str:
    """Return the verdict of a claim about all of its comparisons: one that is refuted refutes it.

    Example:
        >>> combined_verdict(["supported", "undecided"]), combined_verdict(["supported", "refuted", "undecided"])
        ('undecided', 'refuted')
    """
    if REFUTED in verdicts:
        return REFUTED
    return SUPPORTED if verdicts and set(verdicts) == {SUPPORTED} else UNDECIDED
