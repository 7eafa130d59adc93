#!/usr/bin/env python
"""Print the number of parameters of a recipe, and the memory it needs on each device under DDP and ZeRO.

python recipes/estimate.py recipes/prot_t5_xl/pisces.yaml --num_processes 4
python recipes/estimate.py --preset best --backbone facebook/esm2_t33_650M_UR50D
"""

import sys

from lift_ss_hf.cli.run import run
from lift_ss_hf.reports.tables import estimate_markdown
from lift_ss_hf.training.memory import EstimateArguments, estimate
from lift_ss_hf.training.recipes import parse_training


def main() -> None:
    """Parse the arguments, and print the estimate."""
    model, _, training, devices = parse_training(sys.argv[1:], __doc__ or "", also=[EstimateArguments])
    found, num_processes = estimate(model, training, devices.chain_length), devices.num_processes
    memory = found.by_launch(num_processes)
    print(estimate_markdown(found.parameters, memory, num_processes, found.on_cpu, found.cached))


if __name__ == "__main__":
    run(main)
