"""Output formats of predictions: text, tables, formats of other predictors and an HTML page.

A format writes each part of a run to its own path, then joins the paths of all parts, in order. Only one part is in
memory at a time.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..models.atomic import replacing, replacing_folder
from ..models.states import Q3, Q8, get_alphabet
from ..version import __version__
from .html_page import draw_chain, page_end, page_start
from .result import Prediction

Item = TypeVar("Item")
FORMULA_STARTS = ("=", "+", "-", "@")  # of cells that a spreadsheet computes
LINE_WIDTH = 60  # residues per line, as in PSIPRED's .horiz and most FASTA files


class Format:
    """A text format with one file for all chains; the base class of all formats.

    Args:
        alphabet: name of the alphabet to report.

    Attributes:
        file_name: name of the result in the output directory.
        is_text: True if the result is one text, which can be written to a stream chain by chain.
        needs_results_in: alphabets of the runs from whose results the format can be written; None: of any.
    """

    file_name: str
    is_text = True
    needs_results_in: Collection[str] | None = None

    def __init__(self, alphabet: str):
        self.alphabet = alphabet

    def head(self) -> str:
        """Return the text before the first chain."""
        return ""

    def chain(self, prediction: Prediction) -> str:
        """Return the text of one chain."""
        raise NotImplementedError

    def tail(self) -> str:
        """Return the text after the last chain."""
        return ""

    def write_part(self, path: Path, predictions: Sequence[Prediction]) -> None:
        """Write the chains of one part to a file."""
        with path.open("w", encoding="utf-8") as file:
            file.writelines(map(self.chain, predictions))

    def join(self, paths: Iterable[Path], out: Path) -> None:
        """Join the parts' files in order; the result appears complete or not at all."""
        with replacing(out) as temporary, temporary.open("wb") as file:
            file.write(self.head().encode())
            for path in paths:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, file, 1 << 20)
            file.write(self.tail().encode())


def table_field(text: str, separator: str = "\t") -> str:
    """Return a field of a table, quoted as in CSV (RFC 4180) if it has a quotation mark or the separator.

    Example:
        >>> [table_field(name) for name in ("P1", "5'-end", 'a"b')]
        ['P1', "5'-end", '"a""b"']
        >>> table_field("a,b", ",")
        '"a,b"'
    """
    return '"' + text.replace('"', '""') + '"' if '"' in text or separator in text else text


class ThreeLine(Format):
    """Three lines per chain, as in LIFT_SS's corpora: `>name`, residues, states.

    Example:
        >>> import numpy as np
        >>> probabilities = np.array([[0.1, 0.7, 0.2], [0.2, 0.2, 0.6]])  # coil, strand, helix
        >>> print(ThreeLine("q3").chain(Prediction(1, "1abc_A", "MK", "q3", probabilities, "q3")), end="")
        >1abc_A
        MK
        EH
    """

    file_name = "predictions.txt"

    def chain(self, prediction: Prediction) -> str:
        """Return the three lines of a chain."""
        return f">{prediction.name}\n{prediction.sequence}\n{prediction.states}\n"


class StateFasta(Format):
    """States as FASTA, 60 per line."""

    file_name = "states.fasta"

    def chain(self, prediction: Prediction) -> str:
        """Return a FASTA record."""
        states = prediction.states
        lines = [states[i : i + LINE_WIDTH] for i in range(0, len(states), LINE_WIDTH)]
        return "\n".join([f">{prediction.name}", *lines, ""])


