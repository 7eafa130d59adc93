"""Checkpoints of a run: where it starts, which one is whole, and what to say when one cannot be written."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME, WEIGHTS_NAME

from .arguments import RecipeTrainingArguments
from .callbacks import evaluations_without_a_better
from .recipes import RecipeError

logger = logging.getLogger(__name__)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def starting_point(training: TrainingArguments) -> str | None:
    """The checkpoint that a run goes on from, None for a new run.

    Raises:
        RecipeError: if the directory holds another run, or there is no whole checkpoint to go on from.
    """
    out, wanted = Path(str(training.output_dir)), training.resume_from_checkpoint
    if not wanted:
        if out.is_dir() and any(out.iterdir()) and not training.overwrite_output_dir:
            raise RecipeError(
                f"{out}: holds another run. Go on with it (--resume_from_checkpoint last), name another --output_dir, "
                "or replace it (--overwrite_output_dir)."
            )
        return None
    if wanted == "last":
        checkpoint = last_checkpoint(out)
    else:
        checkpoint = Path(str(wanted))
        if checkpoint.is_dir() and (damage := find_damage(checkpoint)):
            raise RecipeError(f"{checkpoint}: not a whole checkpoint ({damage}). Resume from another, or from last.")
    if checkpoint is None or not checkpoint.is_dir():
        raise RecipeError(
            f"{out}: no checkpoint to resume from (looked for {wanted}). "
            "Start it anew without --resume_from_checkpoint."
        )
    _check_world_size(checkpoint, training.world_size)
    return str(checkpoint)


def _check_world_size(checkpoint: Path, world_size: int) -> None:
    """Raise RecipeError if DeepSpeed wrote a checkpoint in other parts than there are processes now."""
    parts = {path.name for path in checkpoint.glob("global_step*/*_optim_states.pt")}
    if parts and len(parts) != world_size:
        raise RecipeError(
            f"{checkpoint}: written by {len(parts)} processes under ZeRO, found {world_size}. "
            f"Go on with --num_processes {len(parts)}."
        )


def remove_former_run(out: str | Path, *names: str) -> None:
    """Take away what a run that is being replaced left: its checkpoints, which a resumed run would take for its own.

    Args:
        out: the run's directory.
        names: of files and folders in it that go too; what is not there is passed over.
    """
    for path in [*Path(out).glob(f"{PREFIX_CHECKPOINT_DIR}-*"), *(Path(out) / name for name in names)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def finished_with(checkpoint: str | Path, training: RecipeTrainingArguments, num_batches: int) -> Path | None:
    """The checkpoint that a run ends with, where no step is left to train; None where there is.

    The Trainer would take one more step where the last one lies within an epoch, and where early stopping ended it.

    Args:
        checkpoint: what is gone on from.
        training: how long to train.
        num_batches: of an epoch, on all processes together.
    """
    state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
    steps_an_epoch = math.ceil(math.ceil(num_batches / training.world_size) / training.gradient_accumulation_steps)
    max_steps = training.max_steps if training.max_steps > 0 else math.ceil(training.num_train_epochs * steps_an_epoch)
    is_stopped = training.stops_early and evaluations_without_a_better(state) >= training.early_stopping_patience
    if state.global_step < max_steps and not is_stopped:
        return None
    best = Path(checkpoint)
    if training.load_best_model_at_end and state.best_model_checkpoint:
        best = best.parent / Path(state.best_model_checkpoint).name
    return best if (best / CONFIG_NAME).is_file() else None


def last_checkpoint(out: str | Path) -> Path | None:
    """The newest checkpoint of a run that was written to its end; newer ones that were not are told.

    Args:
        out: the run's directory.

    Returns:
        its folder, None if there is none.
    """
    folders = [path for path in Path(out).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.split("-")[-1].isdigit()]
    for folder in sorted(folders, key=lambda path: -int(path.name.split("-")[-1])):
        damage = find_damage(folder)
        if damage is None:
            return folder
        logger.warning("%s was not written to its end (%s); looking at the one before", folder, damage)
    return None


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint; None if it is whole."""
    try:
        # The Trainer writes it last.
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return f"no whole {TRAINER_STATE_NAME}"
    for path in checkpoint.glob("*.safetensors"):
        try:
            with safe_open(path, "pt"):
                pass  # it holds the header against the file's size
        except (OSError, SafetensorError):
            return f"{path.name} is damaged"
    if (checkpoint / WEIGHTS_NAME).exists():
        return f"{WEIGHTS_NAME} is a pickle, which is not read"
    for name in (OPTIMIZER_NAME, SCHEDULER_NAME):
        path = checkpoint / name
        if path.exists() and not zipfile.is_zipfile(path):
            return f"{name} is damaged"
    return None


@contextlib.contextmanager
def saving_into(out: str | Path) -> Iterator[None]:
    """Say in one line that there is no room, and from where to go on.

    Raises:
        OSError: when a checkpoint could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _is_no_room(error):
            raise
        last = last_checkpoint(out)
        way_out = (
            f"{last.name} is whole: make room, and go on with --resume_from_checkpoint last."
            if last
            else "No checkpoint was written before: make room, and start again with --overwrite_output_dir."
        )
        raise OSError(f"{out}: no room to write a checkpoint ({str(error).splitlines()[0]}). {way_out}") from error


def _is_no_room(error: BaseException) -> bool:
    # safetensors and torch tell it in words only
    words = ("No space left", "File too large", "quota exceeded", "PytorchStreamWriter failed", "file write failed")
    return getattr(error, "errno", None) in NO_ROOM or any(word in str(error) for word in words)
