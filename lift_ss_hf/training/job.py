"""The main job: from corpora and a backbone to a scored, reloadable model, with the stock Trainer."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
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
from ..corpora import load_corpus
from ..corpora.loading import warn_if_crossed
from ..evaluation.calibration import calibrate, store_temperature
from ..evaluation.corpora import EvaluationSettings, evaluate_corpora
from ..evaluation.predictions import majority_accuracy, predict, scorable_alphabets, score_predictions
from ..hub.push import prepare_push, push_model
from ..metrics.labels import encode_references
from ..metrics.trainer_metrics import compute_metrics
from ..models.atomic import replacing
from ..models.backbones import read_backbone_config
from ..models.configuration import LIFT_SS_CHANNELS
from ..models.modeling import SecondaryStructureModel
from ..models.states import get_alphabet
from ..models.tokenization import ResidueTokenizer
from ..reports.model_card import write_card
from ..reports.provenance import environment, save_training_chains, sequence_hashes, write_json
from ..reports.tables import learnt_markdown
from .arguments import CorpusArguments, ModelArguments, RecipeTrainingArguments
from .callbacks import EarlyStopping, EvaluateTheEnd, NewBatches
from .checkpoints import finished_with, remove_former_run, saving_into, starting_point
from .interruption import StopOnSigterm
from .recipes import RecipeError

logger = logging.getLogger(__name__)

MODEL_FOLDER = "model"
ARGUMENTS_FILE = "recipe.yaml"
UNTRAINED_FILE = "untrained.json"
RESULTS = (MODEL_FOLDER, UNTRAINED_FILE, "metrics.json", "results.md", "figures")  # what a run leaves of its own


def run_training(
    model_arguments: ModelArguments, corpus_arguments: CorpusArguments, training: RecipeTrainingArguments
) -> dict[str, Any]:
    """Train, keep the best epoch, evaluate, and fill the run's directory.

    The directory then holds `model/` (the artefact), `recipe.yaml` (all arguments), `environment.json`,
    `corpora.json` (checksums), `metrics.json`, `results.md`, `figures/`, and the Trainer's checkpoints and logs.

    Returns:
        what `evaluate_corpora` measured, with the learning progress under `learnt`.

    Raises:
        ValueError: for whatever cannot be run, as early as it can be known.
    """
    out = Path(str(training.output_dir))
    checkpoint = starting_point(training)
    PartialState().wait_for_everyone()  # all have looked before the first writes there
    repository = prepare_push(training, model_arguments.backbone)
    set_seed(training.seed)
    train, validation = load_training_corpora(corpus_arguments)
    tests = load_tests(corpus_arguments)
    tokenizer, model, chains = _build(model_arguments, train)
    with training.main_process_first(desc="run directory"):
        if training.process_index == 0:
            if checkpoint is None:
                remove_former_run(out, *RESULTS)
            _write_origin(out, (model_arguments, corpus_arguments, training), train, validation, tests)
    max_tokens = training.max_tokens_per_batch
    untrained = _untrained_start(model, tokenizer, validation, max_tokens, out)
    seconds = _train(
        model, tokenizer, chains, LabelledChains(validation, tokenizer, model.config.states), training, checkpoint
    )
    del model  # what is scored is what was saved; under ZeRO-3 no process has the trained weights whole
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        save_training_chains(out / MODEL_FOLDER, train["sequence"])
        tokenizer.save_pretrained(out / MODEL_FOLDER)
    dtype = getattr(torch, model_arguments.backbone_dtype)
    trained = SecondaryStructureModel.from_pretrained(out / MODEL_FOLDER, dtype=dtype).to(training.device)
    predictions = predict(trained, tokenizer, validation["sequence"][:], max_tokens, quiet=True)
    references = encode_references(validation["states"])
    calibration = calibrate(predictions, references, 9)
    trained.config.calibration_temperature = calibration["temperature"]
    if PartialState().is_main_process:
        store_temperature(out / MODEL_FOLDER, calibration["temperature"])
    results = evaluate_corpora(
        trained,
        tokenizer,
        tests,
        EvaluationSettings(bootstrap=corpus_arguments.bootstrap, max_tokens=max_tokens),
        out=out,
        training_chains=sequence_hashes(train["sequence"]),
        model_name=out.name,
    )
    results["calibration"], results["training_seconds"] = calibration, seconds
    results["learnt"] = {
        alphabet: {
            "majority": majority_accuracy(references, alphabet),
            "untrained": untrained[alphabet],
            "trained": scores[alphabet],
        }
        for alphabet, scores in score_predictions(references, predictions, 9).items()
    }
    if PartialState().is_main_process:
        write_json(out / "metrics.json", results)
        with replacing(out / "results.md") as part:
            part.write_text(
                (out / "results.md").read_text("utf-8") + "\n" + learnt_markdown(results["learnt"]), "utf-8"
            )
        write_card(out)
        if repository is not None:
            _push(out, repository, training.hub_revision)
    return results


def _push(out: Path, repository: str, revision: str | None) -> None:
    """Push a complete run; if that fails, say how to do it again."""
    try:
        logger.info("pushed: %s", push_model(out / MODEL_FOLDER, repository, revision=revision))
    except (OSError, ValueError) as error:
        again = f"python recipes/push.py {out / MODEL_FOLDER} {repository}"
        raise ValueError(f"{error} The run is complete; only the push is missing: {again}") from error


def _train(
    model: SecondaryStructureModel,
    tokenizer: ResidueTokenizer,
    train: LabelledChains,
    validation: LabelledChains,
    training: RecipeTrainingArguments,
    checkpoint: str | None,
) -> float:
    """Train with the stock Trainer, keep the best epoch, and save it in the run's directory; seconds of training."""
    out = Path(str(training.output_dir))
    if checkpoint is not None:
        num_batches = len(TokenBudgetBatches(train, train.lengths, training.max_tokens_per_batch))
        if best := finished_with(checkpoint, training, num_batches):
            logger.info("nothing is left to train; taking %s", best)
            if training.process_index == 0:
                finished = SecondaryStructureModel.from_pretrained(best, dtype=model.backbone.dtype)
                finished.save_pretrained(out / MODEL_FOLDER)
            return 0.0
    trainer = build_trainer(model, tokenizer, train, validation, training)
    if training.stops_early:
        trainer.add_callback(EarlyStopping(training.early_stopping_patience))
    stop = StopOnSigterm()
    trainer.add_callback(stop)
    with saving_into(out), stop:
        seconds = trainer.train(resume_from_checkpoint=checkpoint).metrics["train_runtime"]
    with saving_into(out):
        trainer.save_model(str(out / MODEL_FOLDER))
    if trainer.is_world_process_zero():
        # The Trainer pickles its arguments beside a model; they are in recipe.yaml, and no pickle goes to the Hub.
        (out / MODEL_FOLDER / TRAINING_ARGS_NAME).unlink(missing_ok=True)
    return seconds


