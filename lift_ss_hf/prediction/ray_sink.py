"""Write predicted chains from Ray's tasks as Parquet with a row per residue. Imports Ray, but not torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ray.data.datasource import BlockBasedFileDatasink

from .formats import ParquetTable


class ResidueSink(BlockBasedFileDatasink):
    """A sink that writes each block of predicted chains to a file, with the columns of `lift-ss predict`.

    A chain stays one row until it is written: Ray cuts blocks between any two rows, and its checkpoint has an id for
    each row. So a chain is written whole or not at all, and the checkpoint has one id per chain.

    Args:
        path: folder of the files.
        states: name of the alphabet that was predicted.
    """

    def __init__(self, path: str, states: str):
        super().__init__(path, file_format="parquet")
        self.states = states

    def write_block_to_file(self, block: Any, file: Any) -> None:
        """Write a block to an open file."""
        form = ParquetTable(self.states)
        rows = residue_rows(block.to_arrow(), form.schema)
        pq.write_table(rows, file, compression="zstd", use_dictionary=form.dictionary_columns)


def residue_rows(chains: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the residues of predicted chains, one in each row.

    Args:
        chains: the columns record, name, sequence, states, confidence and probabilities.
        schema: of the result, that of `formats.ParquetTable`.
    """
    chains = chains.combine_chunks()
    lengths = np.array([len(sequence) for sequence in chains["sequence"].to_pylist()], dtype=np.int64)
    rows, starts = np.repeat(np.arange(len(lengths)), lengths), np.cumsum(lengths) - lengths
    columns = {
        "record": chains["record"].take(rows),
        "name": chains["name"].take(rows),
        "position": pa.array(np.arange(1, len(rows) + 1) - starts[rows]),
        "residue": list("".join(chains["sequence"].to_pylist())),
        "state": list("".join(chains["states"].to_pylist())),
    }
    columns |= {name: chains[name].combine_chunks().flatten() for name in schema.names if name not in columns}
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)
