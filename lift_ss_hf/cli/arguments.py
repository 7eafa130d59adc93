"""Arguments that several commands have."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..prediction.inputs import Inputs

INPUT_HELP = """\
inputs: FASTA, PIR, CSV, TSV or Parquet files (tables with a column `sequence`), plain or compressed as .gz, .bz2, .xz
or .zst; - for standard input; org/name or org/name@split for a data set of `datasets`; sequences of any length.
Lower case is read as upper case, gaps (- .) and stop codons (*) are removed, and B J O U Z are read as X if the
backbone has no token for them or, like T5, is always given X; the summary counts these changes. A cell of a table with
NaN, NA, None or NULL is a missing sequence, never a peptide. Records with the same name are told apart by their number
in the input.
"""
LAUNCH_HELP = """
several processes or machines: {launch}, with the same output directory for all. Each
reads all inputs, so none may be standard input or a pipe. If one dies, start any number
of them again with --resume.
"""
STATUS_HELP = """\
exit status: 0 success; 2 an error you can fix, reported in one line; 130 interrupted; 141 the reader of the output
closed it. A killed run can be resumed with --resume.
"""


def add_model_arguments(parser: argparse.ArgumentParser, of: str = "") -> None:
    """Add the arguments that say which model predicts, and where its backbone is.

    Args:
        parser: of the command.
        of: what model is meant, or when it is used; put before its help.
    """
    parser.add_argument("--model", default="bundled", help=f"{of}Hub id or folder (default: the bundled model)")
    add_backbone_argument(parser)


def add_backbone_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument that says where a model's backbone is."""
    parser.add_argument(
        "--backbone", metavar="NAME", help="Hub id or folder of the backbone (default: the one the model names)"
    )


def add_input_arguments(parser: argparse.ArgumentParser, launch: str | None, more: str = "") -> None:
    """Add the inputs, and the help on them below all arguments.

    Args:
        parser: of the command.
        launch: how several processes are started; None if the command starts them itself.
        more: what the help says after the inputs.
    """
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    launch_help = "" if launch is None else LAUNCH_HELP.format(launch=launch)
    parser.epilog = f"{INPUT_HELP}{launch_help}\n{more}{STATUS_HELP}"
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="file, -, data set or sequence; see below")


def add_format_argument(parser: argparse.ArgumentParser, names: tuple[str, ...], default: str) -> None:
    """Add `--format`.

    Args:
        parser: of the command.
        names: of the formats.
        default: in words.
    """
    parser.add_argument(
        "--format",
        type=lambda text: text.split(","),
        action="extend",
        default=[],
        metavar="FORMAT",
        help=f"{', '.join(names[:-1])} or {names[-1]}; several as a,b (default: {default})",
    )


def add_states_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument that says which states are reported."""
    parser.add_argument("--states", help="states to report: q9, q8, q3 or q3_lift_ss (default: the model's)")


def add_run_arguments(parser: argparse.ArgumentParser, has_writers: bool = True) -> None:
    """Add the arguments that say how a model runs over inputs.

    Args:
        parser: of the command.
        has_writers: the command can write from additional processes.
    """
    parser.add_argument(
        "--precision", help="fp32, bf16 or int8, which is faster on a CPU but not exact (default: fp32; bf16 on a GPU)"
    )
    parser.add_argument("--max_tokens", type=int, help="per batch (default: 2048 on a CPU, 16384 on a GPU)")
    parser.add_argument(
        "--max_residues", type=int, metavar="N", help="longest sequence accepted, in residues (default: 100000)"
    )
    if has_writers:
        parser.add_argument("--num_workers", type=int, default=0, help="additional processes that write (default: 0)")
    parser.add_argument("--resume", action="store_true", help="resume the run in DIR")
    parser.add_argument(
        "--skip-bad", "--skip_bad", action="store_true", help="list invalid records in DIR/rejected.tsv and continue"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no summary")


def read_inputs(args: argparse.Namespace) -> Inputs:
    """Return the inputs; to be checked before torch is imported.

    Raises:
        ValueError: if one does not exist.
    """
    from ..corpora.fasta import MAX_RESIDUES
    from ..prediction.inputs import Inputs

    return Inputs(args.inputs, MAX_RESIDUES if args.max_residues is None else args.max_residues)
