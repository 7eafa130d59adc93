#!/usr/bin/env python
"""Train every point of a grid (adapters x top blocks x seeds x folds), and plot accuracy against blocks; resumable."""

import argparse

from lift_ss_hf.cli.run import run
from lift_ss_hf.training.sweeps import run_sweep


def main() -> None:
    """Parse the arguments, and run the sweep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "grid", metavar="GRID.yaml", help="`base:` settings of every run, `grid:` name: [values], `folds:` number"
    )
    parser.add_argument("--out", metavar="DIR", default="runs/sweep", help="default: runs/sweep")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="points to run at a time (default: 1)")
    args = parser.parse_args()
    run_sweep(args.grid, args.out, args.processes)
    print(f"The table and the figures are in {args.out}.")


if __name__ == "__main__":
    run(main)
