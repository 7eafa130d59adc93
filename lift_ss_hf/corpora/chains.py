"""A labelled chain, what makes one valid, and the one error all corpora raise."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..models.sequences import RARE_RESIDUES, STANDARD_RESIDUES
from ..models.states import COIL_SPELLINGS, UNRESOLVED, UnknownStateError, normalise_states

RESIDUES = STANDARD_RESIDUES + RARE_RESIDUES  # all are kept as the source has them

# 1abc_A, 7p4r_AAA, 2bl8A, 5H7KA: PDB code, then the chain.
PDB_CHAIN = re.compile(r"([0-9][A-Za-z0-9]{3})_?([A-Za-z0-9]+)")


class CorpusError(ValueError):
    """Data that cannot be a corpus: the message names file, line, chain and position, and the way out."""


@dataclass(frozen=True)
class Chain:
    """One protein chain with one state a residue.

    Attributes:
        id: the source's name of the chain.
        sequence: residues, one letter each, length L.
        states: DSSP states, length L, X where unresolved.
        extra: further columns of the corpus.
    """

    id: str
    sequence: str
    states: str
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def num_residues(self) -> int:
        """Length of the chain [residues]."""
        return len(self.sequence)

    @property
    def num_labelled(self) -> int:
        """Residues with a state [residues]."""
        return len(self.states) - self.states.count(UNRESOLVED)

    def row(self) -> dict[str, Any]:
        """The chain as a row of its corpus."""
        return {
            "id": self.id,
            "sequence": self.sequence,
            "states": self.states,
            "num_residues": self.num_residues,
            **self.extra,
        }


def pdb_origin(chain_id: str) -> dict[str, str]:
    """The PDB code (lower case) and chain that an id names; both empty where it names none."""
    match = PDB_CHAIN.fullmatch(chain_id)
    return {"pdb_id": match[1].lower(), "pdb_chain": match[2]} if match else {"pdb_id": "", "pdb_chain": ""}


def check_chain(
    chain_id: str, sequence: str, states: str, where: str, changes: Counter[str], states_where: str | None = None
) -> tuple[str, str]:
    """Check a chain at the door, and spell it the house's way.

    Args:
        chain_id: the chain's name, for messages.
        sequence: residue letters, length L.
        states: state letters, length L; coil spelled L, C, '-', '.' or blank.
        where: file and line, for messages.
        changes: counts what had to be changed, for the card.
        states_where: file and line of the states, if they have a line of their own.

    Returns:
        sequence and states, in upper case and with coil as L.

    Raises:
        CorpusError: naming file, line, chain, 1-based position and what to do.
    """
    if not sequence:
        raise CorpusError(f"{where}: {chain_id}: empty chain. Remove it, or give its residues.")
    if len(sequence) != len(states):
        raise CorpusError(
            f"{where}: {chain_id}: {len(sequence)} residues but {len(states)} states. "
            f"Mark unresolved residues {UNRESOLVED} instead of dropping them."
        )
    upper = sequence.upper()
    for position, residue in enumerate(upper, start=1):
        if residue not in RESIDUES:
            raise CorpusError(
                f"{where}: {chain_id}: {sequence[position - 1]!r} at position {position} is no residue. "
                f"Expected one of {''.join(sorted(RESIDUES))}; write X for an unknown one."
            )
    try:
        normal = normalise_states(states)
    except UnknownStateError as error:
        raise CorpusError(f"{states_where or where}: {chain_id}: {error}") from None
    if upper != sequence:
        changes["residues written in lower case, upper-cased"] += sum(map(str.islower, sequence))
    if normal != states:
        for spelling in COIL_SPELLINGS[1:]:
            if spelling in states:
                changes[f"coil written {spelling!r}, now L"] += states.count(spelling)
    return upper, normal


def distinct_chains(located: Iterable[tuple[str, Chain]], path: object) -> Iterator[Chain]:
    """Pass on the chains of a file.

    Args:
        located: chains, each with its place in the file ("line 4", "row 2").
        path: the file, for messages.

    Raises:
        CorpusError: at the second chain of one name, and if there is no chain at all.
    """
    seen: dict[str, str] = {}
    for place, chain in located:
        if chain.id in seen:
            raise CorpusError(
                f"{path}: {place}: {chain.id}: the chain at {seen[chain.id]} has the same id. Rename or remove one."
            )
        seen[chain.id] = place
        yield chain
    if not seen:
        raise CorpusError(f"{path}: no chain in it (the file is empty). Get the file again.")
