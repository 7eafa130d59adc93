"""Confidence intervals of scores, and a paired test of two predictors on the same chains.

Both resample chains, since the residues of a chain are not independent of each other while chains nearly are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .segments import CORRECT, LABELLED, NORM, ratios

CONFIDENCE = 0.95
# Random numbers drawn at once [elements]; bounds the memory for any number of chains.
DRAWN_AT_ONCE = 1 << 20


def _check(chains: np.ndarray, resamples: int, what: str) -> np.ndarray:
    """Return a (chains,) bool array, True for chains with labels.

    Raises:
        ValueError: if the number of resamples is invalid, or fewer than two chains have labels.
    """
    if not isinstance(resamples, (int, np.integer)) or isinstance(resamples, bool) or resamples < 1:
        raise ValueError(f"{what} is {resamples!r}. Expected a whole number of resamples, 1000 for instance.")
    labelled = chains[:, LABELLED] > 0
    if labelled.sum() < 2:
        raise ValueError(f"{what} resamples chains and needs at least 2 with labels, found {labelled.sum()}.")
    return labelled


def bootstrap_totals(chains: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw as many chains as there are, with replacement, and sum what is drawn.

    Args:
        chains: (chains, columns) numbers of each chain.
        resamples: how often to draw.
        rng: source of the draws.

    Returns:
        (resamples, columns) sums.
    """
    num_chains = len(chains)
    totals = np.empty((resamples, chains.shape[1]))
    for row in range(resamples):  # one by one, so that memory does not grow with the resamples
        drawn = np.bincount(rng.integers(num_chains, size=num_chains), minlength=num_chains)
        totals[row] = drawn @ chains
    return totals


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the bounds of the central CONFIDENCE of the values."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def chain_sums(scores: Mapping[str, Any], states: str) -> np.ndarray:
    """Return the sums of each chain from its accuracy, for scores that were read from a file.

    Args:
        scores: what `scoring.score` returned with `per_chain`.
        states: the alphabet that they were scored at.

    Returns:
        (chains, 5) as in `Tally.chains`, except for the sums of the segments, which the file does not have: they are
        zero, and scores of segments computed from them mean nothing.
    """
    sums = np.zeros((len(scores["chain_num_residues"]), 5))
    sums[:, LABELLED] = scores["chain_num_residues"]
    sums[:, CORRECT] = np.rint(np.nan_to_num(np.array(scores[f"chain_{states}"], dtype=float)) * sums[:, LABELLED])
    sums[:, NORM] = 1  # avoids 0 / 0 in scores that are not used
    return sums


def bootstrap_intervals(chains: np.ndarray, resamples: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Compute 95 % percentile intervals of the pooled scores.

    Args:
        chains: (chains, 5) sums of each chain, as in `Tally.chains`.
        resamples: number of sets of chains to draw.
        seed: seed of the draws; the same seed gives the same intervals.

    Returns:
        The low and high bound of accuracy, sov99 and sov_refine [fraction].

    Raises:
        ValueError: if resamples < 1, or fewer than two chains have labels.

    Source: Efron 1979, Ann Statist 7:1.
    """
    labelled = _check(chains, resamples, "bootstrap")
    totals = bootstrap_totals(chains[labelled], resamples, np.random.default_rng(seed))
    return {name: percentile_interval(values) for name, values in ratios(totals).items()}


def _swap_draws(num_chains: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield (rows, chains) blocks of 0 and 1 with `resamples` rows in total; 1 swaps the predictions of a chain."""
    rows_at_once = max(1, DRAWN_AT_ONCE // num_chains)
    for first in range(0, resamples, rows_at_once):
        rows = min(rows_at_once, resamples - first)
        yield rng.integers(2, size=(rows, num_chains), dtype=np.int8).astype(float)


def paired_test(chains_a: np.ndarray, chains_b: np.ndarray, resamples: int, seed: int = 0) -> dict[str, dict]:
    """Compare two predictors on the same chains.

    The two-sided p-value comes from a permutation (sign-flip) test: if neither predictor is better, the two
    predictions of each chain are exchangeable. p = (1 + permutations with at least the observed difference) /
    (1 + resamples). The interval of the difference is a percentile bootstrap that draws the same chains for both.

    Args:
        chains_a: (chains, 5) sums of each chain for the first predictor, as in `Tally.chains`.
        chains_b: (chains, 5) sums for the second predictor.
        resamples: number of permutations, and of bootstrap samples.
        seed: seed of both.

    Returns:
        `difference` (b - a), its 95 % interval `low` to `high`, and `p_value` for accuracy, sov99 and sov_refine.

    Raises:
        ValueError: if resamples < 1, or fewer than two chains have labels.

    Source: Phipson & Smyth 2010, Stat Appl Genet Mol Biol 9:39 (the added one).
    """
    labelled = _check(chains_a, resamples, "resamples")
    chains_a, chains_b = chains_a[labelled], chains_b[labelled]
    rng = np.random.default_rng(seed)
    sum_a, sum_b, gap = chains_a.sum(axis=0), chains_b.sum(axis=0), chains_b - chains_a
    observed = _differences(sum_a, sum_b)
    extreme = dict.fromkeys(observed, 0)
    for swapped in _swap_draws(len(gap), resamples, rng):
        moved = swapped @ gap
        for name, difference in _differences(sum_a + moved, sum_b - moved).items():
            # With the tolerance, a permutation that only reorders the sums counts as a tie.
            extreme[name] += int((np.abs(difference) >= abs(observed[name]) - 1e-12).sum())
    drawn = bootstrap_totals(np.hstack([chains_a, chains_b]), resamples, rng)
    drawn_a, drawn_b = np.split(drawn, 2, axis=1)
    intervals = {name: percentile_interval(values) for name, values in _differences(drawn_a, drawn_b).items()}
    return {
        name: {
            "difference": float(difference),
            "low": intervals[name][0],
            "high": intervals[name][1],
            "p_value": (1 + extreme[name]) / (1 + resamples),
        }
        for name, difference in observed.items()
    }


def _differences(totals_a: np.ndarray, totals_b: np.ndarray) -> dict[str, np.ndarray]:
    """Return b - a for each pooled score."""
    scores_a, scores_b = ratios(totals_a), ratios(totals_b)
    return {name: scores_b[name] - scores_a[name] for name in scores_a}
