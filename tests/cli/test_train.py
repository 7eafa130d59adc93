"""`lift-ss train` and `evaluate`: own chains in one command, from any folder, with what to do next."""

import json
import re
import sys
from pathlib import Path

import pytest
from corpus_files import write_three_line
from scripts import run_lift_ss
from small_runs import make_chains, write_data

from lift_ss_hf.cli.evaluate import COLUMNS
from lift_ss_hf.corpora.chains import Chain
from lift_ss_hf.reports.tables import SCORE_TABLES, percent_with_interval
from lift_ss_hf.training.checkpoints import last_checkpoint

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("without_mmseqs")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def fast(data):
    return ("--backbone", data / "backbone", "--disable_tqdm", "True", "--report_to", "none", "--bootstrap", "10")


@pytest.fixture
def run(data, tmp_path):
    """Return the directory of a run on one file of chains, and what was printed."""
    out = tmp_path / "run"
    status, printed, _ = run_lift_ss("train", data / "train.txt", "-o", out, *fast(data))
    assert status == 0
    return out, printed


def test_one_file_of_chains_gives_a_model_scores_and_what_to_do_next(run, data, caplog):
    out, printed = run
    held_out = (out / "held_out" / "test.txt").read_text().splitlines()
    assert len(held_out) == 3 * 5
    results = json.loads((out / "metrics.json").read_text())
    assert list(results["corpora"]) == ["held_out"]
    assert [part["name"] for part in results["splits"]] == ["train", "validation", "held_out"]
    assert (out / "figures" / "learning_curve.png").is_file()
    assert not (out / "prefix_cache").exists()
    history = json.loads((last_checkpoint(out) / "trainer_state.json").read_text())["log_history"]
    assert sum("eval_loss" in entry for entry in history) >= 6
    assert f"lift-ss predict proteins.fasta --model {out / 'model'}" in printed
    assert f"lift-ss push {out / 'model'} ORG/NAME" in printed
    assert "the same command with --resume;" in printed.splitlines()[-1]
    scores = percent_with_interval(results["corpora"]["held_out"]["scores"]["q3"], "q3")
    assert f"\nQ3 of the test chains: {scores} (held_out); details in {out / 'results.md'}.\n" in printed
    (row,) = [line for line in printed.split("What was learnt")[1].splitlines() if line.startswith("| Q9 ")]
    assert "–" not in row  # the baselines are beside the result

    # the commands it names work
    status, printed, _ = run_lift_ss("evaluate", out / "model", "--tests", out / "held_out" / "test.txt")
    assert status == 0
    assert "| 5 |" in printed
    sequence = held_out[1]
    status, printed, _ = run_lift_ss("predict", sequence, "--model", out / "model", "--quiet")
    assert (status, len(printed.splitlines()[2])) == (0, len(sequence))

    # a finished run says so, and changes nothing
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    status, printed, _ = run_lift_ss("train", data / "train.txt", "-o", out, *fast(data), "--resume")
    assert status == 0
    assert f"{out} is finished: there is nothing left to train" in caplog.text
    assert "lift-ss predict" in printed
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before

    # other chains are not a run to resume
    other = write_three_line(make_chains(40, 5), data / "other.txt")
    status, _, err = run_lift_ss("train", other, "-o", out, *fast(data), "--resume")
    assert status == 2
    assert "started with 38 train chains" in err


