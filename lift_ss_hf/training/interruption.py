"""Ending a run when a scheduler asks for it: a checkpoint first, then an exit status that says so."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..cli.run import RunStoppedError


class StopOnSigterm(TrainerCallback):
    """Save a checkpoint and stop at the end of the step in which SIGTERM came to any of the processes.

    Use it as a context around the training; on leaving, it raises `RunStoppedError` if the run was stopped.
    """

    def __init__(self) -> None:
        self.asked = self.stopped = False
        self._before: Any = None

    def __enter__(self) -> StopOnSigterm:
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)
        if self.stopped and kind is None:
            raise RunStoppedError("stopped by SIGTERM, with a checkpoint. Go on with --resume_from_checkpoint last.")

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.asked = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask the Trainer to save and to stop."""
        self.stopped = self._any_process_was_asked(args)
        if self.stopped:
            control.should_save = control.should_training_stop = True

    def _any_process_was_asked(self, args: TrainingArguments) -> bool:
        if args.world_size == 1:
            return self.asked
        # A scheduler's signal reaches the processes at different steps; all must stop at the same one.
        asked = torch.tensor(int(self.asked), device=args.device)
        torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
        return bool(asked.item())
