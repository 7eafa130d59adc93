"""How long a run takes: the estimate it prints, and the bound that it keeps, with a clock that the tests turn."""

import pytest
import torch
from forked_runs import train_forked
from small_runs import state_of, train, write_data
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerState, get_scheduler

from lift_ss_hf.training import duration as duration_module
from lift_ss_hf.training import job
from lift_ss_hf.training.arguments import RecipeTrainingArguments
from lift_ss_hf.training.checkpoints import last_checkpoint
from lift_ss_hf.training.duration import TimeLimit, end_schedule_at, saved_limit


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


class Clock:
    """A clock by which steps and evaluations take as long as a test says."""

    def __init__(self, step=1.0, evaluation=3.0):
        self.now, self.step, self.evaluation = 0.0, step, evaluation

    def monotonic(self):
        return self.now

    def apply(self, patch):
        """Let the Trainer's steps and evaluations turn the clock instead of taking time."""
        patch.setattr(duration_module, "time", self)
        patch.setattr(job, "time", self)
        training_step, evaluate = job.Trainer.training_step, job.Trainer.evaluate

        def slow_step(*args, **kwargs):
            self.now += self.step
            return training_step(*args, **kwargs)

        def slow_evaluation(*args, **kwargs):
            self.now += self.evaluation
            return evaluate(*args, **kwargs)

        patch.setattr(job.Trainer, "training_step", slow_step)
        patch.setattr(job.Trainer, "evaluate", slow_evaluation)
        return self


@pytest.fixture
def clock(monkeypatch):
    return Clock().apply(monkeypatch)


TENTHS = ("--eval_strategy", "steps", "--eval_steps", "0.1", "--save_strategy", "steps", "--save_steps", "0.1")
LINEAR = (*TENTHS, "--lr_scheduler_type", "linear", "--early_stopping_patience", "0", "--logging_steps", "1")


def evaluated_at(out):
    return [entry["step"] for entry in state_of(out)["log_history"] if "eval_loss" in entry]


def test_the_duration_is_said_after_the_first_steps(data, tmp_path, clock, caplog):
    caplog.set_level("INFO")
    train(data, tmp_path / "run", *TENTHS, "--max_steps", "40", "--early_stopping_patience", "0")
    (said,) = [message for message in caplog.messages if message.startswith("training takes about")]
    # at the 6th of 40 steps, after five measured ones and the evaluation at 4
    assert said == "training takes about 1 min 1 s more: 34 steps of 1.00 s, 9 evaluations of about 3.0 s"
    assert clock.now == 40 + 10 * 3


def test_the_duration_of_a_run_of_few_steps_is_said_too(data, tmp_path, clock, caplog):
    caplog.set_level("INFO")
    train(data, tmp_path / "run", *TENTHS, "--max_steps", "4", "--early_stopping_patience", "0")
    (said,) = [message for message in caplog.messages if message.startswith("training takes about")]
    assert "2 steps of 1.00 s" in said


def test_a_bound_is_kept_and_the_schedule_and_the_evaluations_end_with_it(data, tmp_path, clock, caplog):
    caplog.set_level("INFO")
    out = tmp_path / "run"
    train(data, out, *LINEAR, "--minutes", "1.5", "--max_steps", "1000")
    assert 80 <= clock.now <= 90
    state = state_of(out)
    assert state["global_step"] == state["max_steps"] < 90
    rates = [entry["learning_rate"] for entry in state["log_history"] if "loss" in entry]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 9e-3 and rates[-1] < 1e-2 / 40  # it decays to 0 at the bound
    assert len(evaluated_at(out)) >= 8
    assert evaluated_at(out)[-1] == state["global_step"]
    assert "training ends within 1 min 30 s" in caplog.text


def test_steps_that_become_slower_end_the_run_in_time(data, tmp_path, clock, caplog):
    caplog.set_level("INFO")
    plan = TimeLimit._plan

    def slower_after(limit, *args):
        plan(limit, *args)
        clock.step = 5.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TimeLimit, "_plan", slower_after)
        train(data, tmp_path / "run", *LINEAR, "--minutes", "2", "--max_steps", "1000")
    assert 100 <= clock.now <= 120
    state = state_of(tmp_path / "run")
    assert evaluated_at(tmp_path / "run")[-1] == state["global_step"]
    rates = [entry["learning_rate"] for entry in state["log_history"] if "loss" in entry]
    assert rates[-1] < 1e-2 / 4  # most of the schedule was made, although there are a fifth of the steps


