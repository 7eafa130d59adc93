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

from ..atomic import replacing
from ..corpora import load_corpus
from ..plots import expected_calibration_error
from ..provenance import load_training_chains, sequence_hashes
from ..states import IGNORE_INDEX, fold_index, get_alphabet
from .loading import load_predictor
from .predictor import Predictor

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

    Raises:
        ValueError: if there is no label.
    """
    if not len(labels):
        raise ValueError("no residue with a state to calibrate on. Give a corpus with states.")
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


def calibrate(predictor: Predictor, sequences: Sequence[str], states: Sequence[str], num_states: int) -> dict[str, Any]:
    """Fit the temperature of a model, and set it in its configuration.

    Args:
        predictor: the model.
        sequences: of chains it was not trained on.
        states: the reference's.
        num_states: nine, or eight where the reference has no P: then the likelihood is that of eight states.

    Returns:
        temperature, num_residues, and the expected calibration error before and after [fraction].
    """
    level = "q8" if predictor.states == "q9" and num_states == 8 else predictor.states
    groups = fold_index(predictor.states, level)
    config = predictor.model.config
    parts, targets = [], []
    for index, probabilities in predictor.predict(sequences):
        labels = get_alphabet(level).encode(states[index])
        known = labels != IGNORE_INDEX
        # logarithms of the probabilities are the logits but for a constant of each residue
        parts.append(np.log(np.maximum(probabilities[known], SMALLEST)) * config.calibration_temperature)
        targets.append(labels[known])
    logits = np.concatenate(parts).astype(np.float64) if parts else np.empty((0, len(groups)))
    labels = np.concatenate(targets) if targets else np.empty(0, dtype=np.int64)
    temperature = fit_temperature(logits, labels, groups)
    result = {
        "temperature": temperature,
        "num_residues": len(labels),
        "error_before": _error(logits, labels, groups, config.calibration_temperature),
        "error_after": _error(logits, labels, groups, temperature),
    }
    config.calibration_temperature = temperature
    return result


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
    from ..evaluation import num_states_of

    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder}: no folder of a saved model. Fetch it first, then calibrate the copy.")
    chains = load_corpus(corpus, split, data_dir=source)
    sequences, states = chains["sequence"][:], chains["states"][:]
    trained = load_training_chains(folder)
    known = [trained is not None and bool(np.isin(sequence_hashes([s]), trained)[0]) for s in sequences]
    kept = [index for index, is_known in enumerate(known) if not is_known]
    result = calibrate(
        load_predictor(folder, backbone, "fp32"),
        [sequences[index] for index in kept],
        [states[index] for index in kept],
        num_states_of(corpus, states),
    )
    store_temperature(folder, result["temperature"])
    return (
        f"temperature {result['temperature']:.3f} from {result['num_residues']:,} residues of {len(kept):,} chains "
        f"({len(sequences) - len(kept):,} left out: the model was trained on them); expected calibration error "
        f"{100 * result['error_before']:.1f} % before, {100 * result['error_after']:.1f} % after."
    )
