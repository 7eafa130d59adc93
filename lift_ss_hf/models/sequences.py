"""Residue strings: what stands for a residue, and cleaning before a tokenizer sees it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np

STANDARD_RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
# B, Z, J: one of two residues; O pyrrolysine, U selenocysteine; X any (IUPAC-IUB 1983).
RARE_RESIDUES = "BJOUXZ"
UNKNOWN_RESIDUE = "X"
STOP = "*"
GAPS = "-."
NUCLEOTIDES = "ACGTUN"
SHORTEST_NUCLEOTIDES = 20  # a peptide of A, C, G and T is no wonder; 20 residues in a row of nothing else are


class ResidueError(ValueError):
    """A character that stands for no residue. `position` is 1-based, `found` the character."""

    def __init__(self, found: str, position: int):
        self.found, self.position = found, position
        hint = {"*": " A stop codon", "-": " A gap", ".": " A gap"}.get(found, "")
        super().__init__(
            f"{found!r} at position {position} is no residue.{hint and hint + ' has no state: take it out.'} "
            f"Expected letters of {STANDARD_RESIDUES} or {RARE_RESIDUES}."
        )


@dataclass
class CleaningCounts:
    """How many residues were changed on the way to a backbone; add up over chains with `+`.

    Attributes:
        chains: chains cleaned.
        residues: their residues.
        lower_case: residues that were lower case.
        replaced: residues that became X, by letter.
    """

    chains: int = 0
    residues: int = 0
    lower_case: int = 0
    replaced: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: CleaningCounts) -> CleaningCounts:
        letters = sorted({*self.replaced, *other.replaced})
        return CleaningCounts(
            self.chains + other.chains,
            self.residues + other.residues,
            self.lower_case + other.lower_case,
            {letter: self.replaced.get(letter, 0) + other.replaced.get(letter, 0) for letter in letters},
        )

    def __str__(self) -> str:
        replaced = ", ".join(f"{count} {letter}" for letter, count in self.replaced.items()) or "none"
        return (
            f"{self.residues} residues of {self.chains} chains: {self.lower_case} were lower case, "
            f"replaced by {UNKNOWN_RESIDUE}: {replaced}."
        )


@functools.lru_cache(maxsize=8)
def _cleaning_table(replace: str) -> np.ndarray:
    """(256,) uint8: each byte to its clean residue, 0 where it stands for none."""
    table = np.zeros(256, dtype=np.uint8)
    for residue in STANDARD_RESIDUES + RARE_RESIDUES:
        clean = UNKNOWN_RESIDUE if residue in replace else residue
        table[[ord(residue), ord(residue.lower())]] = ord(clean)
    return table


def clean_residues(sequence: str, replace: str = "") -> tuple[str, CleaningCounts]:
    """Bring a chain into the letters a backbone knows, one letter in, one letter out.

    Args:
        sequence: residues, one letter each; white space at the ends is dropped.
        replace: letters the backbone has no token for; they become X. For ESM `J`, for ProtT5 and ProtBert `BJOUZ`.

    Returns:
        The clean chain and what was changed.

    Raises:
        ResidueError: for `*`, gaps, white space within, digits: what is no residue, with its 1-based position.
        ValueError: for a chain without residues.
    """
    sequence = sequence.strip()
    if not sequence:
        raise ValueError("the sequence is empty. Leave out chains without residues.")
    codes = np.frombuffer(sequence.encode("latin-1", "replace"), dtype=np.uint8)
    clean = _cleaning_table(replace)[codes]
    if not clean.all():
        position = int(np.flatnonzero(clean == 0)[0])
        raise ResidueError(sequence[position], position + 1)
    lower_case = int((codes >= ord("a")).sum())
    upper = codes & 0xDF  # letters only by now: this bit is the case
    changed, counts = np.unique(upper[clean != upper], return_counts=True)
    replaced = {chr(code): int(count) for code, count in zip(changed, counts, strict=True)}
    return clean.tobytes().decode("ascii"), CleaningCounts(1, len(sequence), lower_case, replaced)


def drop_gaps(sequence: str) -> tuple[str, int]:
    """Take out what stands for no residue in an alignment or a translation: gaps (`-`, `.`) and stop codons (`*`).

    Args:
        sequence: residues, one letter each.

    Returns:
        The chain without them, and how many there were.

    Raises:
        ResidueError: for what is neither residue, gap nor stop; its position counts gaps and stops.
    """
    marks = {ord(mark): UNKNOWN_RESIDUE for mark in GAPS + STOP}
    if sequence.strip():
        clean_residues(sequence.translate(marks))  # for its errors, whose positions are those of the caller's chain
    kept = sequence.strip().translate(dict.fromkeys(marks))
    return kept, len(sequence.strip()) - len(kept)


def looks_like_nucleotides(sequence: str) -> bool:
    """Whether a chain of 20 letters or more consists of A, C, G, T, U and N only, at least three of them."""
    letters = set(sequence.upper())
    return len(sequence) >= SHORTEST_NUCLEOTIDES and letters <= set(NUCLEOTIDES) and len(letters - {"N"}) >= 3