class Table(Format):
    """One row per residue, separated by tabs: record, name, position from 1, residue, state, confidence, probabilities.

    Attributes:
        separator: of the columns.
    """

    file_name, separator = "predictions.tsv", "\t"

    def head(self) -> str:
        """Return the column names."""
        return self.separator.join(_columns(self.alphabet)) + "\n"

    @staticmethod
    def shown_name(name: str) -> str:
        """Return a name as the table has it."""
        return name

    @staticmethod
    def own_name(shown: str) -> str:
        """Return the name of which `shown_name` made this one."""
        return shown

    def chain(self, prediction: Prediction) -> str:
        """Return the rows of a chain."""
        numbers = np.column_stack([prediction.confidence, prediction.probabilities])
        name = table_field(self.shown_name(prediction.name), self.separator).replace("%", "%%")
        columns = [str(prediction.number), name, "%d", "%s", "%s", *["%.4f"] * numbers.shape[1]]
        row = self.separator.join(columns) + "\n"
        residues = zip(prediction.sequence, prediction.states, numbers.tolist(), strict=True)
        return "".join(row % (position, *fixed, *values) for position, (*fixed, values) in enumerate(residues, start=1))


class Csv(Table):
    """The rows of `Table`, separated by commas, for spreadsheets.

    Example:
        >>> [Csv.shown_name(name) for name in ("1abc_A", "=1+1")]
        ['1abc_A', "'=1+1"]
    """

    file_name, separator = "predictions.csv", ","

    @staticmethod
    def shown_name(name: str) -> str:
        """Return a name, with an apostrophe before it where a spreadsheet would take it for a formula."""
        return f"'{name}" if name.lstrip("'").startswith(FORMULA_STARTS) else name

    @staticmethod
    def own_name(shown: str) -> str:
        """Return the name of which `shown_name` made this one."""
        return shown[1:] if shown[:1] == "'" and shown.lstrip("'").startswith(FORMULA_STARTS) else shown


class JsonLines(Format):
    """One JSON object per line and chain: record, name, sequence, states, confidences, probabilities by state."""

    file_name = "predictions.jsonl"

    def chain(self, prediction: Prediction) -> str:
        """Return the line of a chain."""
        content = {
            "record": prediction.number,
            "name": prediction.name,
            "sequence": prediction.sequence,
            "states": prediction.states,
            "mean_confidence": round(prediction.mean_confidence, 4),
            "confidence": _rounded(prediction.confidence),
            "probabilities": {
                letter: _rounded(prediction.probabilities[:, i]) for i, letter in enumerate(prediction.letters)
            },
        }
        return json.dumps(content) + "\n"


class Page(Format):
    """A self-contained HTML page with drawings of the states."""

    file_name = "predictions.html"

    def head(self) -> str:
        """Return the head of the page."""
        return page_start("Secondary structure")

    def chain(self, prediction: Prediction) -> str:
        """Return the drawing of a chain."""
        return draw_chain(prediction)

    def tail(self) -> str:
        """Return the end of the page."""
        return page_end()


def join_tables(paths: Iterable[Path], out: Path, schema: pa.Schema, **options: Any) -> None:
    """Join the Parquet files of parts, one row group each; the result appears complete or not at all.

    Args:
        paths: of the files, in order.
        out: path of the result.
        schema: of all of them.
        options: of `pyarrow.parquet.ParquetWriter`.
    """
    with (
        replacing(out.absolute()) as temporary,  # pyarrow takes a relative run:1/... for a URI
        pq.ParquetWriter(temporary, schema, compression="zstd", **options) as writer,
    ):
        for path in paths:
            writer.write_table(pq.read_table(path.absolute(), schema=schema))


class ParquetTable(Format):
    """The rows of `Table` as Parquet."""

    file_name = "predictions.parquet"
    is_text = False

    @property
    def schema(self) -> pa.Schema:
        """Column names and types."""
        fixed = [("record", pa.int64()), ("name", pa.string()), ("position", pa.int32())]
        fixed += [("residue", pa.string()), ("state", pa.string())]
        return pa.schema([*fixed, *((name, pa.float32()) for name in _columns(self.alphabet)[len(fixed) :])])

    @property
    def dictionary_columns(self) -> list[str]:
        """Columns with few values, to be stored as a dictionary; probabilities so stored take 57 bytes instead of 38.

        60 UniProt chains with the bundled model, bytes per residue, pyarrow 26.0.1, 2026-11-26.
        """
        return [field.name for field in self.schema if not pa.types.is_floating(field.type)]

    def write_part(self, path: Path, predictions: Sequence[Prediction]) -> None:
        """Write the rows of one part, one row group per chain."""
        options = {"compression": "zstd", "use_dictionary": self.dictionary_columns}
        with pq.ParquetWriter(path.absolute(), self.schema, **options) as writer:
            for prediction in predictions:
                numbers = np.column_stack([prediction.confidence, prediction.probabilities]).astype(np.float32)
                length = len(prediction.sequence)
                fixed = [[prediction.number] * length, [prediction.name] * length, range(1, length + 1)]
                columns = [*fixed, list(prediction.sequence), list(prediction.states), *numbers.T]
                arrays = [pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))

    def join(self, paths: Iterable[Path], out: Path) -> None:
        """Join the parts, one row group each."""
        join_tables(paths, out, self.schema, use_dictionary=self.dictionary_columns)


