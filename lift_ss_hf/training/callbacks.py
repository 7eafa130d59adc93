"""Callbacks for the stock Trainer: evaluate at the end, new batches every epoch, exact resuming, stop on SIGTERM."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..batches.collator import TokenBudgetBatches

EXIT_RESUMABLE = 75  # EX_TEMPFAIL in sysexits.h: try again later


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
        batches: the training batches.
    """

    def __init__(self, batches: TokenBudgetBatches):
        self.batches = batches

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Draw the epoch's batches before the data loader reads them."""
        self.batches.set_epoch(int(state.epoch or 0))


class EarlyStopping(EarlyStoppingCallback):
    """Stop after a number of evaluations without improvement, counting across resumed runs.

    The stock callback restarts at 0, so that a run that was killed would train longer than one that was not.
    """

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Restore the count from the checkpoint."""
        super().on_train_begin(args, state, control, **kw)
        self.early_stopping_patience_counter = evaluations_without_improvement(state)


def evaluations_without_improvement(state: TrainerState) -> int:
    """Return the count of `EarlyStopping` in a Trainer's state; 0 if the run had no early stopping."""
    callbacks: Any = state.stateful_callbacks  # by name, although it is annotated as a list
    return callbacks.get(EarlyStopping.__name__, {}).get("attributes", {}).get("early_stopping_patience_counter", 0)


class StopOnSigterm(TrainerCallback):
    """Save a checkpoint and stop at the end of the step in which any of the processes received SIGTERM.

    Use it as a context manager around the training. On leaving, a stopped run prints one line to standard error and
    exits with status `EXIT_RESUMABLE`, for schedulers that requeue a job by its exit status.
    """

    def __init__(self) -> None:
        self.requested = self.stopped = False
        self._previous_handler: Any = None

    def __enter__(self) -> StopOnSigterm:
        self._previous_handler = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._previous_handler)
        if self.stopped and kind is None:
            print("stopped by SIGTERM, with a checkpoint. Go on with --resume_from_checkpoint last.", file=sys.stderr)
            raise SystemExit(EXIT_RESUMABLE)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask the Trainer to save and to stop."""
        self.stopped = self._any_process_was_asked(args)
        if self.stopped:
            control.should_save = control.should_training_stop = True

    def _any_process_was_asked(self, args: TrainingArguments) -> bool:
        if args.world_size == 1:
            return self.requested
        # The signal reaches the processes at different steps, but all must stop at the same one.
        requested = torch.tensor(int(self.requested), device=args.device)
        torch.distributed.all_reduce(requested, op=torch.distributed.ReduceOp.MAX)
        return bool(requested.item())
