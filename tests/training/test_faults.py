"""Processes that are killed: a run resumes after SIGKILL, SIGTERM and a kill while it writes, to the same result."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from forked_runs import launched_environment, run_forked, signal_at, train_forked
from small_runs import ROOT, flags, launch, state_of, train, write_data
from stopped_at import FINISHED, KILLED, stop_before
from transformers import Trainer
from transformers.trainer_callback import CallbackHandler

from lift_ss_hf.models import artefact
from lift_ss_hf.training import job
from lift_ss_hf.training.callbacks import RemoveOldCheckpoints, StopOnSigterm
from lift_ss_hf.training.checkpoint_files import find_damage
from lift_ss_hf.training.checkpoints import last_checkpoint
from lift_ss_hf.training.recipes import RecipeError

pytestmark = pytest.mark.process

# masks are drawn anew in each epoch: a resumed run must draw those that the killed one would have drawn
SHORT = ("--num_train_epochs", "4", "--early_stopping_patience", "0", "--mask_fraction", "0.05", "--bootstrap", "0")
RESUME = ("--resume_from_checkpoint", "last")
STOPPED = 75


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def scores(out):
    """Return the model's bytes and all results except times."""
    results = json.loads((out / "metrics.json").read_text())
    for corpus in results["corpora"].values():
        del corpus["residues_per_second"]
    return (out / "model" / "model.safetensors").read_bytes(), results["corpora"], results["learnt"]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The scores of an uninterrupted run, in one process and in two."""
    out = tmp_path_factory.mktemp("whole")
    train(data, out / "one", *SHORT)
    assert train_forked(data, out / "two", *SHORT, num_processes=2).statuses == [0, 0]
    return {1: scores(out / "one"), 2: scores(out / "two")}


def at_first_save(sent):
    """A signal to the last process as soon as the first checkpoint is whole."""

    def patch(rank):
        if rank == int(os.environ.get("WORLD_SIZE", "1")) - 1:
            signal_at(1, "on_save", CallbackHandler, sent)

    return patch


def resume_and_compare(data, out, whole, num_processes):
    if num_processes == 1:
        train(data, out, *SHORT, *RESUME)
    else:
        assert train_forked(data, out, *SHORT, *RESUME, num_processes=2).statuses == [0, 0]
    assert scores(out) == whole[num_processes]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_sigterm_to_one_process_stops_all_with_one_checkpoint_and_says_how_to_resume(
    data, whole, tmp_path, num_processes
):
    out = tmp_path / "run"
    done = train_forked(data, out, *SHORT, num_processes=num_processes, patch=at_first_save(signal.SIGTERM))
    assert done.statuses == [STOPPED] * num_processes
    said = "stopped by SIGTERM, with a checkpoint. Resume with --resume."
    assert done.stderr.splitlines().count(said) == num_processes
    assert len(list(out.glob("checkpoint-*"))) == 2  # that of the first epoch, and one a step after it
    assert not (out / "metrics.json").exists()
    resume_and_compare(data, out, whole, num_processes)


STEPS = 6  # of an epoch; two processes take half as many
LAST_EVALUATION = (4, "evaluate", Trainer)
LAST_SAVE = (4, "on_save", CallbackHandler)
SCORING = (1, "evaluate_corpora", job)


@pytest.mark.parametrize("step", [1, STEPS, STEPS + 3, 2 * STEPS + 1, 3 * STEPS + 4, 4 * STEPS])
def test_stopped_at_any_step_it_resumes_to_the_same_bytes(data, whole, tmp_path, step):
    out = tmp_path / "run"
    done = train_forked(
        data, out, *SHORT, patch=lambda rank: signal_at(step, "on_step_end", CallbackHandler, signal.SIGTERM)
    )
    assert done.statuses == [STOPPED]
    evaluated = [entry["step"] for entry in state_of(out)["log_history"] if "eval_q9" in entry]
    assert evaluated == list(range(STEPS, step + 1, STEPS))
    resume_and_compare(data, out, whole, 1)


@pytest.mark.slow
def test_two_processes_stopped_at_each_step_in_turn_end_with_the_same_bytes(data, whole, tmp_path):
    """Every run takes one step, is asked to stop in it, and leaves the checkpoint that the next one resumes from."""
    out = tmp_path / "run"
    stop = lambda rank: signal_at(1, "on_step_end", CallbackHandler, signal.SIGTERM)  # noqa: E731
    for step in range(1, 4 * STEPS // 2 + 1):
        resume = RESUME if step > 1 else ()
        done = train_forked(data, out, *SHORT, *resume, num_processes=2, patch=stop)
        assert done.statuses == [STOPPED] * 2, done.stderr
        assert state_of(out)["global_step"] == step
    resume_and_compare(data, out, whole, 2)


@pytest.mark.parametrize(
    ("place", "num_processes"),
    [(LAST_EVALUATION, 1), (LAST_SAVE, 1), (SCORING, 1), (LAST_EVALUATION, 2), (SCORING, 2)],
    ids=lambda value: value[1] if isinstance(value, tuple) else str(value),
)
def test_stopped_after_its_last_step_it_exits_resumable(data, whole, tmp_path, place, num_processes):
    out = tmp_path / "run"
    stop = lambda rank: signal_at(*place, signal.SIGTERM)  # noqa: E731
    done = train_forked(data, out, *SHORT, num_processes=num_processes, patch=stop)
    assert done.statuses == [STOPPED] * num_processes, done.stderr
    resume_and_compare(data, out, whole, num_processes)


def test_a_finished_run_that_is_resumed_and_stopped_again_is_not_finished(data, whole, tmp_path):
    out = tmp_path / "run"
    train(data, out, *SHORT, "--num_train_epochs", "1")
    stop = lambda rank: signal_at(*SCORING, signal.SIGTERM)  # noqa: E731
    assert train_forked(data, out, *SHORT, *RESUME, patch=stop).statuses == [STOPPED]
    assert not (out / "metrics.json").exists()
    resume_and_compare(data, out, whole, 1)


def test_no_process_leaves_another_one_waiting_at_the_end_of_training(data, tmp_path):
    """The signal reaches one process in the last evaluation, and the other one as it asks whether any was to stop."""

    def stop(rank):
        last = (4 * STEPS // 2 + 1, "_any_process_was_asked", StopOnSigterm)  # once a step before
        signal_at(*(last if rank else LAST_EVALUATION), signal.SIGTERM)

    done = train_forked(data, tmp_path / "run", *SHORT, num_processes=2, patch=stop)
    assert done.statuses == [STOPPED] * 2, done.stderr


def test_two_processes_agree_on_whether_a_finished_run_has_something_left_to_do(data, tmp_path):
    """What one of them records of the new arguments is not what another one compares its own with."""
    out = tmp_path / "run"
    again = (*RESUME, "--bootstrap", "30")  # the tests are scored once more, then nothing is left
    for more in ((), again, again):
        done = train_forked(data, out, *SHORT, *more, num_processes=2)
        assert done.statuses == [0, 0], done.stderr
    assert "there is nothing left to train" in done.stderr
    assert yaml.safe_load((out / "recipe.yaml").read_text())["bootstrap"] == 30


@pytest.mark.parametrize("num_processes", [1, 2])
def test_killed_between_checkpoints_it_resumes_equal(data, whole, tmp_path, num_processes):
    out = tmp_path / "run"
    done = train_forked(data, out, *SHORT, num_processes=num_processes, patch=at_first_save(signal.SIGKILL))
    assert done.statuses[-1] == -signal.SIGKILL
    assert all(done.statuses)
    assert not (out / "metrics.json").exists()
    resume_and_compare(data, out, whole, num_processes)


@pytest.mark.parametrize("method", ["_save_optimizer_and_scheduler", "_save_rng_state"])
def test_killed_while_a_checkpoint_is_written_it_resumes_from_the_one_before(data, whole, tmp_path, method):
    out = tmp_path / "run"
    done = train_forked(data, out, *SHORT, patch=lambda rank: signal_at(2, method, Trainer))
    assert done.statuses == [-signal.SIGKILL]
    first, second = sorted(out.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert find_damage(second)
    assert last_checkpoint(out) == first
    resume_and_compare(data, out, whole, 1)


def killed_while_saving(data, out, states, number):
    """Run until a checkpoint is saved for the given time, and kill this save before each of its file operations.

    The directory of the run is copied to `states` after each kill. torch and safetensors open files without Python's
    audit events; here they are told, with the file missing, whole and half written.
    """

    def audited(save):
        def saved(content, path, *args, **options):
            sys.audit("open", str(path), "wb", os.O_WRONLY)
            save(content, path, *args, **options)
            whole = Path(path).read_bytes()
            Path(path).write_bytes(whole[: len(whole) // 2])
            Path(path).write_bytes(whole)

        return saved

    def patch(rank):
        original, calls = Trainer._save_checkpoint, []

        def saving(trainer, *arguments):
            calls.append(arguments)
            if len(calls) < number:
                return original(trainer, *arguments)
            torch.save, artefact.save_file = audited(torch.save), audited(artefact.save_file)
            shutil.copytree(out, states / "0")
            for operation in itertools.count(1):
                pid = os.fork()
                if not pid:
                    stop_before(operation, out, kill=True)
                    original(trainer, *arguments)
                    (rotation,) = (c for c in trainer.callback_handler.callbacks if isinstance(c, RemoveOldCheckpoints))
                    rotation.on_save(trainer.args, trainer.state, trainer.control)
                    os._exit(FINISHED)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                if status != KILLED:
                    os._exit(status)
                shutil.copytree(out, states / str(operation))
                shutil.rmtree(out)
                shutil.copytree(states / "0", out)

        Trainer._save_checkpoint = saving

    assert train_forked(data, out, *SHORT, patch=patch).statuses == [FINISHED]
    return sorted((path for path in states.iterdir()), key=lambda path: int(path.name))


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 4], ids=["with steps left", "the last"])
def test_killed_at_any_file_operation_of_a_save_and_its_rotation_it_resumes_equal(data, whole, tmp_path, number):
    """All of some 80 operations with LIFT_SS_ALL_KILLS=1; a spread of them otherwise."""
    out = tmp_path / "run"
    train(data, out, *SHORT)
    expected = names(out)
    shutil.rmtree(out)
    states = killed_while_saving(data, out, tmp_path / "states", number)
    assert len(states) > 30
    for state in states if os.environ.get("LIFT_SS_ALL_KILLS") else states[number :: len(states) // 4]:
        shutil.rmtree(out)
        shutil.copytree(state, out)
        resume_and_compare(data, out, whole, 1)
        assert expected <= names(out), state.name
        # killed before the last rotation: one more whole checkpoint, as resuming a finished run removes nothing
        kept = {path.split("/")[0] for path in names(out) - expected}
        assert all(name.startswith("checkpoint-") and find_damage(out / name) is None for name in kept), state.name
        assert number == 4 or not kept


def names(folder):
    """Return the names of all files and folders of a run but its logs."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "runs" not in path.parts}


