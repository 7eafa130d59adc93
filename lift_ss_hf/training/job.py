"""The main job: from corpora and a backbone to a scored model that can be reloaded, with the stock Trainer."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from accelerate import PartialState
from huggingface_hub.constants import REPOCARD_NAME
from transformers import Trainer, set_seed
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.utils import CONFIG_NAME

from ..batches.cached_chains import with_cached_states
from ..batches.collator import ChainCollator, TokenBudgetBatches
from ..batches.labelled_chains import LabelledChains
from ..batches.masking import MaskedChains
from ..evaluation.baselines import ResidueBaseline
from ..evaluation.corpora import STATES_FOLDER, EvaluationSettings, evaluate_corpora, num_states_of
from ..evaluation.predictions import check_scorable, scorable_alphabets, score_predictions
from ..hub.push import prepare_push
from ..metrics.labels import encode_references
from ..metrics.trainer_metrics import compute_metrics
from ..models.atomic import remove_leftovers, replacing
from ..models.backbones import get_family, read_backbone_config
from ..models.conversion import convert_backbone
from ..models.modeling import SecondaryStructureModel
from ..models.safety import read_json_object
from ..models.states import get_alphabet
from ..models.tokenization import ResidueTokenizer
from ..models.wording import counted
from ..reports.provenance import TOKENS, environment, sequence_hashes, write_json
from .arguments import (
    CACHE_FOLDER,
    DEFAULT_STATES,
    PREFIX_CACHE_IN_RUN,
    CorpusArguments,
    ModelArguments,
    RecipeTrainingArguments,
    default_block_mix,
    default_head_channels,
    unless_none,
)
from .callbacks import EarlyStopping, EvaluateAtEnd, NewBatches, RemoveOldCheckpoints, ReturnFreeMemory, StopOnSigterm
from .checkpoint_files import read_trainer_state
from .checkpoints import (
    check_same_steps,
    final_checkpoint,
    remove_previous_run,
    reporting_full_disk,
    starting_checkpoint,
)
from .corpora import TrainingCorpora, describe_corpora, load_training_corpora
from .duration import DurationEstimate, TimeLimit
from .outcome import (
    CORPORA_FILE,
    ENVIRONMENT_FILE,
    FIGURES_FOLDER,
    HELD_OUT_FOLDER,
    METRICS_FILE,
    MODEL_FOLDER,
    RESULTS_FILE,
    calibrate_model,
    compare_with_baselines,
    finished_results,
    predict_validation,
    push_run,
    reload_model,
    write_held_out,
    write_reports,
)
from .recipes import RecipeError

logger = logging.getLogger(__name__)

ARGUMENTS_FILE, UNTRAINED_FILE = "recipe.yaml", "untrained.json"
# written besides checkpoints
RESULTS = (
    *(MODEL_FOLDER, UNTRAINED_FILE, METRICS_FILE, RESULTS_FILE),
    *(FIGURES_FOLDER, HELD_OUT_FOLDER, STATES_FOLDER, CACHE_FOLDER),
)
# AdamW's settings are in its checkpoint, which the Trainer loads: others would be ignored.
RESUMED_SETTINGS = ("learning_rate", "weight_decay", "optim", "adam_beta1", "adam_beta2", "adam_epsilon")
MAY_DIFFER = ("backbone", "backbone_revision", "convert_backbone")  # it may have been moved: its weights are compared


def run_training(
    model_arguments: ModelArguments, corpus_arguments: CorpusArguments, training: RecipeTrainingArguments
) -> dict[str, Any]:
    """Train, keep the best epoch, evaluate, and fill the run's directory.

    The directory then holds `model/` (to load with `from_pretrained`), `recipe.yaml` (all arguments),
    `environment.json`, `corpora.json` (checksums), `held_out/` (chains held out of the training chains),
    `metrics.json`, `results.md`, `figures/`, and the Trainer's checkpoints and logs. Resuming a run that is finished
    changes nothing.

    Returns:
        The results of `evaluate_corpora`; and `calibration` (see `evaluation.calibration.calibrate`),
        `training_seconds`, `splits` (see `TrainingCorpora.overlaps`), `validation`, the numbers of validation chains
        and of those that are training chains too, and `learnt`, the validation accuracies of the baselines and before
        and after training by alphabet. Without validation chains, `calibration` is None and `learnt` empty.

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
    _prepare_backbone(model_arguments, training)
    set_seed(training.seed)
    corpora = load_training_corpora(corpus_arguments)
    if model_arguments.states not in (None, "q3") and corpora.trained_states == 3:
        raise RecipeError(
            f"states is {model_arguments.states}, but training chains have three states only, all or those of one "
            "corpus. Leave out --states, or that corpus."
        )
    if not len(corpora.validation):
        training = training.without_validation()
    recorded = (model_arguments, corpus_arguments, training)
    states = model_arguments.states or corpora.finest_alphabet
    if len(corpora.validation):
        check_scorable(states, "validation chains", corpora.num_states)
    for name, corpus in corpora.tests.items():
        check_scorable(states, name, num_states_of(name, corpus["states"]))
    model_arguments = dataclasses.replace(model_arguments, states=states)
    tokenizer, model, chains = _build(model_arguments, corpora.train)
    described = describe_corpora(corpora)
    final = None
    if checkpoint is not None:
        _check_same_settings(out, *recorded)
        _check_same_chains(out, described)
        _check_same_backbone(Path(checkpoint), model)
        final = final_checkpoint(checkpoint, training)
        if final is None:
            num_batches = _num_batches(_batches(chains, chains, training), training)
            check_same_steps(Path(checkpoint), training, num_batches)
        elif (results := _finished(out, corpus_arguments)) is not None:
            _clean_up_and_push(out, training, repository)
            return results
    PartialState().wait_for_everyone()  # until all have decided whether there is something to do
    with training.main_process_first(desc="run directory"):
        if training.process_index == 0:
            if checkpoint is None:
                remove_previous_run(out, *RESULTS)
            elif out.is_dir():
                remove_leftovers(out)
                _remove_reports(out)
            _record_origin(out, recorded, described)
            write_held_out(out, corpora)
    untrained = _untrained_accuracies(model, tokenizer, corpora, training)
    if checkpoint is not None and final is not None:
        logger.info("training is finished; using %s", final)
        if training.process_index == 0:
            _save_finished(final, model, model_arguments.backbone, out / MODEL_FOLDER)
        seconds, history = 0.0, read_trainer_state(Path(checkpoint)).log_history
    else:
        seconds, history = _train(model, tokenizer, chains, corpora, training, checkpoint, stop)
    del model  # scored is the saved model: under ZeRO-3 no process has all of the trained weights
    results = _score(model_arguments, corpus_arguments, training, corpora, tokenizer, untrained)
    results["training_seconds"] = seconds
    if PartialState().is_main_process:
        write_reports(out, results, history)
    _clean_up_and_push(out, training, repository)
    return results


