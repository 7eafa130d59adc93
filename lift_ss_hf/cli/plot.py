"""The command `lift-ss plot`: figures of predicted chains, from predictions or from sequences."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_model_arguments

if TYPE_CHECKING:
    from ..prediction.reading import PredictedChain

MAX_CHAINS = 20  # in one figure; more do not fit on a page


def add_plot_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lift-ss plot`."""
    parser.add_argument(
        "source",
        metavar="INPUT",
        help="directory of `lift-ss predict`, predictions in it, or what it predicts: FASTA, -, a sequence, ...",
    )
    parser.add_argument(
        "--names",
        nargs="+",
        default=[],
        metavar="NAME",
        help="chains to draw, by name or by accession as in sp|ACCESSION|ENTRY (default: the first)",
    )
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="figure to write: .svg, .png or .pdf")
    parser.add_argument("--states", help="of sequences: states to predict: q9, q8, q3 or q3_lift_ss")
    add_model_arguments(parser, of="of sequences: ")
    parser.set_defaults(model=None)  # tells whether it was given


def plot(args: argparse.Namespace) -> None:
    """Run `lift-ss plot`.

    Raises:
        ValueError: if the input has no predictions or sequences, a chain is not in it, the figure's name ends in
            something else, or an argument for sequences is given with predictions.
    """
    from ..reports.chain_figures import plot_chains
    from ..reports.figures import check_figure_name, save_figure

    if len(args.names) > MAX_CHAINS:
        raise ValueError(f"{len(args.names)} chains, but a figure holds {MAX_CHAINS}. Draw several figures.")
    check_figure_name(args.output)
    chains, num_others = _predicted_chains(args)
    save_figure(plot_chains(chains), args.output)
    print(f"{args.output}: {', '.join(chain.name for chain in chains)}{_left_out(num_others)}")


def _left_out(num_others: int) -> str:
    """Return how many chains of the input are not in the figure, and how to draw them."""
    from ..prediction.reading import MOST_COUNTED

    if not num_others:
        return ""
    total = f"more than {MOST_COUNTED:,}" if num_others >= MOST_COUNTED else f"{1 + num_others:,}"
    return f" (1 of {total} chains; --names draws others)"


def _predicted_chains(args: argparse.Namespace) -> tuple[Sequence[PredictedChain], int]:
    """Read the chains from predictions, or predict them; and count the others, as `choose_chains` does."""
    from ..prediction.inputs import Inputs, path_kind
    from ..prediction.reading import PredictedChain, choose_chains, read_predictions, read_run_predictions

    path = Path(args.source)
    if path.suffix == ".jsonl":
        _check_no_model(args)
        return read_predictions(path, args.names)
    folder = path.parent if path.stem == "predictions" else path
    if path_kind(folder / "run.json") == "file":
        _check_no_model(args)
        return read_run_predictions(folder, args.names)

    records = Inputs([args.source])
    chosen, num_others = choose_chains(records, args.names, args.source[:80], lambda record: record.name)
    from ..prediction.loading import load_predictor
    from ..prediction.running import predict_records

    predictions = predict_records(load_predictor(args.model or "bundled", args.backbone), chosen, args.states)
    return list(map(PredictedChain.of, predictions)), num_others


def _check_no_model(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that say how to predict sequences."""
    for name in ("states", "model", "backbone"):
        if getattr(args, name) is not None:
            raise ValueError(
                f"--{name} is for sequences, but {args.source} is read as predictions. Leave it out, or give the "
                "sequences."
            )
