#!/usr/bin/env python
"""Push a trained model to the Hub: artefact, source set, pipeline, tokenizer and card, in one commit."""

import argparse

from lift_ss_hf.cli.run import run
from lift_ss_hf.hub.push import push_model


def parse() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", metavar="MODEL_DIR", help="folder of a saved model: RUN/model")
    parser.add_argument("repo", metavar="REPO", help="ORG/NAME on the Hub, created if missing")
    parser.add_argument("--private", action="store_true", help="visibility of a repository that is created")
    parser.add_argument("--revision", metavar="BRANCH", help="push to this branch (default: the main one)")
    return parser.parse_args()


def main() -> None:
    """Push, show where."""
    print(push_model(**vars(parse())))


if __name__ == "__main__":
    run(main)
