"""Inputs of prediction: every format and compression gives the same records; errors name record and position."""

import bz2
import gzip
import io
import lzma
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lift_ss_hf.corpora.fasta import read_fasta
from lift_ss_hf.prediction.inputs import Inputs
from lift_ss_hf.prediction.records import (
    MAX_NAME,
    Query,
    Record,
    RecordError,
    RejectedRecord,
    clean_record,
    split_into_parts,
)

CHAINS = [("one", "MKVLAAGIV"), ("two", "acd-EF*"), ("one", "WWWW")]
FASTA = "".join(f">{name} some words\n{sequence[:4]}\n{sequence[4:]}\n" for name, sequence in CHAINS).encode()


def pairs(source):
    return [(record.name, record.sequence) for record in Inputs([str(source)])]


def zstd(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_fasta_of_any_compression_by_file_and_standard_input(tmp_path, monkeypatch, ending):
    path = tmp_path / f"chains.fasta{ending}"
    path.write_bytes(COMPRESSIONS[ending](FASTA))
    inputs = Inputs([str(path)])
    assert [(r.number, r.name, r.sequence) for r in inputs] == [(i, *c) for i, c in enumerate(CHAINS, start=1)]
    assert inputs.fraction_read == 1
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert pairs("-") == CHAINS


@pytest.mark.parametrize("ending", [ending for ending in COMPRESSIONS if ending])
def test_truncated_files_are_reported(tmp_path, ending):
    path = tmp_path / f"chains.fasta{ending}"
    path.write_bytes(COMPRESSIONS[ending](FASTA * 200)[:-10])
    with pytest.raises(ValueError, match=rf"chains\.fasta{ending}: damaged or truncated"):
        pairs(path)
    with pytest.raises(ValueError, match=rf"chains\.fasta{ending}: damaged or truncated"):
        list(read_fasta(path))


def test_tables(tmp_path):
    for ending, separator in (("csv", ","), ("tsv", "\t")):
        path = tmp_path / f"chains.{ending}"
        path.write_text(
            "\n".join(separator.join(row) for row in [("ID", "note", "Sequence")] + [(n, "x", s) for n, s in CHAINS])
        )
        assert pairs(path) == CHAINS
        (tmp_path / f"chains.{ending}.gz").write_bytes(gzip.compress(path.read_bytes()))
        assert pairs(f"{path}.gz") == CHAINS
    names, sequences = zip(*CHAINS, strict=True)
    pq.write_table(pa.table({"id": names, "sequence": sequences}), tmp_path / "chains.parquet")
    assert pairs(tmp_path / "chains.parquet") == CHAINS


def test_quotation_marks_and_line_breaks_in_tables(tmp_path):
    csv, tsv = tmp_path / "chains.csv", tmp_path / "chains.tsv"
    csv.write_text('id,note,sequence\n"a, b","first line,\nsecond ""line""","MKV"\nc,5" end,ACD\n')
    assert pairs(csv) == [("a,_b", "MKV"), ("c", "ACD")]
    # TSV of R and pandas has quoted cells; most other TSV has not, and a mark is a letter.
    tsv.write_text('"id"\tnote\tsequence\n"a ""b"""\t"foo\t"MKV"\nc\t"x" y\tACD\nd\tbaz"\tMKL\n')
    assert pairs(tsv) == [('a_"b"', "MKV"), ("c", "ACD"), ("d", "MKL")]


def test_columns_that_nobody_reads_may_be_doubled_or_damaged(tmp_path):
    (tmp_path / "chains.csv").write_text("id,note,note,sequence\none,x,y,MKV\n")
    assert pairs(tmp_path / "chains.csv") == [("one", "MKV")]
    path = tmp_path / "chains.parquet"
    table = pa.table({"id": ["one"] * 500, "note": [f"note {i}" for i in range(500)], "sequence": ["MKV"] * 500})
    pq.write_table(table, path, use_dictionary=False)
    start = pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset
    raw = bytearray(path.read_bytes())
    raw[start : start + 200] = b"\xff" * 200
    path.write_bytes(raw)
    assert pairs(path) == [("one", "MKV")] * 500


def test_a_data_set_and_letters_and_several_at_once(tmp_path):
    from lift_ss_hf.assets import sample_corpus

    found = pairs(f"{sample_corpus()}@test")
    assert len(found) == 60
    with pytest.raises(ValueError, match=r"has the splits train, validation, test\. Choose one"):
        pairs(sample_corpus())
    (tmp_path / "a.fasta").write_bytes(FASTA)
    records = list(Inputs(["MKV", str(tmp_path / "a.fasta"), "ACD"]))
    assert [record.number for record in records] == [1, 2, 3, 4, 5]
    assert (records[0].name, records[-1].name) == ("record_1", "record_5")


def test_a_data_set_without_rows_or_with_a_bad_row(tmp_path):
    (tmp_path / "train.csv").write_text("id,sequence\n")
    assert pairs(tmp_path) == []
    (tmp_path / "train.csv").write_text("id,sequence\na,MKV\nb,MKV,x\n")
    with pytest.raises(ValueError, match=rf"^Cannot read the data set {tmp_path}: .*line 3"):
        pairs(tmp_path)


@pytest.mark.parametrize("source", ["MKV", "M" * 300, "m" * 300, "mkv", "MkvL", "MKVL*"])
def test_letters_are_a_sequence_of_any_length_in_either_case(source):
    assert pairs(source) == [("record_1", source)]


def test_a_misspelt_file_is_not_taken_for_a_sequence_or_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "proteins").write_bytes(FASTA)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "human.v2").write_bytes(FASTA)
    for source, meant in (
        ("protein", "proteins"),
        ("proteins.fa", "proteins"),
        ("data/human.v1", "data/human.v2"),
        ("dta/human.v2", "data"),
    ):
        with pytest.raises(ValueError, match=rf"^{source}: no such file\. Did you mean '{meant}'\? Give a file"):
            Inputs([source])
    assert pairs("PROTEIN") == [("record_1", "PROTEIN")]


