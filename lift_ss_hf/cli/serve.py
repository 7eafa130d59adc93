"""The command `lift-ss serve`: a page in the browser."""

from __future__ import annotations

import argparse

from .accuracy import measured_accuracy
from .arguments import add_backbone_argument

MAX_PORT = 65535  # 16 bits


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lift-ss serve`."""
    parser.epilog = (
        "Visitors choose among these models and cannot name others. What they type is sent to this machine only; the "
        "page loads nothing from other hosts and works offline. Needs gradio: pip install 'lift_ss_hf[page]'."
    )
    parser.add_argument(
        "--model",
        nargs="+",
        default=["bundled"],
        metavar="NAME",
        help="Hub ids or folders of the models to choose from (default: the bundled model)",
    )
    add_backbone_argument(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for other machines too (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=7860, help="port to listen at; 0 for a free one (default: 7860)")
    parser.add_argument("--max_sequences", type=int, default=50, help="most sequences in one prediction (default: 50)")
    parser.add_argument("--max_residues", type=int, default=2000, help="longest sequence, in residues (default: 2000)")


def serve(args: argparse.Namespace) -> None:
    """Run `lift-ss serve`.

    Raises:
        ValueError: if gradio is missing, or a limit, the port or a model is invalid.
        OSError: if nothing can be served at the address and port.
    """
    from ..page import check_gradio
    from ..page.chains import Limits

    limits = Limits(args.max_sequences, args.max_residues)
    if not 0 <= args.port <= MAX_PORT:
        raise ValueError(f"--port is {args.port}. Expected 0 to {MAX_PORT}.")
    check_gradio()
    from ..page import serving  # torch too

    models = serving.load_models(args.model, args.backbone)
    about = measured_accuracy().replace("accuracy", "Accuracy", 1) if "bundled" in models else ""
    serving.serve(models, limits, args.host, args.port, about)
