"""Formats of embeddings: each is read back by its own library."""

import hashlib
import itertools
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors
import safetensors.numpy

try:
    import h5py
except ImportError:
    h5py = None

from lift_ss_hf.prediction import embedding_formats
from lift_ss_hf.prediction.embedding_formats import EMBEDDING_FORMATS, Embedding, Layout, make_formats, sequence_hash

SIZE = 5
CHAINS = [
    *(("sp|P1|A_B", "MKTAYIAKQR"), ("two", "MKV"), ("two", "ACDEFGH"), ("NP_1.1/x", "W")),
    *(("__metadata__", "MKVL"), ("again", "MKV"), ("größe", "GG")),
]
NAMES = ["sp|P1|A_B", "two", "two#3", "NP_1.1/x", "__metadata__#5", "again", "größe"]
NAMES_IN_H5 = ["sp|P1|A_B", "two", "two#3", "NP_1_1_x", "__metadata__#5", "again", "größe"]
LAYOUTS = [
    Layout(pooling, dtype, SIZE, names)
    for pooling, dtype, names in (
        *(("none", "float32", "id"), ("none", "float16", "hash"), ("mean", "float16", "id")),
        ("mean", "float32", "hash"),
    )
]


def make_embeddings(layout):
    rng = np.random.default_rng(0)
    shapes = [(len(sequence), SIZE) if layout.pooling == "none" else (SIZE,) for _, sequence in CHAINS]
    return [
        Embedding(number, name, sequence, rng.normal(size=shape).astype(layout.dtype))
        for number, ((name, sequence), shape) in enumerate(zip(CHAINS, shapes, strict=True), start=1)
    ]


def written(name, layout, folder, cuts=(0, 2, 7)):
    """Write embeddings in parts, join them, and return the path of the result."""
    (form,) = make_formats([name], layout).values()
    folder.mkdir(exist_ok=True)
    embeddings, parts = make_embeddings(layout), []
    for start, stop in itertools.pairwise(cuts):
        parts.append(folder / f"part{start}_{stop}")
        form.write_part(parts[-1], embeddings[start:stop])
    form.join(iter(parts), folder / form.file_name)
    return folder / form.file_name


def test_parquet_goes_to_a_relative_folder_with_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written("parquet", LAYOUTS[0], Path("run:1"))
    assert len(pq.read_table(tmp_path / "run:1" / "embeddings.parquet")) == sum(len(sequence) for _, sequence in CHAINS)


needs_h5py = pytest.mark.skipif(h5py is None, reason="h5py is an extra: pip install '.[h5]'")


def with_h5(names):
    """Return formats as parameters; HDF5 is skipped where its library is missing."""
    return [pytest.param(name, marks=needs_h5py if name == "h5" else []) for name in names]


def read_h5(path):
    with h5py.File(path) as file:
        return {key: values[:] for key, values in file.items()}


READERS = {"safetensors": safetensors.numpy.load_file, "npz": lambda path: dict(np.load(path)), "h5": read_h5}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.pooling}-{layout.dtype}-{layout.names}")
@pytest.mark.parametrize("name", with_h5(READERS))
def test_arrays_are_read_by_name(tmp_path, name, layout):
    embeddings = make_embeddings(layout)
    if layout.names == "id":
        keys = NAMES_IN_H5 if name == "h5" else NAMES
        expected = {key: embedding.values for key, embedding in zip(keys, embeddings, strict=True)}
    else:  # a sequence has one embedding, the first
        expected = {sequence_hash(e.sequence): e.values for e in reversed(embeddings)}
        assert len(expected) == len(CHAINS) - 1
    found = READERS[name](written(name, layout, tmp_path))
    assert set(found) == set(expected)
    for key, values in expected.items():
        assert found[key].dtype == layout.dtype
        assert np.array_equal(found[key], values), key


@pytest.mark.parametrize("name", with_h5(READERS))
def test_the_parts_leave_no_trace(tmp_path, name):
    results = [written(name, LAYOUTS[1], tmp_path / str(i), cuts) for i, cuts in enumerate([(0, 2, 7), (0, 2, 7)])]
    assert results[0].read_bytes() == results[1].read_bytes()
    one = READERS[name](written(name, LAYOUTS[0], tmp_path / "one", (0, 7)))
    many = READERS[name](written(name, LAYOUTS[0], tmp_path / "many", (0, 1, 1, 4, 7)))  # the second is empty
    assert list(one) == list(many)
    assert all(np.array_equal(one[key], many[key]) for key in one)