def _clean_up_and_push(out: Path, training: RecipeTrainingArguments, repository: str | None) -> None:
    """Do what comes after the reports; a resumed run does it again, since the first one may have been killed before."""
    if not PartialState().is_main_process:
        return
    if training.prefix_cache == PREFIX_CACHE_IN_RUN:
        shutil.rmtree(out / CACHE_FOLDER, ignore_errors=True)
    if repository is not None:
        push_run(out, repository, training.hub_revision)


def _score(
    model_arguments: ModelArguments,
    corpus_arguments: CorpusArguments,
    training: RecipeTrainingArguments,
    corpora: TrainingCorpora,
    tokenizer: ResidueTokenizer,
    untrained: Mapping[str, float],
) -> dict[str, Any]:
    """Load the saved model, calibrate it, and score it on validation and test chains."""
    out = Path(str(training.output_dir))
    trained = reload_model(
        out / MODEL_FOLDER, tokenizer, corpora.train, model_arguments.backbone_dtype, training.device
    )
    baseline = ResidueBaseline.of(corpora.train["sequence"], encode_references(corpora.train["states"]))
    calibration, learnt = None, {}
    if len(corpora.validation):
        predictions = predict_validation(trained, tokenizer, corpora, training)
        calibration = calibrate_model(trained, predictions, corpora, out / MODEL_FOLDER)
        learnt = compare_with_baselines(corpora, baseline, predictions, untrained)
    results = evaluate_corpora(
        trained,
        tokenizer,
        corpora.tests,
        EvaluationSettings(
            bootstrap=corpus_arguments.bootstrap,
            max_tokens=training.max_tokens_per_batch,
            columns=corpus_arguments.columns,
            keep_states=corpus_arguments.keep_states,
            figures=corpus_arguments.test_figures,
            cache=training.scoring_cache,
        ),
        out=out,
        training_chains=sequence_hashes(corpora.train["sequence"]),
        model_name=out.name,
        baseline=baseline,
    )
    validation = {"num_chains": len(corpora.validation), "duplicates_in_training": corpora.num_leaked}
    splits = corpora.overlaps()
    return results | {"calibration": calibration, "validation": validation, "learnt": learnt, "splits": splits}


# ---- before training -----------------------------------------------------------------------------------------------


