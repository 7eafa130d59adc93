"""Output formats of embeddings: safetensors, NumPy's .npz, HDF5 and Parquet.

Like the formats of predictions, each writes the parts of a run to paths of their own and then joins them, in order.
Values are copied from the parts in pieces, so that joining needs memory for names only.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..models.atomic import replacing
from ..models.configuration import check_choice
from .formats import choose_format, join_tables

logger = logging.getLogger(__name__)

NO_POOLING, MEAN = "none", "mean"
POOLINGS = (NO_POOLING, MEAN)
BY_ID, BY_HASH = "id", "hash"
NAMES = (BY_ID, BY_HASH)
COPIED_BYTES = 1 << 20  # at once
MAX_HEADER = 100_000_000  # bytes that the safetensors library reads
METADATA = "__metadata__"  # in the header of safetensors, where no tensor may have this name


@dataclass(frozen=True)
class Embedding:
    """An embedded chain.

    Attributes:
        number: of its record in the input, from 1.
        name: of the chain.
        sequence: residues, length L.
        values: (L, size), or (size,) if pooled.
    """

    number: int
    name: str
    sequence: str
    values: np.ndarray


@dataclass(frozen=True)
class Layout:
    """How embeddings are stored.

    Attributes:
        pooling: `none`, a vector per residue, or `mean`, their mean.
        dtype: `float32` or `float16`.
        size: of a vector.
        names: how arrays are named: `id`, by the chain's name, or `hash`, by the hash of its sequence.
    """

    pooling: str
    dtype: str
    size: int
    names: str = BY_ID


def sequence_hash(sequence: str) -> str:
    """Return the name under which biotrainer stores the embedding of a sequence.

    Example:
        >>> sequence_hash("MKT")[:16]
        '885f21ab182dd879'
    """
    return hashlib.sha256(f"{sequence}_{len(sequence)}".encode()).hexdigest()


class EmbeddingFormat:
    """The base class of all formats of embeddings.

    Args:
        layout: how embeddings are stored.

    Attributes:
        file_name: name of the result in the output directory.

    Raises:
        ValueError: if the format needs a library that is not installed.
    """

    file_name: str

    def __init__(self, layout: Layout):
        self.layout = layout

    def write_part(self, path: Path, embeddings: Sequence[Embedding]) -> None:
        """Write the chains of one part to a file."""
        raise NotImplementedError

    def join(self, paths: Iterable[Path], out: Path) -> None:
        """Join the parts' files in order; the result appears complete or not at all."""
        raise NotImplementedError


class ResultKeys:
    """What the arrays of a result are called, given what they are called in the parts: `NUMBER:KEY`.

    A key that is taken already gets the record's number, or, if it is the hash of a sequence, is left out: the same
    sequence has been written.

    Args:
        names: `id` or `hash`.

    Example:
        >>> keys = ResultKeys("id")
        >>> [keys.choose(key) for key in ("1:a", "2:b", "3:a")]
        ['a', 'b', 'a#3']
    """

    def __init__(self, names: str):
        self.names, self.taken, self.num_renamed = names, {METADATA}, 0

    def choose(self, part_key: str) -> str | None:
        """Return the key of an array in the result; None leaves it out."""
        number, _, key = part_key.partition(":")
        if key in self.taken:
            if self.names == BY_HASH:
                return None
            self.num_renamed += 1
            while key in self.taken:
                key += f"#{number}"
        self.taken.add(key)
        return key

    def report(self) -> None:
        """Log how many chains have the name of another one."""
        if self.num_renamed:
            logger.warning(
                "%d chains have the name of an earlier one, and are called NAME#RECORD, with their number in the "
                "input.",
                self.num_renamed,
            )


class NamedArrays(EmbeddingFormat):
    """A file with one array per chain: (L, size), or (size,) if pooled."""

    def key(self, embedding: Embedding) -> str:
        """Return what the array of a chain is called, unless another one has that name already."""
        return sequence_hash(embedding.sequence) if self.layout.names == BY_HASH else embedding.name

    def part_key(self, embedding: Embedding) -> str:
        """Return what it is called in the file of a part."""
        return f"{embedding.number}:{self.key(embedding)}"

    @contextmanager
    def joining(self, out: Path) -> Iterator[tuple[Path, ResultKeys]]:
        """Provide a temporary file, which becomes the result, and the keys of the arrays in it."""
        keys = ResultKeys(self.layout.names)
        with replacing(out) as temporary:
            yield temporary, keys
        keys.report()


class StoredTensor(NamedTuple):
    """A tensor in the data of a safetensors file.

    Attributes:
        key: its name; None if it is left out of the result.
        shape: of the tensor.
        num_bytes: of its values.
    """

    key: str | None
    shape: list[int]
    num_bytes: int


