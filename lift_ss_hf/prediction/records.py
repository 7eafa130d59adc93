"""Records as they come in, and the chains they are once cleaned; what is no protein is told, by record and position.

Lower case becomes upper case; gaps (`-`, `.`) and stop codons (`*`) stand for no residue and are taken out; B, J, O, U,
X, Z and whatever the backbone has no token for are predicted as X. All of it is counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..models.sequences import CleanSequence, clean_sequence, looks_like_nucleotides

MAX_NAME = 200  # characters; names become parts of file names and figures


class RecordError(ValueError):
    """A record that is no protein; the message names record and position."""


@dataclass(frozen=True)
class Record:
    """A sequence as it was read.

    Attributes:
        number: of the record in its input, from 1; what tells records of one name apart.
        name: of the chain.
        sequence: as it was read.
    """

    number: int
    name: str
    sequence: str


@dataclass(frozen=True)
class Query:
    """A record that can be predicted.

    Attributes:
        number, name: of the record.
        sequence: its residues, cleaned.
    """

    number: int
    name: str
    sequence: CleanSequence


@dataclass(frozen=True)
class Reject:
    """A record that cannot be predicted, and why."""

    number: int
    name: str
    reason: str

    def __str__(self) -> str:
        return f"record {self.number} ({self.name}): {self.reason}"


def printable_name(name: str, number: int) -> str:
    """A name without what would break a line, a table or a terminal; `record_N` where there is none."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in "_".join(name.split()))
    return shown[:MAX_NAME] or f"record_{number}"


def admit(record: Record) -> Query | Reject:
    """Clean a record; return a `Reject` with the reason if it is not a protein sequence."""
    try:
        sequence = clean_sequence(record.sequence, drop_gaps=True)
    except ValueError as error:
        return Reject(record.number, record.name, str(error))
    if looks_like_nucleotides(sequence):
        return Reject(
            record.number,
            record.name,
            f"all {len(sequence)} letters from position 1 on are of ACGTUN: these look like nucleotides. "
            "Translate them to a protein first.",
        )
    return Query(record.number, record.name, sequence)


@dataclass(frozen=True)
class Part:
    """Neighbouring records of the input, which are predicted and written together.

    Attributes:
        number: of the part, from 0.
        chains: what can be predicted, in the order of the input.
        rejects: what cannot.
        digest: SHA-256 over names and sequences as read.
    """

    number: int
    chains: list[Query]
    rejects: list[Reject]
    digest: str

    @property
    def num_residues(self) -> int:
        """Residues of all chains."""
        return sum(len(chain.sequence) for chain in self.chains)


def divide(records: Iterable[Record], max_residues: int, max_records: int, skip_bad: bool) -> Iterator[Part]:
    """Divide a stream of records into parts, the same way every time; one part is in memory.

    Args:
        records: the input.
        max_residues: letters of a part, unless its first record alone has more.
        max_records: records of a part.
        skip_bad: keep what is no protein as rejects.

    Raises:
        RecordError: for the first record that is no protein, unless they are skipped.
    """
    number, letters = 0, 0
    held: list[Record] = []
    for record in records:
        if held and (letters + len(record.sequence) > max_residues or len(held) >= max_records):
            yield _part(number, held, skip_bad)
            number, letters, held = number + 1, 0, []
        held.append(record)
        letters += len(record.sequence)
    if held:
        yield _part(number, held, skip_bad)


def _part(number: int, records: list[Record], skip_bad: bool) -> Part:
    digest = hashlib.sha256()
    chains: list[Query] = []
    rejects: list[Reject] = []
    for record in records:
        digest.update(f"{record.name}\n{record.sequence}\n".encode())
        found = admit(record)
        if isinstance(found, Query):
            chains.append(found)
        elif skip_bad:
            rejects.append(found)
        else:
            raise RecordError(f"{found} Mend it, or add --skip-bad to leave out what is no protein.")
    return Part(number, chains, rejects, digest.hexdigest())