def test_a_data_set_that_cannot_be_read_may_have_been_meant_as_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # HF_HUB_OFFLINE is set: see conftest.py
    with pytest.raises(ValueError, match=r"^org/name: no such file\. Cannot read the data set org/name: \S"):
        pairs("org/name")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing.fasta", r"nothing\.fasta: no such file\. Give a file, - for"),
        ("./nothing.fasta", r"\./nothing\.fasta: no such file"),
        ("data/nothing.fasta.gz", "no such file"),
        ("data/nothing.txt", "no such file"),
        ("data/nothing.fna", "no such file"),
        ("1" * 5000, r"1{200}\.\.\.: no such file"),
        ("a\0b", "no such file"),
    ],
)
def test_unknown_sources_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        Inputs([source])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.fasta", b"MKV\n", r"a\.fasta: line 1: expected '>' and a name, found 'MKV'"),
        (
            "a.csv",
            b"name,length\nx,3\n",
            r"a\.csv: no column of sequences; found name, length\. Rename a column to sequence \(also read: seq, ",
        ),
        ("a.csv", b"name,sequence\nx\n", r"a\.csv: line 2: 1 fields, but the header has 2"),
        ("a.csv", b"", r"a\.csv: no column of sequences; found no columns"),
        ("a.csv", b"id,Sequence,sequence\na,MKV,ACD\n", r"a\.csv: 2 columns are called 'sequence'\. Rename or remove"),
        (
            "a.csv",
            b'id,note,sequence\nx,y,MKV\na,"foo,MKTAYI\n\nb,bar,MKVAAA\nc,baz",MKLCCC\n',
            r"a\.csv: line 3: a quoted cell contains whole rows \(a stray quotation mark\?\)",
        ),
        (
            "a.csv",
            b'id,sequence,note\na,MKV,x\nb,MKV,"foo\nc,MKV,y\nd,MKV,z\n',
            r"a\.csv: line 3: unexpected end of data \(a stray quotation mark, or damaged\?\)",
        ),
        ("a.parquet", b"PAR1", r"a\.parquet: not a complete Parquet file"),
        ("a.fasta", ">a\nMKV\n".encode("utf-16"), r"a\.fasta: this is UTF-16 text\. Save it as UTF-8"),
        ("a.csv", ">a\nMKV\n".encode("utf-16"), r"a\.csv: this is UTF-16 text"),
        ("a.zip", b"PK\x03\x04" + bytes(40), r"a\.zip: this is a ZIP archive, not text\. Unpack it"),
        ("a.pdb", b"ATOM      1  N   MET A   1", r"this is a PDB structure, not sequences.*: lift-ss compare FILE"),
        ("a.pdb", b"MODEL        1\nATOM      1  N", r"this is a PDB structure"),
        ("a.pdb", b"REMARK   4 1ABC COMPLIES", r"this is a PDB structure"),
        (
            "a.cif",
            b"data_1ABC\n# \n_entry.id 1ABC",
            r"this is an mmCIF structure, not sequences.*: lift-ss compare FILE",
        ),
        ("a.cif", b"# made by hand\ndata_x\nloop_\n", r"this is an mmCIF structure"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(8), r"this is a picture, not text"),
        ("a.jpg", b"\xff\xd8\xff\xe0" + bytes(8), r"this is a picture, not text"),
        ("a.xlsx", b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml", r"a workbook \(Excel\), not text\. Save"),
        ("a.tar.gz", gzip.compress(bytes(257) + b"ustar" + bytes(250)), r"a\.tar\.gz: this is a tar archive"),
        ("a.fasta", b"PAR1", r"this is a parquet table, but its name does not say so"),
        ("a.fasta", b"<html>", r"this is HTML or XML, not data"),
        # Three lines per chain: the states would be predicted as residues.
        ("a.txt", b">a\nMKTAYIAKQRQ\nLLHHHHHHHLL\n", r"a\.txt: line 1: the second line .* looks like states"),
        ("a.pir", b">P1;A\ncytochrome c\nGDVFKGKR\n", r"a\.pir: line 1: in PIR .* there is no '\*'"),
        ("a.pir", b">N1;A\na gene\nACGT*\n", r"a\.pir: line 1: N1 is PIR's code for a nucleic acid"),
        (
            "a.fasta",
            b">a\n" + b"M" * 60_000 + b"\n" + b"K" * 60_000,
            r"line 1: the record has more than 100,000 residues",
        ),
        ("a.fasta.gz", gzip.compress(b">a\n" + bytes(1 << 20)), r"line 2 has 200,000 characters or more"),
        ("a.fasta", b">" + b"a" * 150_000 + b"\nMKV\n", r"line 1: a header of more than 100,000 characters"),
        ("a.csv", b"id,sequence\na," + b"M" * 150_000, r"a\.csv: record 1 has more than 100,000 residues"),
    ],
)
def test_errors_name_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        pairs(tmp_path / name)


