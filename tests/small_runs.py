"""Runs of the main job on a tiny backbone, and chains whose states can be learnt."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpus_files import write_three_line
from tiny_models import save_tiny_backbone

from lift_ss_hf.corpora.chains import Chain
from lift_ss_hf.training.arguments import CorpusArguments, ModelArguments, RecipeTrainingArguments
from lift_ss_hf.training.checkpoints import last_checkpoint
from lift_ss_hf.training.job import run_training
from lift_ss_hf.training.recipes import parse_recipe

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "train_q8.py"
HELIX, STRAND = set("AELKMQR"), set("VIYFWTC")


def make_chains(number: int, seed: int) -> Iterator[Chain]:
    """Yield chains whose states follow from their residues."""
    rng = random.Random(seed)
    for index in range(number):
        sequence = "".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=rng.randint(20, 60)))
        states = "".join("H" if r in HELIX else "E" if r in STRAND else "P" if r == "P" else "L" for r in sequence)
        yield Chain(f"s{seed}_{index}", sequence, "X" + states[1:])


def write_data(folder: Path, family: str = "esm") -> Path:
    """Write training (48 chains), validation and test files (10 each) and a backbone; return the folder."""
    for name, number, seed in (("train", 48, 0), ("validation", 10, 1), ("test", 10, 2)):
        write_three_line(make_chains(number, seed), folder / f"{name}.txt")
    save_tiny_backbone(folder / "backbone", family)
    return folder


def write_finished_run(folder: Path, metrics: dict[str, Any]) -> None:
    """Write what tells a finished run, without running it: its metrics and reports."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({"learnt": {}, "splits": []} | metrics))
    for name in ("results.md", "model/README.md"):
        (folder / name).write_text("")


def flags(data: Path, out: Path, *more: str) -> list[str]:
    """Return arguments of the recipe; those in `more` win."""
    return [
        *("--backbone", str(data / "backbone"), "--head", "linear", "--loss", "cross_entropy", "--top_blocks", "2"),
        *("--train", str(data / "train.txt"), "--validation", str(data / "validation.txt")),
        *("--tests", str(data / "test.txt"), "--bootstrap", "20", "--output_dir", str(out)),
        *("--max_tokens_per_batch", "512", "--learning_rate", "1e-2", "--num_train_epochs", "15"),
        *("--report_to", "none", "--disable_tqdm", "True", *more),
    ]


def command(data: Path, out: Path, *more: str) -> list[str]:
    """Return the command that runs the recipe in one process."""
    return [sys.executable, str(RECIPE), *flags(data, out, *more)]


def launch(configuration: str, data: Path, out: Path, *more: str, options: tuple[str, ...] = ()) -> list[str]:
    """Return the command that launches the recipe with one of the accelerate configurations."""
    config = ROOT / "accelerate_configs" / f"{configuration}.yaml"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), *options]
    return [*launcher, str(RECIPE), *flags(data, out, *more)]


def train(data: Path, out: Path, *more: str) -> dict[str, Any]:
    """Run the recipe in this process and return its results."""
    classes = (ModelArguments, CorpusArguments, RecipeTrainingArguments)
    return run_training(*parse_recipe(classes, "", flags(data, out, *more)))


def state_of(out: Path) -> dict[str, Any]:
    """Return the Trainer's state in the last checkpoint of a run."""
    return json.loads((last_checkpoint(out) / "trainer_state.json").read_text())