class Folder(Format):
    """A folder with one text file per chain, named by record number and chain, so that equal names do not clash.

    Attributes:
        suffix: of the files.
    """

    suffix: str
    is_text = False

    def write_part(self, path: Path, predictions: Sequence[Prediction]) -> None:
        """Write one file per chain of a part to a new folder."""
        path.mkdir()
        for prediction in predictions:
            name = re.sub(r"[^A-Za-z0-9._-]", "_", prediction.name)[:100]
            (path / f"{prediction.number:08d}_{name}{self.suffix}").write_text(self.chain(prediction), "utf-8")

    def join(self, paths: Iterable[Path], out: Path) -> None:
        """Copy the files of all parts to one folder; it appears complete or not at all."""
        with replacing_folder(out) as folder:
            for path in paths:
                for file in sorted(path.iterdir()):
                    shutil.copyfile(file, folder / file.name)


class ThreeStates(Format):
    """A format that has three states whatever alphabet the other formats report.

    Args:
        alphabet: ignored.
    """

    needs_results_in = (Q3.name,)

    def __init__(self, alphabet: str = Q3.name):
        super().__init__(Q3.name)


class Ss2(ThreeStates, Folder):
    """PSIPRED's vertical format: position, residue, state, probabilities of coil, helix and strand."""

    file_name, suffix = "ss2", ".ss2"

    def chain(self, prediction: Prediction) -> str:
        """Return the file of a chain."""
        three = prediction.reduce(self.alphabet)
        rows = zip(three.sequence, three.states, _probabilities_of("CHE", three).tolist(), strict=True)
        body = "".join(
            f"{position:4d} {residue} {state}  {coil:6.3f} {helix:6.3f} {strand:6.3f}\n"
            for position, (residue, state, (coil, helix, strand)) in enumerate(rows, start=1)
        )
        return f"# PSIPRED VFORMAT (lift_ss_hf {__version__})\n\n{body}"


class Horiz(ThreeStates, Folder):
    """PSIPRED's horizontal format: confidence from 0 to 9, state and residue, 60 residues per line."""

    file_name, suffix = "horiz", ".horiz"

    def chain(self, prediction: Prediction) -> str:
        """Return the file of a chain."""
        three = prediction.reduce(self.alphabet)
        digits = confidence_digits(three)
        lines = [f"# PSIPRED HFORMAT (lift_ss_hf {__version__})\n"]
        for start in range(0, len(digits), LINE_WIDTH):
            stop = min(start + LINE_WIDTH, len(digits))
            ruler = position_ruler(start, stop)
            lines.append(f"\nConf: {digits[start:stop]}\nPred: {three.states[start:stop]}\n")
            lines.append(f"  AA: {three.sequence[start:stop]}\n      {ruler}\n")
        return "".join(lines)


class S4pred(ThreeStates):
    """S4PRED's FASTA with confidences: name, residues, states, then a line of probabilities of coil, helix and strand.

    Source: `run_model.py --outfmt fas --fas-conf`, https://github.com/psipred/s4pred.
    """

    file_name = "s4pred.fas"

    def chain(self, prediction: Prediction) -> str:
        """Return the six lines of a chain."""
        three = prediction.reduce(self.alphabet)
        numbers = [" ".join(map("{:.3f}".format, column)) for column in _probabilities_of("CHE", three).T]
        return "\n".join([f">{three.name}", three.sequence, three.states, *numbers, ""])


