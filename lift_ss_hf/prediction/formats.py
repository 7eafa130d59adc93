"""The forms a prediction is written in: text, Parquet, PSIPRED's two forms, a page.

A format writes the chains of a part to a path of its own, and joins the paths of all parts, in order, to the final
one; both without holding more than a part.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..models.atomic import replacing, replacing_folder
from ..models.states import Q3, get_alphabet
from ..version import __version__
from .html_page import draw_chain, page_end, page_start
from .result import Prediction

HORIZ_WIDTH = 60  # residues a line, PSIPRED


class Format:
    """A form that is text, one file for all chains.

    Attributes:
        file_name: of the result in the output directory.
    """

    file_name: str

    def __init__(self, level: str):
        self.level = level

    def head(self) -> str:
        """What comes before the first chain."""
        return ""

    def chain(self, prediction: Prediction) -> str:
        """What is written of a chain."""
        raise NotImplementedError

    def tail(self) -> str:
        """What comes after the last chain."""
        return ""

    def write_part(self, path: Path, predictions: Sequence[Prediction]) -> None:
        """Write the chains of a part."""
        with path.open("w", encoding="utf-8") as file:
            file.writelines(map(self.chain, predictions))

    def join(self, paths: Iterable[Path], out: Path) -> None:
        """Join parts to the final file, in one step."""
        with replacing(out) as temporary, temporary.open("wb") as file:
            file.write(self.head().encode())
            for path in paths:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, file, 1 << 20)
            file.write(self.tail().encode())


class ThreeLine(Format):
    """`>name`, residues, states: the form of LIFT_SS's corpora."""

    file_name = "predictions.txt"

    def chain(self, prediction: Prediction) -> str:
        """Three lines."""
        return f">{prediction.name}\n{prediction.sequence}\n{prediction.states}\n"


class StateFasta(Format):
    """States as FASTA, 60 a line."""

    file_name = "states.fasta"

    def chain(self, prediction: Prediction) -> str:
        """A record."""
        states = prediction.states
        lines = [states[i : i + HORIZ_WIDTH] for i in range(0, len(states), HORIZ_WIDTH)]
        return "\n".join([f">{prediction.name}", *lines, ""])


class Table(Format):
    """A row a residue, tab-separated: record, name, position (1-based), residue, state, confidence, probabilities."""

    file_name = "predictions.tsv"

    def head(self) -> str:
        """Names of the columns."""
        return "\t".join(_columns(self.level)) + "\n"

    def chain(self, prediction: Prediction) -> str:
        """Rows of a chain."""
        start = f"{prediction.number}\t{prediction.name}\t"
        numbers = np.column_stack([prediction.confidence, prediction.probabilities])
        row = "\t".join(["%.4f"] * numbers.shape[1])
        residues = zip(prediction.sequence, prediction.states, numbers.tolist(), strict=True)
        return "".join(
            f"{start}{position}\t{residue}\t{state}\t{row % tuple(values)}\n"
            for position, (residue, state, values) in enumerate(residues, start=1)
        )


class JsonLines(Format):
    """An object a chain and line: record, name, sequence, states, confidences, probabilities by state."""

    file_name = "predictions.jsonl"

    def chain(self, prediction: Prediction) -> str:
        """A line."""
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
    """A self-contained HTML page with the states drawn."""

    file_name = "predictions.html"

    def head(self) -> str:
        """Head of the page."""
        return page_start("Secondary structure")

    def chain(self, prediction: Prediction) -> str:
        """A drawing."""
        return draw_chain(prediction)

    def tail(self) -> str:
        """End of the page."""
        return page_end()


