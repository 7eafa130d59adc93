"""Calibrate a model: fit one temperature on chains that the model was not trained on, and store it with the model.

A temperature leaves the predicted states of every alphabet as they are and makes the confidences agree with the
accuracy (Guo et al. 2017, On Calibration of Modern Neural Networks, ICML). The maths is in `metrics/calibration.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from ..corpora import load_corpus
from ..metrics.calibration import expected_calibration_error, fit_temperature
from ..metrics.labels import REFERENCE_ALPHABET, encode_references, fold_labels
from ..models.atomic import replacing
from ..models.modeling import SecondaryStructureModel
from ..models.states import IGNORE_INDEX, reduce_probabilities, temper_probabilities
from ..models.tokenization import ResidueTokenizer
from ..models.wording import counted
from ..reports.provenance import in_training, load_training_chains
from .corpora import num_states_of
from .predictions import Predictions, check_scorable, predict, scorable_alphabets


def calibrate(predictions: Predictions, references: Sequence[np.ndarray], num_states: int) -> dict[str, Any]:
    """Fit the temperature of a model to its predictions.

    Args:
        predictions: for chains that the model was not trained on. Their own temperature counts for `error_before` only.
        references: q9 labels of each chain, from `metrics.labels.encode_references`.
        num_states: states of the corpus, nine, eight or three. With eight, the likelihood is that of eight states.

    Returns:
        `temperature`, `num_residues`, and the expected calibration errors `error_before` and `error_after` [fraction].

    Raises:
        ValueError: if no residue has a state.
    """
    alphabet = scorable_alphabets(predictions.states, num_states)[0]
    labels = fold_labels(np.concatenate([np.empty(0, np.int8), *references]), REFERENCE_ALPHABET, alphabet)
    known = labels != IGNORE_INDEX
    if not known.any():
        raise ValueError("no residue with a state to calibrate on. Give a corpus with states.")
    probabilities = np.concatenate(predictions.probabilities)[known].astype(np.float64)
    probabilities, labels = reduce_probabilities(probabilities, alphabet, predictions.states), labels[known]
    fitted = fit_temperature(probabilities, labels)
    correct = probabilities.argmax(axis=1) == labels
    errors = [
        expected_calibration_error(temper_probabilities(probabilities, temperature).max(axis=1), correct)
        for temperature in (predictions.temperature, fitted)
    ]
    return {
        "temperature": fitted,
        "num_residues": len(labels),
        "error_before": errors[0],
        "error_after": errors[1],
    }


def store_temperature(folder: str | Path, temperature: float) -> None:
    """Write a temperature to the configuration of a saved model, atomically, and change nothing else in it.

    Args:
        folder: folder of the model.
        temperature: the logits are divided by it.
    """
    path = Path(folder) / "config.json"
    content = json.loads(path.read_text("utf-8"))
    content["calibration_temperature"] = temperature
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")


def calibrate_saved(
    folder: str, corpus: str, split: str = "validation", source: str | None = None, backbone: str | None = None
) -> str:
    """Calibrate a saved model on a corpus and store the temperature with it.

    Chains that the model was trained on are left out.

    Args:
        folder: folder of the model.
        corpus: a name from the catalogue, or a path.
        split: the split of the corpus to fit on.
        source: folder with the source files of the corpus.
        backbone: location of the backbone, if it differs from the one in the model's configuration.

    Returns:
        A summary in one line.

    Raises:
        ValueError: if the model or the corpus does not exist, or no chain is left to fit on.
    """
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder} is not the folder of a saved model. Download the model, then calibrate the copy.")
    chains = load_corpus(corpus, split, data_dir=source)
    sequences, states = chains["sequence"][:], chains["states"][:]
    trained = load_training_chains(folder)
    known = in_training(trained, sequences)
    kept = list(range(len(sequences))) if known is None else np.flatnonzero(~known).tolist()
    if sequences and not kept:
        raise ValueError(
            f"{corpus}: the model was trained on all {counted(len(sequences), 'chain')} of the split {split}. Give "
            "chains that it was not trained on."
        )
    model = SecondaryStructureModel.from_pretrained(folder, backbone=backbone).to(PartialState().device)
    tokenizer = ResidueTokenizer.from_pretrained(folder, backbone=backbone)
    num_states = num_states_of(corpus, states)
    check_scorable(model.config.states, corpus, num_states)
    result = calibrate(
        predict(model, tokenizer, [sequences[index] for index in kept]),
        encode_references(states[index] for index in kept),
        num_states,
    )
    store_temperature(folder, result["temperature"])
    return (
        f"temperature {result['temperature']:.3f} from {counted(result['num_residues'], 'residue')} of "
        f"{counted(len(kept), 'chain')} ({len(sequences) - len(kept):,} left out because the model was trained on "
        f"them); expected calibration error {100 * result['error_before']:.1f} % before, "
        f"{100 * result['error_after']:.1f} % after."
    )