def _prepare_backbone(arguments: ModelArguments, training: RecipeTrainingArguments) -> None:
    """Refuse a model that cannot be, or in a precision that it cannot have; convert pickles if that is asked for."""
    plan = SecondaryStructureModel.plan(arguments.backbone, **planned_options(arguments))
    if training.fp16:
        get_family(plan.backbone_config.model_type).check_precision(torch.float16)
    if arguments.convert_backbone:
        convert_backbone(arguments.backbone, arguments.backbone_revision)


def _build(
    arguments: ModelArguments, train: datasets.Dataset
) -> tuple[ResidueTokenizer, SecondaryStructureModel, LabelledChains]:
    """Load the backbone and its tokenizer, build the model on it, and encode the training chains."""
    tokenizer = ResidueTokenizer.from_pretrained(arguments.backbone, revision=arguments.backbone_revision)
    options = model_options(arguments)
    states = options["states"]
    chains = LabelledChains(train, tokenizer, states)
    if options["loss"] == "ldam" or options["balance"]:
        options["class_counts"] = chains.class_counts(len(get_alphabet(states)))
    model = SecondaryStructureModel.from_backbone(arguments.backbone, dtype=arguments.backbone_dtype, **options)
    return tokenizer, model, chains


def model_options(arguments: ModelArguments) -> dict[str, Any]:
    """Return a recipe's arguments as options of `SecondaryStructureModel.from_backbone`.

    Raises:
        ValueError: if the backbone is unknown, or adapter_options is not a JSON object.
    """
    revision = arguments.backbone_revision
    backbone = read_backbone_config(arguments.backbone, revision=revision)
    width = backbone.hidden_size
    block_mix = unless_none(arguments.block_mix)
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
        "block_mix": default_block_mix(width, backbone.num_hidden_layers) if block_mix == "auto" else block_mix,
        "head": arguments.head,
        "head_channels": arguments.head_channels or default_head_channels(width),
        "head_depth": arguments.head_depth,
        "head_dropout": arguments.head_dropout,
        "embedding_size": arguments.embedding_size,
        "centroid_init": arguments.centroid_init,
        "loss": arguments.loss,
        "loss_scale": arguments.loss_scale,
        "balance": unless_none(arguments.balance),
        "states": arguments.states or DEFAULT_STATES,
        "max_residues": arguments.max_residues,
    }


def planned_options(arguments: ModelArguments) -> dict[str, Any]:
    """Return the options of a recipe's model before there are chains: states are counted once each."""
    options = model_options(arguments)
    if arguments.loss == "ldam" or arguments.balance:
        options["class_counts"] = [1] * len(get_alphabet(options["states"]))  # their values do not change shapes
    return options


def _json_object(text: str | None) -> dict[str, Any] | None:
    try:
        content = json.loads(text) if text else None
    except ValueError:
        content = text
    if content is not None and not isinstance(content, dict):
        raise RecipeError(f'adapter_options is {text!r}. Expected JSON like {{"reduction_factor": 16}}.')
    return content


def _check_same_settings(
    out: Path, model: ModelArguments, corpora: CorpusArguments, training: RecipeTrainingArguments
) -> None:
    """Raise RecipeError if a run that is resumed has another model, or another setting that would be ignored."""
    before = _recorded_arguments(out)
    now = {name: value for name, value in dataclasses.asdict(model).items() if name not in MAY_DIFFER}
    now |= {name: value for name, value in training.to_dict().items() if name in RESUMED_SETTINGS}
    for name, value in now.items():
        if name in before and before[name] != value:
            raise RecipeError(
                f"{out}: started with {name} {before[name]}, now it is {value}. Resume with the same, or start anew "
                "in another directory, or here with --overwrite_output_dir."
            )