def test_three_states_without_validation_and_tests(data, tmp_path):
    chains = [Chain(c.id, c.sequence, c.states.replace("P", "C").replace("L", "C")) for c in make_chains(48, 0)]
    path = write_three_line(chains, tmp_path / "three.txt")
    flags = ("--validation", "none", "--tests", "none", "--num_train_epochs", "1")
    status, _, err = run_lift_ss("train", path, "-o", tmp_path / "run", *flags, *fast(data), "--states", "q8")
    assert status == 2
    assert "states is q8, but training chains have three states only" in err
    status, printed, _ = run_lift_ss("train", path, "-o", tmp_path / "run", *flags, *fast(data))
    assert status == 0
    assert "No tests were given." in printed
    assert "of the test chains" not in printed
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["states"] == "q3"
    results = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (results["corpora"], results["calibration"], results["learnt"]) == ({}, None, {})
    arguments = ("evaluate", tmp_path / "run" / "model", "--tests", path, "--bootstrap", "10")
    status, printed, _ = run_lift_ss(*arguments)
    header = next(line for line in printed.splitlines() if line.startswith("| corpus"))
    assert header == "| corpus | chains | residues | Q3 (P→C) | SOV'99 (Q3) | majority Q3 | in training | residues/s |"


def test_the_recipe_and_the_command_are_one(data, tmp_path, monkeypatch):
    flags = ("--preset", "quick", "--num_train_epochs", "2")
    split = ("--validation", data / "validation.txt", "--tests", data / "test.txt")
    run_lift_ss("train", data / "train.txt", "-o", tmp_path / "command", *flags, *split, *fast(data))
    monkeypatch.setattr(sys, "argv", ["train_q8.py"])
    from lift_ss_hf.cli.train import train_recipe

    argv = [*flags, "--train", data / "train.txt", "--output_dir", tmp_path / "recipe", *split, *fast(data)]
    train_recipe(list(map(str, argv)), "")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("command", "recipe")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: no chains to train on. Give them first: lift-ss train CHAINS -o RUN"),
        (["--head", "linear", "chains.txt"], "error: no chains to train on. Give them first"),
        (["{data}/train.txt"], "error: no directory for the run. Give it with -o RUN."),
        (
            ["{data}/train.txt", "-o", "{out}", "--preset", "no such"],
            "unknown preset 'no such'. Choose one of: ",
        ),
        (["{data}/train.txt", "-o", "{out}", "--hed", "linear"], "unknown argument 'hed'. Did you mean 'head'?"),
        (["{data}/train.txt", "--output_dir={out}", "--hed", "linear"], "unknown argument 'hed'."),
        (["{data}/train.txt", "--output-dir", "{out}", "--hed", "linear"], "unknown argument 'hed'."),
        (["{data}/trian.txt", "-o", "{out}"], "{data}/trian.txt: no such file. Did you mean '{data}/train.txt'"),
        (
            ["{data}/train.txt", "-o", "{out}", "--tests", "{data}/tests/"],
            "{data}/tests/: no such file. Did you mean '{data}/test.txt'",
        ),
        (["{data}/train.txt", "-o", "{out}", "--states", "q4"], "error: unknown alphabet 'q4'. Choose one of: q3,"),
        (["{data}/train.txt", "-o", "{out}", "--adapter", "bottlneck"], "error: unknown adapter 'bottlneck'"),
        (["{data}/train.txt", "-o", "{out}", "--tests", "casp99"], "unknown corpus 'casp99'"),
        (["{data}/train.txt", "-o", "{out}", "--resume"], "no checkpoint to resume from (looked for last). Start a"),
    ],
)
def test_errors_are_one_line(arguments, message, data, tmp_path):
    words = [word.format(data=data, out=tmp_path / "run") for word in arguments]
    status, out, err = run_lift_ss("train", *words)
    assert (status, out) == (2, "")
    assert message.format(data=data) in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_all_arguments_of_the_recipe_are_listed():
    status, out, _ = run_lift_ss("train", "--all_arguments")
    assert status == 0
    assert {"--head_channels", "--warmup_ratio", "--minutes"} <= set(re.findall(r"--\w+", out))


def test_the_layouts_of_evaluate_are_those_of_the_tables():
    assert set(COLUMNS) == set(SCORE_TABLES)


def test_help_shows_the_way():
    _, out, _ = run_lift_ss("--help")
    places = [out.index(f"  lift-ss {command}") for command in ("train", "evaluate", "predict", "plot")]
    assert places == sorted(places)
