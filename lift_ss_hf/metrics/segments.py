"""Segment overlap (SOV'99, SOV_refine) and confusion of states from run lengths, in linear time with numpy only.

A maximal stretch on which neither the reference nor the prediction changes its state is the overlap of exactly one
reference segment with one predicted segment. Cutting the chains wherever either changes therefore gives every
overlapping pair once, and all scores are sums over these overlaps.

Sources: Zemla et al. 1999, Proteins 34:220 (SOV'99); Liu & Wang 2018, Source Code Biol Med 13:1 (SOV_refine).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# The columns of `Tally.chains`: sums that add up over chains, and whose ratios are the scores.
CORRECT, LABELLED, SOV99, SOV_REFINE, NORM = range(5)
RATIOS = {"accuracy": (CORRECT, LABELLED), "sov99": (SOV99, NORM), "sov_refine": (SOV_REFINE, NORM)}


@dataclass(frozen=True)
class Tally:
    """Counts and sums over chains, from which all scores are computed.

    Attributes:
        confusion: (S, S) int64 counts, reference state by predicted state, without unresolved residues [residues].
        sov: (3, S) numerators of SOV'99 and SOV_refine, and the normalisation N, by state [residues].
        chains: (chains, 5) the columns CORRECT, LABELLED, SOV99, SOV_REFINE, NORM of each chain [residues].
    """

    confusion: np.ndarray
    sov: np.ndarray
    chains: np.ndarray

    @classmethod
    def pool(cls, tallies: list[Tally]) -> Tally:
        """Return the tally of all chains of several tallies, in their order."""
        return cls(
            np.sum([tally.confusion for tally in tallies], axis=0),
            np.sum([tally.sov for tally in tallies], axis=0),
            np.concatenate([tally.chains for tally in tallies]),
        )


def ratios(totals: np.ndarray) -> dict[str, np.ndarray]:
    """Compute scores from sums of the columns of `Tally.chains`.

    Args:
        totals: (..., 5) sums.

    Returns:
        accuracy, sov99 and sov_refine, each of shape (...) [fraction]; NaN where there is nothing to score.
    """
    with np.errstate(invalid="ignore"):
        return {name: totals[..., top] / totals[..., bottom] for name, (top, bottom) in RATIOS.items()}


@dataclass(frozen=True)
class _Stretches:
    """Stretches of residues with one state: their chains, states and lengths, each of shape (stretches,)."""

    chain: np.ndarray
    state: np.ndarray
    length: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> _Stretches:
        """Select stretches by index (a mask would be searched three times)."""
        return _Stretches(self.chain[chosen], self.state[chosen], self.length[chosen])


@dataclass(frozen=True)
class _Overlaps:
    """Overlaps of reference segments with predicted segments of any state.

    Attributes:
        stretches: the overlaps, with the state of the reference; their length is minov.
        predicted_state: (overlaps,) predicted states.
        matched: indices of the overlaps whose two segments have the same state.
        segment: (overlaps,) index of the reference segment.
        segments: the reference segments.
        predicted_segment: (overlaps,) index of the predicted segment.
        predicted_lengths: (predicted segments,) lengths.
    """

    stretches: _Stretches
    predicted_state: np.ndarray
    matched: np.ndarray
    segment: np.ndarray
    segments: _Stretches
    predicted_segment: np.ndarray
    predicted_lengths: np.ndarray


def tally(reference: np.ndarray, prediction: np.ndarray, lengths: np.ndarray, num_states: int) -> Tally:
    """Count the agreement and the segment overlap of concatenated chains.

    SOV'99: for every pair of overlapping segments of one state (reference s1, predicted s2), with minov the length
    of the overlap and maxov their total extent, (minov + delta) / maxov * len(s1), where
    delta = min(maxov - minov, minov, len(s1) // 2, len(s2) // 2). N adds len(s1) for every such pair, and once for a
    reference segment without such a pair. SOV'99 = sum / N.

    SOV_refine (lambda = 1) is the same with delta = min(delta_all * len(s1) / L * minov / maxov, maxov - minov),
    where delta_all = (states in the chain's reference) / (sum of (len / L)^2 over its reference segments) and L is
    the chain's length. There, and only there, unresolved residues count as a state and form segments.

    Args:
        reference: (R,) integers, 0 to num_states - 1, and num_states where unresolved.
        prediction: (R,) integers, 0 to num_states - 1.
        lengths: (chains,) residues of each chain, with sum R; 0 is allowed.
        num_states: S, without the unresolved state.

    Source: Zemla et al. 1999; Liu & Wang 2018; N and X as in LIFT_SS.
    """
    overlaps = _cut(reference, prediction, lengths)
    sov = _sov(overlaps, lengths, num_states)
    stretches, segments, matched = overlaps.stretches, overlaps.segments, overlaps.matched
    cell = stretches.state * num_states + overlaps.predicted_state
    confusion = np.bincount(cell, stretches.length, (num_states + 1) * num_states).astype(np.int64)
    resolved_length = np.where(segments.state < num_states, segments.length, 0)
    chains = [
        np.bincount(stretches.chain[matched], stretches.length[matched], len(lengths)),
        np.bincount(segments.chain, resolved_length, len(lengths)),
        *sov.sum(axis=2),
    ]
    return Tally(confusion.reshape(-1, num_states)[:num_states], sov.sum(axis=1), np.stack(chains, axis=1))


def _cut(reference: np.ndarray, prediction: np.ndarray, lengths: np.ndarray) -> _Overlaps:
    """Cut the chains wherever the reference or the prediction changes state."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    reference_starts, prediction_starts = _starts(reference, offsets), _starts(prediction, offsets)
    starts = np.flatnonzero(reference_starts | prediction_starts)
    chain = np.repeat(np.arange(len(lengths)), np.diff(np.searchsorted(starts, offsets)))
    state = reference[starts].astype(np.intp)
    predicted_state = prediction[starts].astype(np.intp)
    # True for overlaps that are the first in their reference segment, or in their predicted segment.
    opens, opens_predicted = reference_starts[starts], prediction_starts[starts]
    opening = np.flatnonzero(opens)
    return _Overlaps(
        _Stretches(chain, state, np.diff(starts, append=offsets[-1])),
        predicted_state,
        np.flatnonzero(state == predicted_state),
        np.cumsum(opens) - 1,
        _Stretches(chain[opening], state[opening], np.diff(starts[opening], append=offsets[-1])),
        np.cumsum(opens_predicted) - 1,
        np.diff(starts[np.flatnonzero(opens_predicted)], append=offsets[-1]),
    )


def _starts(labels: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return an (R,) bool array, True at the first residue of every segment, hence of every chain."""
    starts = np.empty(len(labels), dtype=bool)
    np.not_equal(labels[1:], labels[:-1], out=starts[1:])
    starts[offsets[:-1][np.diff(offsets) > 0]] = True
    return starts


def _delta_all(segments: _Stretches, lengths: np.ndarray, num_states: int) -> np.ndarray:
    """Return delta_all of SOV_refine for each chain, (chains,); 0 for an empty chain."""
    num_chains, letters = len(lengths), num_states + 1
    counts = np.bincount(segments.chain * letters + segments.state, minlength=num_chains * letters)
    present = (counts.reshape(num_chains, letters) > 0).sum(axis=1)
    squares = np.bincount(segments.chain, segments.length.astype(float) ** 2, num_chains)
    return present * lengths.astype(float) ** 2 / np.maximum(squares, 1)


def _sov(overlaps: _Overlaps, lengths: np.ndarray, num_states: int) -> np.ndarray:
    """Return the (3, chains, S) numerators of SOV'99 and SOV_refine, and their N."""
    segments, num_chains = overlaps.segments, len(lengths)
    pairs, segment = overlaps.stretches[overlaps.matched], overlaps.segment[overlaps.matched]
    minov, length = pairs.length, segments.length[segment]
    predicted_length = overlaps.predicted_lengths[overlaps.predicted_segment[overlaps.matched]]
    maxov = length + predicted_length - minov
    weight = length / maxov
    delta = np.minimum(np.minimum(maxov - minov, minov), np.minimum(length, predicted_length) // 2)
    allowance = _delta_all(segments, lengths, num_states) / np.maximum(lengths, 1)
    delta_refine = np.minimum(allowance[pairs.chain] * weight * minov, maxov - minov)

    without_pair = segments.state < num_states
    without_pair[segment] = False
    alone = segments[np.flatnonzero(without_pair)]

    def sums(stretches: _Stretches, values: np.ndarray) -> np.ndarray:
        """Sum values by chain and state, (chains, S)."""
        cell = stretches.chain * num_states + stretches.state
        return np.bincount(cell, values, num_chains * num_states).reshape(num_chains, num_states)

    return np.stack(
        [
            sums(pairs, (minov + delta) * weight),
            sums(pairs, (minov + delta_refine) * weight),
            sums(pairs, length) + sums(alone, alone.length),
        ]
    )
