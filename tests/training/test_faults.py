"""Real processes, really killed: what a run is worth after SIGKILL, SIGTERM and a kill while it writes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from small_runs import ROOT, command, launch, write_data

from lift_ss_hf.training.checkpoints import find_damage, last_checkpoint

pytestmark = pytest.mark.slow

SHORT = ("--num_train_epochs", "6", "--early_stopping_patience", "0")
RESUME = ("--resume_from_checkpoint", "last")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def scores(out):
    results = json.loads((out / "metrics.json").read_text())
    return [levels["scores"]["q9"]["q9"] for levels in results["corpora"].values()], results["learnt"]["q9"]


def finish(arguments):
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The scores of an uninterrupted run, in one process and in two."""
    out = tmp_path_factory.mktemp("whole")
    finish(command(data, out / "one", *SHORT))
    finish(launch("cpu_ddp", data, out / "two", *SHORT))
    return {1: scores(out / "one"), 2: scores(out / "two")}


def start(arguments):
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"ended before it could be killed: {process.stderr.read()}")
        assert time.monotonic() < deadline, "nothing to kill came up"
        time.sleep(0.001)


def ranks(launcher):
    """Process ids of the workers of a launcher."""
    return [int(pid) for pid in subprocess.run(["pgrep", "-P", str(launcher)], capture_output=True).stdout.split()]


@pytest.mark.process
def test_sigterm_leaves_a_checkpoint_and_says_that_it_can_be_resumed(data, whole, tmp_path):
    out = tmp_path / "run"
    with start(command(data, out, *SHORT)) as process:
        wait_for(lambda: last_checkpoint(out), process)
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert said.splitlines()[-1] == "stopped by SIGTERM, with a checkpoint. Go on with --resume_from_checkpoint last."
    assert not (out / "metrics.json").exists()
    finish(command(data, out, *SHORT, *RESUME))
    assert scores(out) == whole[1]


@pytest.mark.process
def test_sigterm_to_one_of_two_processes_stops_both_with_one_checkpoint(data, whole, tmp_path):
    out = tmp_path / "run"
    with start(launch("cpu_ddp", data, out, *SHORT)) as process:
        wait_for(lambda: last_checkpoint(out), process)
        before = last_checkpoint(out)
        os.kill(ranks(process.pid)[-1], signal.SIGTERM)
        _, said = process.communicate(timeout=90)
    assert process.returncode != 0
    assert "stopped by SIGTERM, with a checkpoint" in said
    assert last_checkpoint(out) != before
    finish(launch("cpu_ddp", data, out, *SHORT, *RESUME))
    assert scores(out) == whole[2]


@pytest.mark.process
@pytest.mark.parametrize("victims", [1, 2])
def test_killed_processes_end_the_run_and_it_resumes_equal(data, whole, tmp_path, victims):
    out = tmp_path / "run"
    with start(launch("cpu_ddp", data, out, *SHORT)) as process:
        wait_for(lambda: last_checkpoint(out), process)
        for pid in ranks(process.pid)[-victims:]:
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=90)
    assert process.returncode != 0
    finish(launch("cpu_ddp", data, out, *SHORT, *RESUME))
    assert scores(out) == whole[2]


@pytest.mark.process
def test_killed_while_a_checkpoint_is_written_goes_on_from_the_one_before(data, whole, tmp_path):
    out = tmp_path / "run"

    def is_being_written():
        newest = max(out.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), default=None)
        # the one before, and not the newest itself, finished in the meantime
        return newest is not None and find_damage(newest) and last_checkpoint(out) not in (None, newest)

    with start(command(data, out, *SHORT)) as process:
        wait_for(is_being_written, process)
        process.kill()
        process.communicate()
    folders = len(list(out.glob("checkpoint-*")))
    assert folders >= 2
    finish(command(data, out, *SHORT, *RESUME))
    assert scores(out) == whole[1]


@pytest.mark.process
def test_a_run_of_two_processes_can_be_gone_on_with_in_one(data, tmp_path):
    out = tmp_path / "run"
    finish(launch("cpu_ddp", data, out, "--num_train_epochs", "2"))
    steps = last_checkpoint(out).name
    finish(command(data, out, "--num_train_epochs", "8", *RESUME))
    assert last_checkpoint(out).name != steps


@pytest.mark.process
def test_a_silently_smaller_world_is_an_error(data, tmp_path):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    done = subprocess.run([*launcher, *command(data, tmp_path / "run")[1:]], capture_output=True, text=True)
    assert done.returncode != 0
    assert (
        "error: several processes were requested, but accelerate started one. On a CPU use --config_file" in done.stderr
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.process
def test_fsdp_on_a_cpu_is_an_error(data, tmp_path):
    config = ROOT / "accelerate_configs" / "fsdp2.yaml"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    done = subprocess.run([*launcher, *command(data, tmp_path / "run")[1:]], capture_output=True, text=True)
    assert done.returncode != 0
    assert "error: FSDP needs GPUs, found none. Use --config_file accelerate_configs/cpu_ddp.yaml." in done.stderr
