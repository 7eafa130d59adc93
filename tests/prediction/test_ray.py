"""Runs with Ray: the rows of `lift-ss predict`, each once, whatever is killed; errors come before it starts."""

import contextlib
import importlib.util
import os
import random
import signal
import threading
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forked_runs import run_forked
from parquet_files import assert_probabilities_are_plain
from scripts import run_lift_ss, run_script
from tiny_models import write_models_and_chains
from tools import needs_ray

from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.sequences import ResidueError
from lift_ss_hf.prediction import ray as with_ray
from lift_ss_hf.prediction.inputs import Inputs
from lift_ss_hf.prediction.loading import load_predictor
from lift_ss_hf.prediction.ray import RayOptions, ResiduePredictor, choose_num_actors, predict_with_ray
from lift_ss_hf.prediction.running import PredictionOptions, predict_to_folder

RECIPE = Path(__file__).parents[2] / "recipes" / "predict_ray.py"
KILLS = int(os.environ.get("LIFT_SS_RAY_KILLS", "2"))  # of the driver in one run
DEADLINE = 300  # for what a test waits for [s]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_models_and_chains(tmp_path_factory.mktemp("ray"), 100)


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory):
    """The rows and the rejected records of `lift-ss predict --format parquet`."""
    out = tmp_path_factory.mktemp("expected") / "out"
    options = PredictionOptions(formats=["parquet"], skip_bad=True, quiet=True)
    predict_to_folder(load_predictor(str(data / "model")), Inputs([str(data / "chains.fasta")]), out, options)
    return pq.read_table(out / "predictions.parquet"), (out / "rejected.tsv").read_text()


def check_results(out, expected):
    """Check that all rows are there once, and that nothing is left of what a run needs to be resumed."""
    rows, rejected = expected
    found = pq.read_table(out / "predictions")
    assert found.schema.equals(rows.schema)
    found = found.sort_by([("record", "ascending"), ("position", "ascending")])
    for name in rows.column_names:
        if pa.types.is_floating(
            rows.schema.field(name).type
        ):  # rows are packed otherwise, so sums are rounded otherwise
            np.testing.assert_allclose(found[name].to_numpy(), rows[name].to_numpy(), atol=1e-5)
        else:
            assert found[name].equals(rows[name]), name
    assert (out / "rejected.tsv").read_text() == rejected
    assert not (out / "parts").exists()


# ---- without Ray -----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_start(monkeypatch):
    """Let Ray be installed, and fail a test that starts it."""

    def start(options):
        pytest.fail("Ray is started")

    monkeypatch.setattr(with_ray, "check_ray", lambda: None)
    monkeypatch.setattr(with_ray, "connected", start)


@pytest.fixture
def no_cluster(no_start, monkeypatch):
    """Let a run stop where Ray would start, as if it had been killed there."""

    def start(options):
        raise InterruptedError

    monkeypatch.setattr(with_ray, "connected", start)


def run_interrupted(data, out, **arguments):
    with pytest.raises(InterruptedError):
        predict(data, out, **arguments)


def predict(data, out, source="chains.fasta", model="model", **options):
    options = RayOptions(**{"quiet": True, "skip_bad": True, **options})
    return predict_with_ray(Inputs([str(data / source)]), out, options, model=str(data / model))


def test_without_ray_the_recipe_says_what_to_install(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else find(name, *more))
    done = run_script("recipes/predict_ray.py", "MKTAYIAK", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.endswith("needs Ray Data. Install it: pip install 'lift_ss_hf[ray]'.\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_actors": 0}, "--num_actors is 0. Expected 1 or more."),
        ({"num_cpus": 0}, "--num_cpus is 0. Expected 1 or more."),
        ({"num_gpus": -1}, "--num_gpus is -1. Expected 0 or more."),
        ({"num_gpus": float("nan")}, "--num_gpus is nan. Expected 0 or more."),
        ({"chains_per_task": 0}, "--chains_per_task is 0. Expected 1 or more."),
    ],
)
def test_options_that_are_too_small_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RayOptions(**options)


