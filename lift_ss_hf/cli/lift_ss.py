"""The command `lift-ss`: predict, plot, calibrate. torch is imported when there is something to predict."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence

from ..version import __version__
from . import run as command_line

logger = logging.getLogger(__name__)

# As in formats.FORMATS, states.ALPHABETS and loading.PRECISIONS, which `--help` must not wait for; a test holds them.
FORMATS = ("three-line", "fasta", "tsv", "parquet", "jsonl", "ss2", "horiz", "html")
STATES = ("q9", "q8", "q3", "q3_lift_ss")
PRECISIONS = ("fp32", "bf16", "int8")
NOT_TEXT = ("parquet", "ss2", "horiz")  # one table or one file a chain: they need a directory

INPUT_HELP = """\
inputs: FASTA, CSV, TSV or Parquet (with a column `sequence`), plain or as .gz, .bz2, .xz, .zst; - for standard input;
org/name or org/name@split of datasets; sequences in capital letters. Lower case is read as upper case; gaps (- .) and
stops (*) are taken out; B J O U X Z are predicted as what the backbone knows them as, or else as X. What was changed is
counted. Records of one name are told apart by their number in the input.

several processes or machines: accelerate launch recipes/predict.py ..., one output directory for all. If one dies,
start any number of them again with --resume.

exit status: 0 done; 2 an error that you can mend, told in one line; 130 interrupted; 141 the reader of the output left.
A run that was killed, at any moment, goes on with --resume.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="lift-ss", description="Secondary structure of proteins from their sequence.")
    top.add_argument("--version", action="version", version=f"lift-ss {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    about = "sequences in, states and confidences out"
    predict = commands.add_parser("predict", help=about, description=f"{about}.".capitalize(), epilog=INPUT_HELP)
    add_predict_arguments(predict)
    about = "draw predicted chains as SVG or PNG"
    add_plot_arguments(commands.add_parser("plot", help=about, description=f"{about}.".capitalize()))
    about = "fit a model's confidences to a validation set, and store the temperature with the model"
    add_calibrate_arguments(commands.add_parser("calibrate", help=about, description=f"{about}.".capitalize()))
    return top


def add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lift-ss predict`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = INPUT_HELP
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="file, -, data set or sequence; see below")
    parser.add_argument("-o", "--output", metavar="DIR", help="directory to write to (default: standard output)")
    parser.add_argument(
        "--format",
        type=_formats,
        action="extend",
        metavar="FORMAT",
        help=f"{', '.join(FORMATS)}; several as a,b (default: three-line; in a terminal a drawing)",
    )
    parser.add_argument("--states", choices=STATES, help="states to report (default: the model's own)")
    add_model_arguments(parser)
    parser.add_argument("--num_workers", type=int, default=0, help="processes that write meanwhile (default: 0)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    parser.add_argument(
        "--skip-bad", "--skip_bad", action="store_true", help="what is no protein goes to DIR/rejected.tsv"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no summary")


def _formats(text: str) -> list[str]:
    """Names of formats, separated by commas.

    Raises:
        ArgumentTypeError: for a name that is none.
    """
    names = text.split(",")
    for name in names:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"no format {name!r}. Choose of: {', '.join(FORMATS)}.")
    return names


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and how it is run."""
    parser.add_argument("--model", default="bundled", help="Hub id or folder (default: the bundled model)")
    parser.add_argument("--backbone", metavar="NAME", help="where the backbone is, if not where the model says")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="int8 is faster on a CPU, not exact (default: fp32; bf16 on a GPU)"
    )
    parser.add_argument("--max_tokens", type=int, help="of a batch (default: 2048, best on a CPU; more on a GPU)")


def add_plot_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lift-ss plot`."""
    parser.add_argument("predictions", metavar="FILE", help="predictions.jsonl of `lift-ss predict --format jsonl`")
    parser.add_argument("--names", nargs="+", default=(), metavar="NAME", help="chains to draw (default: the first)")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help=".svg or .png; a chain below the other")


def add_calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lift-ss calibrate`."""
    parser.add_argument("model", metavar="MODEL_DIR", help="folder of a saved model")
    parser.add_argument("--corpus", required=True, metavar="NAME", help="a corpus the model was not trained on")
    parser.add_argument("--split", default="validation", help="of the corpus (default: validation)")
    parser.add_argument("--source", metavar="DIR", help="folder that holds the corpora (else LIFT_SS_DATA_DIR)")
    parser.add_argument("--backbone", metavar="NAME", help="where the backbone is, if not where the model says")


def predict(args: argparse.Namespace) -> None:
    """Predict.

    Raises:
        ValueError: for arguments, inputs or models that do not do.
    """
    started = time.monotonic()
    chosen = list(dict.fromkeys(args.format or ()))
    if args.output is None:
        _check_stream(args, chosen)
    logging.getLogger("lift_ss_hf").setLevel(logging.WARNING if args.quiet else logging.INFO)
    from ..prediction.inputs import Inputs

    inputs = Inputs(args.inputs)  # before anything large is loaded
    from ..prediction.formats import FORMATS, Format
    from ..prediction.loading import default_precision, load_predictor
    from ..prediction.run_folder import Counts
    from ..prediction.running import check_levels, predict_to_folder, predict_to_stream, summarise
    from ..prediction.terminal import Drawing, shows_colour

    predictor = load_predictor(args.model, args.backbone, args.precision, args.max_tokens)
    level = args.states or predictor.states
    check_levels(predictor.states, [level, *(["q3"] if {"ss2", "horiz"} & set(chosen) else [])])
    if args.output is None:
        form: Format
        if not chosen and sys.stdout.isatty():
            form = Drawing(level, shows_colour(sys.stdout, os.environ))
        else:
            form = FORMATS[chosen[0] if chosen else "three-line"](level)
        counts: Counts | None = predict_to_stream(predictor, inputs, form, sys.stdout, args.skip_bad, args.quiet)
    else:
        counts = predict_to_folder(
            predictor,
            inputs,
            args.output,
            formats=chosen or ["three-line"],
            level=level,
            precision=args.precision or default_precision(predictor.model.device),
            resume=args.resume,
            skip_bad=args.skip_bad,
            num_workers=args.num_workers,
            quiet=args.quiet,
        )
    if counts is not None:
        logger.info(summarise(counts, time.monotonic() - started))


def _check_stream(args: argparse.Namespace, chosen: Sequence[str]) -> None:
    """Raise ValueError for what only a directory can do."""
    if args.resume:
        raise ValueError("--resume goes on with a run in a directory. Name it with -o.")
    if len(chosen) > 1 or set(chosen) & set(NOT_TEXT):
        raise ValueError(f"{', '.join(chosen)}: standard output takes one form of text. Give a directory with -o.")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("several processes cannot share standard output. Give a directory with -o.")


def main() -> None:
    """The console script."""
    command_line.run(_main)


def _main() -> None:
    args = parser().parse_args()
    if args.command == "predict":
        predict(args)
    elif args.command == "plot":
        from .plotting import plot_predictions

        plot_predictions(args.predictions, args.names, args.output)
    else:
        from ..evaluation.calibration import calibrate_saved

        print(calibrate_saved(args.model, args.corpus, args.split, args.source, args.backbone))
