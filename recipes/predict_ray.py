#!/usr/bin/env python
"""Predict the states of proteins with Ray, on one machine or a cluster, to Parquet; a killed run can be resumed."""

import argparse

from lift_ss_hf.cli.predict_ray import add_predict_ray_arguments, predict_ray
from lift_ss_hf.cli.run import run


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_predict_ray_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Predict the inputs on the command line."""
    predict_ray(parse())


if __name__ == "__main__":
    run(main)
