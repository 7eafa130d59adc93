"""Labelled chains in FASTA, as biotrainer writes them.

Until version 1, a file of sequences, one of states with the same ids (`labels.fasta`), and optionally one of masks.
Since then, a single file with attributes in the headers: `>Seq1 TARGET=HHEE SET=train MASK=1110`.

Source: `read_FASTA` and `SequenceData` of biotrainer-core 2.1.1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from .chains import Chain, CorpusError, check_chain
from .tables import masked, read_mask, split_name

ATTRIBUTE = re.compile(r"([A-Z_]+)=([^ ]+)")
TARGET, SET, MASK = "TARGET", "SET", "MASK"
VALIDATION = "VALIDATION"  # in old files, a flag beside SET=train
SEQUENCES_FILE, STATES_FILE, MASKS_FILE = "sequences.fasta", "labels.fasta", "mask.fasta"  # biotrainer's names
PREDICTION_SET = "pred"  # sequences without states
PAIR = "+"  # between the names of the two files


@dataclass(frozen=True)
class FastaRecord:
    """One record of a FASTA file.

    Attributes:
        name: the first word of the header.
        attributes: `NAME=VALUE` in the rest of it.
        letters: what follows the header, without breaks.
        line: number of the header's line, from 1.
    """

    name: str
    attributes: dict[str, str]
    letters: str
    line: int


def read_records(lines: Iterator[tuple[int, str]], path: object) -> Iterator[FastaRecord]:
    """Read the records of a FASTA file, with the attributes in their headers.

    Args:
        lines: numbered lines.
        path: the file, for messages.

    Raises:
        CorpusError: if the file does not start with a header, or a header has no name.
    """
    header: tuple[int, str] | None = None
    letters: list[str] = []
    for number, line in lines:
        if line.startswith(">"):
            if header is not None:
                yield _record(*header, letters)
            if not line[1:].strip():
                raise CorpusError(f"{path}: line {number}: chain without an id. Write one after '>'.")
            header, letters = (number, line), []
        elif header is not None:
            letters.append("".join(line.split()))
        elif line.strip():
            raise CorpusError(f"{path}: line {number}: expected '>' and the chain's id, found {line[:20]!r}.")
    if header is not None:
        yield _record(*header, letters)


def _record(number: int, header: str, letters: list[str]) -> FastaRecord:
    name, *rest = header[1:].split(maxsplit=1)
    return FastaRecord(name, dict(ATTRIBUTE.findall("".join(rest))), "".join(letters), number)


def has_targets(lines: Iterator[tuple[int, str]]) -> bool:
    """Return True if the first header of a file has the states, as in biotrainer's files."""
    first = next((line for _, line in islice(lines, 100) if line.strip()), "")
    return first.startswith(">") and TARGET in dict(ATTRIBUTE.findall(first.partition(" ")[2]))


def chains_with_targets(
    lines: Iterator[tuple[int, str]], path: object, changes: Counter[str]
) -> Iterator[tuple[str, Chain]]:
    """Read chains whose states are in their headers; those of the set `pred`, which have none, are left out.

    Args:
        lines: numbered lines.
        path: the file, for messages.
        changes: receives the number of changed letters, by description.

    Raises:
        CorpusError: if a record is not a labelled chain.
    """
    for record in read_records(lines, path):
        if record.attributes.get(SET, "").lower() == PREDICTION_SET:
            continue
        where = f"{path}: line {record.line}"
        if TARGET not in record.attributes:
            raise CorpusError(f"{where}: {record.name}: no states. Write them in the header: TARGET=HHEE...")
        yield f"line {record.line}", _chain(record, record.attributes[TARGET], record.attributes, where, where, changes)


def chains_of_pair(
    sequences: Iterator[FastaRecord],
    labels: Iterator[FastaRecord],
    masks: Iterator[FastaRecord] | None,
    paths: tuple[object, object, object],
    changes: Counter[str],
) -> Iterator[tuple[str, Chain]]:
    """Join sequences and states, which may be in another order, by their ids.

    Args:
        sequences: records of residues.
        labels: records of states; attributes count here as well as in the sequences.
        masks: records of 0 and 1; None if there are no masks.
        paths: the files of sequences, of states and of masks, for messages.
        changes: receives the number of changed letters, by description.

    Raises:
        CorpusError: if a chain has no states or no mask, states or a mask have no chain, or a record is not a chain.
    """
    path, labels_path, masks_path = paths
    states = _by_name(labels, labels_path)
    resolved = None if masks is None else _by_name(masks, masks_path)
    for record in sequences:
        where = f"{path}: line {record.line}"
        label = _take(states, record, where, f"states of this id in {labels_path}")
        attributes = record.attributes | label.attributes
        if resolved is not None:
            attributes[MASK] = _take(resolved, record, where, f"mask of this id in {masks_path}").letters
        states_where = f"{labels_path}: line {label.line}"
        yield f"line {record.line}", _chain(record, label.letters, attributes, where, states_where, changes)
    for left, left_path in ((states, labels_path), (resolved, masks_path)):
        for other in (left or {}).values():
            raise CorpusError(f"{left_path}: line {other.line}: {other.name}: no sequence of this id in {path}.")


def _by_name(records: Iterator[FastaRecord], path: object) -> dict[str, FastaRecord]:
    found: dict[str, FastaRecord] = {}
    for record in records:
        if record.name in found:
            raise CorpusError(f"{path}: line {record.line}: {record.name}: a second record with this id.")
        found[record.name] = record
    return found


def _take(records: dict[str, FastaRecord], chain: FastaRecord, where: str, what: str) -> FastaRecord:
    """Remove the record with a chain's id, and return it."""
    if chain.name not in records:
        raise CorpusError(f"{where}: {chain.name}: no {what}. Use the same ids in both.")
    return records.pop(chain.name)


def _chain(
    record: FastaRecord, states: str, attributes: dict[str, str], where: str, states_where: str, changes: Counter[str]
) -> Chain:
    sequence, states = check_chain(record.name, record.letters, states, where, changes, states_where)
    if MASK in attributes:
        states = masked(states, read_mask(attributes[MASK], MASK, len(sequence), where, record.name))
    extra = {}
    if SET in attributes:
        is_validation = attributes.get(VALIDATION, "").lower() == "true"
        extra["split"] = "validation" if is_validation else split_name(attributes[SET], f"{where}: {record.name}")
    return Chain(record.name, sequence, states, extra)


def all_or_no_sets(located: Iterable[tuple[str, Chain]], path: object) -> Iterator[tuple[str, Chain]]:
    """Pass on the chains of a file, and check that all of them have a set, as biotrainer requires, or that none has.

    Args:
        located: chains, each with its location in the file ("line 4").
        path: the file, for messages.

    Raises:
        CorpusError: if only some chains have a set.
    """
    first: dict[bool, str] = {}  # chain that has a set, and that has none
    for location, chain in located:
        first.setdefault("split" in chain.extra, f"{location}: {chain.id}")
        if len(first) == 2:
            raise CorpusError(
                f"{path}: {first[False]}: no {SET}=, but other chains have it. Write {SET}=train, {SET}=val or "
                f"{SET}=test in each header, or in none."
            )
        yield location, chain
