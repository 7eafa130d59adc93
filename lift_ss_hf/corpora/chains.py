"""Labelled chains, the checks they must pass, and the error that all corpora raise."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..models.sequences import RARE_RESIDUES, STANDARD_RESIDUES
from ..models.states import COIL_SPELLINGS, UNRESOLVED, UnknownStateError, normalise_states
from ..models.wording import counted

RESIDUES = STANDARD_RESIDUES + RARE_RESIDUES  # kept as in the source
EITHER_CASE = frozenset(RESIDUES + RESIDUES.lower())  # without letters such as ß, which is SS in upper case

# PDB code, then the chain: 1abc_A, 7p4r_AAA, 2bl8A, 5H7KA.
PDB_CHAIN = re.compile(r"([0-9][A-Za-z0-9]{3})_?([A-Za-z0-9]+)")


class CorpusError(ValueError):
    """Invalid corpus data. The message names the file, line, chain and position, and says what to do."""


@dataclass(frozen=True)
class Chain:
    """A protein chain with one state per residue.

    Attributes:
        id: name of the chain in its source.
        sequence: residues, one letter each, length L.
        states: DSSP states, length L; X for unresolved residues.
        extra: values of further columns.
    """

    id: str
    sequence: str
    states: str
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def num_residues(self) -> int:
        """Return the length of the chain [residues]."""
        return len(self.sequence)

    @property
    def num_labelled(self) -> int:
        """Return the number of residues with a state."""
        return len(self.states) - self.states.count(UNRESOLVED)

    def row(self) -> dict[str, Any]:
        """Return the chain as a row of a corpus."""
        return {
            "id": self.id,
            "sequence": self.sequence,
            "states": self.states,
            "num_residues": self.num_residues,
            **self.extra,
        }


def pdb_origin(chain_id: str) -> dict[str, str]:
    """Return the PDB code (lower case) and the chain that an id contains; both empty if it contains none.

    Example:
        >>> pdb_origin("5H7KA")
        {'pdb_id': '5h7k', 'pdb_chain': 'A'}
    """
    match = PDB_CHAIN.fullmatch(chain_id)
    return {"pdb_id": match[1].lower(), "pdb_chain": match[2]} if match else {"pdb_id": "", "pdb_chain": ""}


def check_chain(
    chain_id: str, sequence: str, states: str, where: str, changes: Counter[str], states_where: str | None = None
) -> tuple[str, str]:
    """Check a chain, and convert it to upper case and to L for coil.

    Args:
        chain_id: name of the chain, for messages.
        sequence: residue letters, length L.
        states: state letters, length L; coil may be L, C, '-', '.' or a blank.
        where: file and line, for messages.
        changes: receives the number of changed letters, by description.
        states_where: file and line of the states, if they are on another line.

    Returns:
        sequence and states.

    Raises:
        CorpusError: if the chain is empty, its lengths differ or a letter is unknown.
    """
    if not sequence:
        raise CorpusError(f"{where}: {chain_id}: empty chain. Remove it, or add its residues.")
    if len(sequence) != len(states):
        raise CorpusError(
            f"{where}: {chain_id}: {counted(len(sequence), 'residue')} but {counted(len(states), 'state')}. "
            f"Mark unresolved residues {UNRESOLVED} instead of dropping them."
        )
    for position, residue in enumerate(sequence, start=1):
        if residue not in EITHER_CASE:
            raise CorpusError(
                f"{where}: {chain_id}: {residue!r} at position {position} is not a residue. "
                f"Expected one of {''.join(sorted(RESIDUES))}; write X for an unknown residue."
            )
    try:
        normal = normalise_states(states)
    except UnknownStateError as error:
        raise CorpusError(f"{states_where or where}: {chain_id}: {error}") from None
    upper = sequence.upper()
    if upper != sequence:
        changes["residues written in lower case, upper-cased"] += sum(map(str.islower, sequence))
    if normal != states:
        for spelling in COIL_SPELLINGS[1:]:
            if spelling in states:
                changes[f"coil written {spelling!r}, now L"] += states.count(spelling)
    return upper, normal


def require_unique_ids(located: Iterable[tuple[str, Chain]], path: object) -> Iterator[Chain]:
    """Pass on the chains of a file, of which there must be at least one, and check that all have ids, which differ.

    Args:
        located: chains, each with its location in the file ("line 4", "row 2").
        path: the file, for messages.

    Raises:
        CorpusError: if a chain has no id, two chains have the same, or there is no chain.
    """
    seen: dict[str, str] = {}
    for location, chain in located:
        if not chain.id.strip():
            raise CorpusError(f"{path}: {location}: chain without an id. Write one, or remove the chain.")
        if chain.id in seen:
            raise CorpusError(
                f"{path}: {location}: {chain.id}: the chain at {seen[chain.id]} has the same id. Rename or remove one."
            )
        seen[chain.id] = location
        yield chain
    if not seen:
        raise CorpusError(f"{path}: no chains (the file is empty). Get the file again.")
