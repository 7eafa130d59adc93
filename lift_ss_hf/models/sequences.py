"""Protein sequences: which letters are residues, and cleaning a sequence once, at the door."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STANDARD_RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
# B, Z, J: one of two residues; O pyrrolysine, U selenocysteine; X any (IUPAC-IUB 1983).
RARE_RESIDUES = "BJOUXZ"
UNKNOWN_RESIDUE = "X"
STOP = "*"
GAPS = "-."
NUCLEOTIDES = "ACGTUN"
AMBIGUOUS_NUCLEOTIDES = "RYSWKMBDHV"  # one of several nucleotides (IUPAC-IUB 1984)
MAX_AMBIGUOUS = 0.2  # share of a nucleotide sequence
MIN_NUCLEOTIDES = 20  # a short peptide may well consist of A, C, G and T only; 20 such residues in a row do not occur

_INVALID, _REMOVED = 0, 1  # entries of the cleaning table that are not a residue's code


class ResidueError(ValueError):
    """A character that is not a residue.

    Attributes:
        found: the character.
        position: 1-based, counting gaps and stops.
    """

    def __init__(self, found: str, position: int):
        self.found, self.position = found, position
        kind = {"*": " (a stop codon)", "-": " (a gap)", ".": " (a gap)"}.get(found, "")
        remedy = " It has no state: remove it." if kind else ""
        super().__init__(
            f"{found!r} at position {position} is not a residue{kind}.{remedy} "
            f"Expected letters of {STANDARD_RESIDUES} or {RARE_RESIDUES}."
        )


@dataclass(frozen=True)
class CleanSequence:
    """A sequence that has been checked and converted to upper case.

    Attributes:
        codes: (L,) uint8, the ASCII code of each residue.
        num_lower_case: residues that were written in lower case.
        num_gaps: gaps and stop codons that were removed.
    """

    codes: np.ndarray
    num_lower_case: int = 0
    num_gaps: int = 0

    def __len__(self) -> int:
        return len(self.codes)

    def __str__(self) -> str:
        return self.codes.tobytes().decode("ascii")


def _cleaning_table() -> np.ndarray:
    """Return (256,) uint8: the code of the residue that each byte stands for, or _INVALID, or _REMOVED."""
    table = np.full(256, _INVALID, dtype=np.uint8)
    for residue in STANDARD_RESIDUES + RARE_RESIDUES:
        table[[ord(residue), ord(residue.lower())]] = ord(residue)
    table[[ord(mark) for mark in GAPS + STOP]] = _REMOVED
    return table


_CLEAN = _cleaning_table()


def clean_sequence(sequence: str, drop_gaps: bool = False) -> CleanSequence:
    """Check a sequence and convert it to upper case.

    Args:
        sequence: residues, one letter each; white space at either end is dropped.
        drop_gaps: remove gaps (`-`, `.`) and stop codons (`*`), as they occur in alignments and translations, and
            count them. By default they are errors.

    Returns:
        The residues, and what was changed. Without gaps, one letter in is one residue out.

    Raises:
        ResidueError: if a character is not a residue.
        ValueError: if no residue is left.

    Example:
        >>> clean = clean_sequence("mkt-AY*", drop_gaps=True)
        >>> str(clean), clean.num_lower_case, clean.num_gaps
        ('MKTAY', 3, 2)
    """
    sequence = sequence.strip()
    codes = np.frombuffer(sequence.encode("latin-1", "replace"), dtype=np.uint8)
    clean = _CLEAN[codes]
    invalid = clean == _INVALID if drop_gaps else clean <= _REMOVED
    if invalid.any():
        position = int(invalid.argmax())
        raise ResidueError(sequence[position], position + 1)
    num_gaps = 0
    if drop_gaps:
        kept = clean != _REMOVED
        num_gaps = len(clean) - int(np.count_nonzero(kept))
        if num_gaps:
            codes, clean = codes[kept], clean[kept]
    if not len(clean):
        raise ValueError("the sequence is empty. Leave out records without residues.")
    return CleanSequence(clean, int(np.count_nonzero(codes != clean)), num_gaps)


def looks_like_nucleotides(sequence: CleanSequence, min_length: int = MIN_NUCLEOTIDES) -> bool:
    """Return True if a sequence consists of A, C, G, T, U and N, at least three of them, and a few ambiguity codes.

    Args:
        sequence: a cleaned sequence.
        min_length: shorter ones are never taken for nucleotides.

    Example:
        >>> looks_like_nucleotides(clean_sequence("ATGGCNTTRACATGGCNTTRAC"))
        True
    """
    counts = np.bincount(sequence.codes, minlength=128)
    plain = [int(counts[ord(letter)]) for letter in NUCLEOTIDES]
    ambiguous = sum(int(counts[ord(letter)]) for letter in AMBIGUOUS_NUCLEOTIDES)
    return (
        len(sequence) >= min_length
        and sum(plain) + ambiguous == len(sequence)
        and ambiguous <= MAX_AMBIGUOUS * len(sequence)
        and sum(map(bool, plain[:-1])) >= 3  # without N
    )
