#!/usr/bin/env python
"""Report the chains that a training set shares with validation and test sets; optionally write it without them.

TRAIN, NAME and TEST are names of the catalogue (casp12, promod3:lt25id, ...), folders of built corpora, or files (three
lines per chain, or parquet). TRAIN's own validation chains are counted unless --validation says otherwise. Exact
duplicates are always counted; homologues are searched with mmseqs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from lift_ss_hf.cli.run import run
from lift_ss_hf.corpora import CardFacts, CorpusError, Split, write_corpus
from lift_ss_hf.corpora.cards import origin_facts
from lift_ss_hf.corpora.catalogue import CataloguedCorpus
from lift_ss_hf.corpora.leakage import (
    Homologues,
    Leakage,
    SearchSettings,
    exact_duplicates,
    has_own_validation,
    homologues,
    leakage_table,
    load_chains,
)
from lift_ss_hf.corpora.loading import Corpus, resolve_corpus
from lift_ss_hf.corpora.mmseqs import MissingMmseqsError
from lift_ss_hf.corpora.writing import require_replaceable

WRITTEN_SPLIT = "train"


def parse() -> argparse.Namespace:
    """Parse the command line."""
    default = SearchSettings()
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 done, 1 homologues were not searched because mmseqs is missing, 2 invalid input.",
    )
    parser.add_argument("train", metavar="TRAIN", help="the training set")
    parser.add_argument("--tests", metavar="TEST", nargs="+", default=[], help="the test sets")
    parser.add_argument(
        "--validation",
        metavar="NAME",
        nargs="+",
        help="the validation sets (default: TRAIN, if it has validation chains); none: count none",
    )
    parser.add_argument("--source", metavar="DIR", help="folder of the source files (default: LIFT_SS_DATA_DIR)")
    parser.add_argument("--split", default="train", help="split of TRAIN, if it has several (default: train)")
    parser.add_argument("--test-split", default="test", help="split of the tests, if they have several (default: test)")
    parser.add_argument(
        "--write", metavar="DIR", type=Path, help="write the chains of TRAIN that do not leak, as a corpus"
    )
    parser.add_argument("--exact-only", action="store_true", help="do not search homologues")
    search = parser.add_argument_group("search for homologues")
    search.add_argument(
        "--sensitivity", type=float, default=default.sensitivity, help="option -s of mmseqs (default: %(default)s)"
    )
    search.add_argument(
        "--max-evalue", type=float, default=default.max_evalue, help="upper bound of the E-value (default: %(default)s)"
    )
    search.add_argument(
        "--min-aligned",
        type=int,
        default=default.min_aligned,
        help="minimum length of the alignment [residues] (default: %(default)s)",
    )
    search.add_argument(
        "--min-identity",
        type=float,
        default=default.min_identity,
        help="minimum identity over the alignment [fraction] (default: %(default)s)",
    )
    search.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="threads of mmseqs (default: one per core)"
    )
    return parser.parse_args()


def main() -> int:
    """Print the report, write the filtered corpus if asked to, and return the exit status."""
    args = parse()
    settings = SearchSettings(args.sensitivity, args.max_evalue, args.min_aligned, args.min_identity, args.threads)
    if args.exact_only and settings != SearchSettings(threads=args.threads):
        raise ValueError("--exact-only searches no homologues. Leave it out, or the options of the search.")
    if args.write:
        require_replaceable(args.write, [WRITTEN_SPLIT])
    # All names first: an unknown one is reported before anything is loaded.
    corpus, others = resolve_corpus(args.train), held_out(args)
    train = load_chains(corpus, args.split, args.source)
    sequences = [chain.sequence for chain in train]
    tests = {
        shown: [chain.sequence for chain in load_chains(other, split, args.source)]
        for shown, (other, split) in others.items()
    }
    searched: dict[str, Homologues] = {}
    status = 0
    if not args.exact_only:
        try:
            searched = homologues(sequences, tests, settings, progress=sys.stderr.isatty())
        except MissingMmseqsError as error:
            if args.write:
                raise CorpusError(f"{error} Or give --exact-only to write TRAIN without exact duplicates.") from None
            print(error, file=sys.stderr)
            status = 1
    report = [
        Leakage(name, len(test), exact_duplicates(test, sequences), searched.get(name)) for name, test in tests.items()
    ]
    print(leakage_table(report))
    leaking = set(exact_duplicates(sequences, [sequence for test in tests.values() for sequence in test]))
    leaking = leaking.union(*(entry.train for entry in searched.values()))
    kept = [chain for index, chain in enumerate(train) if index not in leaking]
    print(f"\n{args.train}: {len(leaking):,} of {len(train):,} chains leak, {len(kept):,} are left.")
    if args.write:
        if not kept:
            raise CorpusError(f"{args.train}: no chains are left, nothing was written.")
        split = Split.of(WRITTEN_SPLIT, kept)
        write_corpus(args.write, [split], card_facts(args, others, corpus, settings, len(kept), len(train)))
        print(f"wrote {args.write}: {split.counts}")
    return status


def held_out(args: argparse.Namespace) -> dict[str, tuple[Corpus, str]]:
    """Return the validation and test sets by the name to show, each with its split.

    Raises:
        ValueError: if a name is unknown, or there is neither a validation nor a test set.
    """
    validation = args.validation
    if validation is None:
        own = args.split == "train" and has_own_validation(resolve_corpus(args.train))
        validation = [args.train] if own else []
    sets = {f"{name} (validation)": (resolve_corpus(name), "validation") for name in validation if name != "none"}
    sets |= {name: (resolve_corpus(name), args.test_split) for name in args.tests}
    if not sets:
        raise ValueError(f"{args.train}: nothing to compare it with. Name test sets (--tests) or --validation sets.")
    return sets


def card_facts(
    args: argparse.Namespace,
    others: Iterable[str],
    corpus: Corpus,
    settings: SearchSettings,
    num_kept: int,
    num_before: int,
) -> CardFacts:
    """Return what the dataset card says about a filtered training set."""
    removed = "exact duplicates of their chains"
    if not args.exact_only:
        removed += (
            f" and chains with an mmseqs2 hit to them (-s {settings.sensitivity:g}, E < {settings.max_evalue:g}, at "
            f"least {settings.min_aligned} aligned residues, at least {100 * settings.min_identity:g} % identity)"
        )
    return CardFacts(
        title=f"{args.train} without chains of validation and test sets",
        summary=f"{num_kept:,} of the {num_before:,} chains of {args.train}.",
        made_by="python dataset_scripts/leakage.py",
        sources=[f"{args.train}, split {args.split}"],
        trains_for=f"Filtered for use with: {', '.join(others)}. Removed: {removed}.",
        **(origin_facts(corpus.entry) if isinstance(corpus, CataloguedCorpus) else {"license": "unknown"}),
    )


if __name__ == "__main__":
    run(main)
