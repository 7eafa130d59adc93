"""The command `lift-ss`, and its commands train, evaluate, predict, plot, serve, compare, calibrate and more.

Modules that import numpy or torch are imported within the commands, so that `lift-ss --help` takes 0.05 s.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..version import __version__
from .accuracy import measured_accuracy
from .arguments import (
    add_backbone_argument,
    add_format_argument,
    add_input_arguments,
    add_model_arguments,
    add_run_arguments,
    add_states_argument,
    read_inputs,
)
from .compare import add_compare_arguments, compare
from .convert_backbone import ABOUT, add_convert_arguments, convert
from .embed import ABOUT as ABOUT_EMBED
from .embed import EMBEDDING_FORMAT_NAMES, add_embed_arguments, embed
from .evaluate import add_evaluate_arguments, evaluate
from .plot import add_plot_arguments, plot
from .push import add_push_arguments, push
from .run import ClosedOutput, collector_paused, run
from .serve import add_serve_arguments, serve
from .train import add_train_arguments, train

if TYPE_CHECKING:
    from ..prediction.formats import Format

logger = logging.getLogger(__name__)

WAY = """\
from data to prediction:
  lift-ss train chains.txt -o run                       # >id, residues, states; or CSV, Parquet, FASTA, ...
  lift-ss evaluate run/model --tests other_chains.txt
  lift-ss predict proteins.fasta --model run/model --format jsonl -o out
  lift-ss plot out/predictions.jsonl -o chains.png

lift-ss COMMAND --help has more.
"""
# of prediction.formats.FORMATS, which --help must not import
FORMAT_NAMES = ("three-line", "fasta", "tsv", "csv", "parquet", "jsonl", "ss2", "horiz", "s4pred", "netsurfp", "html")
ALL_FORMAT_NAMES = {*FORMAT_NAMES, *EMBEDDING_FORMAT_NAMES}
LAUNCH = "accelerate launch recipes/predict.py ..."


class CommandParser(argparse.ArgumentParser):
    """A parser of `lift-ss` or one of its commands, which also takes `--format a b` for `--format a,b`."""

    def format_help(self) -> str:
        """Return the help; an epilog with `{measured}` gets what was measured of the bundled model."""
        if self.epilog:
            self.epilog = self.epilog.replace("{measured}", measured_accuracy())
        return super().format_help()

    def parse_known_args(self, args=None, namespace=None):
        """Parse arguments, the formats joined."""
        return super().parse_known_args(join_formats(sys.argv[1:] if args is None else args), namespace)


def join_formats(arguments: Sequence[str]) -> list[str]:
    """Join the names of formats that follow `--format`, which argparse would take for inputs.

    Example:
        >>> join_formats(["--format", "tsv", "parquet", "chains.fasta"])
        ['--format', 'tsv,parquet', 'chains.fasta']
    """
    joined: list[str] = []
    for argument in arguments:
        follows_format = joined[-2:-1] == ["--format"] or "".join(joined[-1:]).startswith("--format=")
        if follows_format and argument in ALL_FORMAT_NAMES and not Path(argument).exists():
            joined[-1] += f",{argument}"
        else:
            joined.append(argument)
    return joined


def parser() -> argparse.ArgumentParser:
    """Return the parser of `lift-ss`; the parsed arguments hold the command to call as `command`."""
    top = CommandParser(
        prog="lift-ss",
        description="Predict the secondary structure of proteins, and train models on your own chains.",
        epilog=WAY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"lift-ss {__version__}")
    top.set_defaults(command=lambda args: top.print_help())
    commands = top.add_subparsers(metavar="COMMAND")
    for name, command, add_arguments, about in (
        ("train", None, add_train_arguments, "train a model on your own chains"),
        ("evaluate", evaluate, add_evaluate_arguments, "score models on chains with known states"),
        ("predict", predict, add_predict_arguments, "predict states and confidences from sequences"),
        ("embed", embed, add_embed_arguments, ABOUT_EMBED),
        ("plot", plot, add_plot_arguments, "draw chains as SVG, PNG or PDF"),
        ("serve", serve, add_serve_arguments, "serve a page for predicting in the browser"),
        ("compare", compare, add_compare_arguments, "compare a structure's observed states with the predicted ones"),
        ("calibrate", calibrate, add_calibrate_arguments, "fit a model's confidences to a validation set"),
        ("push", push, add_push_arguments, "push a trained model to the Hub: weights, code, tokenizer and card"),
        ("convert-backbone", convert, add_convert_arguments, ABOUT),
    ):
        subparser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
        add_arguments(subparser)
        subparser.set_defaults(command=command)
    help_parser = commands.add_parser("help", help="show this help, or that of a command")
    help_parser.add_argument("about", nargs="?", metavar="COMMAND", choices=list(commands.choices))
    help_parser.set_defaults(command=lambda args: commands.choices.get(args.about, top).print_help())
    return top


def add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lift-ss predict`, and the help on inputs below them."""
    add_input_arguments(parser, LAUNCH, "{measured}\n\n")
    parser.add_argument("-o", "--output", metavar="DIR", help="directory to write to (default: standard output)")
    add_format_argument(parser, FORMAT_NAMES, "three-line; in a terminal, coloured states")
    add_states_argument(parser)
    add_model_arguments(parser)
    add_run_arguments(parser)


