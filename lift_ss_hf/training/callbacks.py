"""Callbacks for the stock Trainer: evaluate at the end, new batches, exact resuming, stop on SIGTERM, free memory."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..prediction.allocator import return_free_memory
from .checkpoints import evaluations_without_improvement, remove_old_checkpoints

EXIT_RESUMABLE = 75  # EX_TEMPFAIL in sysexits.h: try again later
TRIM_STEPS = 10  # steps between two returns of free memory


class EvaluateAtEnd(TrainerCallback):
    """Evaluate after the last step, which the Trainer omits if `eval_steps` does not divide the number of steps.

    The learning rate of a decaying schedule is lowest there, so the last step may well be the best.
    """

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Request an evaluation after the last step, and the checkpoint that belongs to it."""
        if state.global_step >= state.max_steps and args.eval_strategy == IntervalStrategy.STEPS:
            control.should_evaluate = True
            control.should_save = control.should_save or args.save_strategy != SaveStrategy.NO


class NewBatches(TrainerCallback):
    """Draw new batches and masks every epoch, in every process; accelerate's data loader does it in a single one only.

    Args:
        batches: the training batches, or chains; those without `set_epoch` stay the same.
    """

    def __init__(self, batches: Any):
        self.batches = batches

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Draw the epoch's batches before the data loader reads them."""
        if hasattr(self.batches, "set_epoch"):
            self.batches.set_epoch(int(state.epoch or 0))


class ReturnFreeMemory(TrainerCallback):
    """Return free memory to the system every few steps of training and of evaluation on a CPU.

    Batches differ in length, so each step needs blocks of other sizes, and the heap of a long run keeps growing.
    torch recommends `malloc_trim` too (pytorch#41486); benchmarks/training.md compares it with settings of glibc that
    do the same and cost more. Drop this when torch keeps blocks for the CPU itself.
    """

    def __init__(self) -> None:
        self.steps = 0

    def on_step_end(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        """Count a step of training."""
        self.steps += 1
        if args.device.type == "cpu" and self.steps % TRIM_STEPS == 0:
            return_free_memory()

    def on_prediction_step(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        """Count a step of evaluation."""
        self.on_step_end(args)


class EarlyStopping(EarlyStoppingCallback):
    """Stop after a number of evaluations without improvement, counting across resumed runs.

    The stock callback restarts at 0, so that a run that was killed would train longer than one that was not.
    """

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Restore the count from the checkpoint."""
        super().on_train_begin(args, state, control, **kw)
        self.early_stopping_patience_counter = evaluations_without_improvement(state)


class RemoveOldCheckpoints(TrainerCallback):
    """Keep as many checkpoints as `save_total_limit` says, of a Trainer whose own limit is None.

    The Trainer removes a checkpoint file by file: a kill leaves the rest for good, which it then takes for its newest.

    Args:
        limit: number of checkpoints to keep; None keeps all.
    """

    def __init__(self, limit: int | None):
        self.limit = limit

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Remove the checkpoints that the new one makes superfluous."""
        if self.limit and args.should_save:
            remove_old_checkpoints(str(args.output_dir), state.global_step, self.limit, state.best_model_checkpoint)


class StopOnSigterm(TrainerCallback):
    """Stop on SIGTERM so that the resumed run equals one that was never stopped, byte for byte.

    Use it as a context manager around everything after the start of a run. While the model trains, the run saves a
    checkpoint and stops at the end of the step in which any of the processes received the signal; outside of training
    each process stops at once when it receives it. If there is a checkpoint to resume from, it prints one line to
    standard error and exits with status `EXIT_RESUMABLE`, for schedulers that requeue a job by its exit status;
    otherwise the signal ends it.

    Args:
        resumable: True if the run was resumed, so that there is a checkpoint (default: False, until it saves one).
    """

    def __init__(self, resumable: bool = False) -> None:
        self.resumable = resumable
        self.requested = self.stopping = self.training = False
        self._previous_handler: Any = None

    def __enter__(self) -> StopOnSigterm:
        self._previous_handler = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._previous_handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True
        if not self.training:
            self._exit()

    def _exit(self) -> None:
        if not self.resumable:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        print("stopped by SIGTERM, with a checkpoint. Resume with --resume.", file=sys.stderr)
        raise SystemExit(EXIT_RESUMABLE)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """From here on, stop only where a checkpoint can be saved."""
        self.training = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask the Trainer to stop, and to save unless the end of the epoch comes next, which does."""
        self.stopping = self._any_process_was_asked(args) and not _must_train_on(args, state, control)
        if self.stopping:
            control.should_training_stop = True
            control.should_save = control.should_save or not _ends_epoch(state)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Skip what the Trainer does at the end of an epoch: it treats a stop within an epoch as one."""
        if not self.stopping:
            return
        if _ends_epoch(state):
            control.should_save = True
        else:
            control.should_evaluate = control.should_save = control.should_log = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Note that there is a checkpoint."""
        self.resumable = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Exit, also if the signal came during the last evaluation."""
        asked = self._any_process_was_asked(args)  # none may leave before, or the others would wait for it
        self.training = False
        if asked or self.requested:
            self._exit()

    def _any_process_was_asked(self, args: TrainingArguments) -> bool:
        if args.world_size == 1:
            return self.requested
        # The signal reaches the processes at different steps, but all must stop at the same one.
        requested = torch.tensor(int(self.requested), device=args.device)
        torch.distributed.all_reduce(requested, op=torch.distributed.ReduceOp.MAX)
        return bool(requested.item())


def _ends_epoch(state: TrainerState) -> bool:
    """Return True if the Trainer evaluates now even if nobody stopped it: after an epoch, or after the last step."""
    return float(state.epoch or 0).is_integer() or state.global_step >= state.max_steps


def _must_train_on(args: TrainingArguments, state: TrainerState, control: TrainerControl) -> bool:
    """Return True if a checkpoint of this step could be chosen as the best although no uninterrupted run saves it."""
    if not args.load_best_model_at_end or state.global_step >= state.max_steps:
        return False
    if args.eval_strategy == IntervalStrategy.EPOCH:
        return _ends_epoch(state) and args.save_strategy != SaveStrategy.EPOCH
    return control.should_evaluate and not control.should_save
