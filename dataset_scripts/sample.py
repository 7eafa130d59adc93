#!/usr/bin/env python
"""Draw the bundled sample corpus from promod3:lt25id: a few hundred real chains, unrelated across splits and to tests.

Chains of 40 to 250 residues are clustered with mmseqs2 by single linkage, and one chain is drawn from a cluster. Then
searches remove what the clustering missed: chains with a homologue in any test set that promod3:lt25id may train for
(its own filter was less thorough), or in another split. Takes three minutes of one core.
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
from lift_ss_hf.corpora.catalogue import SPLIT_ORDER, CorpusName
from lift_ss_hf.corpora.columns import corpus_features
from lift_ss_hf.corpora.leakage import SearchSettings, homologues, load_chains
from lift_ss_hf.corpora.mmseqs import require_mmseqs, run_mmseqs, write_fasta

SOURCE = "promod3:lt25id"
BUNDLED = Path(__file__).resolve().parents[1] / "lift_ss_hf" / "assets" / "sample_corpus"
SHORTEST, LONGEST = 40, 250  # residues: what a CPU trains on in minutes
# As thorough as mmseqs2 is, and hits of any length.
SEARCH = SearchSettings(sensitivity=7.5, max_evalue=1e-3, min_aligned=1, min_identity=0.25)
# An alignment over 30 % of a cluster's member joins it; --cluster-mode 1 is single linkage.
CLUSTERING = "-s 7.5 -e 0.001 --min-seq-id 0.25 -c 0.3 --cov-mode 1 --cluster-mode 1"
SPARE = 1.2  # chains drawn for each chain wanted, since the searches remove some


def parse() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", metavar="DIR", help="folder that holds the corpora (else LIFT_SS_DATA_DIR)")
    parser.add_argument("--out", metavar="DIR", type=Path, default=BUNDLED, help="default: the package's folder")
    parser.add_argument("--chains", type=int, nargs=3, default=(300, 60, 60), metavar=("TRAIN", "VALIDATION", "TEST"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if min(args.chains) < 1:
        parser.error("--chains: each split needs at least one chain")
    return args


def main() -> None:
    """Draw, check, write."""
    args = parse()
    require_mmseqs()  # known before any work
    settings = replace(SEARCH, threads=args.threads)
    tests = [chain for name in allowed_tests() for chain in load_chains(name, "test", args.source)]
    chains = {
        chain.id: chain
        for chain in load_chains(SOURCE, "train", args.source)
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
        f"{len(chains):,} chains of {SHORTEST} to {LONGEST} residues fell into {len(representatives):,} clusters. Of "
        f"{len(candidates):,} that were drawn, left out: {len(candidates) - len(found)} of too low complexity for "
        f"mmseqs2 to find them among themselves; {len(found) - len(unrelated)} with a homologue in a test set."
    )
    write_corpus(args.out, splits, facts(how, counts), corpus_features("three_line"))
    for split in splits:
        print(f"{split.name}: {split.counts.chains} chains, {split.counts.residues:,} residues")


def allowed_tests() -> tuple[str, ...]:
    """The tests that the source may train for: all of them."""
    name = CorpusName.parse(SOURCE)
    return get_corpus(name.corpus).config(name.config).trains_for


def cluster(chains: Iterable[Chain], threads: int) -> list[str]:
    """Ids of one chain of each cluster, sorted; members are joined by chains of alignments (single linkage)."""
    with tempfile.TemporaryDirectory() as scratch:
        fasta = write_fasta(((chain.id, chain.sequence) for chain in chains), Path(scratch) / "chains.fasta")
        options = (*CLUSTERING.split(), "--threads", threads)
        run_mmseqs("easy-cluster", fasta, f"{scratch}/clusters", f"{scratch}/tmp", *options)
        lines = Path(f"{scratch}/clusters_cluster.tsv").read_text("ascii").splitlines()
    return sorted({line.split("\t")[0] for line in lines})


def searchable(chains: Sequence[Chain], settings: SearchSettings) -> list[Chain]:
    """The chains that a search among themselves finds: of the others it could not tell homologues."""
    sequences = [chain.sequence for chain in chains]
    found = homologues(sequences, {"themselves": sequences}, settings)["themselves"].train
    return [chain for place, chain in enumerate(chains) if place in found]


def without_homologues(chains: Sequence[Chain], others: Sequence[Chain], settings: SearchSettings) -> list[Chain]:
    """The chains that no search finds among the others, nor the other way round: mmseqs2 is not symmetric."""
    own, foreign = ([chain.sequence for chain in part] for part in (chains, others))
    related = homologues(own, {"others": foreign}, settings)["others"].train
    related |= homologues(foreign, {"chains": own}, settings)["chains"].test
    return [chain for place, chain in enumerate(chains) if place not in related]


def split_up(chains: Sequence[Chain], sizes: Mapping[str, int], settings: SearchSettings) -> list[Split]:
    """Fill test, validation and training set in this order, each from chains unrelated to those before.

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


def facts(how: str, counts: str) -> CardFacts:
    """What the card says."""
    name = CorpusName.parse(SOURCE)
    entry = get_corpus(name.corpus)
    source = entry.config(name.config).splits["train"]
    version = subprocess.run(["mmseqs", "version"], capture_output=True, text=True).stdout.strip()
    return CardFacts(
        title="Sample of the ProMod3 structure database",
        summary="A few hundred real PDB chains with nine states, to try lift_ss_hf on. It is bundled with the package: "
        '`lift_ss_hf.load_corpus("sample", "train")` loads it without network.',
        license=entry.origin.license,
        license_note=entry.origin.license_note,
        num_states=entry.num_states,
        homepage=entry.origin.homepage,
        made_by=f"python dataset_scripts/sample.py {how}",
        sources=[f"Drawn from {SOURCE}: {source.name} ({source.checksum})"],
        trains_for=f"- It may train for: {', '.join(allowed_tests())}; it holds no homologue of their chains.\n"
        "- No chain has a homologue in another split.",
        notes=f"For trying things out: too small for a model worth publishing, or for comparing two.\n\n{counts}\n\n"
        f"Clusters: mmseqs2 {version}, `easy-cluster {CLUSTERING}`, one chain each. Homologues: any hit of "
        f"`easy-search -s {SEARCH.sensitivity} -e {SEARCH.max_evalue}`, either way round, with an identity of at least "
        f"{SEARCH.min_identity:.0%}.\n\n{entry.notes.split(chr(10) * 2)[0]}",
        citation=entry.citation,
    )


if __name__ == "__main__":
    run(main)
