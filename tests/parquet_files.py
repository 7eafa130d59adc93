"""How Parquet files are stored."""

from pathlib import Path

import pyarrow.parquet as pq


def assert_probabilities_are_plain(path: Path) -> None:
    """Fail unless a file of predictions has dictionaries for its text, and none for its probabilities.

    Nearly all of these differ, so that a dictionary costs half as much again as the numbers alone.
    """
    group = pq.read_metadata(path).row_group(0)
    for column in map(group.column, range(group.num_columns)):
        has_dictionary = any("DICTIONARY" in encoding for encoding in column.encodings)
        assert has_dictionary != (column.physical_type == "FLOAT"), column.path_in_schema
