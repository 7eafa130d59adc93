"""Arguments that several commands have."""

from __future__ import annotations

import argparse


def add_model_arguments(parser: argparse.ArgumentParser, of: str = "") -> None:
    """Add the arguments that say which model predicts, and where its backbone is.

    Args:
        parser: of the command.
        of: when the model is used, before its help.
    """
    parser.add_argument("--model", default="bundled", help=f"{of}Hub id or folder (default: the bundled model)")
    add_backbone_argument(parser)


def add_backbone_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument that says where a model's backbone is."""
    parser.add_argument(
        "--backbone", metavar="NAME", help="Hub id or folder of the backbone (default: the one the model names)"
    )