def test_the_limit_on_the_length_can_be_raised(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("id,sequence\na," + "M" * 150_000)
    (record,) = Inputs([str(path)], max_residues=150_000)
    assert len(record.sequence) == 150_000
    (tmp_path / "a.fasta").write_bytes(FASTA)
    assert len(list(Inputs([str(tmp_path / "a.fasta")], max_residues=10**20))) == len(CHAINS)
    with pytest.raises(ValueError, match=r"^MMM+: record 1 has more than 5 residues"):
        list(Inputs(["M" * 6], max_residues=5))
    with pytest.raises(ValueError, match=r"--max_residues is 0\. Expected 1 or more"):
        Inputs(["MKV"], max_residues=0)


def test_pir_is_read(tmp_path):
    path = tmp_path / "chains.pir"
    path.write_text(">P1;ONE\ncytochrome c - spider monkey\nGDVFKGKR\nKIF*\n\n>F1;TWO\n\nMKV*\n")
    assert pairs(path) == [("ONE", "GDVFKGKRKIF"), ("TWO", "MKV")]


def test_two_lines_of_residues_are_not_taken_for_states(tmp_path):
    path = tmp_path / "chains.fasta"
    chains = [("wrapped", "MKTAYIAKQRQ\nISFVKSHFSRQ"), ("aligned", "MKTAYIAKQRQ\n---------GH"), ("short", "MKTA\nHHHH")]
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in chains))
    assert pairs(path) == [(name, sequence.replace("\n", "")) for name, sequence in chains]


