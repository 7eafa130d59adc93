#!/usr/bin/env python
"""Report what a training set shares with the tests, exactly and by homology, and write it without that.

TRAIN and the tests are names of the catalogue (casp12, promod3:lt25id, ...), built corpora (folders) or files
(three lines a chain, or parquet). Homologues are searched with mmseqs, against all tests together.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lift_ss_hf.cli.run import run
from lift_ss_hf.corpora.catalogue import CorpusName, get_corpus
from lift_ss_hf.corpora.chains import Chain, CorpusError
from lift_ss_hf.corpora.leakage import (
    Homologues,
    Leakage,
    SearchSettings,
    exact_duplicates,
    homologues,
    leakage_table,
    load_chains,
)
from lift_ss_hf.corpora.loading import is_own_corpus
from lift_ss_hf.corpora.mmseqs import MissingMmseqsError
from lift_ss_hf.corpora.writing import CardFacts, Split, write_corpus


def parse() -> argparse.Namespace:
    """Arguments of the command line."""
    default = SearchSettings()
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 done, 1 homologues not searched since there is no mmseqs, 2 bad input.",
    )
    parser.add_argument("train", metavar="TRAIN", help="the training set")
    parser.add_argument("--tests", metavar="TEST", nargs="+", required=True, help="the test sets")
    parser.add_argument("--source", metavar="DIR", help="folder that holds the sources (else LIFT_SS_DATA_DIR)")
    parser.add_argument("--split", default="train", help="of TRAIN, where it has several (default: train)")
    parser.add_argument("--test-split", default="test", help="of the tests, where they have several (default: test)")
    parser.add_argument("--write", metavar="DIR", type=Path, help="write TRAIN without what it shares, as a corpus")
    parser.add_argument("--exact-only", action="store_true", help="leave homologues alone")
    search = parser.add_argument_group("what is a homologue")
    search.add_argument(
        "--sensitivity", type=float, default=default.sensitivity, help="mmseqs -s (default: %(default)s)"
    )
    search.add_argument("--max-evalue", type=float, default=default.max_evalue, help="default: %(default)s")
    search.add_argument("--min-aligned", type=int, default=default.min_aligned, help="residues (default: %(default)s)")
    search.add_argument(
        "--min-identity", type=float, default=default.min_identity, help="fraction (default: %(default)s)"
    )
    search.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: one a core")
    return parser.parse_args()


def main() -> int:
    """Report, and write where asked; the exit status."""
    args = parse()
    settings = SearchSettings(args.sensitivity, args.max_evalue, args.min_aligned, args.min_identity, args.threads)
    train = load_chains(args.train, args.split, args.source)
    tests = {name: load_chains(name, args.test_split, args.source) for name in dict.fromkeys(args.tests)}
    sequences = [chain.sequence for chain in train]
    test_sequences = {name: [chain.sequence for chain in chains] for name, chains in tests.items()}
    searched: dict[str, Homologues] = {}
    status = 0
    if not args.exact_only:
        try:
            searched = homologues(sequences, test_sequences, settings, progress=sys.stderr.isatty())
        except MissingMmseqsError as error:
            if args.write:
                raise CorpusError(f"{error} Or give --exact-only to write TRAIN without exact duplicates.") from None
            print(error, file=sys.stderr)
            status = 1
    report = [
        Leakage(name, len(own), exact_duplicates(own, sequences), searched.get(name))
        for name, own in test_sequences.items()
    ]
    print(leakage_table(report))
    everything = [sequence for own in test_sequences.values() for sequence in own]
    leaking = set(exact_duplicates(sequences, everything)).union(*(entry.train for entry in searched.values()))
    kept = [chain for place, chain in enumerate(train) if place not in leaking]
    print(f"\n{args.train}: {len(leaking):,} of {len(train):,} chains leak, {len(kept):,} are left.")
    if args.write:
        if not kept:
            raise CorpusError(f"{args.train}: no chain is left, nothing written.")
        write_corpus(args.write, [Split.of("train", kept)], card_facts(args, settings, kept, len(train)))
        print(f"wrote {args.write}: {len(kept):,} chains, {sum(chain.num_residues for chain in kept):,} residues")
    return status


def card_facts(args: argparse.Namespace, settings: SearchSettings, kept: Sequence[Chain], before: int) -> CardFacts:
    """What the card says of a filtered training set."""
    tests = ", ".join(args.tests)
    without = "exact duplicates of their chains"
    if not args.exact_only:
        without += (
            f" and chains with an mmseqs2 hit to them (-s {settings.sensitivity:g}, E < {settings.max_evalue:g}, at "
            f"least {settings.min_aligned} aligned residues, at least {100 * settings.min_identity:g} % identity)"
        )
    facts = CardFacts(
        title=f"{args.train} without chains of the tests",
        summary=f"{len(kept):,} of the {before:,} chains of {args.train}.",
        license="unknown",
        made_by="python dataset_scripts/leakage.py",
        sources=[f"{args.train}, split {args.split}"],
        trains_for=f"Filtered for: {tests}. Left out: {without}.",
    )
    if is_own_corpus(args.train):
        return facts
    entry = get_corpus(CorpusName.parse(args.train).corpus)
    return replace(
        facts,
        license=entry.origin.license,
        license_note=entry.origin.license_note,
        homepage=entry.origin.homepage,
        num_states=entry.num_states,
        citation=entry.citation,
    )


if __name__ == "__main__":
    run(main)