def add_calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lift-ss calibrate`."""
    parser.add_argument("model", metavar="MODEL_DIR", help="folder of a saved model; the temperature is stored in it")
    parser.add_argument("--corpus", required=True, metavar="NAME", help="a corpus the model was not trained on")
    parser.add_argument("--split", default="validation", help="split of the corpus (default: validation)")
    parser.add_argument("--source", metavar="DIR", help="folder with the corpora (default: LIFT_SS_DATA_DIR)")
    add_backbone_argument(parser)


def predict(args: argparse.Namespace) -> None:
    """Run `lift-ss predict`.

    Raises:
        ValueError: if an argument, an input or the model is invalid.
    """
    started = time.monotonic()
    # Every process may be the last one, which writes the summary, so none is silenced (`run` silences all but one).
    logging.getLogger("lift_ss_hf").setLevel(logging.WARNING if args.quiet else logging.INFO)
    formats = list(dict.fromkeys(args.format))
    _check(args, formats)
    inputs = read_inputs(args)
    with collector_paused():
        from ..prediction.loading import load_predictor
        from ..prediction.running import PredictionOptions, predict_to_folder, predict_to_stream, summarise

    options = PredictionOptions(
        formats=formats or ["three-line"],
        alphabet=args.states,
        resume=args.resume,
        skip_bad=args.skip_bad,
        num_workers=args.num_workers,
        quiet=args.quiet,
    )
    predictor = load_predictor(args.model, args.backbone, args.precision, args.max_tokens)
    if args.output is None:
        form = _stream_format(formats, args.states or predictor.alphabet)
        counts = predict_to_stream(predictor, inputs, form, sys.stdout, args.skip_bad, args.quiet)
        logger.info(summarise(counts, time.monotonic() - started))
        return
    total = predict_to_folder(predictor, inputs, args.output, options)
    if total is not None:
        logger.info(summarise(total, time.monotonic() - started))


def _check(args: argparse.Namespace, formats: Sequence[str]) -> None:
    """Raise ValueError for unknown formats or states, states without effect, and an output that is not a directory."""
    from ..models.atomic import require_folder
    from ..models.states import get_alphabet
    from ..prediction.formats import get_format

    is_text = [get_format(name).is_text for name in formats]
    if args.states is not None:
        get_alphabet(args.states)
        reported = {get_format(name)(args.states).alphabet for name in formats}
        if formats and args.states not in reported:
            raise ValueError(
                f"--states {args.states} has no effect: the states of {', '.join(formats)} are always "
                f"{' and '.join(sorted(reported))}. Leave it out, or give another --format."
            )
    if args.output is not None:
        require_folder(args.output)
        return
    if isinstance(sys.stdout, ClosedOutput):
        raise ValueError("standard output is closed. Give a directory with -o.")
    for name in ("resume", "num_workers"):
        if getattr(args, name):
            raise ValueError(f"--{name} needs the directory of the run. Give it with -o.")
    if len(formats) > 1 or not all(is_text):
        raise ValueError(f"{', '.join(formats)}: standard output takes one text format. Give a directory with -o.")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("several processes cannot share standard output. Give a directory with -o.")


def _stream_format(formats: Sequence[str], alphabet: str) -> Format:
    """Return the format for standard output: the one asked for, or one that suits a terminal or a file."""
    from ..prediction.formats import get_format
    from ..prediction.terminal import TerminalText, supports_colour

    if not formats and sys.stdout.isatty():
        return TerminalText(alphabet, supports_colour(sys.stdout, os.environ))
    return get_format(formats[0] if formats else "three-line")(alphabet)


def calibrate(args: argparse.Namespace) -> None:
    """Run `lift-ss calibrate`.

    Raises:
        ValueError: if there is no such model or corpus, or no chain to calibrate on.
    """
    from ..evaluation.calibration import calibrate_saved

    print(calibrate_saved(args.model, args.corpus, args.split, args.source, args.backbone))


def main() -> None:
    """Run the console script `lift-ss`."""
    run(_main)


def _main() -> None:
    # The arguments of `train` are those of the recipe, which argparse can read only once torch is imported.
    if sys.argv[1:2] == ["train"] and not {"-h", "--help"} & set(sys.argv):
        train(sys.argv[2:])
        return
    args = parser().parse_args()
    args.command(args)