def test_a_header_without_a_name_is_called_by_its_record(tmp_path):
    path = tmp_path / "chains.fasta"
    path.write_text(">\nMKVLAA\nGIV\n> \nACD\n")
    assert pairs(path) == [("record_1", "MKVLAAGIV"), ("record_2", "ACD")]
    assert [name for name, _ in read_fasta(path)] == ["record_1", "record_2"]


def test_missing_sequences_are_rejected_and_the_id_0_is_a_name(tmp_path):
    table = pa.table({"id": [0, 1, None], "sequence": ["MKV", None, "ACD"]})
    pq.write_table(table, tmp_path / "chains.parquet")
    assert pairs(tmp_path / "chains.parquet") == [("0", "MKV"), ("1", ""), ("record_3", "ACD")]
    path = tmp_path / "chains.csv"
    path.write_text("id,sequence\n0,MKV\nNA,NaN\n2,null\n3,None\n4,\n")
    assert pairs(path) == [("0", "MKV"), ("NA", ""), ("2", ""), ("3", ""), ("4", "")]
    (part,) = split_into_parts(Inputs([str(path)]), 100, 100, skip_bad=True)
    assert len(part.queries) == 1 and len(part.rejected) == 4


@pytest.mark.parametrize("value", ["NAN", "nan", "NA", "NONE", "null", "<NA>", "#N/A", ""])
def test_a_missing_sequence_is_never_a_peptide_and_its_cell_is_named(tmp_path, value):
    reason = f"{value!r} stands for a missing value. Leave out the row." if value else "the cell is empty. Fill it in"
    hint = "A peptide of these letters can be read from a FASTA file."
    for ending, place in (("csv", "line 3"), ("parquet", "row 2")):
        path = tmp_path / f"chains.{ending}"
        pq.write_table(pa.table({"ID": ["a", "b"], "Seq": ["MKV", value]}), path)
        if ending == "csv":
            path.write_text(f"ID,Seq\na,MKV\nb,{value}\n")
        first, second = map(clean_record, Inputs([str(path)]))
        assert isinstance(first, Query)
        assert str(second).startswith(f"record 2 (b): {path}: {place}, column 'Seq': {reason}")
        assert (hint in str(second)) == value.isalpha()
    if value.isalpha():
        path = tmp_path / "chains.fasta"
        path.write_text(f">b\n{value}\n")
        assert [str(clean_record(record).sequence) for record in Inputs([str(path), "NAN"])] == [value.upper(), "NAN"]


def test_a_cell_that_is_not_text_is_named(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "sequence": [5]}), tmp_path / "chains.parquet")
    with pytest.raises(
        ValueError, match=r"chains\.parquet: row 1, column 'sequence': the sequence is 5\. Expected a string"
    ):
        pairs(tmp_path / "chains.parquet")


def test_what_may_be_nucleotides_is_predicted_with_a_warning(caplog):
    doubtful = [Record(2, "primer", "ACGTACGTAC"), Record(3, "consensus", "ACGTRYSWKM" * 3)]
    records = [Record(1, "protein", "MKVLAA"), *doubtful, Record(4, "tetramer", "ACGT")]
    (part,) = split_into_parts(records, 100, 100, skip_bad=False)
    assert len(part.queries) == 4
    assert caplog.messages == [
        "Records that may be DNA or RNA: 2, the first is record 2 (primer). They are read as proteins; if they "
        "are DNA or RNA, translate them first."
    ]


def test_no_or_twice_the_same_input():
    with pytest.raises(ValueError, match="no input"):
        Inputs([])
    with pytest.raises(ValueError, match="only once"):
        Inputs(["-", "-"])


def test_several_processes_cannot_share_what_is_read_only_once(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.fasta").write_bytes(FASTA)
    sources = {"-": "standard input", str(tmp_path / "pipe"): f"{tmp_path}/pipe", "/dev/zero": "/dev/zero"}
    for size in ("1", "2"):
        monkeypatch.setenv("WORLD_SIZE", size)
        assert pairs(tmp_path / "a.fasta") == CHAINS
        for source, shown in sources.items():
            if size == "1":
                Inputs([source])
                continue
            with pytest.raises(ValueError, match=f"^several processes cannot share {shown}: .* Give a file"):
                Inputs(["MKV", source])


def test_a_relative_folder_with_a_colon_is_not_a_uri(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run:1").mkdir()
    pq.write_table(pa.table({"id": ["a"], "sequence": ["MKV"]}), tmp_path / "run:1" / "chains.parquet")
    assert pairs("run:1/chains.parquet") == [("a", "MKV")]


@pytest.mark.parametrize(("name", "owner", "call"), [("a.fasta", Path, "open"), ("a.parquet", pq, "ParquetFile")])
def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch, name, owner, call):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / name).touch()
    monkeypatch.setattr(owner, call, refuse)
    with pytest.raises(PermissionError, match=rf"^\[Errno 13\] Permission denied: '{tmp_path / name}'$"):
        pairs(tmp_path / name)


