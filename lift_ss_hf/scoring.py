"""Scores of predicted states: accuracy (Q9, Q8, Q3), SOV'99, SOV_refine, F1, MCC. Needs numpy only.

`score` says all there is to say of one predictor, `compare` which of two is better, `accuracies` the few numbers to
watch while training. `compute_metrics` builds what the stock Trainer calls. All scores are fractions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .scored_chains import COMPATIBLE, MASKED, Chains, ScoredChains, check_mode
from .segments import LABELLED, Tally, ratios, tally
from .significance import bootstrap_intervals, paired_test
from .states import IGNORE_INDEX, Alphabet, fold_index, get_alphabet, reduce_probabilities


def score(
    references: Chains,
    predictions: Chains,
    states: str | Alphabet = "q9",
    mode: str | None = None,
    *,
    source: str | Alphabet | None = None,
    per_chain: bool = False,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Score predicted states against the reference's.

    Unresolved residues (X, or IGNORE_INDEX) are never scored, but they part or join segments. `mode` says how:

    - `compatible`, as LIFT_SS and the published figures: they stay in both strings, and a predicted segment runs on
      through them. HHHXXX against HHHHHH has sov99 0.6667 at an accuracy of 1.
    - `masked`: they are cut out of both strings first. The same pair has sov99 1.

    Args:
        references: one string of states a chain (coil as L, C, '-', '.' or blank; X unresolved), or one row of labels.
        predictions: the same chains in the same order, as strings or labels.
        states: the level to score at: q9, q8, q3 (P is coil, the field's) or q3_lift_ss (P is helix, the reference's).
            Finer states are folded into it.
        mode: None means `compatible` for strings and `masked` for labels, where IGNORE_INDEX may be padding too.
        source: the alphabet of integer labels; `states` itself if None.
        per_chain: add the lists `chain_num_residues`, `chain_<states>`, `chain_sov99` and `chain_sov_refine`.
        bootstrap: add 95 % intervals `<name>_low` and `<name>_high` from so many resamples of the chains.
        seed: of the resampling.

    Returns:
        a flat dictionary of plain Python values, ready for JSON:
        `q9` (or whatever `states` is): correct / labelled residues of the whole set [fraction];
        `sov99`, `sov_refine`: pooled over states and chains, see `segments.tally` [fraction]; `sov_mode`;
        `macro_f1`: mean F1 over the states that occur in references or predictions;
        `macro_f1_predicted`: over the states that were predicted at all (as LIFT_SS; never lower);
        `recall_H`, `precision_H`, `f1_H`, `mcc_H`, `sov99_H`, ... for every state;
        `confusion_matrix`: rows the reference's, columns the predicted state, in the order of `letters` [residues];
        `states`, `letters`, `num_chains`, `num_residues` (labelled).

        A value that is not defined is None: recall and sov99 of a state that no reference has, precision of one never
        predicted, F1 and MCC of one in neither, scores of a chain without labels. MCC is 0 where its denominator is.

    Raises:
        ValueError: if there are no chains, or none has a labelled residue; for chains of unequal length, unknown
            states or labels, residues without prediction. Messages name the chain and the 1-based position.

    Source: Yang et al. 2023 (pooling, X); Zemla et al. 1999 (SOV'99); Liu & Wang 2018 (SOV_refine); Matthews 1975.

    Example:
        >>> result = score(["HHHHHH"], ["HHHLHH"], "q3")
        >>> round(result["q3"], 4), round(result["sov99"], 4)
        (0.8333, 0.5833)
    """
    scored = ScoredChains(references, predictions, states, mode, source)
    counts = _tally(scored)
    name = scored.alphabet.name
    result: dict[str, Any] = {
        **_pooled_scores(counts.chains, name),
        "sov_mode": scored.mode,
        **_state_scores(counts, scored.alphabet),
        "states": name,
        "letters": scored.alphabet.letters,
        "num_chains": len(scored),
        "num_residues": int(counts.confusion.sum()),
    }
    if bootstrap:
        for key, (low, high) in bootstrap_intervals(counts.chains, bootstrap, seed).items():
            key = name if key == "accuracy" else key
            result |= {f"{key}_low": low, f"{key}_high": high}
    if per_chain:
        result["chain_num_residues"] = counts.chains[:, LABELLED].astype(int).tolist()
        for key, values in ratios(counts.chains).items():
            key = name if key == "accuracy" else key
            result[f"chain_{key}"] = _plain(values)
    return result


