#!/usr/bin/env python
"""Push the metric to the Hub as a Space: `evaluate.load("ORG/q8_sov")` then works without this package."""

import argparse

from lift_ss_hf.cli.run import run
from lift_ss_hf.hub.push import push_metric


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repo", metavar="REPO", help="ORG/NAME of the Space, created if missing")
    return parser.parse_args()


def main() -> None:
    """Push the metric, and print the commit's URL."""
    print(push_metric(**vars(parse())))


if __name__ == "__main__":
    run(main)
