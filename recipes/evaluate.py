#!/usr/bin/env python
"""Evaluate a model on test corpora: `lift-ss evaluate` for several processes."""

import argparse

from lift_ss_hf.cli.evaluate import add_evaluate_arguments, evaluate
from lift_ss_hf.cli.run import run


def main() -> None:
    """Parse the command line, evaluate, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_evaluate_arguments(parser)
    evaluate(parser.parse_args())


if __name__ == "__main__":
    run(main)
