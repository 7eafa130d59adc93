"""Hold chains out of a corpus so that no held-out chain has a relative among those that are left."""

from __future__ import annotations

import logging
import os
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .chains import CorpusError
from .mmseqs import MissingMmseqsError, require_mmseqs, run_mmseqs, write_fasta

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holdout:
    """A corpus in parts, as indices of its chains.

    Attributes:
        parts: 0-based indices by the name of the part, in order; `train` is what is left.
        method: how related chains were found, for messages and reports.
    """

    parts: dict[str, list[int]]
    method: str


def hold_out(
    sequences: Sequence[str],
    fractions: Mapping[str, float],
    seed: int = 0,
    fold: tuple[int, int] | None = None,
) -> Holdout:
    """Hold out whole groups of related chains, at random.

    Related are chains of one cluster of mmseqs2: those that align with at least 25 % identity over at least 30 % of the
    shorter chain, and relatives of relatives. Without mmseqs2, only chains of the same sequence are.

    Args:
        sequences: residues of each chain.
        fractions: size of each part that is held out [fraction of the chains], by its name.
        seed: of the random order.
        fold: hold out this fold, as the part `test`: (2, 5) is the second of five folds of nearly the same size. Each
            group is in one of them. `fractions` are held out of the other folds.

    Returns:
        The parts. One that is held out may be smaller than asked for: a group that does not fit is left in `train`.

    Raises:
        CorpusError: if a part, or what is left, has no chains, or if there are fewer groups than folds.

    Example:
        >>> hold_out(["MKV", "GGA", "MKV", "AC"], {"test": 0.25}).parts["test"] in ([1], [3])
        True
    """
    try:
        groups, method = related_groups(sequences), IDENTITY_METHOD
    except MissingMmseqsError:
        groups, method = equal_groups(sequences), EXACT_METHOD
        logger.warning(
            "mmseqs2 is not installed: held-out chains may be homologous to training chains, which makes scores too "
            "high. Install mmseqs2 (Debian: mmseqs2) to hold out by identity."
        )
    random.Random(seed).shuffle(groups)
    parts: dict[str, list[int]] = {}
    if fold is not None:
        number, num_folds = fold
        folds = deal(groups, num_folds)
        parts["test"] = sorted(index for group in folds.pop(number - 1) for index in group)
        groups = [group for others in folds for group in others]
        random.Random(seed).shuffle(groups)  # they are in order of size
    for name, fraction in fractions.items():
        room = round(fraction * len(sequences))
        part, left = [], []
        for group in groups:
            if len(group) <= room:
                part += group
                room -= len(group)
            else:
                left.append(group)
        parts[name], groups = sorted(part), left
    wanted = " and ".join(parts)
    parts["train"] = sorted(index for group in groups for index in group)
    if empty := [name for name, part in parts.items() if not part]:
        raise CorpusError(
            f"cannot hold out {wanted}: of {len(sequences)} chains, none would be left for "
            f"{empty[0]}. Give more chains, name a file (--validation FILE, --tests FILE), or do without (none)."
        )
    return Holdout(parts, method)


def deal(groups: Sequence[list[int]], num_folds: int) -> list[list[list[int]]]:
    """Deal groups of chains into folds of nearly the same number of chains, the largest groups first.

    Raises:
        CorpusError: if there are fewer groups than folds.

    Example:
        >>> deal([[0], [1, 2, 3], [4], [5, 6]], 2)
        [[[1, 2, 3], [4]], [[5, 6], [0]]]
    """
    if len(groups) < num_folds:
        raise CorpusError(
            f"cannot make {num_folds} folds of {sum(map(len, groups))} chains: they are {len(groups)} groups of "
            "related chains, and a group stays together. Give more chains, or make fewer folds."
        )
    folds: list[list[list[int]]] = [[] for _ in range(num_folds)]
    sizes = [0] * num_folds
    for group in sorted(groups, key=len, reverse=True):
        smallest = sizes.index(min(sizes))
        folds[smallest].append(group)
        sizes[smallest] += len(group)
    return folds


MIN_SEARCHED = 14  # mmseqs fails if all chains are shorter [residues]
MIN_IDENTITY, MIN_COVERAGE = 0.25, 0.3  # of the alignment; of the shorter chain [fraction]
CONNECTED_COMPONENTS = 1  # mmseqs's --cluster-mode in which relatives of relatives are in one cluster
OF_THE_TARGET = 1  # its --cov-mode; targets are the shorter chains, since clusters start with the longest one
IDENTITY_METHOD = (
    f"by identity (mmseqs2: no pair with {100 * MIN_IDENTITY:g} % identity or more over {100 * MIN_COVERAGE:g} % "
    "of the shorter chain)"
)
EXACT_METHOD = "by exact sequence (mmseqs2 is not installed)"


def equal_groups(sequences: Sequence[str]) -> list[list[int]]:
    """Return the indices of the sequences in groups of equal ones."""
    groups: dict[str, list[int]] = {}
    for index, sequence in enumerate(sequences):
        groups.setdefault(sequence, []).append(index)
    return list(groups.values())


def related_groups(sequences: Sequence[str]) -> list[list[int]]:
    """Return the indices of the sequences in groups of relatives, and of their relatives.

    Raises:
        MissingMmseqsError: if mmseqs is not installed.
        CorpusError: if it fails.
    """
    require_mmseqs()
    equal = equal_groups(sequences)  # mmseqs may miss that repetitive chains are equal
    long = {str(number) for number, group in enumerate(equal) if len(sequences[group[0]]) >= MIN_SEARCHED}
    clusters: dict[str, list[int]] = {str(number): group for number, group in enumerate(equal)}
    if len(long) > 1:
        with tempfile.TemporaryDirectory(prefix="lift_ss_hf_") as folder:
            named = ((number, sequences[clusters[number][0]]) for number in sorted(long, key=int))
            fasta = write_fasta(named, Path(folder, "chains.fasta"))
            options = ["--min-seq-id", MIN_IDENTITY, "-c", MIN_COVERAGE, "--cov-mode", OF_THE_TARGET]
            options += ["--cluster-mode", CONNECTED_COMPONENTS, "--threads", os.cpu_count() or 1]
            run_mmseqs("easy-cluster", fasta, f"{folder}/found", f"{folder}/scratch", *options)
            for line in Path(folder, "found_cluster.tsv").read_text("ascii").splitlines():
                leader, member = line.split()
                if member != leader:
                    clusters[leader].extend(clusters.pop(member))
    return sorted(sorted(members) for members in clusters.values())
