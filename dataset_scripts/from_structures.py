#!/usr/bin/env python
"""Make a corpus from your own structures.

Reads mmCIF or PDB files, plain or gzip, and assigns the states with mkdssp. Each row is one protein chain.
Its id is the file's PDB code, or its name where the code is missing or not unique, and the chain: 1abc_A. A chain
without an id is called _.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from lift_ss_hf.cli.run import run
from lift_ss_hf.corpora import CardFacts, CorpusError, Split, write_corpus
from lift_ss_hf.corpora.file_kinds import printable
from lift_ss_hf.corpora.labelling import (
    STRUCTURE_COLUMNS,
    STRUCTURE_FEATURES,
    LabelledStructure,
    Skipped,
    label_structures,
    name_chains,
)
from lift_ss_hf.corpora.mkdssp import Mkdssp
from lift_ss_hf.corpora.structures import find_structure_files
from lift_ss_hf.corpora.writing import require_replaceable
from lift_ss_hf.models.wording import counted


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 done, 1 done but files or chains were skipped because of errors, 2 no corpus written.",
    )
    parser.add_argument(
        "paths", nargs="+", metavar="FILE_OR_DIR", type=Path, help="structure files, or folders to search"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="output folder")
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), default="train", help="split to write (default: train)"
    )
    parser.add_argument(
        "--min-residues", metavar="N", type=int, default=20, help="length of the shortest chain to keep (default: 20)"
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        default=os.cpu_count() or 1,
        help="files to process at a time (default: one per core)",
    )
    parser.add_argument(
        "--mkdssp", metavar="PATH", default="mkdssp", help="path of mkdssp (default: the one on the PATH)"
    )
    parser.add_argument(
        "--license", default="unknown", help="licence of the structures, by its Hub identifier (default: unknown)"
    )
    args = parser.parse_args()
    if args.jobs < 1 or args.min_residues < 1:
        parser.error("--jobs and --min-residues must be 1 or more")
    return args


def main() -> int:
    """Label the structures, report what was skipped, write the corpus, and return the exit status."""
    args = parse()
    require_replaceable(args.out, [args.split])
    mkdssp = Mkdssp.find(args.mkdssp)
    files = find_structure_files(args.paths)
    structures: list[LabelledStructure] = []
    skipped: list[Skipped] = []
    changes: Counter[str] = Counter()
    results = label_structures(files, mkdssp, args.min_residues, args.jobs)
    for result in tqdm(results, total=len(files), unit="file", disable=not sys.stderr.isatty()):
        structures.append(result)
        skipped += result.skipped
        changes += result.changes
    chains = list(name_chains(structures))
    if skipped:
        print(f"Skipped:\n\n{skipped_table(skipped)}\n")
    for change, number in sorted(changes.items()):
        print(f"{change}: {number:,}")
    if not chains:
        raise CorpusError(f"no chain with states in {counted(len(files), 'file')}: nothing was written.")
    split = Split.of(args.split, chains)
    split.counts.changes.update(changes)
    write_corpus(args.out, [split], card_facts(args.license, mkdssp, skipped), STRUCTURE_FEATURES)
    print(f"{args.out}: {split.counts}, from {counted(len(files), 'file')}")
    return 1 if any(entry.is_error for entry in skipped) else 0


def skipped_table(skipped: Sequence[Skipped]) -> str:
    """Return a Markdown table with one row per skipped file or chain, errors first."""
    lines = ["| file | chain | error | reason |", "| --- | --- | --- | --- |"]
    for entry in sorted(skipped, key=lambda entry: not entry.is_error):
        cells = (entry.file, entry.chain, "yes" if entry.is_error else "no", entry.reason)
        lines.append(f"| {' | '.join(printable(cell).replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def card_facts(license_name: str, mkdssp: Mkdssp, skipped: Sequence[Skipped]) -> CardFacts:
    """Return what the dataset card says about a corpus of structures."""
    left_out = f"{len(skipped):,} files or chains were left out." if skipped else "Nothing was left out."
    return CardFacts(
        title="Chains from structures",
        summary="Protein chains from structure files, with states assigned by mkdssp.",
        license=license_name,
        made_by="python dataset_scripts/from_structures.py",
        sources=[f"Structure files, named in the column `file`; states by {mkdssp.version()}"],
        notes="Only the first model of each structure is used. The sequence is the full one if the file has it, with "
        f"modified residues as their parents. {left_out}",
        column_meanings=STRUCTURE_COLUMNS,
    )


if __name__ == "__main__":
    run(main)
