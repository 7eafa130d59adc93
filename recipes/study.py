#!/usr/bin/env python
"""Run a study of training settings: say how long it takes, run and resume its points, test its claims, and report."""

import argparse
from pathlib import Path

from lift_ss_hf.cli.run import run
from lift_ss_hf.training.study import read_study
from lift_ss_hf.training.study_records import read_published
from lift_ss_hf.training.study_report import write_report
from lift_ss_hf.training.study_results import StudyResults
from lift_ss_hf.training.study_runs import StudyFolder, describe_cost, estimate_study, run_study


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", metavar="STUDY", nargs="?", default=Path(__file__).with_suffix(""),
                        help="folder with base.yaml and a file for each part (default: recipes/study)")  # fmt: skip
    parser.add_argument("--out", metavar="DIR", default="runs/study", help="folder of the runs (default: runs/study)")
    parser.add_argument("--report", metavar="DIR", help="folder of study.md, figures and tables (default: OUT/report)")
    parser.add_argument("--published", metavar="DIR", help="folder with the tables of an earlier report; its runs are "
                        "not repeated")  # fmt: skip
    parser.add_argument("--backbone", metavar="NAME", help="Hub id or folder, in place of the study's")
    parser.add_argument("--source", metavar="DIR", help="folder of the corpora's files (default: LIFT_SS_DATA_DIR)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    parser.add_argument("--hours", type=float, help="start no run after this time; resume with the same command")
    parser.add_argument(
        "--dry_run", action="store_true", help="only say how many runs there are, and how long they take"
    )
    parser.add_argument("--teraflops", type=float, help="estimate for a machine with this speed in training, such as "
                        "100 for one H100 in bf16; unset: measure this one's [10^12 operations/s]")  # fmt: skip
    return parser.parse_args()


def main() -> None:
    """Parse the arguments, run the study, and write its report."""
    args = parse()
    changes = {"backbone": args.backbone, "source": args.source}
    study = read_study(args.study, {name: value for name, value in changes.items() if value is not None})
    published = None if args.published is None else read_published(args.published)
    folder = StudyFolder(study, args.out, published)
    cost = estimate_study(folder, args.teraflops and args.teraflops * 1e12, args.processes)
    print(describe_cost(folder, cost, args.processes), flush=True)
    if args.dry_run:
        return
    rates = run_study(folder, args.processes, args.hours)
    if rates is None:
        print("Time limit reached before all learning rates were chosen. Run the same command again to resume.")
        return
    results = StudyResults(folder, rates, {levels: model.trained_parameters for levels, model in cost.models.items()})
    page = write_report(results, args.report or Path(args.out, "report"))
    print(f"{page}: the report of {len(results.runs)} of {results.num_planned} runs.")


if __name__ == "__main__":
    run(main)
