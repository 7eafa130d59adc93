#!/usr/bin/env python
"""Push the page of `lift-ss serve` to the Hub as a Space, with this package beside it."""

import argparse

from lift_ss_hf.cli.run import run
from lift_ss_hf.hub.push import push_space
from lift_ss_hf.page import SPACE


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="The Space's variable LIFT_SS_MODELS names its models (default: bundled)."
    )
    parser.add_argument("repo", metavar="REPO", help="ORG/NAME of the Space, created if missing")
    parser.add_argument("--private", action="store_true", help="create the Space as private")
    return parser.parse_args()


def main() -> None:
    """Push the Space, and print the commit's URL."""
    args = parse()
    print(push_space(args.repo, SPACE, with_package=True, private=args.private))


if __name__ == "__main__":
    run(main)
