"""`lift-ss evaluate`: score a model, or several as an ensemble, on chains with known states."""

from __future__ import annotations

import argparse

from .arguments import add_backbone_argument

COLUMNS = ("lift_ss", "standard")  # of reports.tables.SCORE_TABLES, which --help must not import


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lift-ss evaluate`."""
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        default=["bundled"],
        help="Hub id or folder; several models with the same backbone form an ensemble (default: the bundled model)",
    )
    parser.add_argument(
        "--tests",
        "--corpora",
        nargs="+",
        required=True,
        metavar="CHAINS",
        help="names from the catalogue, or files, folders and data sets as for lift-ss train",
    )
    parser.add_argument("-o", "--out", metavar="DIR", help="write metrics.json, results.md and figures/ to this folder")
    parser.add_argument("--source", metavar="DIR", help="folder with the source files (default: LIFT_SS_DATA_DIR)")
    add_backbone_argument(parser)
    parser.add_argument("--split", default="test", help="split of each corpus (default: test)")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples for the 95 %% intervals (default: 1000)")
    parser.add_argument(
        "--max_tokens", type=int, help="tokens per batch (default: 2048, fastest on a CPU; raise it on a GPU)"
    )
    parser.add_argument(
        "--columns",
        choices=COLUMNS,
        default="standard",
        help="layout of each corpus's scores; lift_ss: the reference implementation's columns in its order "
        "(default: standard)",
    )


def evaluate(args: argparse.Namespace) -> None:
    """Check the names, evaluate, and print the tables.

    Raises:
        ValueError: if a model or a corpus cannot be loaded.
    """
    from accelerate import PartialState

    from ..corpora.loading import resolve_corpus
    from ..evaluation.corpora import DEFAULT_SETTINGS, EvaluationSettings, evaluate_saved

    for name in args.tests:
        resolve_corpus(name)
    max_tokens = DEFAULT_SETTINGS.max_tokens if args.max_tokens is None else args.max_tokens
    settings = EvaluationSettings(args.split, args.bootstrap, max_tokens, args.columns)
    table = evaluate_saved(args.models, args.tests, settings, out=args.out, source=args.source, backbone=args.backbone)
    PartialState().print(table)
