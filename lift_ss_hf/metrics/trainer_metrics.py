"""`compute_metrics` for the stock Trainer: scores of its padded arrays of labels and logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .labels import fold_labels, most_probable
from .scored_chains import COMPATIBLE, MASKED, ScoredChains, check_mode
from .scoring import pooled_scores, state_scores, tally_chains
from .states import IGNORE_INDEX, Alphabet, fold_index, get_alphabet


def compute_metrics(
    states: str | Alphabet = "q9",
    source: str | Alphabet | None = None,
    *,
    also: Sequence[str | Alphabet] = (),
    mode: str = MASKED,
    special_token_ids: Sequence[int] | None = None,
) -> Callable[[Any], dict[str, float]]:
    """Build the Trainer's `compute_metrics` for token classification with one chain per row.

    A label of IGNORE_INDEX can be an unresolved residue, padding or a special token. The default, masked mode, need
    not tell them apart. The compatible mode must, and needs the tokens for that: pass
    `special_token_ids=tokenizer.all_special_ids` (without the id of the unknown residue) and give the Trainer
    `include_for_metrics=["inputs"]`.

    Logits become probabilities, which are summed over the states that fold into one before the argmax. If the Trainer
    gathers labels instead (`preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1)`), these are folded.

    Args:
        states: the alphabet to score at.
        source: the alphabet of labels and logits; None means `states`.
        also: alphabets for which only the accuracy is reported.
        mode: how to treat unresolved residues; see `score`.
        special_token_ids: ids of the tokens that are not residues; for the compatible mode.

    Returns:
        A function that takes an EvalPrediction and returns the accuracies under the names of the alphabets,
        `sov99_masked` and `sov_refine_masked` (`sov99` and `sov_refine` in the compatible mode, since a log cannot
        hold the string `sov_mode`), `macro_f1` and `num_residues`.

    Raises:
        ValueError: if an alphabet or the mode is unknown, or special_token_ids is missing in the compatible mode. The
            function raises it if shapes or labels are invalid, logits are NaN, or no residue is labelled.

    Example:
        >>> from transformers import EvalPrediction
        >>> labels = np.array([[-100, 0, 5, 5, -100]])  # <cls> L H H <eos>
        >>> logits = np.eye(9)[[[0, 0, 5, 0, 0]]]
        >>> compute_metrics("q9", also=["q3"])(EvalPrediction(logits, labels))["q9"]
        0.6666666666666666
    """
    alphabet = get_alphabet(states)
    source = alphabet if source is None else get_alphabet(source)
    others = [get_alphabet(other) for other in also]
    for target in (alphabet, *others):
        fold_index(source, target)  # refuses one that the labels cannot be folded into
    if check_mode(mode) == COMPATIBLE and special_token_ids is None:
        raise ValueError(
            "the compatible mode must tell unresolved residues from padding: pass "
            'special_token_ids=tokenizer.all_special_ids, and give the Trainer include_for_metrics=["inputs"].'
        )
    suffix = "_masked" if mode == MASKED else ""

    def metrics(prediction: Any) -> dict[str, float]:
        labels, predictions, lengths = _residues(prediction, source, mode, special_token_ids)
        references, answers = (_reduce(values, source, [alphabet, *others]) for values in (labels, predictions))
        chains, answered = (np.split(side[alphabet.name], np.cumsum(lengths)[:-1]) for side in (references, answers))
        counts = tally_chains(ScoredChains(chains, answered, alphabet, mode, None))
        pooled, labelled = pooled_scores(counts.chains, alphabet.name), labels != IGNORE_INDEX
        return {
            alphabet.name: pooled[alphabet.name],
            **{
                other.name: float(np.mean((references[other.name] == answers[other.name])[labelled]))
                for other in others
            },
            f"sov99{suffix}": pooled["sov99"],
            f"sov_refine{suffix}": pooled["sov_refine"],
            "macro_f1": state_scores(counts, alphabet)["macro_f1"],
            "num_residues": int(counts.confusion.sum()),
        }

    return metrics


def _first(value: Any) -> Any:
    """Return the logits or labels if a model returns, or takes, further arrays."""
    return value[0] if isinstance(value, (tuple, list)) else value


def _reduce(values: np.ndarray, source: Alphabet, alphabets: Sequence[Alphabet]) -> dict[str, np.ndarray]:
    """Reduce (R,) labels or (R, states) logits to (R,) labels of each alphabet; IGNORE_INDEX stays.

    Raises:
        ValueError: if logits are NaN, or labels are outside the source.
    """
    if values.ndim == 1:
        return {alphabet.name: fold_labels(values, source, alphabet) for alphabet in alphabets}
    if np.isnan(values).any():
        raise ValueError(
            f"the logits of {int(np.isnan(values).any(axis=-1).sum())} of {len(values)} residues are NaN. "
            "Did training diverge, or fp16 overflow (T5: use bf16)?"
        )
    shifted = np.exp(values.astype(np.float64) - values.max(axis=-1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=-1, keepdims=True)
    return {
        alphabet.name: most_probable(values if alphabet.name == source.name else probabilities, source, alphabet)
        for alphabet in alphabets
    }


def _residues(
    prediction: Any, source: Alphabet, mode: str, special_token_ids: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Take the residues out of what the Trainer gathered.

    Padding and special tokens are dropped, in the masked mode unresolved residues too.

    Returns:
        (R,) labels, (R,) predicted labels or (R, states) logits, and (chains,) residues of each chain.

    Raises:
        ValueError: if the shapes of labels and predictions do not match.
    """
    labels, predictions = _first(prediction.label_ids), _first(prediction.predictions)
    if predictions.shape not in (labels.shape, (*labels.shape, len(source))):
        raise ValueError(
            f"labels have the shape {labels.shape} but predictions {predictions.shape}. "
            f"Expected the same shape, or one more axis of {len(source)} logits ({source.name})."
        )
    is_residue = labels != IGNORE_INDEX
    if mode == COMPATIBLE:
        is_residue = _residue_mask(prediction.inputs, special_token_ids or (), labels)
    return labels[is_residue], predictions[is_residue], is_residue.sum(axis=1)


def _residue_mask(tokens: np.ndarray | None, special_token_ids: Sequence[int], labels: np.ndarray) -> np.ndarray:
    """Return a (chains, tokens) bool array, True where a token is a residue.

    Raises:
        ValueError: if the Trainer passed no inputs, or a special token has a label.
    """
    if tokens is None:
        raise ValueError('the compatible mode needs the tokens: give the Trainer include_for_metrics=["inputs"].')
    # The Trainer pads what it gathers with IGNORE_INDEX.
    is_residue = ~np.isin(tokens, [*special_token_ids, IGNORE_INDEX])
    if tokens.shape != labels.shape or (labels[~is_residue] != IGNORE_INDEX).any():
        raise ValueError(
            "labels and input tokens do not match: a special token has a label, or the shapes differ "
            f"({labels.shape} and {tokens.shape}). Is the unknown residue's id among special_token_ids?"
        )
    return is_residue
