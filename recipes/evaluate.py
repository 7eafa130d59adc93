#!/usr/bin/env python
"""Score a model on test corpora: accuracies, SOV, states, intervals, leakage, speed; as JSON, Markdown and figures."""

import argparse

from accelerate import PartialState

from lift_ss_hf.cli.run import run
from lift_ss_hf.corpora import get_corpus
from lift_ss_hf.corpora.loading import is_own_corpus
from lift_ss_hf.evaluation.corpora import evaluate_saved
from lift_ss_hf.models.backbones import BUNDLED


def parse() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        default=[BUNDLED],
        help="Hub id or folder, several over one backbone as an ensemble (default: the bundled model)",
    )
    parser.add_argument("--corpora", nargs="+", required=True, metavar="NAME", help="test corpora, or paths")
    parser.add_argument("--out", metavar="DIR", help="write metrics.json, results.md and figures/ there")
    parser.add_argument("--source", metavar="DIR", help="folder that holds the corpora (else LIFT_SS_DATA_DIR)")
    parser.add_argument("--backbone", metavar="NAME", help="where the backbone is, if not where the model says")
    parser.add_argument("--split", default="test", help="of each corpus (default: test)")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples for the intervals (default: 1000)")
    parser.add_argument(
        "--max_tokens", type=int, default=2048, help="of a batch (default: 2048, best on a CPU; raise it on a GPU)"
    )
    return parser.parse_args()


def main() -> None:
    """Check the names, evaluate, show the table."""
    args = parse()
    for name in args.corpora:
        if not is_own_corpus(name):
            get_corpus(name.partition(":")[0])
    table = evaluate_saved(**vars(args))
    PartialState().print(table)


if __name__ == "__main__":
    run(main)
