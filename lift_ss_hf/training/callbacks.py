"""What the stock Trainer leaves out: the last evaluation, new batches every epoch on every process, exact resuming."""

from __future__ import annotations

from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..batches.collator import TokenBudgetBatches


class EvaluateTheEnd(TrainerCallback):
    """Evaluate after the last step too, which the Trainer leaves out where `eval_steps` does not divide the steps.

    The learning rate of a falling schedule is lowest there: it may be the best there was.
    """

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for an evaluation at the end, and for the checkpoint that belongs to it."""
        if state.global_step >= state.max_steps and args.eval_strategy == IntervalStrategy.STEPS:
            control.should_evaluate = True
            control.should_save = control.should_save or args.save_strategy != SaveStrategy.NO


class NewBatches(TrainerCallback):
    """Give the chains new partners and masks every epoch; accelerate's loader does so in one process only.

    Args:
        batches: what is trained on.
    """

    def __init__(self, batches: TokenBudgetBatches):
        self.batches = batches

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Before the loader looks at the batches."""
        self.batches.set_epoch(int(state.epoch or 0))


class EarlyStopping(EarlyStoppingCallback):
    """Stop without a better evaluation for so long, and count on where a resumed run has counted to.

    The stock one begins at 0 again, so that a run that was killed would train longer than one that was not.
    """

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Take the count from the checkpoint."""
        super().on_train_begin(args, state, control, **kw)
        self.early_stopping_patience_counter = evaluations_without_a_better(state)


def evaluations_without_a_better(state: TrainerState) -> int:
    """How many evaluations a run has gone without a better one, as its `EarlyStopping` counted; 0 without one."""
    kept: Any = state.stateful_callbacks  # by name, whatever its annotation says
    return kept.get(EarlyStopping.__name__, {}).get("attributes", {}).get("early_stopping_patience_counter", 0)
