"""The main job: from corpora and a backbone to a scored model that can be reloaded, with the stock Trainer."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from accelerate import PartialState
from transformers import Trainer, set_seed
from transformers.trainer import TRAINING_ARGS_NAME

from ..batches.cached_chains import with_cached_states
from ..batches.collator import ChainCollator, TokenBudgetBatches
from ..batches.labelled_chains import LabelledChains
from ..batches.masking import MaskedChains
from ..evaluation.calibration import calibrate, store_temperature
from ..evaluation.corpora import EvaluationSettings, evaluate_corpora
from ..evaluation.predictions import Predictions, majority_accuracy, predict, scorable_alphabets, score_predictions
from ..hub.push import prepare_push, push_model
from ..metrics.trainer_metrics import compute_metrics
from ..models.atomic import remove_leftovers, replacing
from ..models.backbones import read_backbone_config
from ..models.modeling import SecondaryStructureModel
from ..models.states import get_alphabet
from ..models.tokenization import ResidueTokenizer
from ..models.wording import counted
from ..reports.model_card import write_card
from ..reports.provenance import environment, save_training_chains, sequence_hashes, write_json
from ..reports.tables import learnt_markdown
from .arguments import CorpusArguments, ModelArguments, RecipeTrainingArguments, default_head_channels, unless_none
from .callbacks import EarlyStopping, EvaluateAtEnd, NewBatches, RemoveOldCheckpoints, StopOnSigterm
from .checkpoints import final_checkpoint, remove_previous_run, reporting_full_disk, starting_checkpoint
from .corpora import TrainingCorpora, describe_corpus, load_tests, load_training_corpora
from .recipes import RecipeError

logger = logging.getLogger(__name__)

MODEL_FOLDER = "model"
ARGUMENTS_FILE = "recipe.yaml"
UNTRAINED_FILE = "untrained.json"
RESULTS = (MODEL_FOLDER, UNTRAINED_FILE, "metrics.json", "results.md", "figures")  # written besides checkpoints


def run_training(
    model_arguments: ModelArguments, corpus_arguments: CorpusArguments, training: RecipeTrainingArguments
) -> dict[str, Any]:
    """Train, keep the best epoch, evaluate, and fill the run's directory.

    The directory then holds `model/` (to load with `from_pretrained`), `recipe.yaml` (all arguments),
    `environment.json`, `corpora.json` (checksums), `metrics.json`, `results.md`, `figures/`, and the Trainer's
    checkpoints and logs.

    Returns:
        The results of `evaluate_corpora`; and `calibration` (see `evaluation.calibration.calibrate`),
        `training_seconds`, `validation`, the numbers of validation chains and of those that are training chains too,
        and `learnt`, the validation accuracies before and after training by alphabet.

    Raises:
        ValueError: if the job cannot be run; before training wherever that can be known.
    """
    if model_arguments.backbone_dropout == "reference" and training.prefix_cache_settings is not None:
        raise RecipeError(
            "backbone_dropout reference changes the frozen blocks' output every time, so it cannot be cached. Switch "
            "one of them off: --backbone_dropout frozen_eval, or --prefix_cache off."
        )
    checkpoint = starting_checkpoint(training)
    with StopOnSigterm(resumable=checkpoint is not None) as stop:
        return _run(model_arguments, corpus_arguments, training, checkpoint, stop)


def _run(
    model_arguments: ModelArguments,
    corpus_arguments: CorpusArguments,
    training: RecipeTrainingArguments,
    checkpoint: str | None,
    stop: StopOnSigterm,
) -> dict[str, Any]:
    """Do what `run_training` says, from a checkpoint on if there is one."""
    out = Path(str(training.output_dir))
    PartialState().wait_for_everyone()  # until all have looked, none may write to the directory
    repository = prepare_push(training, model_arguments.backbone)
    set_seed(training.seed)
    corpora = load_training_corpora(corpus_arguments)
    tests = load_tests(corpus_arguments)
    tokenizer, model, chains = _build(model_arguments, corpora.train)
    with training.main_process_first(desc="run directory"):
        if training.process_index == 0:
            if checkpoint is None:
                remove_previous_run(out, *RESULTS)
            elif out.is_dir():
                remove_leftovers(out)
            _record_origin(out, (model_arguments, corpus_arguments, training), corpora, tests)
    untrained = _untrained_accuracies(model, tokenizer, corpora, training)
    seconds = _train(model, tokenizer, chains, corpora, training, checkpoint, stop)
    del model  # scored is the saved model: under ZeRO-3 no process has all of the trained weights
    trained = _reload(out / MODEL_FOLDER, tokenizer, corpora.train, model_arguments.backbone_dtype, training.device)
    predictions = _predict_validation(trained, tokenizer, corpora, training)
    calibration = _calibrate(trained, predictions, corpora, out / MODEL_FOLDER)
    results = evaluate_corpora(
        trained,
        tokenizer,
        tests,
        EvaluationSettings(
            bootstrap=corpus_arguments.bootstrap,
            max_tokens=training.max_tokens_per_batch,
            columns=corpus_arguments.columns,
        ),
        out=out,
        training_chains=sequence_hashes(corpora.train["sequence"]),
        model_name=out.name,
    )
    learnt = _learnt(corpora, predictions, untrained)
    validation = {"num_chains": len(corpora.validation), "duplicates_in_training": corpora.num_leaked}
    results |= {"calibration": calibration, "training_seconds": seconds, "validation": validation, "learnt": learnt}
    if PartialState().is_main_process:
        _write_reports(out, results)
        if repository is not None:
            _push(out, repository, training.hub_revision)
    return results


# ---- before training -----------------------------------------------------------------------------------------------


def _build(
    arguments: ModelArguments, train: datasets.Dataset
) -> tuple[ResidueTokenizer, SecondaryStructureModel, LabelledChains]:
    """Load the backbone and its tokenizer, build the model on it, and encode the training chains."""
    tokenizer = ResidueTokenizer.from_pretrained(arguments.backbone, revision=arguments.backbone_revision)
    chains = LabelledChains(train, tokenizer, arguments.states)
    options = model_options(arguments)
    if options["loss"] == "ldam" or options["balance"]:
        options["class_counts"] = chains.class_counts(len(get_alphabet(arguments.states)))
    dtype = getattr(torch, arguments.backbone_dtype)
    return tokenizer, SecondaryStructureModel.from_backbone(arguments.backbone, dtype=dtype, **options), chains


def model_options(arguments: ModelArguments) -> dict[str, Any]:
    """Return a recipe's arguments as options of `SecondaryStructureModel.from_backbone`.

    Raises:
        ValueError: if the backbone is unknown, or adapter_options is not a JSON object.
    """
    revision = arguments.backbone_revision
    width = read_backbone_config(arguments.backbone, revision=revision).hidden_size
    freeze, adapter = unless_none(arguments.freeze), unless_none(arguments.adapter)
    options: dict[str, Any] = {"adapter": None}  # without an adapter, a recipe's settings of it are ignored
    if adapter is not None:
        options = {
            "adapter": adapter,
            "adapter_options": _json_object(arguments.adapter_options),
            "leave_out": arguments.leave_out or None,
            "top_blocks": arguments.top_blocks,
            "prefix_shift": arguments.prefix_shift,
        }
    return options | {
        "revision": revision,
        "backbone_dropout": arguments.backbone_dropout,
        "freeze": int(str(freeze)) if str(freeze).isdigit() else freeze,
        "block_mix": unless_none(arguments.block_mix),
        "head": arguments.head,
        "head_channels": arguments.head_channels or default_head_channels(width),
        "head_depth": arguments.head_depth,
        "head_dropout": arguments.head_dropout,
        "embedding_size": arguments.embedding_size,
        "centroid_init": arguments.centroid_init,
        "loss": arguments.loss,
        "loss_scale": arguments.loss_scale,
        "balance": unless_none(arguments.balance),
        "states": arguments.states,
        "max_residues": arguments.max_residues,
    }


def _json_object(text: str | None) -> dict[str, Any] | None:
    try:
        content = json.loads(text) if text else None
    except ValueError:
        content = text
    if content is not None and not isinstance(content, dict):
        raise RecipeError(f'adapter_options is {text!r}. Expected JSON like {{"reduction_factor": 16}}.')
    return content


def _record_origin(
    out: Path, arguments: Sequence[Any], corpora: TrainingCorpora, tests: Mapping[str, datasets.Dataset]
) -> None:
    """Write the arguments, the environment, and the size and checksum of each corpus."""
    settings: dict[str, Any] = {}
    for part in arguments:
        settings |= part.to_dict() if hasattr(part, "to_dict") else dataclasses.asdict(part)
    for secret in ("hub_token", "push_to_hub_token"):
        settings.pop(secret, None)
    with replacing(out / ARGUMENTS_FILE) as path:
        path.write_text(yaml.safe_dump(settings, sort_keys=True), "utf-8")
    write_json(out / "environment.json", environment())
    used = {"train": corpora.train, "validation": corpora.validation, **tests}
    write_json(out / "corpora.json", {name: describe_corpus(corpus) for name, corpus in used.items()})


def _untrained_accuracies(
    model: SecondaryStructureModel,
    tokenizer: ResidueTokenizer,
    corpora: TrainingCorpora,
    training: RecipeTrainingArguments,
) -> dict[str, float]:
    """Return the validation accuracies before training, from the file of a resumed run that measured them."""
    path = Path(str(training.output_dir), UNTRAINED_FILE)
    if path.is_file():
        return json.loads(path.read_text("utf-8"))
    # Not Trainer.evaluate: under DeepSpeed it would leave an engine that cannot train.
    predictions = _predict_validation(model.to(PartialState().device), tokenizer, corpora, training)
    scores = score_predictions(corpora.references, predictions, corpora.num_states)
    accuracies = {alphabet: scores[alphabet][alphabet] for alphabet in scores}
    if PartialState().is_main_process:
        write_json(path, accuracies)
    return accuracies


# ---- training ------------------------------------------------------------------------------------------------------


def _train(
    model: SecondaryStructureModel,
    tokenizer: ResidueTokenizer,
    chains: LabelledChains,
    corpora: TrainingCorpora,
    training: RecipeTrainingArguments,
    checkpoint: str | None,
    stop: StopOnSigterm,
) -> float:
    """Train with the stock Trainer and save the best epoch in the run's directory.

    Returns:
        Duration of the training [s]; 0 if a resumed run was finished.
    """
    out = Path(str(training.output_dir))
    if checkpoint is not None:
        num_batches = math.ceil(len(_batches(chains, chains, training)) / training.per_device_train_batch_size)
        if best := final_checkpoint(checkpoint, training, num_batches):
            logger.info("training is finished; using %s", best)
            if training.process_index == 0:
                finished = SecondaryStructureModel.from_pretrained(best, dtype=model.backbone.dtype)
                finished.save_pretrained(out / MODEL_FOLDER)
            return 0.0
    validation = LabelledChains(corpora.validation, tokenizer, model.config.states)
    trainer = build_trainer(model, tokenizer, chains, validation, training, corpora.num_states)
    if training.stops_early:
        trainer.add_callback(EarlyStopping(training.early_stopping_patience))
    trainer.add_callback(stop)
    with reporting_full_disk(out):
        seconds = trainer.train(resume_from_checkpoint=checkpoint).metrics["train_runtime"]
    with reporting_full_disk(out):
        trainer.save_model(str(out / MODEL_FOLDER))
    if trainer.is_world_process_zero():
        # The Trainer pickles its arguments beside the model. They are in recipe.yaml, and no pickle goes to the Hub.
        (out / MODEL_FOLDER / TRAINING_ARGS_NAME).unlink(missing_ok=True)
    return seconds


def build_trainer(
    model: SecondaryStructureModel,
    tokenizer: ResidueTokenizer,
    train: LabelledChains,
    validation: LabelledChains,
    training: RecipeTrainingArguments,
    num_states: int,
) -> Trainer:
    """Build the stock Trainer over token-budget batches.

    Args:
        model: the model to train.
        tokenizer: its tokenizer.
        train: training chains.
        validation: validation chains.
        training: a recipe's arguments; the Trainer gets a copy.
        num_states: number of DSSP states that the validation chains distinguish, nine or eight.
    """
    chains: Any = train
    held_out = validation.sorted_by_length()
    if settings := training.prefix_cache_settings:
        chains, held_out = with_cached_states(model, [chains, held_out], tokenizer.pad_token_id, settings)
    if training.mask_fraction:
        chains = MaskedChains(chains, training.mask_fraction, tokenizer, training.seed)
    batches = _batches(chains, train, training)
    if isinstance(batches, TokenBudgetBatches):
        padding = 100 * batches.padding_fraction
        logger.info(
            "%s in %s (%.1f %% padding)",
            counted(len(train), "training chain"),
            counted(len(batches), "batch", "batches"),
            padding,
        )
    finest, *others = scorable_alphabets(model.config.states, num_states)
    trainer = Trainer(
        model=model,
        callbacks=[EvaluateAtEnd(), NewBatches(batches), RemoveOldCheckpoints(training.save_total_limit)],
        args=training.for_trainer(finest),
        train_dataset=batches,
        eval_dataset=held_out,
        data_collator=ChainCollator(tokenizer.pad_token_id),
        compute_metrics=compute_metrics(finest, source=model.config.states, also=others),
    )
    if training.loss_weighting == "micro_batch":
        # The Trainer then averages the losses of a step's batches, instead of telling the model to divide by the
        # number of residues in all of them.
        trainer.model_accepts_loss_kwargs = False
    return trainer


def _batches(chains: Any, train: LabelledChains, training: RecipeTrainingArguments) -> Any:
    """Return the Trainer's dataset: of batches of similar length, or of the chains, which it batches itself."""
    if training.batching == "random":
        return chains
    return TokenBudgetBatches(chains, train.lengths, training.max_tokens_per_batch, training.seed)


