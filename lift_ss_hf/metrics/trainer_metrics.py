"""Scores while training: what the stock Trainer calls, on its padded arrays of labels and logits.

`compute_metrics` builds the Trainer's function of this name, `predicted_labels` is its
`preprocess_logits_for_metrics`, and `accuracies` are the few numbers that are cheap enough for every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .scored_chains import COMPATIBLE, MASKED, ScoredChains, check_mode
from .scoring import pooled_scores, state_scores, tally_chains
from .states import IGNORE_INDEX, Alphabet, fold_index, get_alphabet, reduce_probabilities


def accuracies(
    labels: np.ndarray,
    predictions: np.ndarray,
    states: Sequence[str | Alphabet] = ("q9", "q8", "q3"),
    source: str | Alphabet = "q9",
) -> dict[str, float]:
    """Accuracy at several levels, and nothing else: cheap enough for every batch.

    Args:
        labels: integers of any shape, IGNORE_INDEX where there is nothing to score.
        predictions: integers of the same shape, or logits with one more axis of len(source). IGNORE_INDEX is wrong.
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
        labels, predictions, lengths = _residues(prediction, labels_alphabet, mode, special_token_ids)
        ends = np.cumsum(lengths)[:-1]
        references, answers = (
            np.split(_at_level(values, labels_alphabet, alphabet), ends) for values in (labels, predictions)
        )
        counts = tally_chains(ScoredChains(references, answers, alphabet, mode, None))
        pooled = pooled_scores(counts.chains, alphabet.name)
        return {
            alphabet.name: pooled[alphabet.name],
            **accuracies(labels, predictions, also, labels_alphabet),
            f"sov99{suffix}": pooled["sov99"],
            f"sov_refine{suffix}": pooled["sov_refine"],
            "macro_f1": state_scores(counts, alphabet)["macro_f1"],
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


def _residues(
    prediction: Any, source: Alphabet, mode: str, special_token_ids: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the Trainer gathered, without padding and special tokens (and, masked, without unresolved residues).

    Returns:
        (R,) labels, (R,) predicted labels or (R, states) logits, (chains,) residues of each chain.

    Raises:
        ValueError: for shapes that do not fit together.
    """
    labels, predictions = _first(prediction.label_ids), _first(prediction.predictions)
    _check_shapes(labels, predictions, source)
    is_residue = labels != IGNORE_INDEX
    if mode == COMPATIBLE:
        is_residue = _residue_mask(prediction.inputs, special_token_ids or (), labels)
    return labels[is_residue], predictions[is_residue], is_residue.sum(axis=1)


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
