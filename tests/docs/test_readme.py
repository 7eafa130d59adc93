"""What README shows runs where the package is installed from a wheel, without a checkout, and its pictures exist."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest
from docs_pages import README, ROOT, blocks, commands
from scripts import BUILD_FILES
from small_runs import write_data


class Installed:
    """The package in an environment of its own: what a wheel of it installs, and a folder to work in."""

    def __init__(self, folder):
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        options = ["--no-deps", "--no-build-isolation", "--quiet"]
        source = shutil.copytree(ROOT / "lift_ss_hf", folder / "source" / "lift_ss_hf").parent
        for name in BUILD_FILES:
            shutil.copy(ROOT / name, source)
        subprocess.run([*pip, "wheel", *options, "-w", str(folder), str(source)], check=True)
        (wheel,) = folder.glob("*.whl")
        site = folder / "site"
        subprocess.run([*pip, "install", *options, "--target", str(site), str(wheel)], check=True)
        shutil.rmtree(source)

        self.home = folder / "home"
        self.home.mkdir()
        self.lift_ss = str(site / "bin" / "lift-ss")
        paths = [site, *{sysconfig.get_path(name) for name in ("purelib", "platlib")}]
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.environment |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "PATH": str(site / "bin")}

    def python(self, *words):
        """Run Python with these arguments."""
        command = [sys.executable, *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.home, env=self.environment)
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return Installed(tmp_path_factory.mktemp("installed"))


@pytest.mark.slow
@pytest.mark.process
def test_the_first_command_prints_what_readme_shows(installed):
    (block,) = (block for block in blocks(README) if block.language == "console")
    for (_, *words), output in commands(block):
        (installed.home / "proteins.fasta").write_text("\n".join([*output[:2], ""]))
        assert installed.python(installed.lift_ss, *words).stdout.splitlines() == output


@pytest.mark.slow
@pytest.mark.process
def test_the_script_trains_scores_and_saves_a_model_that_predicts(installed):
    (block,) = (block for block in blocks(README) if block.language == "python")
    assert len([line for line in block.text.splitlines() if line]) <= 20
    trained = installed.python("-c", block.text)
    assert "deprecated" not in trained.stderr
    scores = re.search(r"'eval_q9': '?([\d.]+)", trained.stdout)
    assert scores is not None
    assert float(scores[1]) > 0.35  # 0.17 untrained
    done = installed.python(installed.lift_ss, "predict", "MKTAYIAKQRQISFVK", "--model", "my_model", "--quiet")
    assert len(done.stdout.splitlines()[2]) == 16


@pytest.mark.slow
@pytest.mark.process
def test_two_commands_lead_from_a_file_of_chains_to_predictions(installed, tmp_path):
    (block,) = (block for block in blocks(README) if "lift-ss train" in block.text)
    words = [words for words, _ in commands(block)]
    assert [line[1] for line in words] == ["train", "predict"]
    shutil.copy(write_data(tmp_path) / "train.txt", installed.home / "chains.txt")
    (installed.home / "proteins.fasta").write_text(">one\nMKTAYIAKQRQISFVKSHFSRQ\n")
    (_, *train), (_, *predict) = words
    installed.python(installed.lift_ss, *train, "--num_train_epochs", "1")
    installed.python(installed.lift_ss, *predict)
    name, sequence, states = (installed.home / "out" / "predictions.txt").read_text().splitlines()
    assert (name, len(states)) == (">one", len(sequence))


def test_code_is_not_cut_off_at_the_right():
    width = 96  # characters that GitHub shows of a line of code on its front page
    lines = [line for block in blocks(README) for line in block.text.splitlines()]
    assert [line for line in lines if len(line) > width] == []


def test_pictures_exist():
    pictures = re.findall(r'src(?:set)?="([^"]+)"', README.read_text("utf-8"))
    assert len(pictures) == 2
    assert all((ROOT / picture).is_file() for picture in pictures)
