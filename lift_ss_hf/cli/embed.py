"""The command `lift-ss embed`: hidden states of a tuned model, or of a backbone, for other programs."""

from __future__ import annotations

import argparse
import logging
import time

from .arguments import (
    add_format_argument,
    add_input_arguments,
    add_model_arguments,
    add_run_arguments,
    read_inputs,
)
from .run import collector_paused

logger = logging.getLogger(__name__)

ABOUT = "write the hidden states of a tuned model, or of a backbone"
# of prediction.embedding_formats.EMBEDDING_FORMATS, which --help must not import
EMBEDDING_FORMAT_NAMES = ("safetensors", "npz", "h5", "parquet")
LAUNCH = "torchrun --nproc_per_node N --no-python lift-ss embed ..."


def add_embed_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lift-ss embed`, and the help on inputs below them."""
    add_input_arguments(parser, LAUNCH)
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="directory to write to")
    add_format_argument(parser, EMBEDDING_FORMAT_NAMES, "safetensors")
    add_model_arguments(parser, of="of a tuned model, or of a backbone by itself: ")
    parser.add_argument(
        "--layer",
        default="last",
        help="last, the backbone's output; the number of a block, from 1, or 0 for the embeddings; or mix, what the "
        "head of a model with block_mix sees (default: last)",
    )
    parser.add_argument(
        "--pooling",
        default="none",
        help="none, a vector for each residue, or mean, one for each chain, without special tokens (default: none)",
    )
    parser.add_argument("--half", action="store_true", help="store float16 instead of float32")
    parser.add_argument(
        "--names",
        default="id",
        help="how arrays are named: id, by the chain's name, or hash, by the hash of its sequence, which biotrainer "
        "looks up (default: id)",
    )
    add_run_arguments(parser)


def embed(args: argparse.Namespace) -> None:
    """Run `lift-ss embed`.

    Raises:
        ValueError: if an argument, an input or the model is invalid.
    """
    started = time.monotonic()
    # every process may be the last one, which writes the summary, so none is silenced (`run` silences all but one)
    logging.getLogger("lift_ss_hf").setLevel(logging.WARNING if args.quiet else logging.INFO)
    formats = list(dict.fromkeys(args.format)) or ["safetensors"]
    inputs = read_inputs(args)
    with collector_paused():
        _check(args, formats)
        from ..prediction.embedding import Embedder, embed_to_folder
        from ..prediction.loading import load_for_hidden_states
        from ..prediction.running import RunOptions, summarise

    options = RunOptions(formats, args.resume, args.skip_bad, args.num_workers, args.quiet)
    predictor = load_for_hidden_states(args.model, args.backbone, precision=args.precision, max_tokens=args.max_tokens)
    embedder = Embedder(predictor, args.layer, args.pooling, args.half)
    total = embed_to_folder(embedder, inputs, args.output, options, args.names)
    if total is not None:
        logger.info(summarise(total, time.monotonic() - started))


def _check(args: argparse.Namespace, formats: list[str]) -> None:
    """Raise ValueError for what can be seen to be wrong before a model is loaded."""
    from ..models.atomic import require_folder
    from ..models.configuration import check_choice
    from ..prediction.embedding import check_layer
    from ..prediction.embedding_formats import POOLINGS, Layout, check_names, make_formats

    require_folder(args.output)
    check_layer(args.layer)
    check_choice("pooling", args.pooling, POOLINGS)
    check_names(args.names, formats)
    make_formats(formats, Layout(args.pooling, "float32", 1))
