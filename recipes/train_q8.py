#!/usr/bin/env python
"""Train adapters and a head over a protein language model, and score the result.

Without arguments: the bundled backbone on the bundled sample corpus; offline, a few minutes on two CPU cores.
With a recipe:     accelerate launch --quiet recipes/train_q8.py recipes/esm2_650m/pisces.yaml --source DIR
"""

from pathlib import Path

from accelerate import PartialState

from lift_ss_hf.cli.run import run
from lift_ss_hf.training.arguments import CorpusArguments, ModelArguments, RecipeTrainingArguments
from lift_ss_hf.training.job import run_training
from lift_ss_hf.training.recipes import parse_recipe


def main() -> None:
    """Parse the arguments, train, and print the results."""
    arguments = parse_recipe((ModelArguments, CorpusArguments, RecipeTrainingArguments), __doc__ or "")
    run_training(*arguments)
    if PartialState().is_main_process:
        out = Path(arguments[-1].output_dir)
        print(f"\n{(out / 'results.md').read_text('utf-8')}\nEverything is in {out}, the model in {out / 'model'}.")


if __name__ == "__main__":
    run(main)
