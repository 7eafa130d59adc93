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
AMBIGUOUS_NUCLEOTIDES = "RYSWKMBDHVX"  # one of several nucleotides (IUPAC-IUB 1984); X masks a repeat
# None of the 435,059 proteins of Swiss-Prot 2014_01 (Debian's metastudent-data, 2026-11-26, commit 375e1f7) passes
# either test below, nor does any of promod3, which tests/models/test_sequences.py checks.
MIN_NUCLEOTIDES = 20  # letters; shorter peptides of A, C, G and T are not rare
MAX_AMBIGUOUS = 0.2  # fraction of ambiguity codes in what looks like nucleotides
MIN_DOUBTFUL = 6  # letters of what may be nucleotides, without ambiguity codes
MIN_DOUBTFUL_AMBIGUOUS = 30  # letters, with ambiguity codes; some conotoxins, of 25 letters, consist of these only
MIN_PLAIN = 0.25  # fraction of A, C, G, T, U and N in what may be nucleotides; protamines, of R and S, have up to 0.2

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


def looks_like_nucleotides(sequence: CleanSequence) -> bool:
    """Return True if a sequence is certainly not a protein but DNA or RNA: long enough, with few ambiguity codes.

    Example:
        >>> looks_like_nucleotides(clean_sequence("ATGGCNTTRACATGGCNTTRAC"))
        True
    """
    return len(sequence) >= MIN_NUCLEOTIDES and _fraction_plain(sequence) >= 1 - MAX_AMBIGUOUS


def may_be_nucleotides(sequence: CleanSequence) -> bool:
    """Return True if a sequence is more likely DNA or RNA than a protein, even if short or full of ambiguity codes.

    Example:
        >>> may_be_nucleotides(clean_sequence("GATTACA")), may_be_nucleotides(clean_sequence("ACGTRYSWKMBDHVN" * 2))
        (True, True)
    """
    plain = _fraction_plain(sequence)
    return len(sequence) >= (MIN_DOUBTFUL if plain == 1 else MIN_DOUBTFUL_AMBIGUOUS) and plain >= MIN_PLAIN


def _fraction_plain(sequence: CleanSequence) -> float:
    """Return the fraction of A, C, G, T, U and N among nucleotides and ambiguity codes.

    It is 0 if there are other letters, or fewer than three of A, C, G, T and U, as in linkers of G and S.
    """
    counts = np.bincount(sequence.codes, minlength=128)
    plain = [int(counts[ord(letter)]) for letter in NUCLEOTIDES]
    ambiguous = sum(int(counts[ord(letter)]) for letter in AMBIGUOUS_NUCLEOTIDES)
    if sum(plain) + ambiguous < len(sequence) or sum(map(bool, plain[:-1])) < 3:  # without N
        return 0.0
    return sum(plain) / len(sequence)
