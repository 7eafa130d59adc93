#!/usr/bin/env python
"""Cluster a FASTA file with mmseqs2 and hold out whole clusters, for pretraining a language model.

Writes OUT/train.fasta, with one representative per cluster so that large families do not dominate, and
OUT/heldout.fasta, with representatives of clusters that have no sequence in train.fasta.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

from lift_ss_hf.cli.run import run
from lift_ss_hf.corpora.fasta import read_fasta
from lift_ss_hf.corpora.mmseqs import require_mmseqs, run_mmseqs, write_fasta
from lift_ss_hf.models.atomic import replacing_folder, require_folder, restore
from lift_ss_hf.models.wording import counted

HELDOUT, TRAIN = "heldout.fasta", "train.fasta"


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fasta", metavar="FASTA", help="sequences, plain, gzip or bzip2")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="output folder; an older one is replaced"
    )
    parser.add_argument(
        "--identity",
        type=float,
        default=0.3,
        help="minimum sequence identity within a cluster [fraction] (default: 0.3)",
    )
    parser.add_argument("--heldout", type=int, default=1000, help="number of clusters to hold out (default: 1000)")
    parser.add_argument("--threads", type=int, default=1, help="threads of mmseqs (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random split (default: 0)")
    args = parser.parse_args()
    if not 0 <= args.identity <= 1 or args.heldout < 1:
        parser.error("--identity must be from 0 to 1, and --heldout 1 or more")
    return args


def main() -> None:
    """Cluster the sequences, and write the training and the held-out ones."""
    args = parse()
    require_mmseqs()
    require_folder(args.out)
    restore(args.out)
    if args.out.exists() and not is_replaceable(args.out):
        raise ValueError(f"{args.out}: contains other files than clusters. Name another folder, or remove it.")
    # The folder as a whole: a new train.fasta must never stand beside an old heldout.fasta.
    with replacing_folder(args.out) as folder:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            options = ("--min-seq-id", args.identity, "-c", 0.8, "--cov-mode", 1, "--threads", args.threads)
            run_mmseqs("easy-linclust", args.fasta, f"{scratch}/clusters", f"{scratch}/tmp", *options)
            representatives = list(read_fasta(f"{scratch}/clusters_rep_seq.fasta"))
        if len(representatives) <= args.heldout:
            raise ValueError(
                f"{args.fasta}: {len(representatives)} clusters are too few to hold out {args.heldout}. "
                "Lower --heldout."
            )
        random.Random(args.seed).shuffle(representatives)
        parts = {HELDOUT: representatives[: args.heldout], TRAIN: representatives[args.heldout :]}
        for name, part in parts.items():
            write_fasta(part, folder / name)
    for name, part in parts.items():
        residues = sum(len(sequence) for _, sequence in part)
        print(f"{args.out / name}: {counted(len(part), 'sequence')}, {counted(residues, 'residue')}")


def is_replaceable(folder: Path) -> bool:
    """Return True if a folder holds nothing but what this command writes, since replacing it removes everything."""
    return {path.name for path in folder.iterdir()} <= {HELDOUT, TRAIN}


if __name__ == "__main__":
    run(main)
