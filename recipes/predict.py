#!/usr/bin/env python
"""Predict the states of proteins: `lift-ss predict` for several processes or machines."""

import argparse

from lift_ss_hf.cli.lift_ss import CommandParser, add_predict_arguments, predict
from lift_ss_hf.cli.run import run


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = CommandParser(description=__doc__)
    add_predict_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Predict the inputs on the command line."""
    predict(parse())


if __name__ == "__main__":
    run(main)
