"""The command of `recipes/predict_ray.py`: predict on a cluster of Ray, or with Ray on one machine."""

from __future__ import annotations

import argparse
import logging
import time

from .arguments import (
    add_input_arguments,
    add_model_arguments,
    add_run_arguments,
    add_states_argument,
    read_inputs,
)

WHERE = """\
Ray starts on this machine and stops at the end, unless RAY_ADDRESS names a cluster. Then OUT must be on storage that
all of its machines share, and each must have this package and the model. A killed run resumes with --resume.

"""


def add_predict_ray_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `recipes/predict_ray.py`."""
    add_input_arguments(parser, None, WHERE)
    parser.add_argument(
        "output", metavar="OUT", help="directory to write to; the results are OUT/predictions/*.parquet"
    )
    add_states_argument(parser)
    add_model_arguments(parser)
    parser.add_argument(
        "--num_actors", type=int, metavar="N", help="models that predict at the same time (default: as many as fit)"
    )
    parser.add_argument("--num_cpus", type=int, default=1, metavar="N", help="cores of each actor (default: 1)")
    parser.add_argument(
        "--num_gpus", type=float, default=0, metavar="N", help="GPUs of each actor, such as 1 or 0.5 (default: 0)"
    )
    parser.add_argument(
        "--chains_per_task",
        type=int,
        default=256,
        metavar="N",
        help="chains in a task of an actor, and in a file of results; a kill loses the unfinished tasks (default: 256)",
    )
    add_run_arguments(parser, has_writers=False)


def predict_ray(args: argparse.Namespace) -> None:
    """Run `recipes/predict_ray.py`.

    Raises:
        ValueError: if Ray is missing, or an argument, an input or the model is invalid.
        OSError: if there is no cluster at RAY_ADDRESS, or Ray stops.
    """
    started = time.monotonic()
    logging.getLogger("lift_ss_hf").setLevel(logging.WARNING if args.quiet else logging.INFO)
    inputs = read_inputs(args)
    from ..prediction.ray import RayOptions, predict_with_ray
    from ..prediction.running import summarise

    options = RayOptions(
        num_actors=args.num_actors,
        num_cpus=args.num_cpus,
        num_gpus=args.num_gpus,
        chains_per_task=args.chains_per_task,
        resume=args.resume,
        skip_bad=args.skip_bad,
        quiet=args.quiet,
    )
    counts = predict_with_ray(
        inputs,
        args.output,
        options,
        model=args.model,
        backbone=args.backbone,
        precision=args.precision,
        max_tokens=args.max_tokens,
        states=args.states,
    )
    logging.getLogger(__name__).info(summarise(counts, time.monotonic() - started))
