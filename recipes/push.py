#!/usr/bin/env python
"""Push a trained model to the Hub in one commit: weights, code, tokenizer and card."""

import argparse

from lift_ss_hf.cli.run import run
from lift_ss_hf.hub.push import plan_push, push_model


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", metavar="MODEL_DIR", help="folder of a saved model: RUN/model")
    parser.add_argument("repo", metavar="REPO", help="ORG/NAME on the Hub, created if missing")
    parser.add_argument("--private", action="store_true", help="visibility of a repository that is created")
    parser.add_argument("--revision", metavar="BRANCH", help="push to this branch (default: the main one)")
    parser.add_argument("--dry-run", action="store_true", help="list the files and their sizes, and push nothing")
    return parser.parse_args()


def main() -> None:
    """Push the model, and print the commit's URL; or list what would be pushed."""
    args = parse()
    if args.dry_run:
        print(plan_push(args.folder))
    else:
        print(push_model(args.folder, args.repo, private=args.private, revision=args.revision))


if __name__ == "__main__":
    run(main)