class Safetensors(NamedArrays):
    """A safetensors file: the header with names and shapes, then the values in the order of the input."""

    file_name = "embeddings.safetensors"

    def write_part(self, path: Path, embeddings: Sequence[Embedding]) -> None:
        """Write the chains of one part to a file."""
        with path.open("wb") as file:
            arrays = [np.ascontiguousarray(embedding.values) for embedding in embeddings]
            keys = map(self.part_key, embeddings)
            tensors = [StoredTensor(key, list(a.shape), a.nbytes) for key, a in zip(keys, arrays, strict=True)]
            file.write(self._header(tensors, path))
            file.writelines(array.data for array in arrays)

    def join(self, paths: Iterable[Path], out: Path) -> None:
        """Join the parts' files in order."""
        with self.joining(out) as (temporary, keys), temporary.open("wb") as file:
            parts = [(path, *_read_header(path, keys)) for path in paths]
            file.write(self._header([tensor for _, _, tensors in parts for tensor in tensors if tensor.key], out))
            for path, start, tensors in parts:
                with path.open("rb") as part:
                    part.seek(start)
                    for tensor in tensors:
                        _copy(part, file if tensor.key else None, tensor.num_bytes)

    def _header(self, tensors: Sequence[StoredTensor], path: Path) -> bytes:
        dtype, content, end = {"float32": "F32", "float16": "F16"}[self.layout.dtype], {}, 0
        for key, shape, num_bytes in tensors:
            content[key] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + num_bytes]}
            end += num_bytes
        text = json.dumps(content, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the values are aligned
        if len(text) > MAX_HEADER:
            raise ValueError(
                f"{path.name}: the names of {len(tensors):,} chains take {len(text):,} bytes, but safetensors holds "
                f"{MAX_HEADER:,}. Embed to another format, or the input in pieces."
            )
        return len(text).to_bytes(8, "little") + text


def _read_header(path: Path, keys: ResultKeys) -> tuple[int, list[StoredTensor]]:
    """Return where the values of a part start, and its tensors in their order, with their keys in the result."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        content: dict[str, Any] = json.loads(file.read(size))
    tensors = []
    for part_key, tensor in content.items():
        start, end = tensor["data_offsets"]
        tensors.append(StoredTensor(keys.choose(part_key), tensor["shape"], end - start))
    return 8 + size, tensors


def _copy(source: IO[bytes], target: IO[bytes] | None, num_bytes: int) -> None:
    """Copy bytes from one file to another, or skip them."""
    if target is None:
        source.seek(num_bytes, 1)
        return
    while num_bytes:
        piece = source.read(min(num_bytes, COPIED_BYTES))
        if not piece:
            raise ValueError(f"{source.name} is shorter than its header says. Give another directory.")
        target.write(piece)
        num_bytes -= len(piece)


class NumpyArchive(NamedArrays):
    """NumPy's archive of arrays, as `numpy.savez` writes it; `numpy.load` reads one array at a time."""

    file_name = "embeddings.npz"

    def write_part(self, path: Path, embeddings: Sequence[Embedding]) -> None:
        """Write the chains of one part to a file."""
        with zipfile.ZipFile(path, "w") as archive:
            for embedding in embeddings:
                with _add_entry(archive, self.part_key(embedding)) as entry:
                    np.lib.format.write_array(entry, embedding.values, allow_pickle=False)

    def join(self, paths: Iterable[Path], out: Path) -> None:
        """Join the parts' files in order."""
        with self.joining(out) as (temporary, keys), zipfile.ZipFile(temporary, "w") as archive:
            for path in paths:
                with zipfile.ZipFile(path) as part:
                    for stored in part.infolist():
                        key = keys.choose(stored.filename.removesuffix(".npy"))
                        if key is not None:
                            with part.open(stored) as values, _add_entry(archive, key) as entry:
                                shutil.copyfileobj(values, entry, COPIED_BYTES)


def _add_entry(archive: zipfile.ZipFile, key: str) -> IO[bytes]:
    """Open a new array of an archive, with a date that is always the same."""
    return archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True)


class Hdf5(NamedArrays):
    """An HDF5 file with one data set per chain, as biotrainer and ProtTrans write it.

    The attribute `original_id` of each is the chain's name. In the name of a data set `/` and `.` are replaced by `_`,
    as in ProtTrans: `/` would make a group.
    """

    file_name = "embeddings.h5"

    def __init__(self, layout: Layout):
        super().__init__(layout)
        import_h5py()

    def key(self, embedding: Embedding) -> str:
        """Return what the data set of a chain is called, unless another one has that name already."""
        return re.sub(r"[/.]", "_", super().key(embedding))

    def write_part(self, path: Path, embeddings: Sequence[Embedding]) -> None:
        """Write the chains of one part to a file."""
        with _open_h5(path, "w") as file:
            for embedding in embeddings:
                stored = file.create_dataset(self.part_key(embedding), data=embedding.values, track_times=False)
                stored.attrs["original_id"] = embedding.name

    def join(self, paths: Iterable[Path], out: Path) -> None:
        """Join the parts' files in order."""
        with self.joining(out) as (temporary, keys), _open_h5(temporary, "w") as file:
            for path in paths:
                with _open_h5(path, "r") as part:
                    for part_key in sorted(part, key=lambda part_key: int(part_key.partition(":")[0])):
                        key = keys.choose(part_key)
                        if key is not None:
                            part.copy(part_key, file, name=key)


