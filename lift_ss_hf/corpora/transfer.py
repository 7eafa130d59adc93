"""Training chains from sequences without a structure: the states of a homologous chain, carried over an alignment.

Structure changes slower than sequence, so a homologue that is half different has nearly the same states. It teaches
which residues may stand in a place, as the rows of an alignment do, and is not learnt by heart as the chain itself is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tqdm.auto import tqdm

from ..fasta import read_fasta
from ..states import UNRESOLVED
from .chains import RESIDUES, Chain, CorpusError
from .mmseqs import require_mmseqs, run_mmseqs, write_fasta

CHUNK = 5000  # chains searched at a time; every search indexes all sequences anew


@dataclass(frozen=True)
class TransferSettings:
    """Which homologues become training chains.

    Attributes:
        per_chain: at most so many of each chain, the most different first.
        min_identity, max_identity: over the alignment [fraction]; below, states differ; above, nothing is new.
        step: each homologue of a chain is by this much more identical to it than the one before [fraction].
        min_coverage: of the chain by the alignment [fraction].
        sensitivity: of mmseqs (its -s), 1 fast to 7.5 thorough.
        max_evalue: hits have at most this E-value.
        threads: of mmseqs.
    """

    per_chain: int = 3
    min_identity: float = 0.4
    max_identity: float = 0.95
    step: float = 0.1
    min_coverage: float = 0.8
    sensitivity: float = 5.0
    max_evalue: float = 1e-5
    threads: int = 1

    def __post_init__(self):
        bounds = {"sensitivity": (1, 7.5), "step": (0, 1), "min_coverage": (0, 1)}
        bounds |= {"min_identity": (0, self.max_identity), "max_identity": (self.min_identity, 1)}
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}. Expected {low} to {high}.")
        for name in ("per_chain", "max_evalue", "threads"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}. Expected more than 0.")


def homologous_chains(
    chains: Sequence[Chain], fasta: str | Path, settings: TransferSettings | None = None, progress: bool = False
) -> list[Chain]:
    """Homologues of labelled chains, with their states.

    Only what is aligned is taken of a sequence, and every sequence once. Residues without a partner are unresolved.

    Args:
        chains: with states.
        fasta: sequences to search, plain or compressed.
        settings: which ones are taken.
        progress: show a bar.

    Returns:
        chains named `CHAIN~SEQUENCE`, in the order of `chains`.

    Raises:
        MissingMmseqsError: if mmseqs is not installed.
        CorpusError: if there are no sequences, or mmseqs fails; with its last words.
        ValueError: if the file cannot be read.
    """
    settings = settings or TransferSettings()
    require_mmseqs()
    found: list[Chain] = []
    used: set[int] = set()
    with tempfile.TemporaryDirectory(prefix="lift_ss_hf_") as name:
        folder = Path(name)
        names = _write_sequences(fasta, folder / "sequences.fasta")
        run_mmseqs("createdb", folder / "sequences.fasta", folder / "sequences")
        with tqdm(total=len(chains), unit="chain", disable=not progress) as bar:
            for start in range(0, len(chains), CHUNK):
                chunk = chains[start : start + CHUNK]
                for place, hits in groupby(_search(chunk, folder, settings), key=lambda hit: hit.chain):
                    for hit in _choose([hit for hit in hits if hit.target not in used], settings):
                        used.add(hit.target)
                        chain = chunk[place]
                        sequence, states = transfer(chain.states[hit.start :], hit.chain_row, hit.target_row)
                        if set(sequence) <= set(RESIDUES):
                            found.append(Chain(f"{chain.id}~{names[hit.target]}", sequence, states))
                bar.update(len(chunk))
    return found


def transfer(states: str, chain_row: str, target_row: str) -> tuple[str, str]:
    """Carry states over an alignment.

    Args:
        states: of the chain, from the first aligned residue on.
        chain_row: the chain's aligned residues and gaps (`-`).
        target_row: those of the other sequence, of equal length.

    Returns:
        the other sequence's aligned residues, and a state for each, X where the chain has a gap.
    """
    place, carried = 0, []
    for residue, target in zip(chain_row, target_row, strict=True):
        if target != "-":
            carried.append(UNRESOLVED if residue == "-" else states[place])
        place += residue != "-"
    return target_row.replace("-", ""), "".join(carried)


@dataclass(frozen=True)
class _Hit:
    chain: int  # place in what was searched
    target: int  # number of the sequence
    identity: float
    start: int  # first aligned residue of the chain, from 0
    chain_row: str
    target_row: str


def _choose(hits: Sequence[_Hit], settings: TransferSettings) -> list[_Hit]:
    """The most different ones, each by a step more identical than the one before."""
    chosen: list[_Hit] = []
    for hit in sorted(hits, key=lambda hit: (hit.identity, hit.target)):
        is_apart = not chosen or hit.identity - chosen[-1].identity >= settings.step
        if is_apart and len(chosen) < settings.per_chain and hit.identity <= settings.max_identity:
            chosen.append(hit)
    return chosen


def _write_sequences(fasta: str | Path, path: Path) -> list[str]:
    """Write the sequences under their numbers, which mmseqs leaves as they are; their names."""
    names: list[str] = []
    with path.open("w", encoding="ascii", errors="replace") as file:
        for name, sequence in read_fasta(fasta):
            file.write(f">{len(names)}\n{sequence}\n")
            names.append(name)
    if not names:
        raise CorpusError(f"{fasta}: no sequences in it. Give a FASTA file, plain or compressed.")
    return names


def _search(chains: Sequence[Chain], folder: Path, settings: TransferSettings) -> Iterator[_Hit]:
    """The hits of each chain, chain by chain."""
    queries = write_fasta(((str(place), chain.sequence) for place, chain in enumerate(chains)), folder / "chains.fasta")
    hits = folder / "hits.tsv"
    options = ["-s", settings.sensitivity, "-e", settings.max_evalue, "--threads", settings.threads]
    options += ["--min-seq-id", settings.min_identity, "-c", settings.min_coverage, "--cov-mode", 2]  # of the chain
    options += ["--format-output", "query,target,fident,qstart,qaln,taln"]
    run_mmseqs("easy-search", queries, folder / "sequences", hits, folder / "scratch", *options)
    with hits.open() as lines:
        for line in lines:
            chain, target, identity, start, chain_row, target_row = line.split()
            yield _Hit(int(chain), int(target), float(identity), int(start) - 1, chain_row, target_row)
