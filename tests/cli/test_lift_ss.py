"""The command `lift-ss`: its output, its errors, and a `--help` that imports nothing heavy."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked_runs import launched_environment, run_forked
from scripts import run_lift_ss
from tiny_models import save_tiny_model

from lift_ss_hf.cli import lift_ss
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.states import ALPHABETS
from lift_ss_hf.prediction import loading
from lift_ss_hf.prediction.formats import FORMATS
from lift_ss_hf.prediction.loading import PRECISIONS

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "predict.py"
CODE = "from lift_ss_hf.cli.lift_ss import main; main()"
SEQUENCE = "MKTAYIAKQRQISFVKSHFSRQ"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    save_tiny_model(folder)
    SecondaryStructureModel.from_backbone(
        folder / "backbone", top_blocks=2, head_channels=16, states="q3"
    ).save_pretrained(folder / "three")
    (folder / "two.fasta").write_text(f">one\n{SEQUENCE}\n>two\nACDEFG\n")
    return folder


@pytest.mark.process
def test_help_does_not_import_torch_or_numpy():
    report = "print('torch' in sys.modules, 'numpy' in sys.modules)"
    code = f"import sys\ntry:\n    exec({CODE!r})\nexcept SystemExit:\n    {report}"
    commands = ("predict", "embed", "plot", "train", "evaluate", "push")
    for arguments in ([], ["help"], ["--help"], *([command, "--help"] for command in commands)):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False False"


def test_help_names_all_choices(monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # so that argparse does not break `three-line`
    status, out, _ = run_lift_ss("predict", "--help")
    assert status == 0
    assert {*FORMATS, *ALPHABETS, *PRECISIONS} <= set(re.findall(r"[\w-]+", out))
    assert tuple(FORMATS) == lift_ss.FORMAT_NAMES


def test_help_keeps_the_capitals_of_names():
    assert "\nDraw chains as SVG, PNG or PDF.\n" in run_lift_ss("help", "plot")[1]


def test_without_a_command_and_with_help_it_shows_the_help():
    status, out, err = run_lift_ss()
    assert (status, err) == (0, "")
    assert {"predict", "embed", "plot", "calibrate", "help"} <= set(out.split())
    assert run_lift_ss("help")[:2] == (0, out)
    for command in ("predict", "plot", "calibrate"):
        shown = run_lift_ss("help", command)[:2]
        assert shown == run_lift_ss(command, "--help")[:2]


@pytest.mark.parametrize(
    ("arguments", "formats", "inputs"),
    [
        (["a.fasta", "--format", "tsv", "parquet"], ["tsv", "parquet"], ["a.fasta"]),
        (["--format", "tsv", "parquet", "html", "a.fasta"], ["tsv", "parquet", "html"], ["a.fasta"]),
        (["a.fasta", "--format=tsv,ss2", "html", "-o", "d"], ["tsv", "ss2", "html"], ["a.fasta"]),
        (["--format", "tsv", "a.fasta", "--format", "fasta"], ["tsv", "fasta"], ["a.fasta"]),
        (["--format", "tsv", "FASTA", "TSV"], ["tsv"], ["FASTA", "TSV"]),  # capital letters are a sequence
    ],
)
def test_several_formats_may_be_separated_by_spaces(arguments, formats, inputs):
    args = lift_ss.parser().parse_args(["predict", *arguments])
    assert (args.format, args.inputs) == (formats, inputs)


def test_a_file_may_be_called_as_a_format(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fasta").touch()
    args = lift_ss.parser().parse_args(["predict", "--format", "tsv", "fasta"])
    assert (args.format, args.inputs) == (["tsv"], ["fasta"])


def test_sequences_and_standard_input_to_standard_output(data, monkeypatch, caplog):
    status, out, _ = run_lift_ss("predict", SEQUENCE, "--model", data / "model")
    assert status == 0
    name, residues, states = out.splitlines()
    assert (name, residues, len(states)) == (">record_1", SEQUENCE, len(SEQUENCE))
    assert "1 chain, 22 residues" in caplog.messages[-1]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f">record_1\n{SEQUENCE}\n".encode())))
    status, out, err = run_lift_ss("predict", "-", "--model", data / "model", "--quiet", "--states", "q3")
    assert (status, out.splitlines()[:2], err) == (0, [name, residues], "")
    assert set(out.splitlines()[2]) <= set("CHE")


def test_several_formats(data, tmp_path):
    out = tmp_path / "out"
    flags = ("--format", "jsonl,tsv", "--format", "html", "--model", data / "model", "--quiet")
    assert run_lift_ss("predict", data / "two.fasta", "-o", out, *flags)[0] == 0
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {
        *("predictions.jsonl", "predictions.tsv", "predictions.html", "run.json")
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nothing.fasta"], "error: nothing.fasta: no such file."),
        (["predict", SEQUENCE, "--model", "{data}/modle"], "and not a Hub id either. Did you mean '{data}/model'?"),
        (["predict", "{data}/two.fasta", "--format", "tsv,ss2"], "standard output takes one text format"),
        (["predict", "{data}/two.fasta", "--resume"], "--resume needs the directory of the run. Give it with -o"),
        (
            ["predict", "{data}/two.fasta", "--num_workers", "1"],
            "--num_workers needs the directory of the run. Give it",
        ),
        (
            ["predict", "MKVL", "-o", "{data}/out", "--num_workers", "-1", "--model", "no/model"],
            "--num_workers is -1. Expected 0 or more.",
        ),
        (["predict", "{data}/two.fasta", "--model", "{data}/three", "--states", "q8"], "cannot be reduced to q8"),
        (
            ["predict", "{data}/two.fasta", "--model", "{data}/three", "--format", "netsurfp"],
            "cannot be reduced to q8 (LBEGIHST). Choose one of: q3. Or give another --format, or a model that has",
        ),
        (["predict", "{data}/two.fasta", "--model", "{data}/model", "--max_tokens", "0"], "max_tokens is 0"),
        (["predict", "{data}/two.fasta", "--model", "{data}/model", "--max_residues", "3"], "more than 3 residues"),
        (["predict", "MKVL", "--format", "pdf"], "unknown format 'pdf'. Choose from: three-line"),
        (["predict", "MKVL", "--states", "q7"], "unknown alphabet 'q7'"),
        (["predict", "MKVL", "--model", "{data}/model", "--precision", "fp8"], "unknown precision 'fp8'"),
        (["predict", "MKVL", "-o", "/dev/full"], "error: /dev/full exists and is not a directory. Give another"),
        (
            ["predict", "MKVL", "-o", "{data}/two.fasta", "--model", "no/model"],
            "two.fasta exists and is not a directory",
        ),
        (["predict", "ACGTTGCA" * 5, "--model", "{data}/model"], "record 1 (record_1): its 40 letters are nucleotides"),
        (
            ["predict", "MKVL", "-o", "{data}/out", "--format", "ss2,horiz", "--states", "q9"],
            "--states q9 has no effect: the states of ss2, horiz are always q3. Leave it out, or give",
        ),
        (["predict", "MKVL", "--format", "netsurfp", "--states", "q3"], "the states of netsurfp are always q8"),
        (["serve", "--port", "70000"], "--port is 70000. Expected 0 to 65535."),
        (["calibrate", "{data}", "--corpus", "sample"], "is not the folder of a saved model"),
    ],
)
def test_errors_are_one_line(data, arguments, message):
    status, out, err = run_lift_ss(*(argument.format(data=data) for argument in arguments))
    assert (status, out) == (2, "")
    assert message.format(data=data) in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_full_gpu_is_one_line_and_a_bug_keeps_its_traceback(monkeypatch):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(loading, "load_predictor", fail)
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of ...")
    assert run_lift_ss("predict", SEQUENCE) == (
        2,
        "",
        "error: CUDA out of memory. Tried to allocate 20.00 GiB. Lower --max_tokens, in training "
        "--max_tokens_per_batch, where the command has it; or set CUDA_VISIBLE_DEVICES= to run on the CPU.\n",
    )
    error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        run_lift_ss("predict", SEQUENCE)


def test_more_processes_than_gpus_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    status, _, err = run_lift_ss("predict", SEQUENCE, "-o", tmp_path / "out")
    said = "error: this is process 2 of its machine, but it sees 1 GPU. Start no more processes than GPUs.\n"
    assert (status, err) == (2, said)


def test_text_of_a_file_does_not_command_the_terminal(tmp_path):
    path = tmp_path / "esc.csv"
    path.write_text("na\x1b[2Jme,\x07x\nA,MKV\n")
    status, _, err = run_lift_ss("predict", path)
    assert (status, err.splitlines()[-1]) == (
        2,
        f"error: {path}: no column of sequences; found na?[2Jme, ?x. Rename a column to sequence "
        "(also read: seq, residues, protein, input).",
    )


@pytest.mark.process
def test_a_closed_output_is_not_an_error(data, tmp_path):
    def close_reader(rank):
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(reader)

    arguments = [str(data / "two.fasta"), "--model", str(data / "model"), "--quiet"]
    done = run_forked(arguments, tmp_path, script=RECIPE, patch=close_reader)
    assert (done.statuses, done.stderr) == ([141], "")


@pytest.mark.tools
@pytest.mark.process
@pytest.mark.slow
def test_two_processes_of_accelerate_give_what_one_gives(data, tmp_path):
    flags = [str(data / "two.fasta"), "--model", str(data / "model"), "--quiet", "--format", "tsv", "-o"]
    done = run_forked([*flags, str(tmp_path / "one")], tmp_path / "log", script=RECIPE)
    assert done.statuses == [0], done.stderr
    expected = (tmp_path / "one" / "predictions.tsv").read_bytes()

    configs = ROOT / "accelerate_configs"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(configs / "cpu_ddp.yaml")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [*launch, str(RECIPE), *flags, str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two" / "predictions.tsv").read_bytes() == expected

    pytest.importorskip("deepspeed")
    environment = launched_environment(
        "--config_file", str(configs / "deepspeed_zero3.yaml"), "--main_process_port", "0", "--num_processes", "2"
    )
    done = run_forked(
        [*flags, str(tmp_path / "zero3")], tmp_path / "log", script=RECIPE, num_processes=2, environment=environment
    )
    assert done.statuses == [0, 0], done.stderr
    assert (tmp_path / "zero3" / "predictions.tsv").read_bytes() == expected
