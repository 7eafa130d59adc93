"""`lift-ss push`: push a trained model to the Hub."""

from __future__ import annotations

import argparse


def add_push_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lift-ss push`."""
    parser.add_argument("folder", metavar="MODEL_DIR", help="folder of a saved model: RUN/model")
    parser.add_argument("repo", metavar="REPO", help="ORG/NAME on the Hub, created if missing")
    parser.add_argument("--private", action="store_true", help="visibility of a repository that is created")
    parser.add_argument("--revision", metavar="BRANCH", help="push to this branch (default: the main one)")
    parser.add_argument("--dry-run", action="store_true", help="list the files and their sizes, and push nothing")


def push(args: argparse.Namespace) -> None:
    """Push the model, and print the commit's URL; or list what would be pushed.

    Raises:
        ValueError: if the folder is not a saved model, or the Hub refuses it.
    """
    from ..hub.push import plan_push, push_model

    if args.dry_run:
        print(plan_push(args.folder))
    else:
        print(push_model(args.folder, args.repo, private=args.private, revision=args.revision))