def test_chains_of_a_safetensors_file_are_read_one_by_one(tmp_path):
    with safetensors.safe_open(written("safetensors", LAYOUTS[0], tmp_path), "numpy") as file:
        assert file.get_slice("two").get_shape() == [3, SIZE]
        assert np.array_equal(file.get_tensor("two#3"), make_embeddings(LAYOUTS[0])[2].values)


@pytest.mark.parametrize("layout", [LAYOUTS[0], LAYOUTS[1]], ids=["float32", "float16"])
def test_a_table_has_a_row_per_residue(tmp_path, layout):
    table = pq.read_table(written("parquet", layout, tmp_path))
    embeddings = make_embeddings(layout)
    assert table["record"].to_pylist() == [e.number for e in embeddings for _ in e.sequence]
    assert table["name"].to_pylist() == [e.name for e in embeddings for _ in e.sequence]
    assert table["position"].to_pylist() == [i for e in embeddings for i in range(1, len(e.sequence) + 1)]
    assert "".join(table["residue"].to_pylist()) == "".join(e.sequence for e in embeddings)
    assert np.array_equal(vectors(table), np.concatenate([e.values for e in embeddings]))
    assert vectors(table).dtype == layout.dtype


def test_a_pooled_table_has_a_row_per_chain(tmp_path):
    table = pq.read_table(written("parquet", LAYOUTS[2], tmp_path))
    assert table.column_names == ["record", "name", "embedding"]
    assert table["name"].to_pylist() == [name for name, _ in CHAINS]
    assert np.array_equal(vectors(table), np.stack([e.values for e in make_embeddings(LAYOUTS[2])]))


def vectors(table):
    return table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, SIZE)


@pytest.mark.parametrize("name", with_h5(EMBEDDING_FORMATS))
def test_a_run_without_valid_chains_gives_an_empty_result(tmp_path, name):
    path = written(name, LAYOUTS[0], tmp_path, (0, 0))
    assert pq.read_table(path).num_rows == 0 if name == "parquet" else READERS[name](path) == {}


@needs_h5py
def test_h5_holds_the_name_of_each_chain(tmp_path):
    for layout in LAYOUTS[:2]:
        with h5py.File(written("h5", layout, tmp_path / layout.names)) as file:
            names = {values.attrs["original_id"] for values in file.values()}
        assert names == {name for name, _ in CHAINS if layout.names == "id" or name != "again"}


@needs_h5py
def test_h5_is_read_by_biotrainer(tmp_path):
    reason = "needs biotrainer's own reader (pip install biotrainer_core)"
    read_id2emb = pytest.importorskip("biotrainer_core.h5_files", reason=reason).read_id2emb
    hashing = pytest.importorskip("biotrainer_core.functions.hashing", reason=reason)
    wanted = {hashing.calculate_sequence_hash(sequence) for _, sequence in CHAINS}
    found = read_id2emb(written("h5", LAYOUTS[1], tmp_path), wanted)
    assert set(found) == wanted
    for embedding in make_embeddings(LAYOUTS[1])[:5]:
        assert np.array_equal(found[hashing.calculate_sequence_hash(embedding.sequence)], embedding.values)


def test_the_hash_of_a_sequence_is_biotrainers():
    """As in biotrainer_core 2.1.1, functions/hashing.py: SHA-256 of the sequence and its length."""
    assert sequence_hash("MKT") == hashlib.sha256(b"MKT_3").hexdigest()


def test_equal_names_are_told(tmp_path, caplog):
    written("npz", LAYOUTS[0], tmp_path)
    assert "2 chains have the name of an earlier one, and are called NAME#RECORD" in caplog.text
    caplog.clear()
    written("npz", LAYOUTS[1], tmp_path)
    assert not caplog.text


def test_a_missing_h5py_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"h5py not found.*Install it: pip install 'h5py>=3\.9'"):
        make_formats(["h5"], LAYOUTS[0])


def test_more_names_than_safetensors_can_hold_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_formats, "MAX_HEADER", 350)
    with pytest.raises(ValueError, match=r"the names of 7 chains take \d+ bytes, but safetensors holds 350"):
        written("safetensors", LAYOUTS[0], tmp_path)


def test_a_part_that_was_cut_short_is_reported(tmp_path):
    (form,) = make_formats(["safetensors"], LAYOUTS[0]).values()
    part = tmp_path / "part"
    form.write_part(part, make_embeddings(LAYOUTS[0]))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(ValueError, match="part is shorter than its header says"):
        form.join([part], tmp_path / form.file_name)
    assert not (tmp_path / form.file_name).exists()