# ---- after training ------------------------------------------------------------------------------------------------


def _reload(
    folder: Path, tokenizer: ResidueTokenizer, train: datasets.Dataset, dtype: str, device: torch.device
) -> SecondaryStructureModel:
    """Complete the folder of the saved model, and load the model from it as its users will."""
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        save_training_chains(folder, train["sequence"])
        tokenizer.save_pretrained(folder)
    return SecondaryStructureModel.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device)


def _predict_validation(
    model: SecondaryStructureModel,
    tokenizer: ResidueTokenizer,
    corpora: TrainingCorpora,
    training: RecipeTrainingArguments,
) -> Predictions:
    sequences = corpora.validation["sequence"][:]
    return predict(model, tokenizer, sequences, training.max_tokens_per_batch, quiet=True)


def _calibrate(
    model: SecondaryStructureModel, predictions: Predictions, corpora: TrainingCorpora, folder: Path
) -> dict[str, Any]:
    """Fit the temperature to the validation chains, and store it in the model and in its folder."""
    calibration = calibrate(predictions, corpora.references, corpora.num_states)
    model.config.calibration_temperature = calibration["temperature"]
    if PartialState().is_main_process:
        store_temperature(folder, calibration["temperature"])
    return calibration


def _learnt(
    corpora: TrainingCorpora, predictions: Predictions, untrained: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Return three validation accuracies by alphabet: of the most frequent state, before and after training."""
    return {
        alphabet: {
            "majority": majority_accuracy(corpora.references, alphabet),
            "untrained": untrained[alphabet],
            "trained": scores[alphabet],
        }
        for alphabet, scores in score_predictions(corpora.references, predictions, corpora.num_states).items()
    }


def _write_reports(out: Path, results: Mapping[str, Any]) -> None:
    """Add what training measured to `metrics.json` and `results.md`, and write the model card."""
    write_json(out / "metrics.json", results)
    evaluation = (out / "results.md").read_text("utf-8")
    with replacing(out / "results.md") as path:
        path.write_text(f"{evaluation}\n{learnt_markdown(results['learnt'], results['validation'])}", "utf-8")
    write_card(out)


def _push(out: Path, repository: str, revision: str | None) -> None:
    """Push a complete run; if that fails, say how to push it again."""
    try:
        logger.info("pushed: %s", push_model(out / MODEL_FOLDER, repository, revision=revision))
    except (OSError, ValueError) as error:
        command = f"python recipes/push.py {out / MODEL_FOLDER} {repository}"
        raise ValueError(f"{error} The run is complete; to push it, run: {command}") from error
