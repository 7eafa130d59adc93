#!/usr/bin/env python
"""Evaluate a model on test corpora: accuracies, SOV, intervals, leakage, speed; as JSON, Markdown and figures."""

import argparse

from accelerate import PartialState

from lift_ss_hf.cli.run import run
from lift_ss_hf.corpora.loading import resolve_corpus
from lift_ss_hf.evaluation.corpora import DEFAULT_SETTINGS, EvaluationSettings, evaluate_saved
from lift_ss_hf.models.backbones import BUNDLED
from lift_ss_hf.reports.tables import SCORE_TABLES


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        default=[BUNDLED],
        help="Hub id or folder; several models with the same backbone form an ensemble (default: the bundled model)",
    )
    parser.add_argument(
        "--corpora", nargs="+", required=True, metavar="NAME", help="names from the catalogue, or paths"
    )
    parser.add_argument("--out", metavar="DIR", help="write metrics.json, results.md and figures/ to this folder")
    parser.add_argument("--source", metavar="DIR", help="folder with the source files (default: LIFT_SS_DATA_DIR)")
    parser.add_argument("--backbone", metavar="NAME", help="location of the backbone, if not the one in the model")
    parser.add_argument("--split", default=DEFAULT_SETTINGS.split, help="split of each corpus (default: %(default)s)")
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=DEFAULT_SETTINGS.bootstrap,
        help="resamples for the 95 %% intervals (default: %(default)s)",
    )
    parser.add_argument(
        "--max_tokens",
        type=int,
        default=DEFAULT_SETTINGS.max_tokens,
        help="tokens per batch (default: %(default)s, fastest on a CPU; raise it on a GPU)",
    )
    parser.add_argument(
        "--columns",
        choices=sorted(SCORE_TABLES),
        default=DEFAULT_SETTINGS.columns,
        help="layout of each corpus's scores; lift_ss: the reference implementation's columns in its order "
        "(default: %(default)s)",
    )
    return parser.parse_args()


def main() -> None:
    """Check the names, evaluate, and print the table."""
    args = parse()
    for name in args.corpora:
        resolve_corpus(name)
    settings = EvaluationSettings(args.split, args.bootstrap, args.max_tokens, args.columns)
    table = evaluate_saved(
        args.models, args.corpora, settings, out=args.out, source=args.source, backbone=args.backbone
    )
    PartialState().print(table)


if __name__ == "__main__":
    run(main)
