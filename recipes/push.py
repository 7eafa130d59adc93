#!/usr/bin/env python
"""Push a trained model to the Hub in one commit: weights, code, tokenizer and card; the same as `lift-ss push`."""

import argparse

from lift_ss_hf.cli.push import add_push_arguments, push
from lift_ss_hf.cli.run import run


def main() -> None:
    """Parse the arguments, and push the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_push_arguments(parser)
    push(parser.parse_args())


if __name__ == "__main__":
    run(main)
