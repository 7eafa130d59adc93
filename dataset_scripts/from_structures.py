#!/usr/bin/env python
"""Make a corpus of your own structures: mmCIF or PDB files (gz too), states by mkdssp, one row a protein chain."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from lift_ss_hf.cli.run import run
from lift_ss_hf.corpora.chains import Chain, CorpusError
from lift_ss_hf.corpora.columns import SplitCounts
from lift_ss_hf.corpora.structures import (
    STRUCTURE_COLUMNS,
    STRUCTURE_FEATURES,
    Mkdssp,
    Skipped,
    find_structure_files,
    label_structures,
)
from lift_ss_hf.corpora.writing import CardFacts, Split, write_corpus


def parse() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 done, 1 done but something was skipped through an error, 2 no corpus written.",
    )
    parser.add_argument("paths", nargs="+", metavar="FILE_OR_DIR", type=Path, help="structures, or folders of them")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the corpus's folder")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="train", help="default: train")
    parser.add_argument("--min-residues", metavar="N", type=int, default=20, help="shortest chain (default: 20)")
    parser.add_argument("--jobs", metavar="N", type=int, default=os.cpu_count() or 1, help="default: one a core")
    parser.add_argument("--mkdssp", metavar="PATH", default="mkdssp", help="the program (default: that of PATH)")
    parser.add_argument("--license", default="unknown", help="of the structures, as the Hub spells it")
    args = parser.parse_args()
    if args.jobs < 1 or args.min_residues < 1:
        parser.error("--jobs and --min-residues must be 1 or more")
    return args


def main() -> int:
    """Label the structures, tell what was skipped, write the corpus; the exit status."""
    args = parse()
    mkdssp = Mkdssp.find(args.mkdssp)
    files = find_structure_files(args.paths)
    chains: list[Chain] = []
    skipped: list[Skipped] = []
    changes: Counter[str] = Counter()
    results = label_structures(files, mkdssp, args.min_residues, args.jobs)
    for result in tqdm(results, total=len(files), unit="file", disable=not sys.stderr.isatty()):
        chains += result.chains
        skipped += result.skipped
        changes += result.changes
    if skipped:
        print(f"Skipped:\n\n{skipped_table(skipped)}\n")
    for change, number in sorted(changes.items()):
        print(f"{change}: {number:,}")
    if not chains:
        raise CorpusError(f"{len(files)} files, but no chain with states: nothing written.")
    counts = SplitCounts(changes=changes)
    split = Split(args.split, list(counts.count(chains)), counts)
    write_corpus(args.out, [split], card_facts(args.license, mkdssp, skipped), STRUCTURE_FEATURES)
    print(
        f"{args.out}: {counts.chains:,} chains, {counts.residues:,} residues, {counts.labelled:,} with a state, "
        f"of {len(files):,} files"
    )
    return 1 if any(entry.is_error for entry in skipped) else 0


def skipped_table(skipped: Sequence[Skipped]) -> str:
    """What was skipped and why, a row each, errors first."""
    lines = ["| file | chain | error | why |", "| --- | --- | --- | --- |"]
    for entry in sorted(skipped, key=lambda entry: not entry.is_error):
        reason = entry.reason.replace("|", "/")
        lines.append(f"| {entry.file} | {entry.chain} | {'yes' if entry.is_error else 'no'} | {reason} |")
    return "\n".join(lines)


def card_facts(license_name: str, mkdssp: Mkdssp, skipped: Sequence[Skipped]) -> CardFacts:
    """What the card says of a corpus made here."""
    left_out = f"{len(skipped):,} files or chains were left out." if skipped else "Nothing was left out."
    return CardFacts(
        title="Chains of structures",
        summary="Protein chains of structure files, with the states that mkdssp assigns.",
        license=license_name,
        made_by="python dataset_scripts/from_structures.py",
        sources=[f"structure files, column `file`; states by {mkdssp.version()}"],
        notes=f"First model only. The sequence is the full one where the file has it, modified residues as their "
        f"parents. {left_out}",
        column_meanings=STRUCTURE_COLUMNS,
    )


if __name__ == "__main__":
    run(main)