@pytest.mark.parametrize(
    ("options", "resources", "num_actors"),
    [
        ({}, {"CPU": 10}, 8),
        ({"num_cpus": 3}, {"CPU": 10}, 2),
        ({"num_gpus": 0.5}, {"CPU": 64, "GPU": 4}, 8),
        ({"num_gpus": 0.2}, {"CPU": 64, "GPU": 1}, 5),
        ({"num_gpus": 0.3}, {"CPU": 64, "GPU": 1}, 3),
        ({"num_gpus": 1}, {"CPU": 4, "GPU": 8}, 2),
        ({"num_actors": 3}, {"CPU": 10}, 3),
        (
            {},
            {"CPU": 2},
            "is 1, but there is room for 0: the cluster has 2 CPUs, of which 2 read and write, and 0 GPUs",
        ),
        ({"num_gpus": 1}, {"CPU": 64}, "is 1, but there is room for 0: the cluster has 64 CPUs"),
        ({"num_actors": 9}, {"CPU": 10}, "is 9, but there is room for 8"),
    ],
)
def test_actors_fill_the_cluster_and_leave_room_for_reading_and_writing(options, resources, num_actors):
    if isinstance(num_actors, int):
        assert choose_num_actors(RayOptions(**options), resources) == num_actors
    else:
        with pytest.raises(ValueError, match=num_actors):
            choose_num_actors(RayOptions(**options), resources)


def test_the_predictor_keeps_columns_and_holds_few_probabilities_at_once(data, monkeypatch):
    monkeypatch.setattr(with_ray, "PART_RESIDUES", 20)
    predict_table = ResiduePredictor(str(data / "model"), states="q3", device="cpu")
    sequences = ["MKTAYIAK", "MKTAYIAKQRQI", "M", "ACDEFGHIKLMNPQRSTVWYACDEFGHIKL", "MK"]
    tables = list(predict_table(pa.table({"id": range(5), "sequence": sequences, "organism": list("abcde")})))
    assert [table["id"].to_pylist() for table in tables] == [[0, 1], [2], [3], [4]]
    found = pa.concat_tables(tables).to_pydict()
    assert found["organism"] == list("abcde")
    for number, sequence in enumerate(sequences):
        total = sum(np.array(found[f"p_{letter}"][number]) for letter in "CHE")
        np.testing.assert_allclose(total, 1, atol=1e-5)
        assert len(total) == len(sequence) == len(found["states"][number]) == len(found["confidence"][number])
    assert list(predict_table(pa.table({"sequence": pa.array([], pa.string())}))) == []


