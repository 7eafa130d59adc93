"""Records as read, the queries they become once cleaned, and the parts in which a run predicts them.

Cleaning turns lower case into upper case, removes gaps (`-`, `.`) and stop codons (`*`), and counts both. A record that
is not a protein sequence is rejected; the message names the record and the position.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..corpora.file_kinds import printable
from ..models.sequences import CleanSequence, clean_sequence, looks_like_nucleotides, may_be_nucleotides

logger = logging.getLogger(__name__)

MAX_NAME = 200  # characters; names become parts of file names and figures


class RecordError(ValueError):
    """A record is not a protein sequence; the message names the record and the position."""


@dataclass(frozen=True)
class Record:
    """A sequence as it was read.

    Attributes:
        number: of the record in its input, from 1; it tells records with the same name apart.
        name: of the chain.
        sequence: as it was read.
        problem: why there is no sequence, and what to do; empty if there is one.
    """

    number: int
    name: str
    sequence: str
    problem: str = ""


@dataclass(frozen=True)
class Query:
    """A cleaned record, ready to be predicted.

    Attributes:
        number: of the record.
        name: of the record.
        sequence: its residues, cleaned.
    """

    number: int
    name: str
    sequence: CleanSequence


@dataclass(frozen=True)
class RejectedRecord:
    """A record that cannot be predicted.

    Attributes:
        number: of the record.
        name: of the record.
        reason: why it was rejected, and what to do.
    """

    number: int
    name: str
    reason: str

    def __str__(self) -> str:
        return f"record {self.number} ({self.name}): {self.reason}"


def printable_name(name: str, number: int) -> str:
    """Return a name without characters that would break a line, a table or a terminal; `record_N` if it is empty.

    Example:
        >>> printable_name("my chain", 3), printable_name("", 3)
        ('my_chain', 'record_3')
    """
    return printable("_".join(name.split()))[:MAX_NAME] or f"record_{number}"


def clean_record(record: Record) -> Query | RejectedRecord:
    """Clean a record, or reject it with the reason if it is not a protein sequence.

    Example:
        >>> str(clean_record(Record(1, "a", "mk-TAY*")).sequence)
        'MKTAY'
        >>> print(clean_record(Record(2, "b", "ACGT" * 10)))
        record 2 (b): its 40 letters are nucleotides: this looks like DNA or RNA. Translate it to a protein first.
    """
    if record.problem:
        return RejectedRecord(record.number, record.name, record.problem)
    try:
        sequence = clean_sequence(record.sequence, drop_gaps=True)
    except ValueError as error:
        return RejectedRecord(record.number, record.name, str(error))
    if looks_like_nucleotides(sequence):
        return RejectedRecord(
            record.number,
            record.name,
            f"its {len(sequence)} letters are nucleotides: this looks like DNA or RNA. "
            "Translate it to a protein first.",
        )
    return Query(record.number, record.name, sequence)


@dataclass(frozen=True)
class Part:
    """Consecutive records of the input that are predicted and written together.

    Attributes:
        number: of the part, from 0.
        first_number: number of the part's first record.
        queries: valid records, in the order of the input.
        rejected: invalid records, in the order of the input.
        digest: SHA-256 of names and sequences as read.
    """

    number: int
    first_number: int
    queries: list[Query]
    rejected: list[RejectedRecord]
    digest: str

    @property
    def num_residues(self) -> int:
        """Residues of all queries."""
        return sum(len(query.sequence) for query in self.queries)

    @property
    def doubt(self) -> str:
        """Which queries may be DNA or RNA, in a sentence; empty if none may."""
        doubtful = [query for query in self.queries if may_be_nucleotides(query.sequence)]
        if not doubtful:
            return ""
        return (
            f"Records that may be DNA or RNA: {len(doubtful)}, the first is record {doubtful[0].number} "
            f"({doubtful[0].name}). They are read as proteins; if they are DNA or RNA, translate them first."
        )


def split_into_parts(records: Iterable[Record], max_residues: int, max_records: int, skip_bad: bool) -> Iterator[Part]:
    """Split a stream of records into parts, always in the same way; only one part is in memory.

    Args:
        records: the input.
        max_residues: letters in a part; a longer record is a part by itself.
        max_records: records in a part.
        skip_bad: collect invalid records in `Part.rejected` instead of raising an error.

    Raises:
        RecordError: at the first invalid record, if `skip_bad` is False.
    """
    number, num_letters = 0, 0
    collected: list[Record] = []
    for record in records:
        if collected and (num_letters + len(record.sequence) > max_residues or len(collected) >= max_records):
            yield _make_part(number, collected, skip_bad)
            number, num_letters, collected = number + 1, 0, []
        collected.append(record)
        num_letters += len(record.sequence)
    if collected:
        yield _make_part(number, collected, skip_bad)


def _make_part(number: int, records: list[Record], skip_bad: bool) -> Part:
    digest = hashlib.sha256()
    queries: list[Query] = []
    rejected: list[RejectedRecord] = []
    for record in records:
        digest.update(f"{record.name}\n{record.sequence}\n".encode())
        cleaned = clean_record(record)
        if isinstance(cleaned, Query):
            queries.append(cleaned)
        elif skip_bad:
            rejected.append(cleaned)
        else:
            raise RecordError(f"{cleaned} To leave out invalid records, add --skip-bad.")
    part = Part(number, records[0].number, queries, rejected, digest.hexdigest())
    if doubt := part.doubt:
        logger.warning("%s", doubt)
    return part
