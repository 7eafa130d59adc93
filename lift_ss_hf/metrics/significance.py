"""How sure a score is: intervals by resampling chains, and a paired test of two predictors on the same chains.

Residues of one chain are not independent, chains nearly are: so chains are what is resampled.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .segments import LABELLED, ratios

CONFIDENCE = 0.95
# Random numbers drawn at once [elements]: bounds the memory, whatever the number of chains.
DRAWN_AT_ONCE = 1 << 20


def _check(chains: np.ndarray, resamples: int, what: str) -> np.ndarray:
    """Which chains have labels.

    Raises:
        ValueError: for a bad number of resamples, or fewer than two labelled chains.
    """
    if not isinstance(resamples, (int, np.integer)) or isinstance(resamples, bool) or resamples < 1:
        raise ValueError(f"{what} is {resamples!r}. Expected a whole number of resamples, 1000 for instance.")
    labelled = chains[:, LABELLED] > 0
    if labelled.sum() < 2:
        raise ValueError(f"{what} resamples chains and needs at least 2 with labels, found {labelled.sum()}.")
    return labelled


def _bootstrap_totals(chains: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(resamples, columns) sums over as many chains as there are, drawn with replacement."""
    num_chains = len(chains)
    totals = np.empty((resamples, chains.shape[1]))
    for row in range(resamples):  # one at a time: the memory stays that of the chains
        drawn = np.bincount(rng.integers(num_chains, size=num_chains), minlength=num_chains)
        totals[row] = drawn @ chains
    return totals


def _interval(values: np.ndarray) -> tuple[float, float]:
    """The central CONFIDENCE of these values."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_intervals(chains: np.ndarray, resamples: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the pooled scores.

    Args:
        chains: (chains, 5) sums of each chain, as in `Tally`.
        resamples: how many sets of chains to draw.
        seed: of the draws; the same seed gives the same intervals.

    Returns:
        low and high of accuracy, sov99 and sov_refine [fraction].

    Raises:
        ValueError: for resamples < 1, or fewer than two chains with labels.

    Source: Efron 1979, Ann Statist 7:1.
    """
    labelled = _check(chains, resamples, "bootstrap")
    totals = _bootstrap_totals(chains[labelled], resamples, np.random.default_rng(seed))
    return {name: _interval(values) for name, values in ratios(totals).items()}


def _swap_draws(num_chains: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """(rows, chains) blocks of 0 and 1, `resamples` rows in all: 1 where a chain's two predictions swap."""
    rows_at_once = max(1, DRAWN_AT_ONCE // num_chains)
    for first in range(0, resamples, rows_at_once):
        rows = min(rows_at_once, resamples - first)
        yield rng.integers(2, size=(rows, num_chains), dtype=np.int8).astype(float)


def paired_test(chains_a: np.ndarray, chains_b: np.ndarray, resamples: int, seed: int = 0) -> dict[str, dict]:
    """Compare two predictors on the same chains.

    The p-value is two-sided and comes from a permutation (sign-flip) test: where neither is better, each chain's two
    predictions may be swapped; p = (1 + swaps with at least the seen difference) / (1 + resamples). The interval of
    the difference is a percentile bootstrap over chains, drawn together for both.

    Args:
        chains_a: (chains, 5) sums of each chain with the first predictor, as in `Tally`.
        chains_b: (chains, 5) with the second.
        resamples: of the permutation, and of the bootstrap.
        seed: of both.

    Returns:
        for accuracy, sov99 and sov_refine: difference (b - a), low, high and p_value.

    Raises:
        ValueError: for resamples < 1, or fewer than two chains with labels.

    Source: Phipson & Smyth 2010, Stat Appl Genet Mol Biol 9:39 (the added one).
    """
    labelled = _check(chains_a, resamples, "resamples")
    chains_a, chains_b = chains_a[labelled], chains_b[labelled]
    rng = np.random.default_rng(seed)
    sum_a, sum_b, gap = chains_a.sum(axis=0), chains_b.sum(axis=0), chains_b - chains_a
    seen = _differences(sum_a, sum_b)
    extreme = dict.fromkeys(seen, 0)
    for swapped in _swap_draws(len(gap), resamples, rng):
        moved = swapped @ gap
        for name, difference in _differences(sum_a + moved, sum_b - moved).items():
            # The tolerance lets a permutation that only reorders the sums count as the tie it is.
            extreme[name] += int((np.abs(difference) >= abs(seen[name]) - 1e-12).sum())
    drawn = _bootstrap_totals(np.hstack([chains_a, chains_b]), resamples, rng)
    drawn_a, drawn_b = np.split(drawn, 2, axis=1)
    intervals = {name: _interval(values) for name, values in _differences(drawn_a, drawn_b).items()}
    return {
        name: {
            "difference": float(difference),
            "low": intervals[name][0],
            "high": intervals[name][1],
            "p_value": (1 + extreme[name]) / (1 + resamples),
        }
        for name, difference in seen.items()
    }


def _differences(totals_a: np.ndarray, totals_b: np.ndarray) -> dict[str, np.ndarray]:
    """B less a, of each pooled score."""
    scores_a, scores_b = ratios(totals_a), ratios(totals_b)
    return {name: scores_b[name] - scores_a[name] for name in scores_a}
