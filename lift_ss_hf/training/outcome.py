"""What a run does after its training: reload the model, calibrate it, score it, and write its reports."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from huggingface_hub.constants import REPOCARD_NAME

from ..evaluation.baselines import ResidueBaseline
from ..evaluation.calibration import calibrate, store_temperature
from ..evaluation.predictions import Predictions, majority_accuracy, predict, score_predictions
from ..hub.push import push_model
from ..models.atomic import replacing
from ..models.modeling import SecondaryStructureModel
from ..models.tokenization import ResidueTokenizer
from ..reports.figures import save_figure
from ..reports.learning_curve import plot_learning_curve
from ..reports.model_card import write_card
from ..reports.provenance import save_training_chains, write_json
from ..reports.tables import learnt_markdown, splits_markdown
from .arguments import RecipeTrainingArguments
from .corpora import TrainingCorpora

logger = logging.getLogger(__name__)

MODEL_FOLDER, FIGURES_FOLDER, HELD_OUT_FOLDER = "model", "figures", "held_out"
METRICS_FILE, RESULTS_FILE, CORPORA_FILE = "metrics.json", "results.md", "corpora.json"
ENVIRONMENT_FILE = "environment.json"


def reload_model(
    folder: Path, tokenizer: ResidueTokenizer, train: datasets.Dataset, dtype: str, device: torch.device
) -> SecondaryStructureModel:
    """Complete the folder of the saved model, and load the model from it as its users will."""
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        save_training_chains(folder, train["sequence"])
        tokenizer.save_pretrained(folder)
    return SecondaryStructureModel.from_pretrained(folder, dtype=dtype).to(device)


def predict_validation(
    model: SecondaryStructureModel,
    tokenizer: ResidueTokenizer,
    corpora: TrainingCorpora,
    training: RecipeTrainingArguments,
) -> Predictions:
    """Predict the validation chains."""
    sequences = corpora.validation["sequence"][:]
    return predict(model, tokenizer, sequences, training.max_tokens_per_batch, quiet=True, cache=training.scoring_cache)


def calibrate_model(
    model: SecondaryStructureModel, predictions: Predictions, corpora: TrainingCorpora, folder: Path
) -> dict[str, Any]:
    """Fit the temperature to the validation chains, and store it in the model and in its folder."""
    calibration = calibrate(predictions, corpora.references, corpora.num_states)
    model.config.calibration_temperature = calibration["temperature"]
    if PartialState().is_main_process:
        store_temperature(folder, calibration["temperature"])
    return calibration


def compare_with_baselines(
    corpora: TrainingCorpora, baseline: ResidueBaseline, predictions: Predictions, untrained: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Return validation accuracies by alphabet: of the baselines, and before and after training."""
    sequences = corpora.validation["sequence"][:]
    return {
        alphabet: {
            "majority": majority_accuracy(corpora.references, alphabet),
            "residue": baseline.accuracy(sequences, corpora.references, alphabet),
            "untrained": untrained[alphabet],
            "trained": scores[alphabet],
        }
        for alphabet, scores in score_predictions(corpora.references, predictions, corpora.num_states).items()
    }


def write_held_out(out: Path, corpora: TrainingCorpora) -> None:
    """Write the chains that were held out, to evaluate other models on them: three lines per chain."""
    for name, part in corpora.held_out.items():
        with replacing(out / HELD_OUT_FOLDER / f"{name}.txt") as path:
            rows = (f">{row['id']}\n{row['sequence']}\n{row['states']}\n" for row in part)
            path.write_text("".join(rows), "utf-8")


def write_reports(out: Path, results: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
    """Add what training measured to `metrics.json`, `results.md` and `figures/`, and write the model card."""
    if (figure := plot_learning_curve(history)) is not None:
        save_figure(figure, out / FIGURES_FOLDER / "learning_curve.png")
    write_json(out / METRICS_FILE, results)
    sections = [(out / RESULTS_FILE).read_text("utf-8")]
    if results["learnt"]:
        sections.append(learnt_markdown(results["learnt"], results["validation"]))
    sections.append(splits_markdown(results["splits"]))
    with replacing(out / RESULTS_FILE) as path:
        path.write_text("\n".join(sections), "utf-8")
    write_card(out)


def push_run(out: Path, repository: str, revision: str | None) -> None:
    """Push a complete run; if that fails, say how to push it again."""
    try:
        logger.info("pushed: %s", push_model(out / MODEL_FOLDER, repository, revision=revision))
    except (OSError, ValueError) as error:
        command = f"lift-ss push {out / MODEL_FOLDER} {repository}"
        raise ValueError(f"{error} The run is complete; to push it, run: {command}") from error


def finished_results(out: Path) -> dict[str, Any] | None:
    """Return the results of a run that has all its reports; None if it has not."""
    try:
        results = json.loads((out / METRICS_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    complete = "splits" in results and (out / MODEL_FOLDER / REPOCARD_NAME).is_file() and (out / RESULTS_FILE).is_file()
    return results if complete else None