def test_a_bound_that_is_not_reached_changes_nothing(data, tmp_path, clock):
    results = [
        train(data, tmp_path / name, *LINEAR, "--max_steps", "20", *more)["learnt"]
        for name, more in (("with", ("--minutes", "60")), ("without", ()))
    ]
    assert results[0] == results[1]
    assert state_of(tmp_path / "with")["global_step"] == 20


def test_a_resumed_run_counts_the_time_before_and_goes_on_with_its_plan(data, tmp_path, clock, monkeypatch):
    out = tmp_path / "run"
    flags = (*LINEAR, "--minutes", "1.5", "--max_steps", "1000")
    save = job.Trainer._save_checkpoint
    saved = []

    def killed(*args, **kwargs):
        save(*args, **kwargs)
        saved.append(clock.now)
        if len(saved) == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job.Trainer, "_save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            train(data, out, *flags)
    before = saved_limit(TrainerState.load_from_json(last_checkpoint(out) / "trainer_state.json"))
    assert before["seconds"] == clock.now
    train(data, out, *flags, "--resume_from_checkpoint", "last")
    assert 80 <= clock.now <= 93  # an evaluation may have been done twice
    assert abs(state_of(out)["global_step"] - before["planned_steps"]) <= 3
    # it is finished, although fewer steps were made than max_steps
    now = clock.now
    train(data, out, *flags, "--resume_from_checkpoint", "last")
    assert clock.now == now


@pytest.mark.slow
def test_a_bound_works_with_epochs_without_validation_and_with_early_stopping(data, tmp_path, clock):
    train(data, tmp_path / "epochs", "--minutes", "1", "--num_train_epochs", "100", "--early_stopping_patience", "0")
    assert 45 <= clock.now <= 60
    assert evaluated_at(tmp_path / "epochs")[-1] == state_of(tmp_path / "epochs")["global_step"]
    clock.now = 0.0
    train(data, tmp_path / "none", "--minutes", "1", "--num_train_epochs", "100", "--validation", "none")
    assert 55 <= clock.now <= 60
    clock.now = 0.0
    flat = ("--learning_rate", "1e-12", "--early_stopping_patience", "2")
    train(data, tmp_path / "early", *TENTHS, *flat, "--minutes", "5", "--max_steps", "200")
    assert clock.now < 150


@pytest.mark.parametrize("schedule", ["linear", "cosine", "polynomial", "constant", "inverse_sqrt"])
def test_a_schedule_that_is_ended_earlier_is_that_of_a_shorter_run(schedule, tmp_path):
    args = RecipeTrainingArguments(str(tmp_path), lr_scheduler_type=schedule, warmup_ratio=0.1, report_to="none")

    def scheduler(num_steps):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        return get_scheduler(schedule, optimizer, args.get_warmup_steps(num_steps), num_steps)

    shortened, short = scheduler(100), scheduler(50)
    for number in range(50):
        if number == 10:
            end_schedule_at(50, shortened, args)
        for each in (shortened, short):
            each.optimizer.step()
            each.step()
    assert isinstance(shortened, LambdaLR)
    assert shortened.get_last_lr() == short.get_last_lr()


@pytest.mark.parametrize("minutes", ["0", "-1"])
def test_a_bound_must_be_positive(minutes, data, tmp_path):
    with pytest.raises(ValueError, match=r"minutes is -?\d\.0\. Expected more than 0"):
        train(data, tmp_path / "run", "--minutes", minutes)


@pytest.mark.slow
@pytest.mark.process
def test_processes_that_differ_in_speed_keep_one_bound_together(data, tmp_path):
    """Two processes, of which the second is slower, plan and stop at the same steps."""

    def slow_second(rank):
        patch = pytest.MonkeyPatch()  # of a forked process, which ends with it
        Clock(step=1.0 + rank).apply(patch)

    out = tmp_path / "run"
    flags = ("--minutes", "1.5", "--max_steps", "1000")
    finished = train_forked(data, out, *LINEAR, *flags, num_processes=2, patch=slow_second)
    assert finished.statuses == [0, 0], finished.stderr
    # 2 s a step and 3 s an evaluation, of which there are about ten
    assert 20 <= state_of(out)["global_step"] <= 45
    assert finished.stderr.count("training ends within 1 min 30 s") == 1
