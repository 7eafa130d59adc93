"""`lift-ss train`: train a model on one's own chains.

The recipe's parser needs torch, so `--help` has a parser of its own, with the arguments that most runs need.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HELP = """\
CHAINS: one or several of
  a text file with three lines for each chain: >id, residues, states
  CSV, TSV or Parquet with the columns id, sequence, states (others are recognised: input, dssp8, dssp3, ...), and
    optionally split: train, validation or test
  FASTA of biotrainer: a file with TARGET= in its headers; SEQUENCES.fasta+STATES.fasta; or the folder of both
  a folder written by save_to_disk of `datasets`, or by dataset_scripts/build.py
  a data set on the Hub, org/name; a corpus of the catalogue, such as pisces25; sample, the bundled one
States are those of DSSP, or H, E and C; X is unresolved.

Unless they are named, validation and test chains are those that CHAINS marks, or else a tenth of the chains for each,
held out so that none has a relative in training (with mmseqs2; without it, so that none is in training itself).

--preset quick     a small head on the frozen backbone: minutes on a CPU
--preset best      a head that sees all blocks and far along the chain: half as long again, and more accurate
--preset lift_ss   the paper's method
Every argument of recipes/train_q8.py is accepted too, and overrides the preset (to list them: lift-ss train
--all_arguments).

then:
  lift-ss evaluate RUN/model --tests OTHER_CHAINS
  lift-ss predict proteins.fasta --model RUN/model
"""
ALL_ARGUMENTS = "--all_arguments"


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that most runs need, for `lift-ss train --help`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = HELP
    parser.add_argument("chains", nargs="*", metavar="CHAINS", help="chains with states; see below")
    _add_output(parser)
    parser.add_argument("--resume", action="store_true", help="resume the run in RUN, from its last checkpoint")
    parser.add_argument("--preset", default="quick", help="quick, best or lift_ss (default: quick); see below")
    parser.add_argument("--minutes", type=float, metavar="N", help="train for at most this long (default: no bound)")
    for name in ("validation", "tests"):
        parser.add_argument(f"--{name}", nargs="+", metavar="CHAINS", help="as CHAINS; none; split: hold out of CHAINS")
    parser.add_argument("--backbone", metavar="NAME", help="Hub id or folder (default: the bundled backbone)")
    parser.add_argument("--states", help="q9, q8, q3 or q3_lift_ss (default: those that the chains have)")
    parser.add_argument("--seed", type=int, help="seed of weights, batches and dropout (default: 0)")
    parser.add_argument(ALL_ARGUMENTS, action="store_true", help="list all arguments, with their defaults")


def _add_output(parser: argparse.ArgumentParser) -> None:
    """Add the argument that the recipe has under another name."""
    parser.add_argument(
        "-o", "--output", metavar="RUN", help="directory of the run: model, scores, figures, checkpoints"
    )


def train(argv: Sequence[str]) -> None:
    """Run `lift-ss train`.

    Args:
        argv: the arguments after `train`.

    Raises:
        ValueError: if an argument or the chains are invalid.
    """
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_output(own)
    own.add_argument("--output_dir", "--output-dir", dest="output")  # as the recipe has it
    args, rest = own.parse_known_args(argv)
    num_chains = next((number for number, word in enumerate(rest) if word.startswith("-")), len(rest))
    chains, flags = rest[:num_chains], rest[num_chains:]
    if ALL_ARGUMENTS in flags:
        chains, flags = chains or ["CHAINS"], ["--help"]
    elif not chains:
        raise ValueError("no chains to train on. Give them first: lift-ss train CHAINS -o RUN [--argument value ...]")
    elif args.output is None:
        raise ValueError("no directory for the run. Give it with -o RUN.")
    if args.output is not None:
        flags += ["--output_dir", args.output]
    from ..training.presets import DEFAULT_PRESET
    from ..training.recipes import parse_training

    _run_and_report(parse_training(flags, "Train a model on your own chains.", chains, DEFAULT_PRESET))


def train_recipe(argv: Sequence[str], description: str) -> None:
    """Run `recipes/train_q8.py`; arguments and errors as for `training.recipes.parse_training`."""
    from ..training.recipes import parse_training

    _run_and_report(parse_training(argv, description))


def _run_and_report(arguments: tuple) -> None:
    """Train, print the results, and say what can be done with them."""
    from accelerate import PartialState

    from ..training.job import run_training

    training = arguments[-1]
    results = run_training(*arguments)
    if PartialState().is_main_process:
        out = Path(training.output_dir)
        print(f"\n{(out / 'results.md').read_text('utf-8')}\n{headline(results['corpora'], out)}{next_steps(out)}")


def headline(corpora: Mapping[str, Any], out: Path) -> str:
    r"""Return the accuracy on each of the tests, at the coarsest alphabet, in a line; nothing without tests.

    Example:
        >>> scores = {"q8": {"q8": 0.41}, "q3": {"q3": 0.566, "q3_low": 0.533, "q3_high": 0.601}}
        >>> headline({"held_out": {"scores": scores}}, Path("run"))
        'Q3 of the test chains: 56.6 [53.3, 60.1] (held_out); details in run/results.md.\n'
    """
    from ..reports.tables import percent_with_interval

    if not corpora:
        return ""
    scores = {name: result["scores"] for name, result in corpora.items()}
    alphabet = next(
        name for name in ("q3", "q3_lift_ss", "q8", "q9") if all(name in found for found in scores.values())
    )
    parts = [f"{percent_with_interval(found[alphabet], alphabet)} ({name})" for name, found in scores.items()]
    return f"{alphabet.upper()[:2]} of the test chains: {', '.join(parts)}; details in {out / 'results.md'}.\n"


def next_steps(out: Path) -> str:
    """Return how to use, to share and to continue a finished run."""
    model = out / "model"
    return "\n".join(
        [
            f"Everything is in {out}, the model in {model}.",
            f"predict:   lift-ss predict proteins.fasta --model {model}",
            f"evaluate:  lift-ss evaluate {model} --tests CHAINS",
            f"share:     lift-ss push {model} ORG/NAME",
            "continue:  the same command with --resume; a finished run trains on if more epochs are asked for, without "
            "--minutes",
        ]
    )
