"""Runs to a directory: killed and resumed, or shared by processes, they give the same bytes; they are never mixed."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
import weakref
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from unittest import mock

import pytest
from forked_runs import run_forked, signal_at
from stopped_at import tree
from tiny_models import write_models_and_chains

from lift_ss_hf.models.atomic import locked_file
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.tokenization import ResidueTokenizer
from lift_ss_hf.prediction import running
from lift_ss_hf.prediction.formats import FORMATS as ALL_FORMATS
from lift_ss_hf.prediction.formats import JsonLines, ParquetTable, ThreeLine
from lift_ss_hf.prediction.inputs import Inputs
from lift_ss_hf.prediction.predictor import Predictor
from lift_ss_hf.prediction.run_folder import RunFolder
from lift_ss_hf.prediction.running import PredictionOptions, ProcessRank, predict_to_folder

RECIPE = Path(__file__).parents[2] / "recipes" / "predict.py"
ROUNDS = int(os.environ.get("LIFT_SS_RACE_ROUNDS", "5"))  # of two runs started at once
FORMATS = tuple(ALL_FORMATS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_models_and_chains(tmp_path_factory.mktemp("prediction"), 60)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(running, "PART_RESIDUES", 600)


def predictor_of(data, name="model", max_tokens=300):
    model = SecondaryStructureModel.from_pretrained(data / name)
    return Predictor(model, ResidueTokenizer.from_pretrained(data / name), max_tokens)


def run(data, out, *, source="chains.fasta", name="model", process=None, **options):
    options = PredictionOptions(**{"skip_bad": True, "quiet": True, "formats": FORMATS, **options})
    return predict_to_folder(predictor_of(data, name), Inputs([str(data / source)]), out, options, process)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "PART_RESIDUES", 600)
        counts = run(data, out)
    return out, counts


def test_order_names_and_rejected_records_are_those_of_the_input(whole):
    out, counts = whole
    assert (counts.chains, counts.rejected) == (57, 3)
    lines = (out / "predictions.txt").read_text().splitlines()
    names = [f">chain{index % 50}" for index in range(60) if index % 20 != 19]
    assert lines[::3] == names
    assert sum(map(len, lines[1::3])) == counts.residues
    assert [len(a) for a in lines[1::3]] == [len(a) for a in lines[2::3]]
    rejected = (out / "rejected.tsv").read_text().splitlines()
    assert rejected[1].startswith("20\tbad19\t'1' at position 3")
    assert not (out / "parts").exists()


def test_several_processes_share_the_parts_and_the_last_joins_them(whole, data, tmp_path, small_parts):
    out, counts = whole
    found = [run(data, tmp_path / "run", process=ProcessRank(rank, 3)) for rank in (0, 2, 1)]
    assert found == [None, None, counts]
    assert tree(tmp_path / "run") == tree(out)


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("1", "1"), ("0", "0")])
def test_a_rank_that_no_process_has_is_refused(monkeypatch, rank, size):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ValueError, match=f"^RANK is {rank} and WORLD_SIZE is {size}. Ranks count from 0: expected "):
        ProcessRank.from_environment()


def test_the_parts_of_a_dead_process_are_taken_over(whole, data, tmp_path, small_parts):
    out, counts = whole
    assert run(data, tmp_path / "run", process=ProcessRank(0, 2)) is None
    assert run(data, tmp_path / "run", resume=True) == counts
    assert tree(tmp_path / "run") == tree(out)


@pytest.fixture(scope="module")
def text(data, tmp_path_factory):
    """A run of one format, and its counts."""
    out = tmp_path_factory.mktemp("runs") / "text"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "PART_RESIDUES", 600)
        return out, run(data, out, formats=("three-line",))


@pytest.mark.parametrize(
    ("owner", "method", "number"),
    [
        (RunFolder, "open", 1),
        (RunFolder, "is_done", 3),
        (running, "predict_part", 3),
        (RunFolder, "write_part", 3),
        (RunFolder, "join", 1),
    ],
)
def test_a_plain_run_that_another_one_overtakes_ends_well(
    text, data, tmp_path, small_parts, monkeypatch, owner, method, number
):
    """Both run over the same directory; the other one does all of its work while this one is about to do something."""
    out, counts = text
    original, calls, found = getattr(owner, method), [], []

    def overtaken(*arguments, **options):
        calls.append(method)
        if len(calls) == number:
            found.append(run(data, tmp_path / "run", resume=True, formats=("three-line",)))
        return original(*arguments, **options)

    monkeypatch.setattr(owner, method, overtaken)
    found.append(run(data, tmp_path / "run", resume=True, formats=("three-line",)))
    assert found == [counts, counts]
    assert tree(tmp_path / "run") == tree(out)


def test_a_part_that_another_process_is_replacing_is_not_missing(tmp_path):
    folder, moved = RunFolder(tmp_path, {}, {}), threading.Event()
    folder.part_folder(0).mkdir(parents=True)
    (folder.part_folder(0) / "part.json").write_text("{}")

    def replace():
        with locked_file(tmp_path / ".lock", is_shared=True):  # as the writer of a part holds it
            away = folder.part_folder(0).rename(tmp_path / "away")
            moved.set()
            time.sleep(0.3)
            away.rename(folder.part_folder(0))

    other = threading.Thread(target=replace)
    other.start()
    assert moved.wait(10)
    assert folder.num_missing(1) == 0
    other.join()


@pytest.mark.process
def test_plain_runs_started_at_once_all_end_well(text, data, tmp_path, small_parts):
    out, counts = text
    predictor, context = predictor_of(data), multiprocessing.get_context("fork")

    def start(folder, barrier, status):
        inputs = Inputs([str(data / "chains.fasta")])
        options = PredictionOptions(skip_bad=True, quiet=True, resume=True)
        barrier.wait()
        if predict_to_folder(predictor, inputs, folder, options) == counts:
            with status.get_lock():
                status.value += 1

    for number in range(ROUNDS):
        folder, barrier, ended_well = tmp_path / str(number), context.Barrier(2), context.Value("i", 0)
        processes = [context.Process(target=start, args=(folder, barrier, ended_well)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0, 0]
        assert ended_well.value == 2
        assert tree(folder) == tree(out)


def test_a_run_outlives_another_one_whose_input_is_invalid(whole, data, tmp_path, small_parts, monkeypatch):
    original, calls = running.predict_part, []
    (data / "bad.fasta").write_text(">a\nMK1\n")

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            with pytest.raises(ValueError, match="record 1"):
                run(data, tmp_path / "run", source="bad.fasta", resume=True, skip_bad=False)
        return original(*arguments)

    monkeypatch.setattr(running, "predict_part", interrupted)
    assert run(data, tmp_path / "run") == whole[1]
    assert tree(tmp_path / "run") == tree(whole[0])


@pytest.mark.process
def test_what_a_kill_while_joining_left_is_removed_by_the_next_start(data, tmp_path):
    out = tmp_path / "run"
    arguments = [str(data / "chains.fasta"), "-o", str(out), "--skip-bad", "--model", str(data / "model"), "--resume"]

    def patch(rank):
        signal_at(1, "tail", ThreeLine)  # the end of the result is not written yet

    assert run_forked(arguments, tmp_path / "log", script=RECIPE, patch=patch).statuses == [-signal.SIGKILL]
    assert list(out.glob(".predictions*"))
    (out / ".mine.incomplete").write_text("x")  # no name of ours
    patch_start = lambda rank: signal_at(1, "_run_parts", running)  # noqa: E731
    assert run_forked(arguments, tmp_path / "log", script=RECIPE, patch=patch_start).statuses == [-signal.SIGKILL]
    assert {path.name for path in out.iterdir()} == {".lock", ".mine.incomplete", "parts", "run.json"}


def test_a_run_that_fails_before_its_first_part_leaves_nothing(data, tmp_path):
    with pytest.raises(ValueError, match="record 20"):
        run(data, tmp_path / "run", skip_bad=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.process
def test_workers_that_write_change_nothing(whole, data, tmp_path, small_parts):
    run(data, tmp_path / "run", num_workers=2)
    assert tree(tmp_path / "run") == tree(whole[0])


def test_a_worker_that_is_killed_is_an_error_that_says_how_to_go_on(data, tmp_path):
    with (
        mock.patch.object(running.concurrent.futures, "ProcessPoolExecutor") as pool,
        pytest.raises(OSError, match=r"run: a process of --num_workers was killed, .* start again with --resume"),
    ):
        pool.return_value.__exit__.return_value = False
        pool.return_value.__enter__.return_value.submit.side_effect = BrokenProcessPool
        run(data, tmp_path / "run", num_workers=1)


@pytest.mark.process
def test_a_run_killed_anywhere_resumes_to_the_same_bytes(whole, data, tmp_path):
    out = tmp_path / "run"
    arguments = [str(data / "chains.fasta"), "-o", str(out), "--resume", "--skip-bad", "--max_tokens", "300"]
    arguments += ["--model", str(data / "model"), "--format", ",".join(FORMATS)]

    def predict(number, method, owner):
        def patch(rank):
            running.PART_RESIDUES = 600
            signal_at(number, method, owner)

        return run_forked(arguments, tmp_path / "log", script=RECIPE, patch=patch)

    for kill in (
        (2, "write_part", RunFolder),  # between two parts
        (3, "write_part", ParquetTable),  # within a part
        (1, "join", JsonLines),  # while the results are joined
        (1, "_write_settings", RunFolder),  # before they are noted as complete
    ):
        assert predict(*kill).statuses == [-signal.SIGKILL]
    done = predict(0, "join", RunFolder)  # call number 0 never comes
    assert done.statuses == [0], done.stderr
    assert tree(out) == tree(whole[0])
    assert "57 chains" in done.stderr and "3 records rejected" in done.stderr


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
def test_workers_end_with_a_run_that_is_killed(data, tmp_path):
    def patch(rank):
        running.PART_RESIDUES = 600
        signal_at(3, "predict_part", running)

    arguments = [str(data / "chains.fasta"), "-o", str(tmp_path / "run"), "--skip-bad", "--num_workers", "2"]
    arguments += ["--model", str(data / "model")]
    mark = {"TEST_OF_WORKERS": str(tmp_path)}
    killed = run_forked(arguments, tmp_path / "log", script=RECIPE, environment=mark, patch=patch)
    assert killed.statuses == [-signal.SIGKILL]
    deadline = time.monotonic() + 30  # a worker that was starting first has to import us
    while left := processes_with(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def processes_with(environment):
    """Return the command lines of the processes that have these variables."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            if all(f"{name}={value}".encode() in variables for name, value in environment.items()):
                found.append((folder / "cmdline").read_text())
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def test_resuming_a_finished_run_changes_nothing(whole, data):
    before = tree(whole[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "PART_RESIDUES", 600)
        assert run(data, whole[0], resume=True) == whole[1]
    assert tree(whole[0]) == before


def test_runs_with_other_settings_or_input_are_refused(whole, data, tmp_path, small_parts):
    out, before = whole[0], tree(whole[0])
    with pytest.raises(ValueError, match=r"holds a run\. Add --resume"):
        run(data, out)
    with pytest.raises(ValueError, match=r"run\.json: that run used another model"):
        run(data, out, name="other", resume=True)
    with pytest.raises(ValueError, match=r"that run has states 'q9', but this one has 'q3'"):
        run(data, out, alphabet="q3", resume=True)
    text = (data / "chains.fasta").read_text()
    (data / "changed.fasta").write_text(text.replace("A", "G", 1))
    with pytest.raises(ValueError, match=r"a run over another input, which differs from record 1 on"):
        run(data, out, source="changed.fasta", resume=True)
    assert tree(out) == before


@pytest.mark.parametrize(("num_processes", "num_chains"), [(1, 2), (1, 6), (2, 2)])
def test_an_input_of_another_length_is_refused(data, tmp_path, monkeypatch, num_processes, num_chains):
    """One process finishes the run; the first of two leaves it unfinished."""
    monkeypatch.setattr(running, "PART_RECORDS", 1)
    out = tmp_path / "run"
    for number in (4, num_chains):
        (data / f"{number}.fasta").write_text(">a\nMKV\n" * number)
    run(data, out, source="4.fasta", formats=("three-line",), process=ProcessRank(0, num_processes))
    with pytest.raises(ValueError, match="run holds a run over another input"):
        run(data, out, source=f"{num_chains}.fasta", formats=("three-line",), resume=True)


def test_a_folder_with_other_files_is_left_alone(data, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and does not hold a run"):
        run(data, tmp_path)
    with pytest.raises(ValueError, match=r"thesis\.tex exists and is not a directory"):
        run(data, tmp_path / "thesis.tex")
    assert tree(tmp_path) == {"thesis.tex": b"years of work"}


def test_the_bar_starts_with_the_first_result(data, tmp_path, capsys):
    """An empty bar, twice, used to come before the error of an input that is refused."""
    (tmp_path / "bad.fasta").write_text(">a\nMK1V\n")
    with pytest.raises(ValueError, match=r"^record 1 \(a\)"):
        run(data, tmp_path / "bad", source=tmp_path / "bad.fasta", skip_bad=False, quiet=False)
    assert "residue" not in capsys.readouterr().err
    with running.progress_bar(Inputs(["MKV"]), quiet=False) as bar:
        bar.mininterval = 0
        time.sleep(0.01)
        bar.update(1930)
    assert "1.93k residues " in capsys.readouterr().err


def test_without_skip_bad_the_first_bad_record_stops_the_run_and_its_parts_are_kept(data, tmp_path, small_parts):
    with pytest.raises(ValueError, match=r"^record 20 \(bad19\): .*position 3.*--skip-bad"):
        run(data, tmp_path / "run", skip_bad=False)
    assert list((tmp_path / "run" / "parts").glob("[0-9]*"))
    assert run(data, tmp_path / "run", resume=True).rejected == 3


def test_memory_does_not_grow_with_the_input(data, tmp_path, monkeypatch):
    """Only the chains of one part are in memory; benchmarks/prediction.md has the memory of whole processes."""
    monkeypatch.setattr(running, "PART_RESIDUES", 200)
    (data / "many.fasta").write_text("".join(f">c{i}\nMKVLAAGIVG\n" for i in range(400)))  # 20 chains a part
    references, in_memory = [], []

    def predict_part(*arguments):
        predictions, counts = original(*arguments)
        references.extend(map(weakref.ref, predictions))
        in_memory.append(sum(reference() is not None for reference in references))
        return predictions, counts

    original = running.predict_part
    monkeypatch.setattr(running, "predict_part", predict_part)
    run(data, tmp_path / "run", source="many.fasta", formats=("three-line",))
    assert len(in_memory) == 20
    assert max(in_memory) == 20


def test_a_very_long_chain_is_predicted_whole(data, tmp_path):
    (data / "long.fasta").write_text(">long\n" + "MKVLAAGIVGLLLAQWERTYPNDE" * 100 + "\n")  # 2,400 residues
    counts = run(data, tmp_path / "run", source="long.fasta", formats=("three-line",))
    assert (counts.chains, counts.residues, counts.windowed) == (1, 2400, 0)
    assert len((tmp_path / "run" / "predictions.txt").read_text().splitlines()[2]) == 2400


def test_an_input_without_records_is_an_error(data, tmp_path):
    (data / "empty.fasta").write_text("")
    with pytest.raises(ValueError, match="has no records"):
        run(data, tmp_path / "run", source="empty.fasta")


@pytest.mark.parametrize(
    "content", ["{", "[]", "1", "[" * 100_000, '{"digests": 3}', '{"digests": ["a"], "sizes": []}'], ids=range(6)
)
def test_a_damaged_settings_file_is_reported(data, tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        run(data, tmp_path, resume=True)


def test_damaged_counts_are_reported(data, whole, tmp_path, small_parts):
    out = tmp_path / "out"
    shutil.copytree(whole[0], out)
    settings = json.loads((out / "run.json").read_text())
    for counts in (None, {}, settings["counts"] | {"chains": "x"}):
        (out / "run.json").write_text(json.dumps(settings | {"counts": counts}))
        with pytest.raises(ValueError, match=r"run\.json is damaged \(expected the counts"):
            run(data, out, resume=True)
    for part in ("[]", "{}", '{"digest": null}'):
        shutil.rmtree(out)
        unfinished = {name: value for name, value in settings.items() if name not in ("digests", "counts", "sizes")}
        (out / "parts" / "000000").mkdir(parents=True)
        (out / "run.json").write_text(json.dumps(unfinished))
        (out / "parts" / "000000" / "part.json").write_text(part)
        with pytest.raises(ValueError, match=r"part\.json is damaged|holds a run over another input"):
            run(data, out, resume=True)


@pytest.mark.parametrize("damage", ["delete", "cut"])
def test_a_finished_run_whose_result_is_gone_starts_again(data, whole, tmp_path, small_parts, caplog, damage):
    out = tmp_path / "out"
    shutil.copytree(whole[0], out)
    result = out / "predictions.tsv"
    if damage == "delete":
        result.unlink()
    else:
        result.write_bytes(result.read_bytes()[:-5])
    assert run(data, out, resume=True) == whole[1]
    assert tree(out) == tree(whole[0])
    assert "predictions.tsv is missing or incomplete, so the run starts again" in caplog.text


@pytest.mark.parametrize("ranks", [(0, 1), (1, 0)])
def test_all_processes_start_again_if_a_result_is_gone(data, text, tmp_path, small_parts, ranks):
    """The second of two took the parts for done if it came first; the first one then waited for it in vain."""
    out = tmp_path / "out"
    shutil.copytree(text[0], out)
    (out / "predictions.txt").unlink()
    found = [run(data, out, resume=True, formats=("three-line",), process=ProcessRank(rank, 2)) for rank in ranks]
    assert found == [None, text[1]]
    assert tree(out) == tree(text[0])


def test_settings_describe_the_run(whole):
    settings = json.loads((whole[0] / "run.json").read_text())
    assert settings["states"] == "q9" and settings["formats"] == sorted(FORMATS)
    assert settings["counts"]["rejected"] == 3
