"""The points of a sweep or a study are shared: by processes of one command, and by commands."""

import multiprocessing
import os
import signal
import threading
import time

import pytest
from small_runs import write_finished_run

from lift_ss_hf.models.atomic import claimed_file
from lift_ss_hf.training import points
from lift_ss_hf.training.points import CLAIM, Job, is_finished, run_jobs


def jobs_in(folder, number=5):
    return [Job({}, folder / f"point{index}") for index in range(number)]


@pytest.fixture
def started(monkeypatch):
    """Names of the points in the order in which they were started; running one takes no time and no process."""
    names, lock = [], threading.Lock()

    def run(job, num_threads):
        with lock:
            names.append(job.folder.name)
        write_finished_run(job.folder, {})
        return True

    monkeypatch.setattr(points, "_run_in_process", run)
    return names


@pytest.mark.parametrize("num_processes", [1, 3])
def test_points_are_run_once_and_come_in_their_order(tmp_path, started, num_processes):
    jobs = jobs_in(tmp_path)
    write_finished_run(jobs[1].folder, {})
    assert list(run_jobs(jobs, num_processes)) == jobs
    assert sorted(started) == ["point0", "point2", "point3", "point4"]
    assert list(run_jobs(jobs, num_processes)) == jobs
    assert len(started) == 4


def test_no_process_at_all_is_an_error(tmp_path, started):
    with pytest.raises(ValueError, match=r"0 processes\. Expected at least 1 run at a time\."):
        list(run_jobs(jobs_in(tmp_path), 0))


def test_no_point_is_started_after_the_deadline(tmp_path, started):
    jobs = jobs_in(tmp_path)
    write_finished_run(jobs[3].folder, {})
    assert list(run_jobs(jobs, deadline=time.monotonic())) == [jobs[3]]
    assert started == []


def test_no_point_is_started_after_one_failed(tmp_path, monkeypatch):
    started, failing = [], threading.Event()

    def run(job, num_threads):
        started.append(job.folder.name)
        if job.folder.name == "point1":
            failing.set()
            raise ValueError("point1 is wrong")
        failing.wait(10)
        time.sleep(0.2)  # the other thread says so
        write_finished_run(job.folder, {})

    monkeypatch.setattr(points, "_run_in_process", run)
    with pytest.raises(ValueError, match="point1 is wrong"):
        list(run_jobs(jobs_in(tmp_path), 2))
    assert sorted(started) == ["point0", "point1"]


def test_a_point_that_another_command_runs_is_left_to_it_and_waited_for(tmp_path, monkeypatch):
    """It is the first of three: the others are run here in the meantime."""
    jobs, seen = jobs_in(tmp_path, 3), []
    monkeypatch.setattr(points, "WAIT_SECONDS", 0.0)

    def run(job, num_threads):
        seen.append(job.folder.name)
        is_ours = job is not jobs[0]
        if is_ours or seen.count("point0") == 3:  # the other command finishes it while we wait
            write_finished_run(job.folder, {})
        return is_ours

    monkeypatch.setattr(points, "_run_in_process", run)
    assert list(run_jobs(jobs)) == jobs
    assert seen == ["point0", "point1", "point2", "point0", "point0"]


def test_a_point_whose_lock_is_held_starts_no_process(tmp_path):
    (job,) = jobs_in(tmp_path, 1)
    with claimed_file(tmp_path / f".point0{CLAIM}") as is_ours:
        assert is_ours
        assert points._run_in_process(job, None) is False  # conftest.py fails an unmarked test that starts a process
    assert not is_finished(job.folder)


@pytest.mark.process
def test_a_run_ends_with_the_command_that_is_killed(tmp_path, monkeypatch):
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)
    monkeypatch.setattr(points, "parse_point", lambda settings, folder: ())
    (job,) = jobs_in(tmp_path, 1)

    def run_training():
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
        os._exit(1)

    monkeypatch.setattr(points, "run_training", run_training)
    command = fork.Process(target=points._run_in_process, args=(job, None))
    command.start()
    wait_until(lambda: command.exitcode is not None)  # join() would wait for the run, which has a copy of the pipe
    assert command.exitcode == -signal.SIGKILL
    wait_until(lambda: is_free(tmp_path / f".point0{CLAIM}"))  # the run holds the lock as long as it lives


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_free(lock):
    with claimed_file(lock) as is_ours:
        return is_ours


def test_processes_share_the_cores_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr(points.os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [points._threads_of_each(number) for number in (1, 2, 3, 16)] == [None, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert points._threads_of_each(2) is None
