"""How long a run takes: an estimate after its first steps, and an upper bound that it keeps.

Both measure the run itself. The bound changes how many steps the Trainer is going to make, so that a decaying schedule
ends when the time does; it is planned anew after each evaluation and when steps become slower, and enforced by the
clock.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, get_scheduler
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import IntervalStrategy

logger = logging.getLogger(__name__)

# Steps to measure before the first estimate: so many, or fewer if they take long.
MEASURED_STEPS, FEWEST_STEPS, ENOUGH_SECONDS = 10, 3, 5.0
SHORT_PART = 0.25  # or this part of the steps: a run of few steps is over before
RECENT_STEPS = 50  # that count: the machine may have become busier
FORWARD_SHARE = 0.5  # of a step's time, at most; the rest is the backward pass and the optimizer's
RESERVE = 0.03  # of the time, for what is not measured: saving, and steps that take longer
TIME_LIMIT = "TimeLimit"  # the callback's name, under which the Trainer saves its state


class DurationEstimate(TrainerCallback):
    """Measure steps and evaluations, and say once how long the run will take.

    Args:
        evaluation_steps: how many steps' worth of tokens the validation chains have, to estimate the time of an
            evaluation before there was one.
    """

    def __init__(self, evaluation_steps: float = 0.0):
        self.evaluation_steps = evaluation_steps
        self.steps: list[float] = []  # [s]
        self.evaluations: list[float] = []  # [s], with the saving after each
        self.is_told = False
        self._last = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Count the time since the last step, and say how long the run will take when that is known."""
        self.steps.append(self._lap())
        is_short = len(self.steps) >= max(2, SHORT_PART * state.max_steps)
        if not self.is_told and (is_short or self.is_measured(self.step_seconds)):
            self.is_told = True
            left = self._seconds_to(state.max_steps, self.step_seconds, self.evaluation_seconds, args, state)
            logger.info(
                "training takes about %s more: %d steps of %.2f s, %d evaluations of about %.1f s",
                duration(left),
                state.max_steps - state.global_step,
                self.step_seconds,
                self.num_evaluations(args, state, state.max_steps),
                self.evaluation_seconds,
            )

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Count the time of an evaluation."""
        self.evaluations.append(self._lap())

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Count the time of a checkpoint with that of the evaluation before it."""
        if self.evaluations:
            self.evaluations[-1] += self._lap()

    def _lap(self) -> float:
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        return seconds

    def is_measured(self, step_seconds: float) -> bool:
        """Return True when enough steps were measured.

        Args:
            step_seconds: mean time of a step [s]; the same in all processes, so that they agree.
        """
        num_measured = len(self.steps) - 1  # the first one allocates memory
        return num_measured >= MEASURED_STEPS or (
            num_measured >= FEWEST_STEPS and num_measured * step_seconds >= ENOUGH_SECONDS
        )

    @property
    def step_seconds(self) -> float:
        """Mean time of the last steps [s]."""
        measured = self.steps[max(1, len(self.steps) - RECENT_STEPS) :] or self.steps or [0.0]
        return sum(measured) / len(measured)

    @property
    def evaluation_seconds(self) -> float:
        """Mean time of an evaluation so far [s]; before the first one, at most what it will be."""
        if self.evaluations:
            return sum(self.evaluations) / len(self.evaluations)
        return FORWARD_SHARE * self.evaluation_steps * self.step_seconds

    def num_evaluations(self, args: TrainingArguments, state: TrainerState, max_steps: int) -> int:
        """Return how many evaluations there will be from here to `max_steps`."""
        if args.eval_strategy == IntervalStrategy.NO:
            return 0
        interval = max(1, round(state.global_step / state.epoch)) if state.epoch else max_steps  # an epoch
        if args.eval_strategy == IntervalStrategy.STEPS:
            fraction = args.eval_steps or 1.0
            interval = math.ceil(max_steps * fraction) if fraction < 1 else int(state.eval_steps)
        return math.ceil(max_steps / interval) - state.global_step // interval

    def _seconds_to(
        self, max_steps: int, step: float, evaluation: float, args: TrainingArguments, state: TrainerState
    ) -> float:
        """Return how long it takes to train up to a step [s]."""
        num_evaluations = self.num_evaluations(args, state, max_steps)
        return (max_steps - state.global_step) * step + num_evaluations * evaluation


