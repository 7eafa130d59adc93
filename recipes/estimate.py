#!/usr/bin/env python
"""Print the number of parameters of a recipe, and the memory it needs on each device under DDP and ZeRO.

python recipes/estimate.py recipes/prot_t5_xl/pisces.yaml --num_processes 4
"""

from lift_ss_hf.cli.run import run
from lift_ss_hf.reports.tables import estimate_markdown
from lift_ss_hf.training.arguments import CorpusArguments, ModelArguments, RecipeTrainingArguments
from lift_ss_hf.training.memory import EstimateArguments, estimate
from lift_ss_hf.training.recipes import parse_recipe


def main() -> None:
    """Parse the arguments, and print the estimate."""
    classes = (ModelArguments, CorpusArguments, RecipeTrainingArguments, EstimateArguments)
    model, _, training, devices = parse_recipe(classes, __doc__ or "")
    found, num_processes = estimate(model, training, devices.chain_length), devices.num_processes
    memory = found.by_launch(num_processes)
    print(estimate_markdown(found.parameters, memory, num_processes, found.on_cpu, found.cached))


if __name__ == "__main__":
    run(main)
