"""Confidences that mean what they say: one temperature, fitted on chains that the model was not trained on.

Logits over the temperature give the probabilities (Guo et al. 2017, "On Calibration of Modern Neural Networks"): the
states stay, the confidences change. Fitted by the likelihood of the reference's states.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from ..corpora import load_corpus
from ..metrics.calibration import expected_calibration_error
from ..metrics.labels import REFERENCE_ALPHABET, encode_references, fold_labels
from ..models.atomic import replacing
from ..models.modeling import SecondaryStructureModel
from ..models.states import IGNORE_INDEX, fold_index
from ..models.tokenization import ResidueTokenizer
from ..reports.provenance import load_training_chains, sequence_hashes
from .corpora import num_states_of
from .predictions import Predictions, predict, scorable_alphabets

LOWEST, HIGHEST = 0.05, 20.0  # temperatures that are looked at
STEPS = 40  # of the search: each narrows the interval by the golden ratio
SMALLEST = 1e-12  # probability, so that its logarithm is finite


def log_likelihood(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray, temperature: float) -> float:
    """Mean logarithm of the probability of the reference's states.

    Args:
        logits: (residues, states of the model).
        labels: (residues,) int64, at the level that is scored.
        groups: (states of the model,) int64: each state's label there.
        temperature: that the logits are divided by.
    """
    scaled = logits / temperature
    scaled = np.exp(scaled - scaled.max(1, keepdims=True))
    right = (scaled * (groups == labels[:, None])).sum(1) / scaled.sum(1)
    return float(np.log(np.maximum(right, SMALLEST)).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """The temperature under which the labels are likeliest, by golden-section search over its logarithm.

    Arguments as of `log_likelihood`.
    """
    ratio = (5**0.5 - 1) / 2
    low, high = np.log(LOWEST), np.log(HIGHEST)
    for _ in range(STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if log_likelihood(logits, labels, groups, np.exp(left)) >= log_likelihood(
            logits, labels, groups, np.exp(right)
        ):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def calibrate(
    predictions: Predictions, references: Sequence[np.ndarray], num_states: int, temperature: float = 1.0
) -> dict[str, Any]:
    """Fit a model's temperature to what it predicted.

    Args:
        predictions: of chains that it was not trained on.
        references: q9 labels of each chain, from `metrics.labels.encode_references`.
        num_states: nine, or eight where the reference has no P: then the likelihood is that of eight states.
        temperature: that the predictions were made with.

    Returns:
        temperature, num_residues, and the expected calibration error before and after [fraction].

    Raises:
        ValueError: if no residue has a state.
    """
    alphabet = scorable_alphabets(predictions.states, num_states)[0]
    groups = fold_index(predictions.states, alphabet)
    labels = fold_labels(np.concatenate([np.empty(0, np.int8), *references]), REFERENCE_ALPHABET, alphabet)
    known = labels != IGNORE_INDEX
    if not known.any():
        raise ValueError("no residue with a state to calibrate on. Give a corpus with states.")
    # Logarithms of the probabilities are the logits but for a constant of each residue.
    probabilities = np.concatenate(predictions.probabilities)[known].astype(np.float64)
    logits, labels = np.log(np.maximum(probabilities, SMALLEST)) * temperature, labels[known]
    fitted = fit_temperature(logits, labels, groups)
    return {
        "temperature": fitted,
        "num_residues": len(labels),
        "error_before": _error(logits, labels, groups, temperature),
        "error_after": _error(logits, labels, groups, fitted),
    }


def _error(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray, temperature: float) -> float:
    scaled = np.exp((logits - logits.max(1, keepdims=True)) / temperature)
    probabilities = scaled @ np.eye(groups.max() + 1)[groups] / scaled.sum(1, keepdims=True)
    confidence = np.minimum(probabilities.max(1), 1.0)
    return expected_calibration_error(confidence.tolist(), (probabilities.argmax(1) == labels).tolist())


def store_temperature(folder: str | Path, temperature: float) -> None:
    """Write a temperature to the configuration of a saved model, in one step; nothing else of it changes."""
    path = Path(folder) / "config.json"
    content = json.loads(path.read_text("utf-8"))
    content["calibration_temperature"] = temperature
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")


def calibrate_saved(
    folder: str, corpus: str, split: str = "validation", source: str | None = None, backbone: str | None = None
) -> str:
    """Calibrate a saved model on a corpus, and store the temperature; chains it was trained on are left out.

    Returns:
        What was done, in a line.

    Raises:
        ValueError: if there is no such model or corpus, or nothing is left to fit on.
    """
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder}: no folder of a saved model. Fetch it first, then calibrate the copy.")
    chains = load_corpus(corpus, split, data_dir=source)
    sequences, states = chains["sequence"][:], chains["states"][:]
    trained = load_training_chains(folder)
    known = [trained is not None and bool(np.isin(sequence_hashes([s]), trained)[0]) for s in sequences]
    kept = [index for index, is_known in enumerate(known) if not is_known]
    model = SecondaryStructureModel.from_pretrained(folder, backbone=backbone).to(PartialState().device)
    tokenizer = ResidueTokenizer.from_pretrained(folder, backbone=backbone)
    result = calibrate(
        predict(model, tokenizer, [sequences[index] for index in kept]),
        encode_references(states[index] for index in kept),
        num_states_of(corpus, states),
        model.config.calibration_temperature,
    )
    store_temperature(folder, result["temperature"])
    return (
        f"temperature {result['temperature']:.3f} from {result['num_residues']:,} residues of {len(kept):,} chains "
        f"({len(sequences) - len(kept):,} left out: the model was trained on them); expected calibration error "
        f"{100 * result['error_before']:.1f} % before, {100 * result['error_after']:.1f} % after."
    )