def import_h5py() -> Any:
    """Import h5py, an optional requirement, and return it.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        return importlib.import_module("h5py")
    except ImportError:
        raise ValueError(
            "h5py not found, which --format h5 needs. Install it: pip install 'h5py>=3.9'; or give another format."
        ) from None


def _open_h5(path: Path, mode: str) -> Any:
    """Open an HDF5 file; we lock temporary files ourselves, for which HDF5 would wait."""
    return import_h5py().File(path, mode, locking=False)


class EmbeddingTable(EmbeddingFormat):
    """Parquet: a row per residue with record, name, position from 1, residue and embedding; a row per chain if pooled.

    Rows per residue fit those of `predictions.parquet`.
    """

    file_name = "embeddings.parquet"

    @property
    def schema(self) -> pa.Schema:
        """Column names and types."""
        columns = [("record", pa.int64()), ("name", pa.string())]
        if self.layout.pooling == NO_POOLING:
            columns += [("position", pa.int32()), ("residue", pa.string())]
        values = {"float32": pa.float32(), "float16": pa.float16()}[self.layout.dtype]
        return pa.schema([*columns, ("embedding", pa.list_(values, self.layout.size))])

    @property
    def _options(self) -> dict[str, Any]:
        """Options of the writer: no two vectors are equal, so a dictionary of them would only cost time."""
        return {"use_dictionary": [name for name in self.schema.names if name != "embedding"]}

    def write_part(self, path: Path, embeddings: Sequence[Embedding]) -> None:
        """Write the rows of one part."""
        counts = [len(e.sequence) if self.layout.pooling == NO_POOLING else 1 for e in embeddings]
        columns: list[Any] = [
            np.repeat([embedding.number for embedding in embeddings], counts),
            np.repeat(np.array([embedding.name for embedding in embeddings], dtype=object), counts),
        ]
        if self.layout.pooling == NO_POOLING:
            columns += [[position for count in counts for position in range(1, count + 1)]]
            columns += [[residue for embedding in embeddings for residue in embedding.sequence]]
        vectors = [np.empty(0, self.layout.dtype), *(embedding.values.ravel() for embedding in embeddings)]
        *fixed, last = self.schema
        arrays = [pa.array(column, field.type) for column, field in zip(columns, fixed, strict=True)]
        flat = pa.array(np.concatenate(vectors), last.type.value_type)
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, self.layout.size))
        table = pa.Table.from_arrays(arrays, schema=self.schema)
        # pyarrow takes a relative run:1/... for a URI
        pq.write_table(table, path.absolute(), compression="zstd", **self._options)

    def join(self, paths: Iterable[Path], out: Path) -> None:
        """Join the parts, one row group each."""
        join_tables(paths, out, self.schema, **self._options)


EMBEDDING_FORMATS: dict[str, type[EmbeddingFormat]] = {
    "safetensors": Safetensors,
    "npz": NumpyArchive,
    "h5": Hdf5,
    "parquet": EmbeddingTable,
}


def check_names(names: str, formats: Sequence[str]) -> None:
    """Raise ValueError unless arrays can be named so, and a format has arrays to name.

    Example:
        >>> check_names("hash", ["parquet"])
        Traceback (most recent call last):
        ValueError: --names hash names arrays, but parquet is a table with the names of the chains. Leave it out, or
        give another --format.
    """
    check_choice("names", names, NAMES)
    has_arrays = any(issubclass(choose_format(EMBEDDING_FORMATS, name), NamedArrays) for name in formats)
    if names == BY_HASH and not has_arrays:
        raise ValueError(
            f"--names {names} names arrays, but {', '.join(formats)} is a table with the names of the chains. Leave it "
            "out, or give another --format."
        )


def make_formats(names: Iterable[str], layout: Layout) -> dict[str, EmbeddingFormat]:
    """Return formats of embeddings by name.

    Raises:
        ValueError: if there is no such format, or it needs a library that is not installed.

    Example:
        >>> make_formats(["npz"], Layout("mean", "float32", 320))["npz"].file_name
        'embeddings.npz'
    """
    return {name: choose_format(EMBEDDING_FORMATS, name)(layout) for name in names}
