#!/usr/bin/env python
"""Train adapters and a head over a protein language model, and score the result.

Without arguments: the bundled backbone on the bundled sample corpus; offline, a few minutes on two CPU cores.
With a recipe:     accelerate launch --quiet recipes/train_q8.py recipes/esm2_650m/pisces.yaml --source DIR
With a preset:     accelerate launch --quiet recipes/train_q8.py --preset quick --train chains.txt
"""

import sys

from lift_ss_hf.cli.run import run
from lift_ss_hf.cli.train import train_recipe


def main() -> None:
    """Parse the arguments, train, and print the results."""
    train_recipe(sys.argv[1:], __doc__ or "")


if __name__ == "__main__":
    run(main)
