"""Scores of predicted states: accuracy (Q9, Q8, Q3), SOV'99, SOV_refine, F1, MCC. Needs numpy only.

`score` scores one predictor, `compare` tests whether two predictors differ. All scores are fractions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .scored_chains import Chains, ScoredChains
from .segments import LABELLED, Tally, ratios, tally
from .significance import bootstrap_intervals, paired_test
from .states import Alphabet


def score(
    *,
    references: Chains,
    predictions: Chains,
    states: str | Alphabet = "q9",
    mode: str | None = None,
    source: str | Alphabet | None = None,
    per_chain: bool = False,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Score predicted states against reference states; both by keyword, because swapping them changes the SOV.

    Unresolved residues (X, or IGNORE_INDEX) are never scored, but they affect segments. `mode` says how:

    - `compatible`, as in LIFT_SS and published results: they stay in both strings, and a predicted segment continues
      through them. HHHXXX against HHHHHH has an sov99 of 0.6667 and an accuracy of 1.
    - `masked`: they are removed from both strings first. The same pair has an sov99 of 1.

    Args:
        references: one string of states per chain (coil as L, C, '-', '.' or blank; X where unresolved), or one row
            of labels per chain.
        predictions: the same chains in the same order, as strings or labels.
        states: the alphabet to score at: q9, q8, q3 (P is coil, as is usual) or q3_lift_ss (P is helix, as in
            LIFT_SS). Finer states are folded into it.
        mode: None means `compatible` for strings and `masked` for labels, whose IGNORE_INDEX may also be padding.
        source: the alphabet of integer labels; None means `states`.
        per_chain: add the lists `chain_num_residues`, `chain_<states>`, `chain_sov99` and `chain_sov_refine`.
        bootstrap: resamples of the chains for the 95 % intervals `<name>_low` and `<name>_high`; 0 for none.
        seed: seed of the resampling.

    Returns:
        A flat dictionary of plain Python values, ready for JSON:
        `q9` (or the name of `states`): correct / labelled residues of all chains [fraction];
        `sov99`, `sov_refine`: pooled over states and chains, see `segments.tally` [fraction]; `sov_mode`;
        `macro_f1`: mean F1 over the states that occur in references or predictions;
        `macro_f1_predicted`: mean F1 over the states that occur in predictions (as in LIFT_SS; never lower);
        `recall_H`, `precision_H`, `f1_H`, `mcc_H`, `sov99_H`, and so on for every state;
        `confusion_matrix`: a row for each reference state, a column for each predicted state, in the order of
        `letters` [residues];
        `states`, `letters`, `num_chains`, `num_residues` (labelled).

        Undefined values are None: recall and sov99 of a state that is not in the references, precision of one that is
        not in the predictions, F1 and MCC of one in neither, scores of a chain without labels. MCC is 0 if its
        denominator is 0.

    Raises:
        ValueError: if there are no chains or no labelled residues, lengths differ, a state or label is unknown, or a
            residue has no prediction. The message names the chain and the 1-based position.

    Source: Yang et al. 2023 (pooling, X); Zemla et al. 1999 (SOV'99); Liu & Wang 2018 (SOV_refine); Matthews 1975.

    Example:
        >>> result = score(references=["HHHHHH"], predictions=["HHHLHH"], states="q3")
        >>> round(result["q3"], 4), round(result["sov99"], 4)
        (0.8333, 0.5833)
    """
    scored = ScoredChains(references, predictions, states, mode, source)
    counts = tally_chains(scored)
    name = scored.alphabet.name
    result: dict[str, Any] = {
        **pooled_scores(counts.chains, name),
        "sov_mode": scored.mode,
        **state_scores(counts, scored.alphabet),
        "states": name,
        "letters": scored.alphabet.letters,
        "num_chains": len(scored),
        "num_residues": int(counts.confusion.sum()),
    }
    if bootstrap:
        for key, (low, high) in _named(bootstrap_intervals(counts.chains, bootstrap, seed), name).items():
            result |= {f"{key}_low": low, f"{key}_high": high}
    if per_chain:
        result["chain_num_residues"] = counts.chains[:, LABELLED].astype(int).tolist()
        result |= {f"chain_{key}": _plain(values) for key, values in _named(ratios(counts.chains), name).items()}
    return result


