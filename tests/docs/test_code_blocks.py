"""The code on the pages of docs/ runs as it stands there; what needs a GPU or a network has flags and files that exist.

The blocks of a page run in their order, in one folder: a block with a title is a file, Python shares its names, and
commands run in this process. A block after `<!-- not run: REASON -->` is only checked. test_readme.py runs README's.
"""

import doctest
import importlib.util
import re
import runpy
import sys
from unittest import mock

import pytest
from accelerate.commands.launch import launch_command_parser
from docs_pages import DOCS, PAGES, README, ROOT, Block, blocks, commands
from scripts import run_lift_ss, run_script
from tools import needs_mkdssp

from lift_ss_hf.cli import lift_ss
from lift_ss_hf.training.arguments import CorpusArguments, ModelArguments, RecipeTrainingArguments
from lift_ss_hf.training.memory import EstimateArguments
from lift_ss_hf.training.recipes import parse_recipe

RECIPE = (ModelArguments, CorpusArguments, RecipeTrainingArguments)
RECIPES = {"recipes/train_q8.py": RECIPE, "recipes/estimate.py": (*RECIPE, EstimateArguments)}
FOREIGN = {"apt-get", "cd", "git", "kubectl", "pip", "sbatch", "source"}  # programs that are not ours
FOLDERS = ("accelerate_configs", "dataset_scripts", "examples", "recipes", "tests")  # that commands name, as in a clone
# Pages that train take more than ten seconds, and may hold chains out with mmseqs2.
TRAINING = ("quick_start", "train_on_your_own_chains", "prefix_cache")
TRAINING_MARKS = [pytest.mark.slow, pytest.mark.process]
USES_MKDSSP = DOCS / "how_to" / "compare.md"

RUN = [
    pytest.param(page, id=page.stem, marks=TRAINING_MARKS if page.stem in TRAINING else [])
    for page in PAGES
    if page != USES_MKDSSP and any(block.reason is None and block.language != "text" for block in blocks(page))
]
CHECKED = [README, *PAGES]
NOT_RUN = [block for page in CHECKED for block in blocks(page) if block.reason is not None]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """An empty folder with the scripts of a clone, as the current one."""
    for name in FOLDERS:
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run(page, clone):
    run_page(page, clone)


@needs_mkdssp
def test_the_page_that_uses_mkdssp_runs(clone):
    run_page(USES_MKDSSP, clone)


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: block.place)
def test_blocks_that_are_not_run_have_flags_and_files_that_exist(block, clone):
    if block.language == "python":
        compile(block.text, block.place, "exec")
        return
    for words, _ in commands(block):
        check_command(words)


def test_every_block_is_run_or_says_why_not():
    languages = {block.language for page in CHECKED for block in blocks(page)}
    assert languages <= {"python", "bash", "console", "text"}
    for page in CHECKED:
        text = page.read_text("utf-8")
        assert text.count("```") == 2 * len(list(blocks(page))), f"{page}: a fence that the tests do not see"
        assert text.count("<!-- not run") == sum(block.reason is not None for block in blocks(page)), page


def test_a_wrong_flag_and_a_missing_file_are_found(clone):
    for line in (
        "lift-ss predict a.fasta --formats html",
        "python recipes/train_q8.py --top_block 3",
        "python recipes/train_q8.py recipes/esm2_8m/missing.yaml",
        "accelerate launch --config_file accelerate_configs/missing.yaml recipes/train_q8.py",
        "python dataset_scripts/leakage.py a.txt --test b.txt --writes c",
        "make missing",
        "python -m missing",
        "unknown-program",
    ):
        ((words, _),) = commands(Block("bash", line, None, "a test", "here"))
        with pytest.raises((SystemExit, ValueError, AssertionError, OSError)):
            check_command(words)


def run_page(page, folder):
    """Run the blocks of a page in their order."""
    names = {"__name__": "__main__"}
    for block in blocks(page):
        if block.title is not None:
            (folder / block.title).write_text(block.text)
        elif block.reason is None and block.language == "python":
            run_python(block, names)
        elif block.reason is None and block.language in ("bash", "console"):
            for words, output in commands(block):
                done = run_command(words)
                assert done.returncode == 0, f"{block.place}: {' '.join(words)}\n{done.stderr}"
                printed = [line.rstrip() for line in done.stdout.splitlines()]
                assert printed[: len(output)] == output, block.place


def run_python(block, names):
    """Run a block, as doctests if it has prompts."""
    if ">>>" not in block.text:
        exec(compile(block.text, block.place, "exec"), names)
        return
    test = doctest.DocTestParser().get_doctest(block.text, names, block.place, block.place, 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    runner.run(test, out=report.append, clear_globs=False)
    assert not report, "".join(report)
    names.update(test.globs)


def run_command(words):
    """Run a command of ours in this process."""
    program, *arguments = words
    if program == "lift-ss":
        return run_lift_ss(*arguments)
    if program == "accelerate":
        launch = launch_command_parser().parse_args(arguments[1:])
        return run_script(launch.training_script, *launch.training_script_args)
    assert program == "python", f"{program}: mark the block as not run, and say why"
    return run_script(*arguments)


def check_command(words):
    """Fail unless a command has flags and files that exist."""
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    program, *arguments = words
    if program == "lift-ss":
        lift_ss.parser().parse_args(arguments)
    elif program == "accelerate":
        launch = launch_command_parser().parse_args(arguments[1:])
        assert launch.config_file is None or (ROOT / launch.config_file).is_file(), launch.config_file
        check_script(launch.training_script, launch.training_script_args)
    elif program.endswith(("python", "python3")):
        check_script(arguments[0], arguments[1:])
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(arguments) <= set(targets), arguments
    else:
        assert program in FOREIGN, program
        files = [word for word in arguments if word.startswith(FOLDERS)]
        assert all((ROOT / file).is_file() for file in files), files


def check_script(path, arguments):
    """Parse the arguments of a script without running it."""
    if path == "-c":
        compile(arguments[0], path, "exec")
        return
    if path == "-m":
        assert importlib.util.find_spec(arguments[0]) is not None, arguments[0]
        return
    assert (ROOT / path).is_file(), path
    if path in RECIPES:
        parse_recipe(RECIPES[path], "", arguments)
        return
    with mock.patch.object(sys, "argv", [path, *arguments]):
        parse = runpy.run_path(str(ROOT / path), run_name="parsed").get("parse")
        if parse is not None:
            parse()
            return
    text = (ROOT / path).read_text()
    assert all(f'"{word}"' in text for word in arguments if word.startswith("--")), arguments


def test_the_pages_are_found():
    assert DOCS / "quick_start.md" in PAGES
    assert len(RUN) > 5
