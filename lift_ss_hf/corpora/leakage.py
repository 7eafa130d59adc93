"""Find the chains that a training set shares with other sets: exact duplicates, and homologues with mmseqs2."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from .chains import Chain
from .loading import Corpus, load_resolved, own_splits, split_names
from .mmseqs import require_mmseqs, run_mmseqs, write_fasta

CHUNK = 2000  # training chains per search: few enough to show progress, enough to keep all cores busy


@dataclass(frozen=True)
class SearchSettings:
    """Settings of the search for homologues; the defaults are those that filtered the corpus promod3:lt25id.

    Attributes:
        sensitivity: option -s of mmseqs, from 1 (fast) to 7.5 (thorough).
        max_evalue: upper bound of the E-value. E-values grow with the number of test chains searched together.
        min_aligned: minimum length of the alignment [residues].
        min_identity: minimum identity over the alignment [fraction].
        threads: threads of mmseqs.

    Raises:
        ValueError: if a setting is out of range.
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
    """Homologues between a training set and one test set.

    Attributes:
        train: 0-based indices of training chains with a homologue in the test set.
        test: 0-based indices of test chains with a homologue in the training set.
        highest_identity: highest identity of any pair, over the alignment [fraction]; None if there is no pair.
    """

    train: set[int] = field(default_factory=set)
    test: set[int] = field(default_factory=set)
    highest_identity: float | None = None


def exact_duplicates(sequences: Iterable[str], others: Iterable[str]) -> list[int]:
    """Return the 0-based indices of the sequences that also occur among the others.

    Example:
        >>> exact_duplicates(["MKV", "AC", "MK"], ["AC", "MKVA"])
        [1]
    """
    known = set(others)
    return [index for index, sequence in enumerate(sequences) if sequence in known]


def homologues(
    train: Sequence[str],
    tests: Mapping[str, Sequence[str]],
    settings: SearchSettings | None = None,
    progress: bool = False,
) -> dict[str, Homologues]:
    """Search all training sequences for homologues in the test sets.

    Args:
        train: training sequences.
        tests: test sequences by the name of the test set.
        settings: thresholds; `SearchSettings()` by default.
        progress: show a progress bar.

    Returns:
        the homologues between the training set and each test set.

    Raises:
        MissingMmseqsError: if mmseqs is not installed.
        CorpusError: if mmseqs fails; the message ends with the end of its output.
    """
    settings = settings or SearchSettings()
    require_mmseqs()
    found = {name: Homologues() for name in tests}
    names = list(tests)
    with tempfile.TemporaryDirectory(prefix="lift_ss_hf_") as folder:
        targets = [(f"{n}_{k}", s) for n, name in enumerate(names) for k, s in enumerate(tests[name])]
        database = Path(folder, "tests")
        run_mmseqs("createdb", write_fasta(targets, Path(folder, "tests.fasta")), database)
        with tqdm(total=len(train), unit=" chains", disable=not progress) as bar:
            for start in range(0, len(train), CHUNK):
                chunk = list(enumerate(train[start : start + CHUNK], start=start))
                for query, target, identity in _search(chunk, database, len(targets), settings, Path(folder)):
                    number, index = map(int, target.split("_"))
                    entry = found[names[number]]
                    entry.train.add(int(query))
                    entry.test.add(index)
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
    """Yield query, target and identity [fraction] of each hit within the thresholds."""
    queries = write_fasta(((str(index), sequence) for index, sequence in chunk), folder / "train.fasta")
    hits = folder / "hits.tsv"
    options = ["-s", settings.sensitivity, "-e", settings.max_evalue, "--threads", settings.threads]
    # mmseqs reports at most 300 targets per query by default, which would hide test chains of a larger family.
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


def load_chains(corpus: Corpus, split: str, data_dir: str | Path | None = None) -> list[Chain]:
    """Return the chains of one split of a corpus. If the corpus has a single split, that one is taken.

    Args:
        corpus: what `resolve_corpus` returns for a name.
        split: `train`, `validation` or `test`.
        data_dir: a folder that holds the source files; see `load_corpus` for the default.

    Raises:
        ValueError: if there are several splits, but none of that name.
    """
    available = split_names(corpus)
    if split not in available:
        if len(available) > 1:
            raise ValueError(f"{corpus} has no split {split!r}. Choose one of: {', '.join(available)}.")
        split = available[0]
    base = ("id", "sequence", "states", "num_residues")
    return [
        Chain(row["id"], row["sequence"], row["states"], {key: row[key] for key in row if key not in base})
        for row in load_resolved(corpus, split, data_dir)
    ]


def has_own_validation(corpus: Corpus) -> bool:
    """Return True if a training corpus comes with validation chains.

    Args:
        corpus: what `resolve_corpus` returns for a name.
    """
    return "validation" in own_splits(corpus)


@dataclass(frozen=True)
class Leakage:
    """The chains that a training set shares with one validation or test set.

    Attributes:
        name: name of the set.
        num_chains: number of its chains.
        duplicates: 0-based indices of its chains whose sequence is in the training set.
        homologues: homologous chains; None if they were not searched.
    """

    name: str
    num_chains: int
    duplicates: list[int]
    homologues: Homologues | None


def leakage_table(found: Sequence[Leakage]) -> str:
    """Return a Markdown table with one row per validation or test set."""
    lines = [
        "| set | chains | exact duplicates | training chains with a homologue | its chains with a homologue "
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
