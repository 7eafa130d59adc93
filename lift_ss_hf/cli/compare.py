"""The command `lift-ss compare`: a structure's observed states beside the predicted ones, and how well they agree."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .arguments import add_model_arguments
from .plot import MAX_CHAINS

if TYPE_CHECKING:
    from ..evaluation.structure import ComparedChain


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lift-ss compare`."""
    parser.add_argument("structure", metavar="FILE", help="mmCIF or PDB file, plain or .gz; one chain is enough")
    parser.add_argument("--chains", nargs="+", default=[], metavar="CHAIN", help="such as A (default: all)")
    add_model_arguments(parser)
    parser.add_argument("--states", default="q3", help="states to show: q9, q8, q3 or q3_lift_ss (default: q3)")
    parser.add_argument("--mkdssp", default="mkdssp", metavar="PROGRAM", help="mkdssp 4.2 or later (default: mkdssp)")
    parser.add_argument("-o", "--output", metavar="FILE", help="figure of both to write: .svg, .png or .pdf")


def compare(args: argparse.Namespace) -> None:
    """Run `lift-ss compare`.

    Raises:
        ValueError: if mkdssp or gemmi is not installed, or the file, a chain, the model or the figure's name is
            invalid.
    """
    from ..corpora.mkdssp import Mkdssp
    from ..corpora.structure_files import import_gemmi
    from ..models.states import get_alphabet
    from ..reports.figures import check_figure_name

    if args.output is not None:
        check_figure_name(args.output)
    get_alphabet(args.states)
    import_gemmi()
    mkdssp = Mkdssp.find(args.mkdssp)
    from ..evaluation.structure import compare_chains, observe_chains, score_chains
    from ..prediction.loading import load_predictor

    chains = observe_chains(args.structure, mkdssp, args.chains)
    if args.output is not None and len(chains) > MAX_CHAINS:
        raise ValueError(f"{len(chains)} chains, but a figure holds {MAX_CHAINS}. Choose some with --chains.")
    compared = compare_chains(chains, load_predictor(args.model, args.backbone))
    from ..reports.tables import percent, scores_table

    total = score_chains(compared)
    for chain in compared:
        scores = total if len(compared) == 1 else score_chains([chain])
        print("\n".join(_lines(chain, args.states)))
        print(f"\n{scores_table(scores)}\n")
    if len(compared) > 1:
        print(f"all {len(compared)} chains\n\n{scores_table(total)}\n")
    three = total.get("q3")
    if three is not None:
        print(f"Q3 {percent(three['q3'])} %, SOV'99 of Q3 {percent(three['sov99'])} %")
    _warn_of_training_chains(args.model, compared)
    if args.output is not None:
        _draw(compared, args.states, args.output)


def _lines(chain: ComparedChain, alphabet: str) -> list[str]:
    """Return residues, observed and predicted states in blocks of 60 under a ruler, with a mark where they differ."""
    from ..models.states import UNRESOLVED
    from ..models.wording import counted
    from ..prediction.formats import LINE_WIDTH, position_ruler

    observed, predicted = chain.states(alphabet)
    differs = "".join(
        " " if UNRESOLVED in pair or pair[0] == pair[1] else "*" for pair in zip(observed, predicted, strict=True)
    )
    lines = [f"{chain.observed.id}  {counted(len(observed), 'residue')}, {chain.num_observed:,} with an observed state"]
    for start in range(0, len(observed), LINE_WIDTH):
        stop = min(start + LINE_WIDTH, len(observed))
        lines += ["", f"             {position_ruler(start, stop)}"]
        for title, text in (
            ("residues", chain.observed.sequence),
            ("observed", observed),
            ("predicted", predicted),
            ("differs", differs),
        ):
            lines.append(f"  {title:9s}  {text[start:stop]}".rstrip())
    return lines


def _warn_of_training_chains(model: str, compared: Sequence[ComparedChain]) -> None:
    """Say if the model was trained on a chain: its scores then say nothing of others."""
    from ..models.backbones import locate
    from ..reports.provenance import in_training, load_training_chains

    sequences = [chain.observed.sequence for chain in compared]
    known = in_training(load_training_chains(locate(model, "predictor")), sequences)
    if known is not None and known.any():
        names = [chain.observed.id for chain, is_known in zip(compared, known, strict=True) if is_known]
        print(f"The model was trained on {', '.join(names)}: these scores say nothing about other proteins.")


def _draw(compared: Sequence[ComparedChain], alphabet: str, path: str) -> None:
    from ..reports.chain_figures import plot_comparison
    from ..reports.figures import save_figure

    chains = []
    for chain in compared:
        observed, predicted = chain.states(alphabet)
        confidence = chain.prediction.reduce(alphabet).confidence.tolist()
        chains.append((chain.observed.id, observed, predicted, confidence))
    save_figure(plot_comparison(chains), path)
    print(f"{path}: {', '.join(chain[0] for chain in chains)}")