@pytest.mark.slow
def test_a_real_launch_of_which_one_process_is_killed_ends(data, tmp_path):
    """torchrun ends the other process; nothing is left that waits for the killed one."""
    out = tmp_path / "run"
    with subprocess.Popen(
        launch("cpu_ddp", data, out, "--num_train_epochs", "500", "--early_stopping_patience", "0"),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 240
        while not last_checkpoint(out):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "no checkpoint came up"
            time.sleep(0.05)
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
        ranks = [int(pid) for pid in found.stdout.split()]
        assert len(ranks) == 2
        os.kill(ranks[-1], signal.SIGKILL)
        process.communicate(timeout=120)
    assert process.returncode != 0
    for pid in ranks:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_stop_before_the_first_checkpoint_is_not_resumable(data, tmp_path):
    patch = lambda rank: signal_at(1, "_untrained_accuracies", job, signal.SIGTERM)  # noqa: E731
    assert train_forked(data, tmp_path / "run", *SHORT, patch=patch).statuses == [-signal.SIGTERM]


def test_true_means_last_and_resuming_removes_nothing(data, tmp_path):
    out = tmp_path / "run"
    one, true = ("--num_train_epochs", "1", "--bootstrap", "0"), ("--resume_from_checkpoint", "True")
    train(data, out, *one)
    (out / "notes.txt").write_text("mine")
    before = set(out.rglob("*"))
    train(data, out, *one, *true, "--overwrite_output_dir", "True")
    assert before <= set(out.rglob("*"))
    for name in ("trainer_state.json", "model.safetensors"):  # no checkpoint is complete: an error, and nothing is lost
        (last_checkpoint(out) or next(out.glob("checkpoint-*"))).joinpath(name).write_bytes(b"")
    with pytest.raises(RecipeError, match=r"no checkpoint to resume from \(looked for True\)"):
        train(data, out, *one, *true, "--overwrite_output_dir", "True")
    assert before <= set(out.rglob("*"))


def test_a_missing_best_checkpoint_is_an_error_not_another_model(data, tmp_path):
    out = tmp_path / "run"
    flat = ("--learning_rate", "1e-9", "--num_train_epochs", "2", "--bootstrap", "0")  # the first epoch is the best
    train(data, out, *flat)
    (best,) = (path for path in out.glob("checkpoint-*") if path != last_checkpoint(out))
    weights = best / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(RecipeError, match=r"the best checkpoint up to checkpoint-12 is missing or incomplete"):
        train(data, out, *flat, *RESUME)


def test_a_run_of_two_processes_can_be_resumed_in_one_with_the_same_steps(data, tmp_path):
    out = tmp_path / "run"
    assert train_forked(data, out, "--num_train_epochs", "1", num_processes=2).statuses == [0, 0]
    assert last_checkpoint(out).name == f"checkpoint-{STEPS // 2}"
    train(data, out, "--num_train_epochs", "1", *RESUME, "--bootstrap", "0")  # only the tests are scored
    assert yaml.safe_load((out / "recipe.yaml").read_text())["bootstrap"] == 0
    with pytest.raises(RecipeError, match=r"checkpoint-3: an epoch had 3 steps, now it has 6\. Resume with as many"):
        train(data, out, "--num_train_epochs", "4", *RESUME)
    train(data, out, "--num_train_epochs", "4", *RESUME, "--gradient_accumulation_steps", "2")
    assert last_checkpoint(out).name == f"checkpoint-{4 * STEPS // 2}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--cpu", "--num_processes", "2"),
            "error: several processes were requested, but accelerate started one. On a CPU use --config_file",
        ),
        (
            ("--config_file", str(ROOT / "accelerate_configs" / "fsdp2.yaml")),
            "error: FSDP needs GPUs, found none. Use --config_file accelerate_configs/cpu_ddp.yaml.",
        ),
    ],
)
def test_a_launch_that_cannot_do_what_was_asked_for_is_an_error(data, tmp_path, options, message):
    out = tmp_path / "run"
    environment = launched_environment(*options)
    done = run_forked(flags(data, out), tmp_path / "log", environment=environment)
    assert done.statuses == [2]
    assert message in done.stderr
    assert not out.exists()