@pytest.mark.parametrize(
    ("sequence", "clean", "gaps", "lower"),
    [("MKV", "MKV", 0, 0), ("mkV", "MKV", 0, 2), ("M-K.V*", "MKV", 3, 0), ("BJOUXZ", "BJOUXZ", 0, 0)],
)
def test_cleaning_counts_what_it_changes(sequence, clean, gaps, lower):
    query = clean_record(Record(1, "a", sequence))
    assert isinstance(query, Query)
    assert (str(query.sequence), query.sequence.num_gaps, query.sequence.num_lower_case) == (clean, gaps, lower)


@pytest.mark.parametrize(
    ("sequence", "reason"),
    [
        ("MK-V1A", "'1' at position 5 is not a residue"),  # positions count gaps: they are the caller's
        ("MKV@", "'@' at position 4"),
        ("", "the sequence is empty"),
        ("-*-", "the sequence is empty"),
        ("ACGTTGCA" * 5, "its 40 letters are nucleotides: this looks like DNA or RNA. Translate it"),
        ("acguun" * 5, "DNA or RNA"),
        ("ATGGCNTTRAC" * 3, "DNA or RNA"),  # R is a purine
    ],
)
def test_invalid_records_are_rejected_with_their_position(sequence, reason):
    found = clean_record(Record(7, "a", sequence))
    assert isinstance(found, RejectedRecord)
    assert reason in found.reason
    assert str(found).startswith("record 7 (a): ")


def test_parts_are_the_same_however_the_records_come():
    records = [Record(i, f"r{i}", "M" * length) for i, length in enumerate([5, 5, 30, 1, 1, 1, 1], start=1)]
    parts = list(split_into_parts(iter(records), max_residues=10, max_records=3, skip_bad=False))
    assert [[query.number for query in part.queries] for part in parts] == [[1, 2], [3], [4, 5, 6], [7]]
    assert [part.number for part in parts] == [0, 1, 2, 3]
    again = list(split_into_parts(records, 10, 3, False))
    assert [part.digest for part in parts] == [part.digest for part in again]
    assert len({part.digest for part in parts}) == 4


def test_invalid_records_raise_or_are_kept_apart():
    records = [Record(1, "good", "MKV"), Record(2, "bad", "M1V"), Record(3, "good", "MKV")]
    with pytest.raises(
        RecordError, match=r"^record 2 \(bad\): '1' at position 2 .*\. To leave out .*, add --skip-bad\.$"
    ):
        list(split_into_parts(records, 100, 100, skip_bad=False))
    (part,) = split_into_parts(records, 100, 100, skip_bad=True)
    assert [query.number for query in part.queries] == [1, 3]
    assert [record.number for record in part.rejected] == [2]


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=300))
def test_no_bytes_whatever_are_a_traceback(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    for start in (b"", b">a\n", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00"):
        path.write_bytes(start + content)
        try:
            records = list(Inputs([str(path)]))
        except ValueError as error:
            assert len(str(error).splitlines()) == 1
            continue
        for record in records:
            assert record.name.isprintable() and len(record.name) <= MAX_NAME
            found = clean_record(record)
            assert not isinstance(found, Query) or str(found.sequence).isalpha()


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(st.text(max_size=20), st.text(max_size=40)), max_size=5))
def test_no_table_whatever_is_a_traceback(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "fuzzed.csv"
    text = "id,sequence\n" + "\n".join(",".join(row) for row in rows)
    path.write_text(text, "utf-8", errors="replace")
    try:
        list(map(clean_record, Inputs([str(path)])))
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
