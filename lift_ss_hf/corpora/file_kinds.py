"""What others named or wrote: recognise data sets by name and files by their first bytes, and make text printable."""

from __future__ import annotations

import lzma
import re
import zlib

DAMAGE_ERRORS = (OSError, EOFError, lzma.LZMAError, zlib.error)  # raised while reading a damaged compressed file
GZIP, BZIP2, XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"  # first bytes
ZSTD = b"\x28\xb5\x2f\xfd"  # RFC 8878
START_BYTES = 512  # as many as the patterns need
# org/name on the Hub, and not a path to a file that is missing
DATA_SET = re.compile(
    r"(?!.*\.(fa|faa|fas|fasta|fna|pir|txt|csv|tsv|jsonl?|ya?ml|parquet|gz|bz2|xz|zst)$)\w[\w.-]*/\w[\w.-]*",
    re.IGNORECASE,
)

STRUCTURE = "not sequences. Compare its states with predicted ones: lift-ss compare FILE."
PICTURE = "a picture, not text. Give the file of the sequences."

# What a file is, and what to do, by a regular expression for its first bytes.
OTHER_KINDS = {
    rb"PK\x03\x04.*(xl/workbook|\[Content_Types\])": "a workbook (Excel), not text. Save the table as CSV.",
    rb"PK\x03\x04": "a ZIP archive, not text. Unpack it, and give the file inside.",
    rb"\xd0\xcf\x11\xe0": "a document of Microsoft Office, not text. Save the table as CSV.",
    rb".{257}ustar": "a tar archive, not text. Unpack it, and give the file inside.",
    rb"\x89PNG|\xff\xd8\xff|GIF8|II\*\0|MM\0\*|BM.{4}\0{4}|RIFF.{4}WEBP": PICTURE,
    rb"(\xef\xbb\xbf)?(HEADER|TITLE |COMPND|REMARK|CRYST1|MODEL |ATOM  |HETATM) {1,8}\S": (
        f"a PDB structure, {STRUCTURE}"
    ),
    rb"(\xef\xbb\xbf)?(#[^\n]*\n|\s)*data_\S*\s+(#[^\n]*\n|\s)*(_|loop_)": f"an mmCIF structure, {STRUCTURE}",
    rb"%PDF-": "a PDF document. Save what is in it as text.",
    rb"\xff\xfe|\xfe\xff|[^\0]\0[^\0]\0|\0[^\0]\0[^\0]": "UTF-16 text. Save it as UTF-8.",
    rb"PAR1": "a parquet table, but its name does not say so. Rename it, with .parquet at the end.",
    rb"(\xef\xbb\xbf)?\s*<": "HTML or XML, not data (an error page?). Get the file again.",
}


def is_data_set(name: str) -> bool:
    """Return True if a name, which is not an existing path, may be that of a data set on the Hub.

    Example:
        >>> is_data_set("org/name"), is_data_set("chains/mine.txt"), is_data_set("casp12")
        (True, False, False)
    """
    return DATA_SET.fullmatch(name) is not None


def other_kind(start: bytes) -> str | None:
    """Return what a file is and what to do with it if its first bytes say that it is not plain text, else None.

    Example:
        >>> other_kind(b"%PDF-1.7")
        'a PDF document. Save what is in it as text.'
        >>> other_kind(b">1abc_A")
    """
    return next((kind for pattern, kind in OTHER_KINDS.items() if re.match(pattern, start, re.DOTALL)), None)


def printable(text: str) -> str:
    r"""Replace what could break a line, a file or the terminal in text that others wrote.

    Example:
        >>> printable("1abc\n\x1b[31m")
        '1abc ?[31m'
    """
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text)
