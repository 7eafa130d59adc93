"""The chains that a visitor typed, within the limits of the page."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

from ..corpora.fasta import read_fasta_lines
from ..corpora.file_kinds import START_BYTES, other_kind, printable
from ..models.wording import counted
from ..prediction.records import Part, Record, printable_name, split_into_parts

WHERE = "input"  # what messages call the text
# Characters of a record besides its sequence: header, line breaks.
RECORD_CHARACTERS = 1000

# Human ubiquitin (1ubq) and hen egg-white lysozyme (1lyz): sequences of the PDB (CC0).
EXAMPLE = """\
>1ubq_A ubiquitin
MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG
>1lyz_A lysozyme
KVFGRCELAAAMKRHGLDNYRGYSLGNWVCAAKFESNFNTQATNRNTDGSTDYGILQINSRWWCNDGRTPGSRNLCNIPC
SALLSSDITASVNCAKKIVSDGNGMNAWVAWRNRCKGTDVQAWIRGCRL
"""


@dataclass(frozen=True)
class Limits:
    """How much a visitor may predict at once.

    Attributes:
        sequences: number of sequences.
        residues: of each sequence.

    Raises:
        ValueError: if one is below 1.
    """

    sequences: int = 50
    residues: int = 2000

    def __post_init__(self):
        for flag, value in (("--max_sequences", self.sequences), ("--max_residues", self.residues)):
            if value < 1:
                raise ValueError(f"{flag} is {value}. Expected 1 or more.")

    @property
    def characters(self) -> int:
        """Length of the longest text that is read: twice these sequences, for blanks in them, and their headers."""
        return self.sequences * (2 * self.residues + RECORD_CHARACTERS)

    def __str__(self) -> str:
        return f"{counted(self.sequences, 'sequence')} of up to {counted(self.residues, 'residue')}"


def read_chains(text: str, limits: Limits) -> Part:
    r"""Read the chains of a text: FASTA, PIR, or one sequence without a header.

    Args:
        text: what a visitor typed, pasted or opened.
        limits: of the page.

    Raises:
        ValueError: if the text is empty or something else, a record is not a protein, or a limit is exceeded; the
            message is one line.

    Example:
        >>> [(query.name, str(query.sequence)) for query in read_chains("mkta\nyiak", Limits()).queries]
        [('record_1', 'MKTAYIAK')]
    """
    if not text.strip():
        raise ValueError("There is no sequence yet. Paste one, open a file, or try the example.")
    if len(text) > limits.characters:
        raise ValueError(
            f"The text has more than {limits.characters:,} characters. This page takes {limits} at a time."
        )
    if kind := other_kind(text[:START_BYTES].encode()):
        raise ValueError(f"This is {kind}")
    text = text.lstrip("\ufeff")
    records = list(_records(text if ">" in text else f">\n{text}", limits))
    (part,) = split_into_parts(records, len(text), len(records), skip_bad=True)
    if part.rejected:
        raise ValueError(printable(f"{part.rejected[0]} Fix it, or leave it out."))
    return part


def _records(text: str, limits: Limits) -> Iterator[Record]:
    for number, (name, sequence) in enumerate(read_fasta_lines(io.StringIO(text), WHERE, len(text)), start=1):
        if number > limits.sequences:
            raise ValueError(
                f"There are more than {counted(limits.sequences, 'sequence')}, which is as many as this page takes at "
                "a time. Leave some out, or use `lift-ss predict`, which has no such limit."
            )
        name = printable_name(name, number)
        if len(sequence) > limits.residues:
            raise ValueError(
                f"record {number} ({name}): {counted(len(sequence), 'residue')}, but this page takes up to "
                f"{limits.residues:,}. Leave it out, or use `lift-ss predict`, which takes longer ones."
            )
        yield Record(number, name, sequence)