def test_the_predictor_names_what_is_no_residue_and_an_alphabet_that_is_too_fine(data):
    with pytest.raises(ResidueError, match="'1' at position 3 is not a residue"):
        list(ResiduePredictor(str(data / "model"), device="cpu")(pa.table({"sequence": ["MK1"]})))
    model = SecondaryStructureModel.from_backbone(data / "backbone", states="q3", top_blocks=2, head_channels=16)
    model.save_pretrained(data / "coarse")
    with pytest.raises(ValueError, match="cannot be reduced"):
        ResiduePredictor(str(data / "coarse"), states="q9", device="cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "absent"}, "absent"),
        ({"source": "chains.fasta", "skip_bad": False}, r"record 20 \(bad19\): '1' at position 3"),
        ({"source": "empty.fasta"}, "the input has no records"),
        ({"source": "bad.fasta"}, "the input has 2 invalid records and no valid one"),
    ],
)
def test_a_wrong_model_or_input_is_refused_before_ray_starts(data, tmp_path, no_start, arguments, message):
    (data / "empty.fasta").write_text("")
    (data / "bad.fasta").write_text(">a\nMK1\n>b\nMK2\n")
    with pytest.raises(ValueError, match=message):
        predict(data, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_url_is_refused(data, no_start):
    with pytest.raises(ValueError, match="s3://bucket/out: expected a folder, not a URL"):
        predict(data, "s3://bucket/out")


def test_chains_and_rejected_records_are_kept_once_they_are_read(data, tmp_path, no_cluster, expected):
    run_interrupted(data, tmp_path / "out")
    parts = tmp_path / "out" / "parts" / "chains"
    table = pq.read_table(parts / "000000.parquet")
    records = expected[0].group_by("record").aggregate([])["record"].to_pylist()
    assert (table["record"].to_pylist(), table.schema.field("record").type) == (sorted(records), pa.int64())
    assert "".join(table["sequence"].to_pylist()) == "".join(expected[0]["residue"].to_pylist())
    written = parts.stat().st_mtime_ns
    run_interrupted(data, tmp_path / "out", resume=True)
    assert parts.stat().st_mtime_ns == written


def test_a_big_input_becomes_several_files(data, tmp_path, no_cluster, monkeypatch):
    monkeypatch.setattr("lift_ss_hf.prediction.ray_folder.PART_RESIDUES", 500)
    monkeypatch.setattr("lift_ss_hf.prediction.ray_folder.FILE_RESIDUES", 2000)
    run_interrupted(data, tmp_path / "out")
    files = sorted((tmp_path / "out" / "parts" / "chains").glob("*.parquet"))
    tables = [pq.read_table(path) for path in files]
    assert len(files) > 2
    records = pa.concat_tables(tables)["record"].to_pylist()
    assert records == [number for number in range(1, 101) if number % 20]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resume": False}, "holds a run. Add --resume"),
        ({"model": "other"}, "that run used another model"),
        ({"source": "longer.fasta"}, "that run has inputs"),
    ],
)
def test_a_run_is_resumed_only_with_what_it_began_with(data, tmp_path, no_cluster, changes, message):
    (data / "longer.fasta").write_text((data / "chains.fasta").read_text() + ">more\nMKTAYIAK\n")
    run_interrupted(data, tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        predict(data, tmp_path / "out", **{"resume": True, **changes})


def test_runs_with_and_without_ray_do_not_mix(data, tmp_path, no_cluster):
    command = ["predict", data / "chains.fasta", "--model", data / "model", "--skip-bad", "--resume", "--quiet"]
    run_interrupted(data, tmp_path / "with")
    done = run_lift_ss(*command, "-o", tmp_path / "with")
    assert (done.returncode, "another command wrote it" in done.stderr) == (2, True)
    assert run_lift_ss(*command, "-o", tmp_path / "without").returncode == 0
    with pytest.raises(ValueError, match="another command wrote it"):
        predict(data, tmp_path / "without", resume=True)


def test_two_runs_do_not_share_a_directory(data, tmp_path, monkeypatch, no_start):
    @contextlib.contextmanager
    def another(options):
        with pytest.raises(ValueError, match="another process is predicting to it"):
            predict(data, tmp_path / "out", resume=True)
        raise InterruptedError
        yield

    monkeypatch.setattr(with_ray, "connected", another)
    run_interrupted(data, tmp_path / "out")


@contextlib.contextmanager
def without_ray(rows):
    """Let a run find that Ray has written these rows."""

    def write(folder, *more):
        folder.predictions.mkdir()
        pq.write_table(rows, folder.predictions / "0.parquet")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(with_ray, "connected", lambda options: contextlib.nullcontext(1))
        patch.setattr(with_ray, "predict_chains", write)
        yield


def test_a_finished_run_is_not_started_again(data, tmp_path, expected, no_start):
    out = tmp_path / "out"
    with without_ray(expected[0]):
        first = predict(data, out)
    assert first.chains == 95
    assert predict(data, out, resume=True) == first
    check_results(out, expected)


def test_a_run_whose_results_were_removed_starts_again(data, tmp_path, expected, no_cluster):
    out = tmp_path / "out"
    with without_ray(expected[0]):
        predict(data, out)
    (out / "predictions" / "0.parquet").unlink()
    run_interrupted(data, out, resume=True)
    assert len(pq.read_table(out / "parts" / "chains" / "000000.parquet")) == 95


def test_results_that_are_not_complete_are_an_error(data, tmp_path, expected, no_start):
    fewer, message = expected[0].slice(1), "7349 rows, but the input has 7350 residues"
    with without_ray(fewer), pytest.raises(RuntimeError, match=message):
        predict(data, tmp_path / "out")
    assert (tmp_path / "out" / "parts").is_dir()


# ---- with Ray --------------------------------------------------------------------------------------------------------


class ForkedDriver:
    """The recipe in a fork of this process, which can be killed with all that it started.

    A task takes 0.2 s at least; there are two actors, and 95 chains.
    """

    def __init__(self, data, out, *more, chains_per_task=4):
        arguments = [
            data / "chains.fasta",
            out,
            "--model",
            data / "model",
            "--num_actors",
            "2",
            "--skip-bad",
            "--quiet",
        ]
        arguments = list(map(str, [*arguments, "--chains_per_task", chains_per_task, *more]))
        log = out.with_name(f"{out.name}.log")
        self.pid_file, self.checkpoint = log / "pid", out / "parts" / "checkpoint"
        self.pid_file.unlink(missing_ok=True)
        self.first = num_committed(self.checkpoint)
        self.run = Future()
        work = partial(run_forked, arguments, log, script=RECIPE, patch=self._slow_down)
        # not an executor: a fork of its thread cannot end as Python does, which joins all of them
        threading.Thread(target=lambda: self.run.set_result(work()), daemon=True).start()

    def _slow_down(self, rank):
        """Let each task take a while, so that the run can be killed in its middle."""

        class SlowPredictor(ResiduePredictor):
            def __call__(self, chains):
                time.sleep(0.2)
                yield from super().__call__(chains)

        with_ray.ResiduePredictor = SlowPredictor
        self.pid_file.write_text(str(os.getpid()))

    @property
    def pid(self):
        return int(self.pid_file.read_text())

    def wait_for_commits(self, number):
        """Wait until this driver has completed the results of that many tasks, or all."""
        wait_until(lambda: self.run.done() or num_committed(self.checkpoint) >= self.first + number)

    def started(self, *names):
        """The processes that it started, by id, with their command lines.

        Args:
            names: which processes of Ray: those whose command line begins with one of these.
        """
        return {pid: line for pid, line in descendants(self.pid).items() if line.startswith(names or "")}


def num_committed(checkpoint):
    try:
        return sum(".pending" not in path.name for path in checkpoint.iterdir())
    except FileNotFoundError:
        return 0


def wait_until(is_true):
    deadline = time.monotonic() + DEADLINE
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def descendants(pid):
    """The processes that a process started, and those that these started, with their command lines."""
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    found, new = {}, [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found |= {child: lines.get(child, "") for child in new}
    return found


class TestErrors:
    pytestmark = needs_ray

    def test_what_stops_ray_is_told_in_one_line(self, data, tmp_path, monkeypatch):
        import ray

        error = ray.exceptions.RaySystemError("Traceback:\n  File ...\nValueError: no model here.")
        dataset = mock.Mock(**{"repartition.return_value.map_batches.return_value.write_datasink.side_effect": error})
        monkeypatch.setattr(ray.data, "read_parquet", lambda paths: dataset)
        monkeypatch.setattr(with_ray, "check_ray", lambda: None)
        monkeypatch.setattr(with_ray, "connected", lambda options: contextlib.nullcontext(1))
        message = "^Ray stopped: ValueError: no model here. What is done is kept; start again with --resume.$"
        with pytest.raises(OSError, match=message):
            predict(data, tmp_path / "out")
        with pytest.raises(OSError, match=message):
            predict(data, tmp_path / "out", resume=True)


@pytest.mark.slow
class TestKills:
    pytestmark = needs_ray

    def test_an_actor_and_a_worker_are_killed(self, data, tmp_path, expected):
        driver = ForkedDriver(data, tmp_path / "out")
        driver.wait_for_commits(3)
        for names in (["ray::MapWorker(MapBatches("], ["ray::Write", "ray::IDLE"]):
            os.kill(min(driver.started(*names)), signal.SIGKILL)
        done = driver.run.result()
        assert done.statuses == [0], done.stderr
        check_results(tmp_path / "out", expected)
        assert_probabilities_are_plain(next((tmp_path / "out" / "predictions").iterdir()))

    def test_the_driver_is_killed_and_the_run_resumed(self, data, tmp_path, expected):
        rng, out = random.Random(KILLS), tmp_path / "out"
        chains_per_task = max(1, 8 // KILLS)  # so that there are tasks left at the last kill
        for number in range(KILLS):
            driver = ForkedDriver(data, out, *(["--resume"] if number else []), chains_per_task=chains_per_task)
            driver.wait_for_commits(1)
            time.sleep(rng.uniform(0, 2 / KILLS))
            assert not driver.run.done()
            writers = driver.started("ray::MapWorker", "ray::Write", "ray::IDLE")
            os.kill(driver.pid, signal.SIGKILL)
            assert driver.run.result().statuses == [-signal.SIGKILL]
            wait_until(lambda pids=writers: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids))
        done = ForkedDriver(data, out, "--resume").run.result()
        assert done.statuses == [0], done.stderr
        check_results(out, expected)
