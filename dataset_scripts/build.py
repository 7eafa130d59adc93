#!/usr/bin/env python
"""Build corpora of the catalogue as parquet files with dataset cards, and optionally push them to the Hub.

Afterwards, `datasets.load_dataset("lift_ss/cb513")` works in the folder that contains lift_ss (see --out).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from lift_ss_hf.cli.run import run
from lift_ss_hf.corpora.building import build_corpus, push_corpus
from lift_ss_hf.corpora.catalogue import DEFAULT_CONFIG, CorpusEntry, get_corpus, load_catalogue
from lift_ss_hf.models.atomic import require_folder


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 all built, 1 a split could not be built (the reason is printed), 2 invalid arguments.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"corpora to build: {', '.join(load_catalogue())}")
    parser.add_argument("--all", action="store_true", help="build all corpora")
    parser.add_argument("--source", metavar="DIR", help="folder of the source files (default: LIFT_SS_DATA_DIR)")
    parser.add_argument("--out", metavar="DIR", default="lift_ss", type=Path, help="output folder (default: lift_ss)")
    parser.add_argument("--push-to-hub", metavar="ORG", help="push each corpus to ORG/NAME on the Hub")
    args = parser.parse_args()
    if bool(args.names) == args.all:
        parser.error("name corpora, or give --all")
    return args


def main() -> int:
    """Build the corpora, and return the exit status."""
    args = parse()
    require_folder(args.out)
    entries = list(load_catalogue().values()) if args.all else find_entries(args.names)
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


def find_entries(names: Sequence[str]) -> list[CorpusEntry]:
    """Return the catalogue's entries of these names, without repeats.

    Raises:
        ValueError: if a corpus is unknown, or a name has a configuration.
    """
    entries = {}
    for name in names:
        corpus = get_corpus(name)
        if corpus.config.name != DEFAULT_CONFIG:
            raise ValueError(f"{name}: all configurations of a corpus are built together. Give {corpus.entry.name}.")
        entries[corpus.entry.name] = corpus.entry
    return list(entries.values())


if __name__ == "__main__":
    run(main)
