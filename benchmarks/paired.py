#!/usr/bin/env python
"""Test whether one run is better than another: a paired test of their accuracies on every corpus.

Reads the accuracies of the chains from `metrics.json` of two runs of recipes/train_q8.py or recipes/evaluate.py, and
prints a Markdown table: both accuracies, their difference with its 95 % interval, and the two-sided p-value of a
permutation test that swaps the two predictions of a chain (lift_ss_hf.metrics.significance).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from origin import origin

from lift_ss_hf.cli.run import run
from lift_ss_hf.metrics.segments import LABELLED
from lift_ss_hf.metrics.significance import chain_sums, paired_test
from lift_ss_hf.models.states import ALPHABETS
from lift_ss_hf.version import __version__


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, metavar="A", help="folder of a run, with metrics.json")
    parser.add_argument("second", type=Path, metavar="B", help="folder of another run")
    parser.add_argument("--states", default="q3", choices=ALPHABETS, help="states to compare at (default: q3)")
    parser.add_argument("--resamples", type=int, default=10_000, help="permutations (default: 10000)")
    return parser.parse_args()


def read_corpora(folder: Path) -> dict[str, Any]:
    """Read the results of a run, by corpus.

    Raises:
        ValueError: if the folder holds no results.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing. Name the folder of a run that was evaluated.")
    return json.loads(path.read_text("utf-8"))["corpora"]


def _summary(folder: Path, corpora: dict[str, Any]) -> str:
    """List the corpora and alphabets of a run, for a message."""
    return f"{folder.name} has " + ", ".join(f"{name} ({' '.join(corpora[name]['scores'])})" for name in corpora)


def main() -> int:
    """Print the table."""
    args = parse()
    first, second = read_corpora(args.first), read_corpora(args.second)
    rows = []
    for name in [name for name in first if name in second]:
        sides = [corpora[name]["scores"].get(args.states) for corpora in (first, second)]
        if None in sides:  # a corpus with eight states has no q9
            continue
        a, b = (chain_sums(scores, args.states) for scores in sides)
        if not np.array_equal(a[:, LABELLED], b[:, LABELLED]):
            raise ValueError(f"{name}: the two runs were not scored on the same chains. Evaluate both again.")
        outcome = paired_test(a, b, args.resamples)["accuracy"]
        difference, low, high = (100 * outcome[key] for key in ("difference", "low", "high"))
        rows.append(
            f"| {name} | {100 * sides[0][args.states]:.1f} | {100 * sides[1][args.states]:.1f} "
            f"| {difference:+.2f} [{low:+.2f}, {high:+.2f}] | {outcome['p_value']:.4f} |"
        )
    if not rows:
        raise ValueError(
            f"nothing to compare at {args.states}: {_summary(args.first, first)}; {_summary(args.second, second)}. "
            "Evaluate both on a common corpus, or choose --states that both have."
        )
    print("| corpus | A | B | B - A | p |\n| --- | ---: | ---: | --- | ---: |", *rows, sep="\n")
    print(f"\nA: {args.first.name}, B: {args.second.name}; {origin(f'lift_ss_hf {__version__}', '1 thread')}.")
    return 0


if __name__ == "__main__":
    run(main)
