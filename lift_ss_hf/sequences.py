"""Residue strings: cleaning them before a tokenizer sees them, and windows over chains that are too long."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

STANDARD_RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
# B, Z, J: one of two residues; O pyrrolysine, U selenocysteine; X any (IUPAC-IUB 1983).
RARE_RESIDUES = "BJOUXZ"
UNKNOWN_RESIDUE = "X"
DEFAULT_OVERLAP = 256  # residues; at least 128 of context on either side of a cut


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


class Window(NamedTuple):
    """A stretch of a chain that is run by itself, and the part of it that is kept; 0-based, ends exclusive."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def plan_windows(length: int, max_residues: int | None, overlap: int | None = None) -> list[Window]:
    """Cut a chain into overlapping windows; each residue is kept from the window it is farthest inside of.

    Windows are of equal length and spread evenly, so they may overlap more than asked. Between two neighbours the
    cut is in the middle of what they share; the chain's own ends are no edges.

    Args:
        length: residues of the chain.
        max_residues: residues of the longest window; None means no limit.
        overlap: residues that neighbours share at least; None means a quarter of a window, at most 256.

    Raises:
        ValueError: if windows that overlap so much would not advance.
    """
    if max_residues is None or length <= max_residues:
        return [Window(0, length, 0, length)]
    if overlap is None:
        overlap = min(DEFAULT_OVERLAP, max_residues // 4)
    if not 0 <= overlap < max_residues:
        raise ValueError(
            f"windows of {max_residues} residues cannot overlap by {overlap}. "
            f"Choose a window_overlap from 0 to {max_residues - 1}."
        )
    count = -(-(length - overlap) // (max_residues - overlap))  # rounded up
    starts = [round(i * (length - max_residues) / (count - 1)) for i in range(count)]
    cuts = [0, *((a + max_residues + b) // 2 for a, b in zip(starts, starts[1:], strict=False)), length]
    return [Window(start, start + max_residues, *cuts[i : i + 2]) for i, start in enumerate(starts)]


def max_overlap_residues(windows: Sequence[Window]) -> int:
    """Residues run in more than one window: what windowing costs."""
    return sum(window.stop - window.start - (window.keep_stop - window.keep_start) for window in windows)
