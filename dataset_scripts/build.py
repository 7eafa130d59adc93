#!/usr/bin/env python
"""Build the PSSP corpora as parquet files with dataset cards, and push them to the Hub.

Afterwards, from the folder that holds OUT's parent, `datasets.load_dataset("lift_ss/cb513")` works.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm.auto import tqdm

from lift_ss_hf.cli.run import run
from lift_ss_hf.corpora.building import build_corpus, push_corpus
from lift_ss_hf.corpora.catalogue import get_corpus, load_catalogue


def parse() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 all built, 1 some split could not be built (the reason is printed), 2 bad input.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"corpora: {', '.join(load_catalogue())}")
    parser.add_argument("--all", action="store_true", help="every corpus of the catalogue")
    parser.add_argument("--source", metavar="DIR", help="folder that holds the sources (else LIFT_SS_DATA_DIR)")
    parser.add_argument("--out", metavar="DIR", default="lift_ss", type=Path, help="where to write (default: lift_ss)")
    parser.add_argument("--push-to-hub", metavar="ORG", help="also push each corpus to ORG/NAME on the Hub")
    args = parser.parse_args()
    if bool(args.names) == args.all:
        parser.error("name corpora, or give --all")
    return args


def main() -> int:
    """Build what was asked for; the exit status."""
    args = parse()
    names = list(load_catalogue()) if args.all else args.names
    entries = [get_corpus(name) for name in dict.fromkeys(names)]  # a wrong name is known before any work
    failures: list[str] = []
    progress = tqdm(entries, unit="corpus", disable=not sys.stderr.isatty())
    for entry in progress:
        progress.set_description(entry.name)
        result = build_corpus(entry, args.out, args.source)
        for line in result.built:
            tqdm.write(line)
        failures += result.failures
        if args.push_to_hub and result.built:
            tqdm.write(f"pushed {push_corpus(args.out / entry.name, args.push_to_hub)}")
    if failures:
        print(f"\nNot built ({len(failures)}):", file=sys.stderr)
        for line in failures:
            print(f"  {line}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    run(main)