def _check_same_chains(out: Path, now: Mapping[str, Any]) -> None:
    """Raise RecipeError if a run that is resumed was started on other chains.

    The held-out chains are others if mmseqs2 was installed, or removed, since.
    """
    try:
        before = json.loads((out / CORPORA_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return
    changed = [name for name in ("train", "validation") if name in before and before.get(name) != now.get(name)]
    if changed:
        counts = [f"{found.get(changed[0], {}).get('chains', 0):,}" for found in (before, now)]
        raise RecipeError(
            f"{out}: started with {counts[0]} {changed[0]} chains, now there are {counts[1]} or others. Resume with "
            "the same files and the same way to hold chains out, or start anew in another directory."
        )


def _check_same_backbone(checkpoint: Path, model: SecondaryStructureModel) -> None:
    """Raise RecipeError if a run that is resumed was started on a backbone with other weights."""
    before = (read_json_object(checkpoint, CONFIG_NAME) or {}).get("backbone_fingerprint")
    now = model.config.backbone_fingerprint
    if before is not None and before != now:
        raise RecipeError(
            f"{checkpoint}: started on another backbone; its fingerprint is {before}, that of "
            f"{model.config.backbone_name} is {now}. Resume with --backbone and --backbone_revision as at the start."
        )


def _save_finished(final: Path, model: SecondaryStructureModel, backbone: str, folder: Path) -> None:
    """Save the model of a finished run from its checkpoint, with its backbone where it is now."""
    saved = read_json_object(final, CONFIG_NAME) or {}
    is_elsewhere = not saved.get("includes_backbone") and saved.get("backbone_name") != model.config.backbone_name
    places = {"backbone": backbone} if is_elsewhere else {}
    finished = SecondaryStructureModel.from_pretrained(final, dtype=model.backbone.dtype, **places)
    if is_elsewhere:
        finished.config.backbone_name = model.config.backbone_name
        finished.config.backbone_revision = model.config.backbone_revision
    finished.save_pretrained(folder)


def _remove_reports(out: Path) -> None:
    """Remove what says that a run is finished: it is resumed, and may be stopped before it has reported anew."""
    for path in (out / METRICS_FILE, out / MODEL_FOLDER / REPOCARD_NAME):
        path.unlink(missing_ok=True)


def _finished(out: Path, corpus_arguments: CorpusArguments) -> dict[str, Any] | None:
    """Return the results of a run that has no steps left to train; None if there are tests left to score."""
    results = finished_results(out)
    if results is None:
        return None
    asked = dataclasses.asdict(corpus_arguments)
    recorded = _recorded_arguments(out)
    if any(recorded.get(name) != value for name, value in asked.items()):
        return None
    logger.info("%s is finished: there is nothing left to train", out)
    return results


def _recorded_arguments(out: Path) -> dict[str, Any]:
    """Return the arguments of the run in a directory; none if they are missing or damaged."""
    try:
        recorded = yaml.safe_load((out / ARGUMENTS_FILE).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return recorded if isinstance(recorded, dict) else {}


def _record_origin(out: Path, arguments: Sequence[Any], described: Mapping[str, Any]) -> None:
    """Write the arguments, the environment, and the size and checksum of each corpus."""
    settings: dict[str, Any] = {}
    for part in arguments:
        settings |= part.to_dict() if hasattr(part, "to_dict") else dataclasses.asdict(part)
    for secret in TOKENS:
        settings.pop(secret, None)
    with replacing(out / ARGUMENTS_FILE) as path:
        path.write_text(yaml.safe_dump(settings, sort_keys=True), "utf-8")
    write_json(out / ENVIRONMENT_FILE, environment())
    write_json(out / CORPORA_FILE, described)


def _untrained_accuracies(
    model: SecondaryStructureModel,
    tokenizer: ResidueTokenizer,
    corpora: TrainingCorpora,
    training: RecipeTrainingArguments,
) -> dict[str, float]:
    """Return the validation accuracies before training, from the file of a resumed run that measured them."""
    path = Path(str(training.output_dir), UNTRAINED_FILE)
    if not len(corpora.validation):
        return {}
    if path.is_file():
        return json.loads(path.read_text("utf-8"))
    # Not Trainer.evaluate: under DeepSpeed it would leave an engine that cannot train.
    predictions = predict_validation(model.to(PartialState().device), tokenizer, corpora, training)
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
) -> tuple[float, list[dict[str, Any]]]:
    """Train with the stock Trainer and save the best epoch in the run's directory.

    Returns:
        Duration of the training [s], and the Trainer's log.
    """
    started = time.monotonic()
    out = Path(str(training.output_dir))
    validation = LabelledChains(corpora.validation, tokenizer, model.config.states)
    trainer = build_trainer(model, tokenizer, chains, validation, training, corpora.num_states)
    # An evaluation in steps' worth of tokens
    num_batches = _num_batches(trainer.train_dataset, training)
    tokens_a_step = sum(chains.lengths) / num_batches * training.gradient_accumulation_steps
    evaluation_steps = sum(validation.lengths) / tokens_a_step
    clock = (
        DurationEstimate(evaluation_steps)
        if training.minutes is None
        else TimeLimit(training.minutes, started, evaluation_steps)
    )
    trainer.callback_handler.callbacks.insert(0, clock)  # before those that act at the last step
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
    return seconds, trainer.state.log_history


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
        num_states: number of DSSP states that the validation chains distinguish, nine, eight or three.
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
        callbacks=[
            EvaluateAtEnd(),
            NewBatches(batches),
            RemoveOldCheckpoints(training.save_total_limit),
            ReturnFreeMemory(),
        ],
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


def _num_batches(batches: Any, training: RecipeTrainingArguments) -> int:
    """Return the number of batches of an epoch of the Trainer's dataset, on all processes together."""
    return math.ceil(len(batches) / training.per_device_train_batch_size)