class ParquetTable(Format):
    """The table as Parquet."""

    file_name = "predictions.parquet"

    @property
    def schema(self) -> pa.Schema:
        """Columns and their types."""
        fixed = [("record", pa.int64()), ("name", pa.string()), ("position", pa.int32())]
        fixed += [("residue", pa.string()), ("state", pa.string())]
        return pa.schema([*fixed, *((name, pa.float32()) for name in _columns(self.level)[len(fixed) :])])

    def write_part(self, path: Path, predictions: Sequence[Prediction]) -> None:
        """Write the rows of a part."""
        with pq.ParquetWriter(path, self.schema, compression="zstd") as writer:
            for prediction in predictions:
                numbers = np.column_stack([prediction.confidence, prediction.probabilities]).astype(np.float32)
                length = len(prediction.sequence)
                fixed = [[prediction.number] * length, [prediction.name] * length, range(1, length + 1)]
                columns = [*fixed, list(prediction.sequence), list(prediction.states), *numbers.T]
                arrays = [pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))

    def join(self, paths: Iterable[Path], out: Path) -> None:
        """Join parts, a row group each."""
        with replacing(out) as temporary, pq.ParquetWriter(temporary, self.schema, compression="zstd") as writer:
            for path in paths:
                writer.write_table(pq.read_table(path, schema=self.schema))


class Folder(Format):
    """A form of one file a chain, in a folder; named by record and chain, so that equal names stay apart."""

    suffix: str

    def write_part(self, path: Path, predictions: Sequence[Prediction]) -> None:
        """Write a file for each chain."""
        path.mkdir()
        for prediction in predictions:
            name = re.sub(r"[^A-Za-z0-9._-]", "_", prediction.name)[:100]
            (path / f"{prediction.number:08d}_{name}{self.suffix}").write_text(self.chain(prediction), "utf-8")

    def join(self, paths: Iterable[Path], out: Path) -> None:
        """Put the files of all parts in one folder."""
        with replacing_folder(out) as folder:
            for path in paths:
                for file in sorted(path.iterdir()):
                    shutil.copyfile(file, folder / file.name)


class Ss2(Folder):
    """PSIPRED's vertical form: position, residue, state of three, probabilities of coil, helix and strand."""

    file_name, suffix = "ss2", ".ss2"

    def chain(self, prediction: Prediction) -> str:
        """A file."""
        three = prediction.at_level(Q3.name)
        order = [Q3.letters.index(state) for state in "CHE"]
        rows = zip(three.sequence, three.states, three.probabilities[:, order].tolist(), strict=True)
        body = "".join(
            f"{position:4d} {residue} {state}  {coil:6.3f} {helix:6.3f} {strand:6.3f}\n"
            for position, (residue, state, (coil, helix, strand)) in enumerate(rows, start=1)
        )
        return f"# PSIPRED VFORMAT (lift_ss_hf {__version__})\n\n{body}"


class Horiz(Folder):
    """PSIPRED's horizontal form: confidence 0-9, state of three and residue, 60 a line."""

    file_name, suffix = "horiz", ".horiz"

    def chain(self, prediction: Prediction) -> str:
        """A file."""
        three = prediction.at_level(Q3.name)
        digits = "".join(str(min(9, int(10 * value))) for value in three.confidence)
        lines = [f"# PSIPRED HFORMAT (lift_ss_hf {__version__})\n"]
        for start in range(0, len(digits), HORIZ_WIDTH):
            stop = min(start + HORIZ_WIDTH, len(digits))
            ruler = "".join(f"{place:10d}" for place in range(start + 10, stop + 1, 10))
            lines.append(f"\nConf: {digits[start:stop]}\nPred: {three.states[start:stop]}\n")
            lines.append(f"  AA: {three.sequence[start:stop]}\n      {ruler}\n")
        return "".join(lines)


FORMATS: dict[str, type[Format]] = {
    "three-line": ThreeLine,
    "fasta": StateFasta,
    "tsv": Table,
    "parquet": ParquetTable,
    "jsonl": JsonLines,
    "ss2": Ss2,
    "horiz": Horiz,
    "html": Page,
}


def _columns(level: str) -> list[str]:
    states = [f"p_{letter}" for letter in get_alphabet(level).letters]
    return ["record", "name", "position", "residue", "state", "confidence", *states]


def _rounded(values: np.ndarray) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
