#!/usr/bin/env python
"""Draw the bundled sample corpus, a few hundred real chains without homologues in other splits or in the test sets.

Chains of promod3:lt25id with 40 to 250 residues are clustered with mmseqs2 by single linkage, and one chain is drawn
per cluster. Then searches remove what the clustering missed: chains with a homologue in another split, or in any test
set that promod3:lt25id may be used for (its own filter was less thorough). This takes three minutes on one core.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lift_ss_hf.cli.run import run
from lift_ss_hf.corpora import CardFacts, Chain, Split, get_corpus, write_corpus
from lift_ss_hf.corpora.cards import origin_facts
from lift_ss_hf.corpora.catalogue import SPLIT_ORDER, CataloguedCorpus
from lift_ss_hf.corpora.columns import corpus_features
from lift_ss_hf.corpora.leakage import SearchSettings, homologues, load_chains
from lift_ss_hf.corpora.mmseqs import require_mmseqs, run_mmseqs, write_fasta
from lift_ss_hf.models.atomic import require_folder

SOURCE = "promod3:lt25id"
BUNDLED = Path(__file__).resolve().parents[1] / "lift_ss_hf" / "assets" / "sample_corpus"
SHORTEST, LONGEST = 40, 250  # [residues]; a CPU trains on such chains in minutes
# The highest sensitivity of mmseqs2, and hits of any length.
SEARCH = SearchSettings(sensitivity=7.5, max_evalue=1e-3, min_aligned=1, min_identity=0.25)
# A chain joins a cluster by an alignment over 30 % of its length; --cluster-mode 1 is single linkage.
CLUSTERING = "-s 7.5 -e 0.001 --min-seq-id 0.25 -c 0.3 --cov-mode 1 --cluster-mode 1"
SPARE = 1.2  # chains drawn per chain wanted, since the searches remove some


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", metavar="DIR", help="folder of the source files (default: LIFT_SS_DATA_DIR)")
    parser.add_argument("--out", metavar="DIR", type=Path, default=BUNDLED, help="output folder (default: the package)")
    parser.add_argument(
        "--chains",
        type=int,
        nargs=3,
        default=(300, 60, 60),
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="number of chains in each split (default: 300 60 60)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random draw (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="threads of mmseqs (default: 1)")
    args = parser.parse_args()
    if min(args.chains) < 1:
        parser.error("--chains: each split needs at least one chain")
    return args


def main() -> None:
    """Draw the chains, check them, and write the corpus."""
    args = parse()
    require_mmseqs()  # fail before any work
    require_folder(args.out)
    settings = replace(SEARCH, threads=args.threads)
    source = get_corpus(SOURCE)
    tests = [chain for name in source.config.trains_for for chain in load_chains(get_corpus(name), "test", args.source)]
    chains = {
        chain.id: chain
        for chain in load_chains(source, "train", args.source)
        if SHORTEST <= chain.num_residues <= LONGEST
    }
    representatives = cluster(chains.values(), args.threads)
    drawn = random.Random(args.seed).sample(representatives, len(representatives))
    candidates = [chains[name] for name in drawn[: round(SPARE * sum(args.chains))]]
    found = searchable(candidates, settings)
    unrelated = without_homologues(found, tests, settings)
    splits = split_up(unrelated, dict(zip(SPLIT_ORDER, args.chains, strict=True)), settings)
    how = f"--chains {' '.join(map(str, args.chains))} --seed {args.seed}"
    counts = (
        f"{len(chains):,} chains of {SHORTEST} to {LONGEST} residues formed {len(representatives):,} clusters. Of the "
        f"{len(candidates):,} chains drawn, these were left out: {len(candidates) - len(found)} of too low complexity "
        f"for mmseqs2 to find them among themselves; {len(found) - len(unrelated)} with a homologue in a test set."
    )
    write_corpus(args.out, splits, card_facts(source, how, counts), corpus_features("three_line"))
    for split in splits:
        print(f"{split.name}: {split.counts}")


def cluster(chains: Iterable[Chain], threads: int) -> list[str]:
    """Cluster chains by single linkage, and return the sorted ids of one chain per cluster."""
    with tempfile.TemporaryDirectory() as scratch:
        fasta = write_fasta(((chain.id, chain.sequence) for chain in chains), Path(scratch) / "chains.fasta")
        options = (*CLUSTERING.split(), "--threads", threads)
        run_mmseqs("easy-cluster", fasta, f"{scratch}/clusters", f"{scratch}/tmp", *options)
        lines = Path(f"{scratch}/clusters_cluster.tsv").read_text("ascii").splitlines()
    return sorted({line.split("\t")[0] for line in lines})


def searchable(chains: Sequence[Chain], settings: SearchSettings) -> list[Chain]:
    """Return the chains that a search among themselves finds; homologues of the others could not be found."""
    sequences = [chain.sequence for chain in chains]
    found = homologues(sequences, {"themselves": sequences}, settings)["themselves"].train
    return [chain for index, chain in enumerate(chains) if index in found]


def without_homologues(chains: Sequence[Chain], others: Sequence[Chain], settings: SearchSettings) -> list[Chain]:
    """Return the chains without a homologue among the others, searched in both directions: mmseqs2 is not symmetric."""
    ours, theirs = ([chain.sequence for chain in part] for part in (chains, others))
    related = homologues(ours, {"others": theirs}, settings)["others"].train
    related |= homologues(theirs, {"chains": ours}, settings)["chains"].test
    return [chain for index, chain in enumerate(chains) if index not in related]


def split_up(chains: Sequence[Chain], sizes: Mapping[str, int], settings: SearchSettings) -> list[Split]:
    """Fill the test, validation and training sets in this order, each with chains unrelated to the sets before it.

    Raises:
        ValueError: if there are too few chains.
    """
    parts: dict[str, list[Chain]] = {}
    left = list(chains)
    for name in reversed(SPLIT_ORDER):
        before = [chain for part in parts.values() for chain in part]
        unrelated = without_homologues(left, before, settings) if before else left
        parts[name], left = unrelated[: sizes[name]], unrelated[sizes[name] :]
        if len(parts[name]) < sizes[name]:
            raise ValueError(
                f"{len(parts[name])} chains are left for {name}, expected {sizes[name]}. Ask for fewer: --chains."
            )
    return [Split.of(name, parts[name]) for name in SPLIT_ORDER]


def card_facts(source: CataloguedCorpus, how: str, counts: str) -> CardFacts:
    """Return what the dataset card says.

    Args:
        source: the corpus that the sample was drawn from.
        how: options of this script.
        counts: sentences on the chains that were drawn and left out.
    """
    entry, file = source.entry, source.config.splits["train"]
    version = subprocess.run(["mmseqs", "version"], capture_output=True, text=True).stdout.strip()
    return CardFacts(
        title="Sample of the ProMod3 structure database",
        summary="A few hundred real PDB chains with nine states, for trying out lift_ss_hf. The corpus is bundled with "
        'the package: `lift_ss_hf.load_corpus("sample", "train")` loads it without a network.',
        made_by=f"python dataset_scripts/sample.py {how}",
        sources=[f"Drawn from {source}: {file.name} ({file.checksum})"],
        trains_for=f"- It may be used to train models for: {', '.join(source.config.trains_for)}. It has no "
        "homologues of their chains.\n- No chain has a homologue in another split.",
        notes="For trying things out: the corpus is too small to train a model for publication, or to compare models."
        f"\n\n{counts}\n\nClusters: mmseqs2 {version}, `easy-cluster {CLUSTERING}`, one chain each. Homologues: any "
        f"hit of `easy-search -s {SEARCH.sensitivity} -e {SEARCH.max_evalue}`, in either direction, with an "
        f"identity of at least {SEARCH.min_identity:.0%}.\n\n{entry.notes.split(chr(10) * 2)[0]}",
        **origin_facts(entry),
    )


if __name__ == "__main__":
    run(main)