def compare(
    references: Chains,
    predictions_a: Chains,
    predictions_b: Chains,
    states: str | Alphabet = "q9",
    mode: str | None = None,
    *,
    source: str | Alphabet | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Test whether two predictors differ on the same chains.

    Two-sided permutation test (each chain's two predictions may be swapped), with a bootstrap interval over chains.

    Args:
        references: as in `score`.
        predictions_a: of the first predictor.
        predictions_b: of the second.
        states: the level to score at.
        mode: how unresolved residues are seen; see `score`.
        source: the alphabet of integer labels; `states` itself if None.
        resamples: of the permutation, and of the bootstrap.
        seed: of both.

    Returns:
        for each of accuracy (named q9, q8, ...), sov99 and sov_refine: `<name>_a`, `<name>_b` [fraction],
        `<name>_difference` (b - a) with its 95 % interval `<name>_difference_low` and `_high`, `<name>_p_value`;
        `sov_mode`, `states`, `num_chains`, `num_residues`, `resamples`, `seed`.

    Raises:
        ValueError: as `score`; for resamples < 1, or fewer than two chains with labels.
    """
    sides = {}
    for side, predictions in (("a", predictions_a), ("b", predictions_b)):
        scored = ScoredChains(references, predictions, states, mode, source, f"predictions_{side}")
        sides[side] = _tally(scored).chains
    name = scored.alphabet.name
    tested = paired_test(sides["a"], sides["b"], resamples, seed)
    scores = {side: _pooled_scores(chains, name) for side, chains in sides.items()}
    result: dict[str, Any] = {}
    for key, outcome in tested.items():
        key = name if key == "accuracy" else key
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


def accuracies(
    labels: np.ndarray,
    predictions: np.ndarray,
    states: Sequence[str | Alphabet] = ("q9", "q8", "q3"),
    source: str | Alphabet = "q9",
) -> dict[str, float]:
    """Accuracy at several levels, and nothing else: cheap enough for every batch.

    Args:
        labels: integers of any shape, IGNORE_INDEX where there is nothing to score.
        predictions: integers of the same shape, or logits with one more axis of len(source).
        states: the levels.
        source: the alphabet of labels and predictions.

    Returns:
        the accuracy of each level under its name [fraction].

    Raises:
        ValueError: if no residue is labelled, or the shapes do not fit together.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    _check_shapes(labels, predictions, get_alphabet(source))
    labelled = labels != IGNORE_INDEX
    if not labelled.any():
        raise ValueError(f"no labelled residue among {labels.size} labels (all are {IGNORE_INDEX}).")
    labels, predictions = labels[labelled], predictions[labelled]
    return {
        get_alphabet(level).name: float(
            np.mean(_at_level(labels, source, level) == _at_level(predictions, source, level))
        )
        for level in states
    }


def compute_metrics(
    states: str | Alphabet = "q9",
    source: str | Alphabet | None = None,
    *,
    also: Sequence[str | Alphabet] = (),
    mode: str = MASKED,
    special_token_ids: Sequence[int] | None = None,
) -> Callable[[Any], dict[str, float]]:
    """Build the Trainer's `compute_metrics` for token classification: one row a chain.

    A label of IGNORE_INDEX does not say whether it stands on an unresolved residue, on padding or on a special token.
    So the default is the masked mode, which needs not know. The compatible mode needs the tokens to tell them apart:
    pass `special_token_ids=tokenizer.all_special_ids` (without the id of the unknown residue) and the Trainer
    `include_for_metrics=["inputs"]`.

    Logits are reduced as probabilities (summed over the states that fold into one, then argmax). To gather labels
    instead of logits give the Trainer `preprocess_logits_for_metrics=predicted_labels`; labels are folded.

    Args:
        states: the level to score at.
        source: the alphabet of labels and logits; `states` itself if None.
        also: further levels, of which only the accuracy is reported.
        mode: see `score`.
        special_token_ids: tokens that stand for no residue; for the compatible mode.

    Returns:
        a function of an EvalPrediction; its result has the accuracies, `sov99_masked` and `sov_refine_masked` (in the
        compatible mode `sov99` and `sov_refine`: a log has no room for `sov_mode`), `macro_f1` and `num_residues`.

    Raises:
        ValueError: for unknown levels or mode, or the compatible mode without special_token_ids. The function raises
            it for shapes or labels that do not fit, and if no residue is labelled.
    """
    alphabet = get_alphabet(states)
    labels_alphabet = alphabet if source is None else get_alphabet(source)
    for level in (alphabet, *map(get_alphabet, also)):
        fold_index(labels_alphabet, level)
    if check_mode(mode) == COMPATIBLE and special_token_ids is None:
        raise ValueError(
            "the compatible mode must tell unresolved residues from padding: pass "
            'special_token_ids=tokenizer.all_special_ids, and the Trainer include_for_metrics=["inputs"].'
        )
    suffix = "_masked" if mode == MASKED else ""

    def metrics(prediction: Any) -> dict[str, float]:
        labels, predictions = _first(prediction.label_ids), _first(prediction.predictions)
        _check_shapes(labels, predictions, labels_alphabet)
        is_residue = labels != IGNORE_INDEX
        if mode == COMPATIBLE:
            is_residue = _residue_mask(getattr(prediction, "inputs", None), special_token_ids or (), labels)
        lengths = is_residue.sum(axis=1)
        flat_labels, flat_predictions = labels[is_residue], predictions[is_residue]  # (R,), (R,) or (R, states)
        splits = np.cumsum(lengths)[:-1]
        scored = ScoredChains(
            np.split(_at_level(flat_labels, labels_alphabet, alphabet), splits),
            np.split(_at_level(flat_predictions, labels_alphabet, alphabet), splits),
            alphabet,
            mode,
            None,
        )
        counts = _tally(scored)
        pooled = _pooled_scores(counts.chains, alphabet.name)
        return {
            alphabet.name: pooled[alphabet.name],
            **(accuracies(flat_labels, flat_predictions, also, labels_alphabet) if also else {}),
            f"sov99{suffix}": pooled["sov99"],
            f"sov_refine{suffix}": pooled["sov_refine"],
            "macro_f1": _state_scores(counts, alphabet)["macro_f1"],
            "num_residues": int(counts.confusion.sum()),
        }

    return metrics


def predicted_labels(logits: Any, labels: Any) -> Any:
    """Reduce logits to labels on their device: the Trainer's `preprocess_logits_for_metrics`.

    Args:
        logits: (chains, tokens, states) tensor, or a tuple that begins with it.
        labels: not needed; the Trainer passes them.

    Returns:
        (chains, tokens) tensor of labels.
    """
    return _first(logits).argmax(-1)


def _tally(scored: ScoredChains) -> Tally:
    """All chains' counts.

    Raises:
        ValueError: if no residue is labelled.
    """
    counts = Tally.pool([tally(*block, len(scored.alphabet)) for block in scored.blocks()])
    if not counts.confusion.any():
        raise ValueError(
            f"no labelled residue in {len(scored)} chain(s): all are unresolved or empty, so nothing can be scored."
        )
    return counts


def _pooled_scores(chains: np.ndarray, name: str) -> dict[str, float]:
    """Accuracy under its full name, sov99 and sov_refine of all chains together."""
    pooled = ratios(chains.sum(axis=0))
    return {name if key == "accuracy" else key: float(value) for key, value in pooled.items()}


def _state_scores(counts: Tally, alphabet: Alphabet) -> dict[str, Any]:
    """Scores of each state, their means, and the confusion matrix."""
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
    """Python floats, None for what is not defined."""
    return [None if value != value else value for value in values.tolist()]


def _first(value: Any) -> Any:
    """The logits or labels, where a model gives (or takes) more than these."""
    return value[0] if isinstance(value, (tuple, list)) else value


def _check_shapes(labels: np.ndarray, predictions: np.ndarray, source: Alphabet) -> None:
    """Check that labels and predicted labels or logits belong together.

    Raises:
        ValueError: if their shapes do not.
    """
    if predictions.shape not in (labels.shape, (*labels.shape, len(source))):
        raise ValueError(
            f"labels have the shape {labels.shape} but predictions {predictions.shape}. "
            f"Expected the same, or one more axis of {len(source)} logits ({source.name})."
        )


def _at_level(values: np.ndarray, source: str | Alphabet, level: str | Alphabet) -> np.ndarray:
    """(R,) labels at a level, of (R,) labels or (R, states) logits; IGNORE_INDEX stays.

    Raises:
        ValueError: for logits that are NaN, or labels outside the source.
    """
    source, level = get_alphabet(source), get_alphabet(level)
    if values.ndim == 2:
        if np.isnan(values).any():
            raise ValueError(
                f"the logits of {int(np.isnan(values).any(axis=-1).sum())} of {len(values)} residues are NaN. "
                "Did training diverge, or fp16 overflow (T5: use bf16)?"
            )
        if source.name != level.name:
            shifted = np.exp(values.astype(np.float64) - values.max(axis=-1, keepdims=True))
            values = reduce_probabilities(shifted / shifted.sum(axis=-1, keepdims=True), level, source)
        return values.argmax(axis=-1)
    wrong = ((values < 0) | (values >= len(source))) & (values != IGNORE_INDEX)
    if wrong.any():
        raise ValueError(
            f"label {values[wrong][0]} is outside {source.name} (0 to {len(source) - 1} for {source.letters}, "
            f"{IGNORE_INDEX} for nothing to score). Name the labels' alphabet with source=."
        )
    folded = np.append(fold_index(source, level), IGNORE_INDEX)
    return folded[np.where(values == IGNORE_INDEX, -1, values)]


def _residue_mask(tokens: np.ndarray | None, special_token_ids: Sequence[int], labels: np.ndarray) -> np.ndarray:
    """(chains, tokens) bool, True where a token stands for a residue.

    Raises:
        ValueError: if the Trainer gave no inputs, or a label stands on a special token.
    """
    if tokens is None:
        raise ValueError('the compatible mode needs the tokens: give the Trainer include_for_metrics=["inputs"].')
    # The Trainer pads what it gathers with IGNORE_INDEX.
    is_residue = ~np.isin(tokens, [*special_token_ids, IGNORE_INDEX])
    if tokens.shape != labels.shape or (labels[~is_residue] != IGNORE_INDEX).any():
        raise ValueError(
            "labels and input tokens do not fit together: a special token has a label, or the shapes differ "
            f"({labels.shape} and {tokens.shape}). Is the unknown residue's id among special_token_ids?"
        )
    return is_residue
