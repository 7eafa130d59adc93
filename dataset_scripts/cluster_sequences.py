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
from lift_ss_hf.models.atomic import replacing


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fasta", metavar="FASTA", help="sequences, plain, gzip or bzip2")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="output folder")
    parser.add_argument(
        "--identity",
        type=float,
        default=0.3,
        help="minimum sequence identity within a cluster [fraction] (default: 0.3)",
    )
    parser.add_argument("--heldout", type=int, default=1000, help="number of clusters to hold out (default: 1000)")
    parser.add_argument("--threads", type=int, default=1, help="threads of mmseqs (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random split (default: 0)")
    return parser.parse_args()


def main() -> None:
    """Cluster the sequences, and write the training and the held-out ones."""
    args = parse()
    require_mmseqs()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out) as scratch:
        options = ("--min-seq-id", args.identity, "-c", 0.8, "--cov-mode", 1, "--threads", args.threads)
        run_mmseqs("easy-linclust", args.fasta, f"{scratch}/clusters", f"{scratch}/tmp", *options)
        representatives = list(read_fasta(f"{scratch}/clusters_rep_seq.fasta"))
    if len(representatives) <= args.heldout:
        raise ValueError(
            f"{args.fasta}: {len(representatives)} clusters are too few to hold out {args.heldout}. Lower --heldout."
        )
    random.Random(args.seed).shuffle(representatives)
    for name, part in (("heldout", representatives[: args.heldout]), ("train", representatives[args.heldout :])):
        path = args.out / f"{name}.fasta"
        with replacing(path) as temporary:
            write_fasta(part, temporary)
        print(f"{path}: {len(part):,} sequences, {sum(len(sequence) for _, sequence in part):,} residues")


if __name__ == "__main__":
    run(main)
