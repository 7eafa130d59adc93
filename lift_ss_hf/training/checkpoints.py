"""Checkpoints of a run: where it starts, which checkpoint is complete, and errors when one cannot be written."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..models.atomic import remove_whole, require_folder
from ..models.wording import first_line
from .arguments import RecipeTrainingArguments
from .checkpoint_files import find_damage, read_trainer_state
from .launch import LaunchedArguments
from .recipes import RecipeError

logger = logging.getLogger(__name__)

LAST = ("last", "true")  # the stock Trainer's name for it is True
EARLY_STOPPING = "EarlyStopping"  # the callback's name, under which the Trainer saves its count
ROUNDING = 1e-6  # of a number of epochs
OTHER_STEPS = 0.1  # difference between steps an epoch that smaller batches, gathered into as large steps, may make
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def starting_checkpoint(training: LaunchedArguments) -> str | None:
    """Return the checkpoint that a run resumes from; None for a new run.

    Args:
        training: its output_dir, resume_from_checkpoint (a folder, `last`, or True, which means `last`) and
            overwrite_output_dir.

    Raises:
        ValueError: if the output directory is not a directory.
        RecipeError: if it holds another run, or there is no complete checkpoint to resume from.
    """
    out, wanted = Path(str(training.output_dir)), str(training.resume_from_checkpoint or "")
    require_folder(out)
    if wanted.lower() in ("", "none", "false"):
        if out.is_dir() and any(out.iterdir()) and not training.overwrite_output_dir:
            raise RecipeError(
                f"{out}: holds another run. Resume it (--resume), choose another directory, or replace it "
                "(--overwrite_output_dir)."
            )
        return None
    if wanted.lower() in LAST:
        checkpoint = last_checkpoint(out)
    else:
        checkpoint = Path(wanted)
        if checkpoint.is_dir() and (damage := find_damage(checkpoint)):
            raise RecipeError(f"{checkpoint}: incomplete checkpoint ({damage}). Resume from another, or from last.")
    if checkpoint is None or not checkpoint.is_dir():
        raise RecipeError(
            f"{out}: no checkpoint to resume from (looked for {wanted}). "
            f"Start a new run without {'--resume' if wanted.lower() in LAST else '--resume_from_checkpoint'}."
        )
    _check_world_size(checkpoint, training.world_size)
    if training.load_best_model_at_end:
        _check_best(checkpoint)
    return str(checkpoint)


def _check_world_size(checkpoint: Path, world_size: int) -> None:
    """Raise RecipeError if DeepSpeed wrote a checkpoint with another number of processes."""
    parts = {path.name for path in checkpoint.glob("global_step*/*_optim_states.pt")}
    if parts and len(parts) != world_size:
        raise RecipeError(
            f"{checkpoint}: written by {len(parts)} processes under ZeRO, found {world_size}. "
            f"Resume with --num_processes {len(parts)}."
        )


def _check_best(checkpoint: Path) -> None:
    """Raise RecipeError if the best checkpoint so far is gone, in whose place the last one would be kept silently."""
    best = best_checkpoint(checkpoint)
    if best is not None and (damage := find_damage(best, only_weights=True)):
        raise RecipeError(
            f"{best}: the best checkpoint up to {checkpoint.name} is missing or incomplete ({damage}). Restore it, or "
            "train anew with --overwrite_output_dir."
        )


def best_checkpoint(checkpoint: Path) -> Path | None:
    """Return the checkpoint that was the best when another one of its run was saved; None if none was."""
    best = read_trainer_state(checkpoint).best_model_checkpoint
    if not best:
        return None
    beside = checkpoint.parent / Path(best).name  # the run may have been moved
    return beside if beside.is_dir() else Path(best)


def remove_previous_run(out: str | Path, *names: str) -> None:
    """Remove the checkpoints of a run that is being replaced, or the new run would resume from them.

    Args:
        out: the run's directory.
        names: further files and folders in it to remove; missing ones are ignored.
    """
    for path in [*Path(out).glob(f"{PREFIX_CHECKPOINT_DIR}-*"), *(Path(out) / name for name in names)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def final_checkpoint(checkpoint: str | Path, training: RecipeTrainingArguments) -> Path | None:
    """Return the checkpoint that holds the result of a finished run; None if there are steps left to train.

    If it resumed a run that ended within an epoch, or by early stopping, the Trainer would train one more step.

    Args:
        checkpoint: the checkpoint to resume from.
        training: how long to train, and whether to keep the best model.
    """
    state = read_trainer_state(Path(checkpoint))
    if training.max_steps > 0:
        is_trained = state.global_step >= training.max_steps
    else:
        is_trained = (state.epoch or 0) >= training.num_train_epochs - ROUNDING
    if training.minutes is not None:  # then the run planned its number of steps itself
        is_trained |= state.global_step >= state.max_steps
    stopped_early = training.stops_early and evaluations_without_improvement(state) >= training.early_stopping_patience
    if not is_trained and not stopped_early:
        return None
    best = best_checkpoint(Path(checkpoint)) if training.load_best_model_at_end else None
    return best or Path(checkpoint)


def check_same_steps(checkpoint: Path, training: RecipeTrainingArguments, num_batches: int) -> None:
    """Raise RecipeError if a run that is resumed has more or fewer steps an epoch: the Trainer counts epochs in steps.

    Args:
        checkpoint: the checkpoint to resume from.
        training: its number of processes, and the batches of a step.
        num_batches: number of batches of an epoch, on all processes together.
    """
    state = read_trainer_state(checkpoint)
    if not state.epoch or not state.global_step:
        return
    before = state.global_step / state.epoch  # not whole if steps do not divide the batches
    now = math.ceil(math.ceil(num_batches / training.world_size) / training.gradient_accumulation_steps)
    if abs(now - before) >= max(1, OTHER_STEPS * before):
        raise RecipeError(
            f"{checkpoint}: an epoch had {before:.0f} steps, now it has {now}. Resume with as many processes and as "
            "large batches, or make up for them: with half the processes, or half of --max_tokens_per_batch, "
            "double --gradient_accumulation_steps."
        )


def evaluations_without_improvement(state: TrainerState) -> int:
    """Return the count of `callbacks.EarlyStopping` in a Trainer's state; 0 if the run had no early stopping."""
    callbacks: Any = state.stateful_callbacks  # by name, although it is annotated as a list
    return callbacks.get(EARLY_STOPPING, {}).get("attributes", {}).get("early_stopping_patience_counter", 0)