class TimeLimit(DurationEstimate, ExportableState):
    """Train for at most so many minutes, evaluations and what came before the first step included.

    It must come before the Trainer's own callbacks, which then see the last step as such.

    The time that a resumed run took before is counted too, and its plan is kept until steps are measured again.

    Args:
        minutes: the bound.
        started: `time.monotonic()` when the time began to count.
        evaluation_steps: as for `DurationEstimate`.
    """

    def __init__(self, minutes: float, started: float, evaluation_steps: float = 0.0):
        super().__init__(evaluation_steps)
        self.limit, self.started = 60 * minutes, started
        self.seconds_before = 0.0
        self.full_steps = self.planned_steps = 0
        self._plan_is_due = False

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must have to resume with the same plan."""
        return {"args": {}, "attributes": {"seconds": self.elapsed, "planned_steps": self.planned_steps}}

    @property
    def elapsed(self) -> float:
        """Time used so far, by earlier parts of the run too [s]."""
        return self.seconds_before + time.monotonic() - self.started

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Restore the plan from the checkpoint."""
        super().on_train_begin(args, state, control)
        self.full_steps = self.planned_steps = state.max_steps
        before = saved_limit(state)
        if before is not None:
            self.seconds_before = before["seconds"]
            self._apply(before["planned_steps"], args, state, kw.get("lr_scheduler"))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Plan the rest of the run when there is something new to plan it with, and stop when the time is over."""
        self.steps.append(self._lap())
        elapsed, step, evaluation = self._agree(args)
        left = self.limit - elapsed
        if state.global_step >= state.max_steps:
            return
        if left <= evaluation + step + RESERVE * self.limit:
            logger.info("stopping after %s: the time is over (--minutes)", duration(elapsed))
            self._apply(state.global_step, args, state, None)
        elif (
            self._plan_is_due
            or (not self.is_told and self.is_measured(step))
            or (self.is_told and self._seconds_to(state.max_steps, step, evaluation, args, state) > left)
        ):
            self._plan_is_due = False
            self._plan(left, step, evaluation, args, state, kw.get("lr_scheduler"))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Plan anew at the next step: evaluations take another time than expected."""
        super().on_evaluate(args, state, control)
        self._plan_is_due = self.is_told

    def _agree(self, args: TrainingArguments) -> tuple[float, float, float]:
        """Return time used, and times of a step and of an evaluation, in the slowest of the processes [s]."""
        measured = [self.elapsed, self.step_seconds, self.evaluation_seconds]
        if args.world_size > 1:
            slowest = torch.tensor(measured, device=args.device)
            torch.distributed.all_reduce(slowest, op=torch.distributed.ReduceOp.MAX)
            measured = slowest.tolist()
        return measured[0], measured[1], measured[2]

    def _plan(
        self, left: float, step: float, evaluation: float, args: TrainingArguments, state: TrainerState, scheduler: Any
    ) -> None:
        """Make as many steps as the time allows, but no more than without a bound."""
        left -= RESERVE * self.limit
        most = state.global_step + max(1, int(left / step))
        low, high = state.global_step + 1, min(most, self.full_steps)
        while low < high:  # the number of evaluations depends on the number of steps
            middle = (low + high + 1) // 2
            fits = self._seconds_to(middle, step, evaluation, args, state) <= left
            low, high = (middle, high) if fits else (low, middle - 1)
        self._apply(low, args, state, scheduler)
        if not self.is_told:
            self.is_told = True
            logger.info(
                "training ends within %s: %d of %d steps of %.2f s, %d evaluations of about %.1f s",
                duration(self.limit),
                low,
                self.full_steps,
                step,
                self.num_evaluations(args, state, low),
                evaluation,
            )

    def _apply(self, max_steps: int, args: TrainingArguments, state: TrainerState, scheduler: Any) -> None:
        """Let the Trainer make so many steps, and its schedule and evaluations follow."""
        self.planned_steps = state.max_steps = max_steps
        for kind in ("eval", "save"):
            fraction = getattr(args, f"{kind}_steps")
            if fraction is not None and fraction < 1:
                setattr(state, f"{kind}_steps", math.ceil(max_steps * fraction))
        if scheduler is not None:
            end_schedule_at(max_steps, scheduler, args)


def end_schedule_at(max_steps: int, scheduler: Any, args: Any) -> None:
    """Let a schedule of transformers, which goes on from where it is, end after another number of steps.

    Schedules that do not know the number of steps are left as they are.
    """
    while not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        if not hasattr(scheduler, "scheduler"):  # wrapped by accelerate or DeepSpeed
            return
        scheduler = scheduler.scheduler
    fresh = get_scheduler(
        args.lr_scheduler_type,
        optimizer=torch.optim.SGD([torch.zeros(1)], lr=1.0),
        num_warmup_steps=args.get_warmup_steps(max_steps),
        num_training_steps=max_steps,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )
    scheduler.lr_lambdas = fresh.lr_lambdas * len(scheduler.lr_lambdas)


def saved_limit(state: TrainerState) -> dict[str, Any] | None:
    """Return what a `TimeLimit` saved in a Trainer's state, `seconds` and `planned_steps`; None if there was none."""
    callbacks: Any = state.stateful_callbacks  # by name, although it is annotated as a list
    saved = callbacks.get(TIME_LIMIT, {}).get("attributes", {}) if callbacks else {}
    return saved if saved.get("planned_steps") else None  # 0 when the Trainer asked before it began


def duration(seconds: float) -> str:
    """Format a time in words.

    Example:
        >>> duration(42), duration(200), duration(9000)
        ('42 s', '3 min 20 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
