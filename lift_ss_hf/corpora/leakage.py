"""Leakage: what a training set shares with the tests, exactly or by homology, and the training set without it.

Exact duplicates need nothing; homologues are found by mmseqs2.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
from tqdm.auto import tqdm

from .catalogue import CorpusName, get_corpus
from .chains import Chain
from .loading import is_own_corpus, load_corpus
from .mmseqs import require_mmseqs, run_mmseqs, write_fasta

CHUNK = 2000  # training chains searched at a time: small enough to show progress, large enough to keep the cores busy


@dataclass(frozen=True)
class SearchSettings:
    """What counts as a homologue, and how hard to look for one.

    Attributes:
        sensitivity: of mmseqs (its -s), 1 fast to 7.5 thorough.
        max_evalue: hits have a lower E-value. It grows with the tests that are searched together.
        min_aligned: shortest alignment [residues].
        min_identity: lowest identity over the alignment [fraction].
        threads: of mmseqs.
    """

    sensitivity: float = 6.5
    max_evalue: float = 1e-3
    min_aligned: int = 30
    min_identity: float = 0.25
    threads: int = 1

    def __post_init__(self):
        for name, low, high in (("sensitivity", 1, 7.5), ("min_identity", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}. Expected {low} to {high}.")
        for name in ("max_evalue", "min_aligned", "threads"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}. Expected more than 0.")


@dataclass
class Homologues:
    """Homologues between the training set and one test set.

    Attributes:
        train: 0-based places of training chains that have one in the test set.
        test: 0-based places of test chains that have one in the training set.
        highest_identity: of all pairs, over the alignment [fraction]; None without a pair.
    """

    train: set[int] = field(default_factory=set)
    test: set[int] = field(default_factory=set)
    highest_identity: float | None = None


def exact_duplicates(sequences: Iterable[str], others: Iterable[str]) -> list[int]:
    """0-based places of the sequences that are also among the others, letter by letter."""
    known = set(others)
    return [place for place, sequence in enumerate(sequences) if sequence in known]


def homologues(
    train: Sequence[str],
    tests: Mapping[str, Sequence[str]],
    settings: SearchSettings | None = None,
    progress: bool = False,
) -> dict[str, Homologues]:
    """Search every training sequence against all tests together.

    Args:
        train: training sequences.
        tests: test sequences by the name of their set.
        settings: thresholds; the defaults are those of the promod3 corpus's filter.
        progress: show a bar.

    Returns:
        for each test set the places of the chains that are homologous to one of the other side.

    Raises:
        MissingMmseqsError: if mmseqs is not installed.
        CorpusError: if it fails; with its last words.
    """
    settings = settings or SearchSettings()
    require_mmseqs()
    found = {name: Homologues() for name in tests}
    names = list(tests)
    with tempfile.TemporaryDirectory(prefix="lift_ss_hf_") as folder:
        targets = [(f"{n}_{k}", s) for n, name in enumerate(names) for k, s in enumerate(tests[name])]
        database = Path(folder, "tests")
        run_mmseqs("createdb", write_fasta(targets, Path(folder, "tests.fasta")), database)
        with tqdm(total=len(train), unit="chain", disable=not progress) as bar:
            for start in range(0, len(train), CHUNK):
                chunk = list(enumerate(train[start : start + CHUNK], start=start))
                for query, target, identity in _search(chunk, database, len(targets), settings, Path(folder)):
                    number, place = map(int, target.split("_"))
                    entry = found[names[number]]
                    entry.train.add(int(query))
                    entry.test.add(place)
                    entry.highest_identity = max(identity, entry.highest_identity or 0.0)
                bar.update(len(chunk))
    return found


def _search(
    chunk: Sequence[tuple[int, str]],
    database: Path,
    num_targets: int,
    settings: SearchSettings,
    folder: Path,
) -> Iterator[tuple[str, str, float]]:
    """Query, target and identity [fraction] of each hit that counts."""
    queries = write_fasta(((str(place), sequence) for place, sequence in chunk), folder / "train.fasta")
    hits = folder / "hits.tsv"
    options = ["-s", settings.sensitivity, "-e", settings.max_evalue, "--threads", settings.threads]
    # mmseqs keeps 300 targets a query by default; a family larger than that must not hide test chains.
    options += ["--max-seqs", max(300, num_targets), "--format-output", "query,target,fident,alnlen,evalue"]
    run_mmseqs("easy-search", queries, database, hits, folder / "scratch", *options)
    with hits.open() as lines:
        for line in lines:
            query, target, identity, aligned, evalue = line.split()
            if (
                float(evalue) < settings.max_evalue
                and int(aligned) >= settings.min_aligned
                and float(identity) >= settings.min_identity
            ):
                yield query, target, float(identity)


def load_chains(name: str, split: str, data_dir: str | Path | None = None) -> list[Chain]:
    """The chains of one split of a corpus; of its only split where it has just one.

    Args:
        name: what `load_corpus` takes.
        split: `train`, `validation` or `test`.
        data_dir: a folder that holds the sources.

    Raises:
        ValueError: if there are several splits and none of that name.
    """
    if is_own_corpus(name):
        own = load_corpus(name)
        splits = own if isinstance(own, datasets.DatasetDict) else {split: own}
        data = splits[_choose(name, split, list(splits))]
    else:
        corpus = CorpusName.parse(name)
        chosen = _choose(name, split, list(get_corpus(corpus.corpus).config(corpus.config).splits))
        data = load_corpus(name, chosen, data_dir=data_dir)
    base = ("id", "sequence", "states", "num_residues")
    return [
        Chain(row["id"], row["sequence"], row["states"], {key: row[key] for key in row if key not in base})
        for row in data
    ]


def _choose(name: str, split: str, splits: Sequence[str]) -> str:
    if split in splits:
        return split
    if len(splits) == 1:
        return splits[0]
    raise ValueError(f"{name} has no split {split!r}. Choose one of: {', '.join(splits)}.")


@dataclass(frozen=True)
class Leakage:
    """What a training set shares with one test set.

    Attributes:
        name: the test set.
        num_chains: its chains.
        duplicates: 0-based places of its chains whose sequence is in the training set.
        homologues: None where they were not searched.
    """

    name: str
    num_chains: int
    duplicates: list[int]
    homologues: Homologues | None


def leakage_table(found: Sequence[Leakage]) -> str:
    """A Markdown table with a row for each test set."""
    lines = [
        "| test | chains | exact duplicates | training chains with a homologue | test chains with a homologue "
        "| highest identity |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for entry in found:
        cells = ["not searched"] * 3
        if entry.homologues is not None:
            identity = entry.homologues.highest_identity
            cells = [f"{len(entry.homologues.train):,}", f"{len(entry.homologues.test):,}"]
            cells.append("none" if identity is None else f"{100 * identity:.1f} %")
        lines.append(f"| {entry.name} | {entry.num_chains:,} | {len(entry.duplicates):,} | {' | '.join(cells)} |")
    return "\n".join(lines)