def remove_old_checkpoints(out: str | Path, step: int, limit: int, best: str | Path | None) -> None:
    """Remove all checkpoints of a run but the newest ones and the best, which counts among them.

    Args:
        out: the run's directory.
        step: of the checkpoint that was just saved. Later ones, from before the run was resumed at an earlier step,
            are the first to go.
        limit: how many to keep; at least the newest and the best are kept.
        best: the best checkpoint; None if there is none.
    """
    checkpoints = _checkpoints(out)
    newest = Path(out, f"{PREFIX_CHECKPOINT_DIR}-{step}")
    later = [folder for folder in checkpoints if _step_of(folder) > step]
    older = later + [folder for folder in checkpoints if _step_of(folder) < step]
    older.sort(key=lambda folder: best is not None and folder.name == Path(best).name)  # stable: the best goes last
    num_kept = max(limit - 1, best is not None and newest.name != Path(best).name)
    for folder in older[: len(older) - num_kept]:
        remove_whole(folder)


def _checkpoints(out: str | Path) -> list[Path]:
    """Return the folders of a run's checkpoints, from the oldest to the newest."""
    folders = [path for path in Path(out).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.split("-")[-1].isdigit()]
    return sorted(folders, key=_step_of)


def _step_of(folder: Path) -> int:
    return int(folder.name.split("-")[-1])


def last_checkpoint(out: str | Path) -> Path | None:
    """Return the newest complete checkpoint of a run; incomplete ones are skipped with a warning.

    Args:
        out: the run's directory.

    Returns:
        The checkpoint's folder; None if there is no complete one.
    """
    for folder in reversed(_checkpoints(out)):
        damage = find_damage(folder)
        if damage is None:
            return folder
        logger.warning("%s is incomplete (%s); trying the previous checkpoint", folder, damage)
    return None


@contextlib.contextmanager
def reporting_full_disk(out: str | Path) -> Iterator[None]:
    """Report a full disk in one line that says how to resume, whatever exception the writer raised.

    Args:
        out: the run's directory.

    Raises:
        OSError: if a checkpoint could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _is_disk_full(error):
            raise
        last = last_checkpoint(out)
        remedy = (
            f"{last.name} is complete: free space, then resume with --resume."
            if last
            else "There is no earlier checkpoint: free space, then start again with --overwrite_output_dir."
        )
        raise OSError(f"{out}: no space to write a checkpoint ({first_line(error)}). {remedy}") from error


def _is_disk_full(error: BaseException) -> bool:
    # safetensors and torch raise errors without an errno
    words = ("No space left", "File too large", "quota exceeded", "PytorchStreamWriter failed", "file write failed")
    return getattr(error, "errno", None) in DISK_FULL or any(word in str(error) for word in words)
