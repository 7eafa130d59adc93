"""Readers: every format round trips; deviations are read, or rejected with file, line, chain and position."""

import bz2
import gzip
import io
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lift_ss_hf.corpora.chains import RESIDUES, Chain, CorpusError, pdb_origin
from lift_ss_hf.corpora.readers import read_chains, read_cu_ssp_csv, read_parquet, read_ps4_csv
from lift_ss_hf.models.states import NINE_STATES, UNRESOLVED

GOOD = ">1abc_A\nMKV\nLHX\n>2xyz_B\nAC\nEE\n"


def zipped(*names):
    """Return a ZIP archive with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, GOOD)
    return buffer.getvalue()


def read_text(tmp_path, text, name="corpus.txt", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    changes = Counter()
    return list(read_chains(path, changes)), changes


@st.composite
def chains(draw):
    length = draw(st.integers(1, 40))
    return (
        draw(st.text(RESIDUES, min_size=length, max_size=length)),
        draw(st.text(NINE_STATES + UNRESOLVED, min_size=length, max_size=length)),
    )


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(chains(), min_size=1, max_size=5),
    newline=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
    coil=st.sampled_from("LC-. "),
    lower=st.booleans(),
)
def test_three_lines_round_trip_through_every_harmless_spelling(tmp_path_factory, rows, newline, bom, coil, lower):
    text = "".join(
        f">c{i}{newline}{(seq.lower() if lower else seq)}{newline}{states.replace('L', coil)}{newline}"
        for i, (seq, states) in enumerate(rows)
    )
    read, changes = read_text(tmp_path_factory.mktemp("r"), ("\ufeff" if bom else "") + text)
    assert [(c.sequence, c.states) for c in read] == rows
    num_coil = sum(states.count("L") for _, states in rows)
    num_residues = sum(len(seq) for seq, _ in rows)
    assert sum(changes.values()) == (num_coil if coil != "L" else 0) + (num_residues if lower else 0)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_chains_or_one_clear_error(tmp_path_factory, data):
    try:
        read_text(tmp_path_factory.mktemp("r"), data)
    except CorpusError as error:
        assert "corpus.txt" in str(error)


def test_gzip_and_blank_lines_between_chains_are_read(tmp_path):
    path = tmp_path / "corpus.txt.gz"
    path.write_bytes(gzip.compress(GOOD.replace("\n>2", "\n\n>2").encode()))
    assert [chain.id for chain in read_chains(path)] == ["1abc_A", "2xyz_B"]


def test_trailing_blank_states_are_coil_not_padding(tmp_path):
    read, _ = read_text(tmp_path, ">a\nMKVA\nH   \n>b\nMK\nHH   \n")
    assert [chain.states for chain in read] == ["HLLL", "HH"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">a\nMK\n", r"line 1: a: the file ends in the middle of the chain"),
        (GOOD + ">c\n", r"line 7: c: the file ends in the middle"),
        (">a\nMKV\nHH\n", r"line 2: a: 3 residues but 2 states\. Mark unresolved residues X"),
        (">a\nMKV\nHZH\n", r"line 3: a: unknown state 'Z' at position 2"),
        (">a\nM*V\nHHH\n", r"line 2: a: '\*' at position 2 is not a residue"),
        (">a\nM V\nHHH\n", r"line 2: a: ' ' at position 2 is not a residue"),
        (">a\nmkß\nHHH\n", r"line 2: a: 'ß' at position 3 is not a residue"),  # SS in upper case
        (">a\nmkﬆ\nHHH\n", r"line 2: a: 'ﬆ' at position 3 is not a residue"),  # ST, whose letters are neighbours
        (">a\n\n\n", r"line 2: a: empty chain"),
        (">\nMK\nHH\n", r"line 1: chain without an id"),
        ("a\nMK\nHH\n", r"line 1: expected '>' and the chain's id, found 'a'"),
        (GOOD + ">1abc_A\nMK\nHH\n", r"line 7: 1abc_A: the chain at line 1 has the same id"),
        ("<!DOCTYPE html><html></html>", r"this is HTML or XML, not data"),
        ("", r"no chains \(the file is empty\)"),
        (b">a\nMK\nHH\n>b\n\xff\xfe\nHH\n", r"line 5: not text"),
        (">a\nMKV\n>b\nAC\n", r"line 1: a: this is FASTA with sequences only.* lift-ss predict \S+corpus\.txt\."),
        (">a\nMKVA\nKDR\n>b\nAC\n", r"line 1: a: this is FASTA"),  # wrapped
        (">a\nMKVA\nKDRM\nWW\n", r"line 1: a: this is FASTA"),
        (">a\nMKVAWDEQ\nSSTLGK\n", r"line 1: a: this is FASTA"),  # few letters that are no states, but broken
        (">a\nMKVA\nHHKH\n", r"line 3: a: unknown state 'K'"),  # as long as the residues
        (GOOD.encode("utf-16"), r"this is UTF-16 text\. Save it as UTF-8"),
        (GOOD.encode("utf-16-le"), r"this is UTF-16 text"),
        (GOOD.encode("utf-16-be"), r"this is UTF-16 text"),
        (zipped("corpus.txt"), r"this is a ZIP archive, not text\. Unpack it"),
        (zipped("[Content_Types].xml", "xl/workbook.xml"), r"this is a workbook \(Excel\).* Save the table as CSV"),
        (gzip.compress(GOOD.encode()), r"compressed with gzip, but its name does not say so\. Rename it"),
        (bz2.compress(GOOD.encode()), r"this is a compressed file\. Unpack it"),
        (
            b"HEADER    HYDROLASE   01-JAN-90   1ABC\nATOM      1  N\n",
            r"this is a PDB structure.*: lift-ss compare FILE\.",
        ),
        (b"PAR1" + bytes(20), r"this is a parquet table, but its name"),
    ],
)
def test_bad_three_line_files_say_where_and_what(tmp_path, text, message):
    with pytest.raises(CorpusError, match=message) as error:
        read_text(tmp_path, text)
    assert "corpus.txt" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_broken_gzip_are_named(tmp_path):
    with pytest.raises(CorpusError, match=r"nothing\.txt: no such file"):
        list(read_chains(tmp_path / "nothing.txt"))
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(GOOD.encode())[:-9])
    with pytest.raises(CorpusError, match=r"cut\.txt\.gz: cannot be read"):
        list(read_chains(tmp_path / "cut.txt.gz"))


@pytest.mark.parametrize(("name", "owner", "call"), [("a.txt", Path, "read_bytes"), ("a.parquet", pq, "ParquetFile")])
def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch, name, owner, call):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / name).touch()
    monkeypatch.setattr(owner, call, refuse)
    with pytest.raises(PermissionError, match=rf"^\[Errno 13\] Permission denied: '{tmp_path / name}'$"):
        list(read_chains(tmp_path / name))


PS4_HEADER = "input, dssp3, dssp8, disorder, cb513_mask\n"


def read_ps4(tmp_path, text):
    path = tmp_path / "CB513.csv"
    path.write_text(text)
    return list(read_ps4_csv(path, Counter()))


def test_cb513_scores_only_what_is_in_the_domain_and_resolved(tmp_path):
    row = "M K V A,C C E E,C C E H,1.0 0.0 1.0 1.0,1.0 1.0 1.0 0.0\n"
    first, second = read_ps4(tmp_path, PS4_HEADER + row + row.replace("1.0 1.0 1.0 0.0", "0.0 0.0 0.0 1.0"))
    assert (first.sequence, first.states, second.states) == ("MKVA", "LXEX", "XXXH")
    assert first.extra["chain_states"] == second.extra["chain_states"] == "LXEH"
    assert first.extra["chain"] == second.extra["chain"]
    assert first.extra["domain_mask"] == [True, True, True, False]
    assert first.extra["resolved_mask"] == [True, False, True, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input, dssp3, dssp8, disorder\nM,C,C,1.0\n", r"line 1: no column cb513_mask; found input, dssp3"),
        (PS4_HEADER + "M K,C C,C C,1.0 1.0,1.0\n", r"line 2: cb513_001: 2 residues but 1 value of cb513_mask"),
        (PS4_HEADER + "M K,C C,C C,1.0 2.0,1.0 1.0\n", r"disorder is '2\.0' at position 2"),
        (PS4_HEADER + "M K,C C,C C\n", r"line 2: 3 fields, but the header has 5 \(truncated\?\)"),
    ],
)
def test_bad_cb513_files_say_where_and_what(tmp_path, text, message):
    with pytest.raises(CorpusError, match=message):
        read_ps4(tmp_path, text)


def test_cu_ssp_length_is_compared_with_the_sequence(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("id,len,input,expected\n1,3,MKV,LHH\n2,4,MKV,LHH\n")
    with pytest.raises(CorpusError, match=r"line 3: 2: len says 4 but it has 3 residues"):
        list(read_cu_ssp_csv(path, Counter()))
    assert [c.states for c in read_chains_of(path, "id,len,input,expected\n1,3,MKV,LHH\n")] == ["LHH"]


def test_a_table_without_rows_is_not_a_corpus(tmp_path):
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({name: pa.array([], pa.string()) for name in ("id", "sequence", "states")}), path)
    (tmp_path / "c.csv").write_text("id,len,input,expected\n")
    for name in ("c.parquet", "c.csv"):
        with pytest.raises(CorpusError, match=rf"{name}: no chains"):
            list(read_chains(tmp_path / name))
    with pytest.raises(CorpusError, match=r"CB513\.csv: no chains"):
        read_ps4(tmp_path, PS4_HEADER)


def test_a_damaged_csv_names_the_line(tmp_path):
    (tmp_path / "c.csv").write_text('id,len,input,expected\n1,3,"' + "M" * (1 << 25) + "\n")
    with pytest.raises(CorpusError, match=r"c\.csv: line 2: field larger than field limit .* Get the file again"):
        list(read_chains(tmp_path / "c.csv"))


def test_damage_in_the_middle_of_a_parquet_file_is_found(tmp_path):
    path = tmp_path / "c.parquet"
    rows = [Chain(f"c{i}", "MKV" * 100 + "ACDE"[i % 4], "L" * 301).row() for i in range(500)]
    pq.write_table(pa.Table.from_pylist(rows), path, use_dictionary=False)
    raw = bytearray(path.read_bytes())
    raw[40:400] = b"\xff" * 360
    path.write_bytes(raw)
    with pytest.raises(CorpusError, match=r"c\.parquet: damaged \(.*\)\. Build it again"):
        list(read_chains(path))


def read_chains_of(path, text):
    path.write_text(text)
    return list(read_chains(path))


def test_parquet_round_trips_and_keeps_further_columns(tmp_path):
    path = tmp_path / "c.parquet"
    chain = Chain("1abc_A", "MKV", "LHX", {"note": "mine"})
    pq.write_table(pa.Table.from_pylist([chain.row()]), path)
    assert list(read_chains(path)) == [chain]


def test_bad_parquet_is_refused(tmp_path):
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"id": ["a"], "sequence": ["MK"]}), path)
    with pytest.raises(CorpusError, match=r"no column of states; found id, sequence"):
        list(read_parquet(path, Counter()))
    pq.write_table(pa.table({"id": ["a"], "sequence": ["MK"], "states": [None]}), path)
    with pytest.raises(CorpusError, match=r"row 1: states is None"):
        list(read_parquet(path, Counter()))
    pq.write_table(pa.table({"id": ["a"], "sequence": ["MK"], "states": ["HH"]}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorpusError, match=r"not a complete parquet file"):
        list(read_parquet(path, Counter()))


@pytest.mark.parametrize(
    ("chain_id", "origin"),
    [
        ("2n64_C", ("2n64", "C")),
        ("5H7KA", ("5h7k", "A")),
        ("7p4r_AAA", ("7p4r", "AAA")),
        ("sp|P12345|X_HUMAN", ("", "")),
    ],
)
def test_pdb_origin(chain_id, origin):
    assert tuple(pdb_origin(chain_id).values()) == origin