def load_training_corpora(arguments: CorpusArguments) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The training and the validation chains.

    Raises:
        RecipeError: if one of them is empty.
        ValueError: for unknown or unreachable corpora.
    """
    for name in arguments.train:
        warn_if_crossed(name, arguments.tests)
    train = _load(arguments.train, "train", arguments.source)
    if arguments.max_train_residues:
        keep = [i for i, length in enumerate(train["num_residues"]) if length <= arguments.max_train_residues]
        logger.info("left out %d of %d training chains as too long", len(train) - len(keep), len(train))
        train = train.select(keep)
    for name, lowest in (("train_fraction", 1e-9), ("validation_fraction", 0.0)):
        if not lowest <= getattr(arguments, name) <= 1:
            raise RecipeError(f"{name} is {getattr(arguments, name)}. Expected a fraction of at most 1.")
    if arguments.train_fraction < 1:
        train = train.shuffle(seed=0).select(range(max(1, round(arguments.train_fraction * len(train)))))
    if arguments.validation and arguments.validation != ["none"]:
        return train, _load(arguments.validation, "validation", arguments.source)
    num_held_out = round(arguments.validation_fraction * len(train))
    if not 0 < num_held_out < len(train):
        raise RecipeError("no validation chains. Name corpora (--validation NAME ...), or give --validation_fraction.")
    train = train.shuffle(seed=0)
    return train.select(range(num_held_out, len(train))), train.select(range(num_held_out))


def _load(names: Sequence[str], split: str, source: str | None) -> datasets.Dataset:
    """One split of several corpora, end to end."""
    columns = ["id", "sequence", "states", "num_residues"]
    parts = [load_corpus(name, split, data_dir=source).select_columns(columns) for name in names]
    if not sum(map(len, parts)):
        raise RecipeError(f"no {split} chains. Name corpora: --{split} NAME ...")
    return datasets.concatenate_datasets(parts)


def load_tests(arguments: CorpusArguments) -> dict[str, datasets.Dataset]:
    """The test chains, loaded before training so that a wrong name costs nothing.

    Raises:
        RecipeError: if a training corpus is given as a test.
    """
    tests = {}
    for name in arguments.tests:
        tests[name] = load_corpus(name, "test", data_dir=arguments.source)
        if name in arguments.train and Path(name).is_file():
            raise RecipeError(f"{name} is given for training and as a test. Name another test.")
    return tests


def _build(
    arguments: ModelArguments, train: datasets.Dataset
) -> tuple[ResidueTokenizer, SecondaryStructureModel, LabelledChains]:
    tokenizer = ResidueTokenizer.from_pretrained(arguments.backbone, revision=arguments.backbone_revision)
    chains = LabelledChains(train, tokenizer, arguments.states)
    options = model_options(arguments)
    if options["loss"] == "ldam" or options["balance"]:
        options["class_counts"] = chains.class_counts(len(get_alphabet(arguments.states)))
    dtype = getattr(torch, arguments.backbone_dtype)
    return tokenizer, SecondaryStructureModel.from_backbone(arguments.backbone, dtype=dtype, **options), chains


def model_options(arguments: ModelArguments) -> dict[str, Any]:
    """Arguments of the command line as options of `from_backbone`.

    Raises:
        ValueError: for an unknown backbone, and options that are no JSON.
    """
    revision = arguments.backbone_revision
    width = read_backbone_config(arguments.backbone, revision=revision).hidden_size
    freeze, adapter, block_mix, balance = map(
        _chosen, (arguments.freeze, arguments.adapter, arguments.block_mix, arguments.balance)
    )
    options: dict[str, Any] = {"adapter": None}  # then a recipe's settings of the adapter are of no account
    if adapter is not None:
        options = {
            "adapter": adapter,
            "adapter_options": _json_object(arguments.adapter_options),
            "leave_out": arguments.leave_out or None,
            "top_blocks": arguments.top_blocks,
        }
    return options | {
        "revision": revision,
        "freeze": int(str(freeze)) if str(freeze).isdigit() else freeze,
        "block_mix": block_mix,
        "head": arguments.head,
        "head_channels": arguments.head_channels or min(width, LIFT_SS_CHANNELS),
        "head_dropout": arguments.head_dropout,
        "loss": arguments.loss,
        "balance": balance,
        "states": arguments.states,
        "max_residues": arguments.max_residues,
    }


def _chosen(value: str | None) -> str | None:
    """What was chosen; None for `none`, which a flag says where a recipe has chosen something."""
    return None if str(value).lower() in ("none", "") else value


def _json_object(text: str | None) -> dict[str, Any] | None:
    try:
        content = json.loads(text) if text else None
    except ValueError:
        content = text
    if content is not None and not isinstance(content, dict):
        raise RecipeError(f'adapter_options is {text!r}. Expected JSON like {{"reduction_factor": 16}}.')
    return content


def build_trainer(
    model: SecondaryStructureModel,
    tokenizer: ResidueTokenizer,
    train: LabelledChains,
    validation: LabelledChains,
    training: RecipeTrainingArguments,
) -> Trainer:
    """The stock Trainer over token-budget batches."""
    states = model.config.states
    training.metric_for_best_model = training.metric_for_best_model or f"eval_{states}"
    chains: Any = train
    held_out = validation.sorted_by_length()
    if settings := training.prefix_cache_settings:
        chains, held_out = with_cached_states(model, [chains, held_out], tokenizer.pad_token_id, settings)
    if training.mask_fraction:
        chains = MaskedChains(chains, training.mask_fraction, tokenizer, training.seed)
    batches = TokenBudgetBatches(chains, train.lengths, training.max_tokens_per_batch, training.seed)
    logger.info(
        "%d training chains in %d batches (%.1f %% padding)", len(train), len(batches), 100 * batches.padding_fraction
    )
    also = [alphabet for alphabet in scorable_alphabets(states, 9) if alphabet != states]
    return Trainer(
        model=model,
        callbacks=[EvaluateTheEnd(), NewBatches(batches)],
        args=training,
        train_dataset=batches,
        eval_dataset=held_out,
        data_collator=ChainCollator(tokenizer.pad_token_id),
        compute_metrics=compute_metrics(states, also=also),
    )


def _untrained_start(
    model: SecondaryStructureModel,
    tokenizer: ResidueTokenizer,
    validation: datasets.Dataset,
    max_tokens: int,
    out: Path,
) -> dict[str, float]:
    """Validation accuracies before training; kept, since a resumed run cannot measure them again."""
    path = out / UNTRAINED_FILE
    if path.is_file():
        return json.loads(path.read_text("utf-8"))
    # Not Trainer.evaluate: under DeepSpeed it would leave an engine that cannot train.
    predictions = predict(model.to(PartialState().device), tokenizer, validation["sequence"][:], max_tokens, quiet=True)
    scores = score_predictions(encode_references(validation["states"]), predictions, 9)
    accuracies = {alphabet: scores[alphabet][alphabet] for alphabet in scores}
    if PartialState().is_main_process:
        write_json(path, accuracies)
    return accuracies


def _write_origin(
    out: Path,
    arguments: Sequence[Any],
    train: datasets.Dataset,
    validation: datasets.Dataset,
    tests: dict[str, datasets.Dataset],
) -> None:
    """Write what the run was started with."""
    settings: dict[str, Any] = {}
    for part in arguments:
        settings |= part.to_dict() if hasattr(part, "to_dict") else dataclasses.asdict(part)
    for secret in ("hub_token", "push_to_hub_token"):
        settings.pop(secret, None)
    with replacing(out / ARGUMENTS_FILE) as part:
        part.write_text(yaml.safe_dump(settings, sort_keys=True), "utf-8")
    write_json(out / "environment.json", environment())
    corpora = {"train": train, "validation": validation, **tests}
    write_json(out / "corpora.json", {name: describe_corpus(corpus) for name, corpus in corpora.items()})


def describe_corpus(corpus: datasets.Dataset) -> dict[str, Any]:
    """Counts and checksum of what was really used."""
    from hashlib import sha256

    digest = sha256()
    for sequence, states in zip(corpus["sequence"], corpus["states"], strict=True):
        digest.update(f"{sequence}\n{states}\n".encode())
    return {
        "chains": len(corpus),
        "residues": sum(corpus["num_residues"]),
        "sha256_of_sequences_and_states": digest.hexdigest(),
    }
