"""Closed and full standard streams: no traceback, and output that is lost is not a success."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked_runs import run_forked
from small_runs import ROOT, flags, write_data
from tqdm.auto import tqdm

from lift_ss_hf.cli.run import message_handler

pytestmark = pytest.mark.process

SEQUENCE = "MKTAYIAKQRQISFVKSHFSRQ"
PREDICT = ROOT / "recipes" / "predict.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
LOST = "error: cannot write to standard output: it is closed. Redirect it to a file or to /dev/null."


def closing(*names):
    """Return a patch that closes standard streams as a shell does (`>&-`), and leaves None of them, as Python does."""

    def patch(rank):
        for name in names:
            os.close(("stdin", "stdout", "stderr").index(name))
            setattr(sys, name, None)

    return patch


def call(code, redirection, shell="sh"):
    """Run code as the main function of a command, with a shell's redirection."""
    program = f"import sys\nfrom lift_ss_hf.cli.run import run\ndef main():\n    {code}\nrun(main)"
    command = [shell, "-c", f'"$0" -c "$1" {redirection}', sys.executable, program]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)


def test_output_that_is_closed_is_an_error_if_something_was_written():
    assert call("pass", ">&-").returncode == 0
    done = call("print('a')", ">&-")
    assert (done.returncode, done.stderr.strip()) == (2, LOST)
    assert call("print('a', file=sys.stderr)", ">&- 2>&-").returncode == 0
    assert call("print('a')", ">&- 2>&-").returncode == 2


def test_errors_keep_their_status_whatever_is_closed():
    for redirection in ("2>&-", ">&- 2>&-", "2>/dev/full", ">/dev/full 2>/dev/full"):
        done = call("raise ValueError('x')", redirection)
        assert (done.returncode, done.stdout) == (2, "")
    done = call("print('a'); raise ValueError('x')", ">&-")
    assert (done.returncode, done.stderr) == (2, "error: x\n")


def test_closed_input_is_empty():
    done = call("print(repr(sys.stdin.read()))", "<&-")
    assert (done.returncode, done.stdout) == (0, "''\n")


def test_a_message_is_on_a_line_of_its_own_where_a_bar_is_shown(capsys):
    handler = message_handler()
    with tqdm(total=2, file=sys.stderr, desc="bar") as bar:
        bar.update()
        handler.emit(logging.makeLogRecord({"msg": "training takes about 5 s"}))
    screen = capsys.readouterr().err
    before, after = screen.split("training takes about 5 s\n")
    assert before.rsplit("bar:", 1)[1].endswith("\r")  # the bar's line was wiped
    assert "bar:" in after


def test_messages_that_a_library_shows_itself_are_shown_once():
    """huggingface_hub shows its own messages and passes them on: each retry was printed twice."""
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.get_logger("huggingface_hub.utils._http")
    handler = message_handler()
    for name, is_shown in (
        ("huggingface_hub.utils._http", False),
        ("lift_ss_hf.cli", True),
        ("a_library_without_a_handler.module", True),
    ):
        assert bool(handler.filter(logging.makeLogRecord({"name": name}))) is is_shown


@pytest.mark.slow
def test_an_error_is_one_line_under_accelerate_launch():
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    given = [
        "--num_processes",
        "1",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--cpu",
    ]
    command = [*launch, *given, str(ROOT / "recipes" / "train_q8.py"), "--adaptor", "lora"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode != 0
    assert done.stderr.splitlines() == ["error: unknown argument 'adaptor'. Did you mean 'adapter'?"]


FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@FULL
@pytest.mark.parametrize("code", ["print('a')", "print('a'); sys.exit(0)"])
def test_a_full_disk_behind_standard_output_is_one_line(code):
    done = call(code, ">/dev/full")
    said = "error: cannot write to standard output: [Errno 28] No space left on device\n"
    assert (done.returncode, done.stderr) == (2, said)


@FULL
@pytest.mark.parametrize(("number", "unbuffered"), [(1, "1"), (100_000, "")])
def test_a_disk_that_is_full_before_the_end_of_the_output_is_one_line(monkeypatch, number, unbuffered):
    monkeypatch.setitem(ENVIRONMENT, "PYTHONUNBUFFERED", unbuffered)
    done = call(f"for _ in range({number}): print('a')", ">/dev/full")
    assert (done.returncode, done.stderr) == (2, "error: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("code", ["print('a')", "print('a' * 100_000)", "print('a'); sys.exit(0)"])
def test_a_reader_that_leaves_has_a_status_of_its_own_and_no_message(code):
    done = call(code, '| { read -r line <&3; } 3</dev/null; exit "${PIPESTATUS[0]}"', shell="bash")
    assert (done.returncode, done.stderr) == (141, "")


def test_files_do_not_get_the_numbers_of_closed_streams(tmp_path):
    """A library that prints would write into the result."""
    code = f"import os; file = open({str(tmp_path / 'result')!r}, 'w'); os.write(1, b'x'); os.write(2, b'x')"
    assert call(code, "<&- >&- 2>&-").returncode == 0
    assert (tmp_path / "result").read_text() == ""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


ALL = ("stdin", "stdout", "stderr")


@pytest.mark.parametrize("closed", [("stdout",), ALL], ids="-".join)
def test_training_ends_although_what_it_prints_is_lost_and_says_so(data, tmp_path, closed):
    out = tmp_path / "run"
    arguments = flags(data, out, "--num_train_epochs", "1", "--bootstrap", "0")
    done = run_forked(arguments, tmp_path / "log", patch=closing(*closed))
    assert done.statuses == [2]
    assert (out / "metrics.json").exists()
    assert "Traceback" not in done.stderr
    assert "stderr" in closed or done.stderr.splitlines()[-1] == LOST


@pytest.mark.parametrize("closed", [("stdin",), ("stdout",), ("stderr",), ALL], ids="-".join)
def test_prediction_to_a_directory_needs_no_streams_and_says_which_one_it_lacks(tmp_path, closed):
    def predict(*arguments):
        return run_forked([*arguments], tmp_path / "log", script=PREDICT, patch=closing(*closed))

    def assert_error(done, message):
        assert done.statuses == [2]
        assert done.stderr == ("" if "stderr" in closed else f"error: {message}\n")

    out, workers = tmp_path / "out", ("--num_workers", "1") if closed == ALL else ()
    done = predict(SEQUENCE, "-o", str(out), *workers)
    assert done.statuses == [0], done.stderr
    assert "Traceback" not in done.stderr
    assert (out / "predictions.txt").read_text().startswith(">record_1\n")
    if "stdout" in closed:
        assert_error(predict(SEQUENCE), "standard output is closed. Give a directory with -o.")
    if "stdin" in closed:
        assert_error(predict("-", "-o", str(tmp_path / "none"), "--quiet"), "the input has no records.")