class NetSurfP(Format):
    """NetSurfP-3's CSV: a row per residue with three and eight states and their probabilities.

    Solvent accessibility, torsion angles and disorder, which are not predicted here, are `nan`. As there, names follow
    `>`, coil is `C` among the eight states too, and the header has a space after each comma.

    Args:
        alphabet: ignored.

    Source: `healthtech/main.py` of https://github.com/Eryk96/NetSurfP-3.0, which writes what the server offers.
    """

    file_name = "netsurfp.csv"
    needs_results_in = ()  # no result has probabilities of three states and of eight
    three, eight = "HEC", "GHIBESTC"  # in the order of the columns

    def __init__(self, alphabet: str = Q8.name):
        super().__init__(Q8.name)

    def head(self) -> str:
        """Return the column names."""
        columns = ["id", "seq", "n", "rsa", "asa", "q3", *(f"p[q3_{state}]" for state in self.three)]
        columns += ["q8", *(f"p[q8_{state}]" for state in self.eight), "phi", "psi", "disorder"]
        return ", ".join(columns) + "\n"

    def chain(self, prediction: Prediction) -> str:
        """Return the rows of a chain."""
        three, eight = prediction.reduce(Q3.name), prediction.reduce(Q8.name)
        name = table_field(f">{prediction.name}", ",").replace("%", "%%")
        columns = [name, "%s", "%d", "nan", "nan", "%s", *["%.4f"] * 3, "%s", *["%.4f"] * 8, "nan", "nan", "nan"]
        row = ",".join(columns) + "\n"
        rows = zip(
            prediction.sequence,
            three.states,
            _probabilities_of(self.three, three).tolist(),
            eight.states.replace("L", "C"),
            _probabilities_of(self.eight.replace("C", "L"), eight).tolist(),
            strict=True,
        )
        return "".join(
            row % (residue, position, q3, *of_q3, q8, *of_q8)
            for position, (residue, q3, of_q3, q8, of_q8) in enumerate(rows, start=1)
        )


def _probabilities_of(states: str, prediction: Prediction) -> np.ndarray:
    """Return the probabilities of states, (residues, states), in their order."""
    return prediction.probabilities[:, [prediction.letters.index(state) for state in states]]


FORMATS: dict[str, type[Format]] = {
    "three-line": ThreeLine,
    "fasta": StateFasta,
    "tsv": Table,
    "csv": Csv,
    "parquet": ParquetTable,
    "jsonl": JsonLines,
    "ss2": Ss2,
    "horiz": Horiz,
    "s4pred": S4pred,
    "netsurfp": NetSurfP,
    "html": Page,
}


def get_format(name: str) -> type[Format]:
    """Return the format class of that name.

    Raises:
        ValueError: if there is no such format; the message lists the choices.

    Example:
        >>> get_format("tsv").file_name
        'predictions.tsv'
    """
    return choose_format(FORMATS, name)


def choose_format(formats: Mapping[str, Item], name: str) -> Item:
    """Return one of several formats.

    Raises:
        ValueError: if there is no such format; the message lists the choices.
    """
    if name not in formats:
        raise ValueError(f"unknown format {name!r}. Choose from: {', '.join(formats)}.")
    return formats[name]


def confidence_digits(prediction: Prediction) -> str:
    """Return each residue's confidence as a digit from 0 to 9."""
    return "".join(str(min(9, int(10 * value))) for value in prediction.confidence)


def position_ruler(start: int, stop: int) -> str:
    """Return the positions 10, 20, ... of residues start to stop (0-based), each right-aligned at its residue."""
    return "".join(f"{position:10d}" for position in range(start + 10, stop + 1, 10))


def _columns(alphabet: str) -> list[str]:
    states = [f"p_{letter}" for letter in get_alphabet(alphabet).letters]
    return ["record", "name", "position", "residue", "state", "confidence", *states]


def _rounded(values: np.ndarray) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
