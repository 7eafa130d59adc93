"""The files of a checkpoint, checked before a run resumes from them: damage is found early, and nothing of a file runs.

Large files are not loaded: weights are compared with their header, and archives of torch with their checksums, in one
pass over the file. The optimizer's tables are read without its tensors.
"""

from __future__ import annotations

import random
import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME, safe_globals
from transformers.utils import WEIGHTS_NAME

from ..models.safety import LARGEST_INTEGER, read_json_object, read_shapes

RANDOM_STATES = "rng_state*.pth"  # one, or one for each process
DEEPSPEED_FOLDERS, DEEPSPEED_LATEST = "global_step*", "latest"
FSDP_FILES = ("optimizer*", "pytorch_model_fsdp*")  # files or folders
# Tensors of an optimizer that are as large as their parameter: of Adam and its kin, and of SGD.
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
# What the Trainer reads of its state, besides whole numbers of at least 0.
COUNTS = ("global_step", "max_steps", "num_train_epochs")
STATE_TYPES = {
    **dict.fromkeys(("epoch", "best_metric"), (int, float, type(None))),
    **dict.fromkeys(("num_input_tokens_seen", "total_flos"), (int, float)),
    **dict.fromkeys(("best_global_step", "train_batch_size"), (int, type(None))),
    "best_model_checkpoint": (str, type(None)),
    "log_history": (list,),
    "stateful_callbacks": (dict,),
}


class DamagedFileError(ValueError):
    """A file of a checkpoint that is missing or damaged; the message begins with its name."""


def find_damage(checkpoint: Path, only_weights: bool = False) -> str | None:
    """Return what is wrong with the files of a checkpoint; None if it is complete.

    Args:
        checkpoint: its folder, written by the Trainer alone, under DDP, FSDP or DeepSpeed.
        only_weights: the checkpoint is only needed for its model, not to resume from.
    """
    try:
        read_trainer_state(checkpoint)  # first: the Trainer writes it last
        shapes = _check_weights(checkpoint)
        if not only_weights:
            _check_training_states(checkpoint, shapes)
            _check_random_states(checkpoint)
    except DamagedFileError as damage:
        return str(damage)
    return None


def read_trainer_state(checkpoint: Path) -> TrainerState:
    """Read the Trainer's state from a checkpoint.

    Raises:
        DamagedFileError: if it is missing, or not what the Trainer writes.
    """
    damaged = DamagedFileError(f"{TRAINER_STATE_NAME} is missing or damaged")
    try:
        content = read_json_object(checkpoint, TRAINER_STATE_NAME)
        content = {name: value for name, value in (content or {}).items() if name != "_commit_hash"}
        state: Any = TrainerState(**content)
    except (AttributeError, OSError, TypeError, ValueError):
        raise damaged from None
    callbacks = state.stateful_callbacks
    is_valid = (
        "global_step" in content
        and all(_is_count(getattr(state, name)) for name in COUNTS)
        and all(_has_type(getattr(state, name), types) for name, types in STATE_TYPES.items())
        and all(isinstance(entry, dict) for entry in state.log_history)
        and all(_is_callback(entry) for found in callbacks.values() for entry in _as_list(found))
    )
    if not is_valid:
        raise damaged
    return state


def _is_count(value: Any) -> bool:
    return _has_type(value, (int,)) and 0 <= value <= LARGEST_INTEGER


def _has_type(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_callback(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(part, {}), dict) for part in ("args", "attributes"))


def _check_weights(checkpoint: Path) -> Counter[tuple[int, ...]]:
    """Check the weights, and return how many of them in safetensors have each shape."""
    shapes: Counter[tuple[int, ...]] = Counter()
    files = sorted(checkpoint.glob("*.safetensors"))
    for path in files:
        try:
            shapes.update(map(tuple, read_shapes(path, path.name).values()))
        except (OSError, SafetensorError, ValueError):
            raise DamagedFileError(f"{path.name} is damaged") from None
    if (checkpoint / WEIGHTS_NAME).exists():
        raise DamagedFileError(f"{WEIGHTS_NAME} is a pickle, which is never loaded")
    has_others = _check_deepspeed(checkpoint) | _check_fsdp(checkpoint)
    if not files and not has_others:
        raise DamagedFileError("its weights (model.safetensors) are missing")
    return shapes


def _check_deepspeed(checkpoint: Path) -> bool:
    """Check what DeepSpeed wrote, as far as that is possible without unpickling it; False if it wrote nothing."""
    latest, folders = checkpoint / DEEPSPEED_LATEST, [*checkpoint.glob(DEEPSPEED_FOLDERS)]
    if not latest.exists() and not folders:
        return False
    try:
        name = latest.read_text("utf-8").strip()
    except (OSError, ValueError):
        name = ""
    folder = checkpoint / name
    if folder not in folders:
        raise DamagedFileError(f"{DEEPSPEED_LATEST} is missing or damaged")
    for part in ("model_states", "optim_states"):
        files = sorted(folder.glob(f"*{part}.pt"))
        if not files:
            raise DamagedFileError(f"{name}/*{part}.pt is missing")
        for path in files:
            _check_archive(path, f"{name}/{path.name}")
        _check_all_there(files, r"zero_pp_rank_(\d+)_", name)
    return True


