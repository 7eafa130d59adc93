#!/usr/bin/env python
"""Make training chains of sequences without a structure: homologues of TRAIN, with its states over the alignment.

TRAIN is a name of the catalogue (promod3:lt25id, ...), a built corpus (folder) or a file (three lines a chain, or
parquet). A homologue may be nearer to a test chain than TRAIN is: run leakage.py over what this writes.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from lift_ss_hf.command_line import run
from lift_ss_hf.corpora.chains import CorpusError
from lift_ss_hf.corpora.leakage import load_chains
from lift_ss_hf.corpora.transfer import TransferSettings, homologous_chains
from lift_ss_hf.corpora.writing import CardFacts, Split, write_corpus


def parse() -> argparse.Namespace:
    """Arguments of the command line."""
    default = TransferSettings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", metavar="TRAIN", nargs="+", help="training sets")
    parser.add_argument("--sequences", metavar="FASTA", required=True, help="sequences to search, also compressed")
    parser.add_argument("--write", metavar="DIR", type=Path, required=True, help="the corpus to write")
    parser.add_argument("--source", metavar="DIR", help="folder that holds the sources (else LIFT_SS_DATA_DIR)")
    which = parser.add_argument_group("which homologues")
    for name, what in (
        ("per_chain", "of each chain at most"),
        ("min_identity", "over the alignment [fraction]"),
        ("max_identity", "over the alignment [fraction]"),
        ("step", "more identical than the chain's homologue before [fraction]"),
        ("min_coverage", "of the chain [fraction]"),
        ("sensitivity", "mmseqs -s"),
        ("max_evalue", "of a hit"),
    ):
        value = getattr(default, name)
        flag = f"--{name.replace('_', '-')}"
        which.add_argument(flag, type=type(value), default=value, help=f"{what} (default: %(default)s)")
    which.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: one a core")
    return parser.parse_args()


def main() -> int:
    """Search and write."""
    args = parse()
    settings = TransferSettings(**{name: getattr(args, name) for name in TransferSettings.__dataclass_fields__})
    train = [chain for name in args.train for chain in load_chains(name, "train", args.source)]
    found = homologous_chains(train, args.sequences, settings, progress=sys.stderr.isatty())
    if not found:
        raise CorpusError(f"{args.sequences}: no homologue of {', '.join(args.train)} in it, nothing written.")
    write_corpus(args.write, [Split.of("train", found)], card_facts(args, settings, len(found)))
    residues = sum(chain.num_residues for chain in found)
    print(f"wrote {args.write}: {len(found):,} homologues of {len(train):,} chains, {residues:,} residues")
    print("Now leave out what is homologous to the tests: leakage.py", args.write, "--tests ... --write ...")
    return 0


def card_facts(args: argparse.Namespace, settings: TransferSettings, number: int) -> CardFacts:
    """What the card says."""
    train, sequences = ", ".join(args.train), Path(args.sequences).name
    return CardFacts(
        title=f"Homologues of {train} in {sequences}",
        summary=f"{number:,} sequences without a structure, with the states of the chains they are homologous to.",
        license="unknown",
        made_by="python dataset_scripts/homologues.py",
        sources=[f"{train}, split train", sequences],
        trains_for=(
            f"At most {settings.per_chain} a chain, {100 * settings.min_identity:g} to "
            f"{100 * settings.max_identity:g} % identity over at least {100 * settings.min_coverage:g} % of the chain "
            f"(mmseqs2 -s {settings.sensitivity:g}, E <= {settings.max_evalue:g}). Not filtered for any test."
        ),
        notes="States are carried over alignments, not observed: train on them, never evaluate.",
    )


if __name__ == "__main__":
    run(main)
