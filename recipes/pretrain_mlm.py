#!/usr/bin/env python
"""Pretrain a small protein language model of ESM-2's architecture on your own sequences."""

import json

from accelerate import PartialState
from transformers import set_seed

from lift_ss_hf.cli.run import run
from lift_ss_hf.training.launch import LaunchedArguments
from lift_ss_hf.training.pretraining import EncoderArguments, SequenceArguments, pretrain
from lift_ss_hf.training.recipes import parse_recipe


def main() -> None:
    """Parse the arguments, pretrain, and print the perplexities."""
    shape, sequences, training = parse_recipe((EncoderArguments, SequenceArguments, LaunchedArguments), __doc__ or "")
    set_seed(training.seed)
    perplexities = pretrain(shape, sequences, training)
    if PartialState().is_main_process:
        print(json.dumps(perplexities, indent=2))


if __name__ == "__main__":
    run(main)