def compare(
    *,
    references: Chains,
    predictions_a: Chains,
    predictions_b: Chains,
    states: str | Alphabet = "q9",
    mode: str | None = None,
    source: str | Alphabet | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Test whether two predictors differ on the same chains.

    The p-values come from a two-sided permutation test that swaps the two predictions of a chain, the intervals from
    a bootstrap over chains.

    Args:
        references: as in `score`.
        predictions_a: predictions of the first predictor.
        predictions_b: predictions of the second predictor.
        states: the alphabet to score at.
        mode: how to treat unresolved residues; see `score`.
        source: the alphabet of integer labels; None means `states`.
        resamples: number of permutations, and of bootstrap samples.
        seed: seed of both.

    Returns:
        For accuracy (named q9, q8, ...), sov99 and sov_refine: `<name>_a` and `<name>_b` [fraction],
        `<name>_difference` (b - a) with its 95 % interval `<name>_difference_low` to `<name>_difference_high`, and
        `<name>_p_value`. Also `sov_mode`, `states`, `num_chains`, `num_residues`, `resamples` and `seed`.

    Raises:
        ValueError: as in `score`, and if resamples < 1 or fewer than two chains have labels.

    Source: Phipson & Smyth 2010, Stat Appl Genet Mol Biol 9:39 (p-values).

    Example:
        >>> references, worse = ["HHHHHH"] * 20, ["HHHLHH"] * 20
        >>> result = compare(references=references, predictions_a=worse, predictions_b=references, states="q3")
        >>> round(result["q3_difference"], 4), result["q3_p_value"] < 0.001
        (0.1667, True)
    """
    sides = {}
    for side, predictions in (("a", predictions_a), ("b", predictions_b)):
        scored = ScoredChains(references, predictions, states, mode, source, f"predictions_{side}")
        sides[side] = tally_chains(scored).chains
    name = scored.alphabet.name
    scores = {side: pooled_scores(chains, name) for side, chains in sides.items()}
    result: dict[str, Any] = {}
    for key, outcome in _named(paired_test(sides["a"], sides["b"], resamples, seed), name).items():
        result |= {
            f"{key}_a": scores["a"][key],
            f"{key}_b": scores["b"][key],
            f"{key}_difference": outcome["difference"],
            f"{key}_difference_low": outcome["low"],
            f"{key}_difference_high": outcome["high"],
            f"{key}_p_value": outcome["p_value"],
        }
    num_residues = int(sides["a"][:, LABELLED].sum())
    return result | {
        "sov_mode": scored.mode,
        "states": name,
        "num_chains": len(scored),
        "num_residues": num_residues,
        "resamples": resamples,
        "seed": seed,
    }


def tally_chains(scored: ScoredChains) -> Tally:
    """Count agreement and segment overlap of all chains.

    Raises:
        ValueError: if no residue is labelled.
    """
    counts = Tally.pool([tally(*block, len(scored.alphabet)) for block in scored.blocks()])
    if not counts.confusion.any():
        raise ValueError(
            f"no labelled residue in {len(scored)} chain(s): all are unresolved or empty, so nothing can be scored."
        )
    return counts


def pooled_scores(chains: np.ndarray, name: str) -> dict[str, float]:
    """Return the accuracy under its full name, sov99 and sov_refine of all chains together [fraction]."""
    return {key: float(value) for key, value in _named(ratios(chains.sum(axis=0)), name).items()}


def _named(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Rename the key `accuracy` to the name of the alphabet: q9, q8, ..."""
    return {name if key == "accuracy" else key: value for key, value in values.items()}


def state_scores(counts: Tally, alphabet: Alphabet) -> dict[str, Any]:
    """Compute the scores of each state, their means, and the confusion matrix."""
    confusion = counts.confusion.astype(float)
    total = confusion.sum()
    hits, in_reference, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    occurs = (in_reference + predicted) > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = 2 * hits / (in_reference + predicted)
        spread = np.sqrt(in_reference * predicted * (total - in_reference) * (total - predicted))
        mcc = np.where(spread > 0, (hits * total - in_reference * predicted) / spread, 0.0)
        by_state = {
            "recall": hits / in_reference,
            "precision": hits / predicted,
            "f1": f1,
            "mcc": np.where(occurs, mcc, np.nan),
            "sov99": counts.sov[0] / counts.sov[2],
        }
    return {
        "macro_f1": float(f1[occurs].mean()),
        "macro_f1_predicted": float(f1[predicted > 0].mean()),
        **{
            f"{name}_{letter}": value
            for name, values in by_state.items()
            for letter, value in zip(alphabet.letters, _plain(values), strict=True)
        },
        "confusion_matrix": counts.confusion.tolist(),
    }


def _plain(values: np.ndarray) -> list[float | None]:
    """Convert to Python floats, and NaN to None."""
    return [None if value != value else value for value in values.tolist()]