def _check_fsdp(checkpoint: Path) -> bool:
    """Check what FSDP wrote, as far as that is possible without unpickling it; False if it wrote nothing."""
    found = sorted(path for pattern in FSDP_FILES for path in checkpoint.glob(pattern) if path.name != OPTIMIZER_NAME)
    for path in found:
        if path.is_file():
            _check_archive(path)
        elif not (path / ".metadata").is_file() or not all(part.stat().st_size for part in path.iterdir()):
            raise DamagedFileError(f"{path.name} is incomplete")  # torch writes .metadata last
    return bool(found)


def _check_all_there(files: Iterable[Path], pattern: str, where: str = "") -> None:
    """Check that no file is missing among those that the processes wrote, which are numbered from 0."""
    numbers = {int(match[1]) for path in files if (match := re.search(pattern, path.name))}
    if missing := set(range(len(numbers))) - numbers:
        raise DamagedFileError(f"{where or 'rng_state'} lacks the file of process {min(missing)}")


def _check_training_states(checkpoint: Path, shapes: Counter[tuple[int, ...]]) -> None:
    """Check the states of the optimizer, the schedule and the scaler of gradients; shapes are those of the weights."""
    optimizer, schedule, scaler = (checkpoint / name for name in (OPTIMIZER_NAME, SCHEDULER_NAME, SCALER_NAME))
    if optimizer.exists():
        _check_optimizer(optimizer, shapes)
    elif not any(checkpoint.glob(DEEPSPEED_FOLDERS)) and not any(checkpoint.glob(FSDP_FILES[0])):
        # The Trainer would start with a new one, without a word.
        raise DamagedFileError(f"{optimizer.name} is missing")
    if schedule.exists():
        if not _is_schedule(_load(schedule)):
            raise DamagedFileError(f"{schedule.name} is damaged: not the state of a learning rate schedule")
    elif optimizer.exists():
        raise DamagedFileError(f"{schedule.name} is missing")
    if scaler.exists():
        _load(scaler)


def _check_optimizer(path: Path, shapes: Counter[tuple[int, ...]]) -> None:
    content = _load(path)
    states: Any = content.get("state")
    groups: Any = content.get("param_groups")
    parts = [*states.values(), *groups] if isinstance(states, dict) and isinstance(groups, list) else [None]
    if not all(isinstance(part, dict) for part in parts) or not all(isinstance(g.get("params"), list) for g in groups):
        raise DamagedFileError(f"{path.name} is damaged: not the state of an optimizer")
    for moment in MOMENTS:
        found = [state[moment] for state in states.values() if moment in state]
        if not Counter(tuple(getattr(tensor, "shape", [None])) for tensor in found) <= shapes:
            raise DamagedFileError(f"{path.name} is damaged: its tensors do not have the shapes of the weights")


def _is_schedule(content: dict[str, Any]) -> bool:
    rates = [*_as_list(content.get("base_lrs", [])), *_as_list(content.get("_last_lr", []))]
    return _is_count(content.get("last_epoch")) and all(_has_type(rate, (int, float)) for rate in rates)


def _check_random_states(checkpoint: Path) -> None:
    """Check the states of the random numbers by restoring them in generators of their own."""
    files = sorted(checkpoint.glob(RANDOM_STATES))
    if not files:
        raise DamagedFileError("rng_state.pth is missing")
    _check_all_there(files, r"rng_state_(\d+)")
    for path in files:
        content = _load(path)
        try:
            random.Random().setstate(content["python"])
            np.random.RandomState().set_state(content["numpy"])
            torch.Generator().set_state(content["cpu"])
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
            raise DamagedFileError(f"{path.name} is damaged: not the states of random numbers") from None


def _load(path: Path) -> dict[Any, Any]:
    """Read the table in a file of torch; the file's tensors are mapped, not read, and nothing of it runs."""
    _check_archive(path)
    try:
        with safe_globals():  # what the Trainer allows
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the unpickler raises whatever the bytes lead it to
        raise DamagedFileError(f"{path.name} is damaged: it cannot be read") from error
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path.name} is damaged: not a table")
    return content


def _check_archive(path: Path, name: str | None = None) -> None:
    """Check the directory and the checksums of an archive that torch wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            is_whole = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
            is_whole = is_whole and archive.testzip() is None
    except Exception:  # zipfile raises whatever the bytes lead it to
        is_whole = False
    if not is_whole:
        raise DamagedFileError(f"{name or path.name} is damaged")
