"""Custom corpora: the same chains from every format that people have them in, with their splits, or a clear error."""

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_files import write_three_line

from lift_ss_hf.corpora import CardFacts, Split, write_corpus
from lift_ss_hf.corpora.chains import Chain, CorpusError
from lift_ss_hf.corpora.loading import load_corpus, own_splits, resolve_corpus

CHAINS = [Chain("1abc_A", "MKV", "LHX"), Chain("2xyz_B", "AC", "EE"), Chain("P1", "GGSWA", "LLTPL")]
ROWS = [{"id": chain.id, "sequence": chain.sequence, "states": chain.states} for chain in CHAINS]
SPLITS = ["train", "validation", "test"]


def three_line(folder):
    return write_three_line(CHAINS, folder / "chains.txt")


def csv(folder, separator=",", name="chains.csv", header="id,sequence,states"):
    lines = [header.split(","), *([row["id"], row["sequence"], row["states"]] for row in ROWS)]
    (folder / name).write_text("".join(separator.join(line) + "\n" for line in lines))
    return folder / name


def csv_of_other_names(folder):
    return csv(folder, header="Name,Seq,DSSP8")


def csv_with_a_column_structure(folder):
    return csv(folder, header="name,sequence,structure")


def tsv(folder):
    return csv(folder, "\t", "chains.tsv")


def parquet(folder):
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "chains.parquet")
    return folder / "chains.parquet"


def saved(folder):
    datasets.Dataset.from_list(ROWS).save_to_disk(folder / "saved")
    return folder / "saved"


def fasta(path, records):
    path.write_text("".join(f">{header}\n{letters[:2]}\n{letters[2:]}\n" for header, letters in records))
    return path


def fasta_pair(folder):
    sequences = fasta(folder / "sequences.fasta", [(chain.id, chain.sequence) for chain in CHAINS])
    labels = fasta(folder / "states.fasta", [(chain.id, chain.states) for chain in reversed(CHAINS)])
    return f"{sequences}+{labels}"


def fasta_folder(folder):
    fasta(folder / "sequences.fasta", [(chain.id, chain.sequence) for chain in CHAINS])
    fasta(folder / "labels.fasta", [(chain.id, chain.states.replace("X", "H")) for chain in CHAINS])
    fasta(folder / "mask.fasta", [(c.id, "".join("0" if s == "X" else "1" for s in c.states)) for c in CHAINS])
    return folder


def fasta_with_targets(folder):
    headers = [f"{chain.id} TARGET={chain.states.replace('X', 'H')}" for chain in CHAINS]
    headers[0] += " MASK=110"
    records = zip(headers, (chain.sequence for chain in CHAINS), strict=True)
    return fasta(folder / "chains.fasta", records)


FORMATS = [
    three_line, csv, csv_of_other_names, csv_with_a_column_structure, tsv, parquet, saved,
    fasta_pair, fasta_folder, fasta_with_targets,
]  # fmt: skip


@pytest.mark.parametrize("write", FORMATS)
def test_every_format_gives_the_same_chains_for_every_split(write, tmp_path):
    name = str(write(tmp_path))
    assert own_splits(resolve_corpus(name)) == []
    for split in SPLITS:
        loaded = load_corpus(name, split)
        assert loaded.select_columns(["id", "sequence", "states"]).to_list() == ROWS
        assert loaded["num_residues"][:] == [3, 2, 5]


def test_netsurfp_files_without_ids_have_their_masks_applied(tmp_path):
    path = tmp_path / "Train_HHblits.csv"
    path.write_text(
        "input, dssp3, dssp8, disorder, cb513_mask\n"
        "M K V,C H H,C H G,1.0 1.0 0.0,1.0 1.0 1.0\n"
        "A C,E E,E E,1.0 1.0,1.0 0.0\n"
    )
    loaded = load_corpus(str(path), "train")
    assert loaded["id"][:] == ["chain_1", "chain_2"]
    assert loaded["states"][:] == ["LHX", "EX"]


def split_csv(folder):
    lines = [f"{c.id},{c.sequence},{c.states},{s}" for c, s in zip(CHAINS, ("train", "VAL", "test"), strict=True)]
    (folder / "chains.csv").write_text("\n".join(["id,sequence,states,split", *lines]))
    return folder / "chains.csv"


def split_parquet(folder, column="split"):
    """Return a table with the columns that this package writes, and one of splits."""
    rows = [chain.row() | {column: name} for chain, name in zip(CHAINS, ("train", "VAL", "test"), strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "chains.parquet")
    return folder / "chains.parquet"


def split_parquet_with_a_column_set(folder):
    return split_parquet(folder, "set")


def split_fasta(folder):
    sets = ("TRAIN", "VAL", "TEST-casp")
    headers = [f"{c.id} TARGET={c.states} SET={name}" for c, name in zip(CHAINS, sets, strict=True)]
    records = [*zip(headers, (chain.sequence for chain in CHAINS), strict=True), ("new SET=pred", "MKV")]
    return fasta(folder / "chains.fasta", records)


def split_fasta_folder(folder):
    """Return biotrainer's format before version 1: validation chains are training chains with a flag."""
    sets = ("SET=train VALIDATION=False", "SET=train VALIDATION=True", "SET=test")
    fasta(folder / "sequences.fasta", [(chain.id, chain.sequence) for chain in CHAINS])
    fasta(folder / "labels.fasta", [(f"{c.id} {s}", c.states) for c, s in zip(CHAINS, sets, strict=True)])
    return folder


def test_a_mask_may_be_a_list_of_a_single_number(tmp_path):
    rows = {"sequence": ["M", "MK"], "dssp3": ["C", "CC"], "disorder": [[1], [1, 0]]}
    pq.write_table(pa.table(rows), tmp_path / "masked.parquet")
    assert load_corpus(str(tmp_path / "masked.parquet"), "train")["states"][:] == ["L", "LX"]


def split_saved(folder):
    parts = {name: datasets.Dataset.from_list([row]) for name, row in zip(SPLITS, ROWS, strict=True)}
    datasets.DatasetDict(parts).save_to_disk(folder / "saved")
    return folder / "saved"


@pytest.mark.parametrize(
    "write",
    [split_csv, split_parquet, split_parquet_with_a_column_set, split_fasta, split_fasta_folder, split_saved],
)
def test_a_corpus_that_says_its_splits_keeps_them(write, tmp_path):
    name = str(write(tmp_path))
    assert own_splits(resolve_corpus(name)) == SPLITS
    assert [load_corpus(name, split)["id"][:] for split in SPLITS] == [[chain.id] for chain in CHAINS]
    assert list(load_corpus(name)) == SPLITS
    with pytest.raises(ValueError, match=r"has no split 'extra'\. Choose one of: train, validation, test"):
        load_corpus(name, "extra")


def test_a_data_set_of_the_hub_is_read_by_its_columns(monkeypatch):
    parts = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS[:2])})
    monkeypatch.setattr(datasets, "load_dataset", {"org/name": parts}.__getitem__)
    assert load_corpus("org/name", "test")["states"][:] == ["LHX", "EE"]
    parts["valid"] = datasets.Dataset.from_list(ROWS[2:])
    assert own_splits(resolve_corpus("org/name")) == ["train", "validation"]
    assert load_corpus("org/name", "validation")["id"][:] == ["P1"]
    with pytest.raises(CorpusError, match=r"^org/nothing: neither a corpus of the catalogue, nor an existing file"):
        load_corpus("org/nothing", "train")


HEADER = "id,sequence,states\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "id,sequence\na,MK\n",
            r"a\.csv: line 1: no column of states; found id, sequence\. Rename a column to states",
        ),
        (
            "a.csv",
            "id,states\na,HH\n",
            r"no column of sequences; found id, states\. Rename a column to sequence \(also read: seq",
        ),
        ("a.csv", HEADER + "a,MKV,HH\n", r"a\.csv: line 2: a: 3 residues but 2 states"),
        ("a.csv", HEADER + "a,MKV,HQH\n", r"a\.csv: line 2: a: .*'Q' at position 2"),
        ("a.csv", HEADER + "a,MK,HH\na,MK,HH\n", r"a\.csv: line 3: a: the chain at line 2 has the same id"),
        ("a.csv", HEADER + "a,MK,HH\n ,MK,HH\n", r"a\.csv: line 3: chain without an id\. Write one, or remove"),
        ("a.csv", "id,len,input,expected\n,2,MK,HH\n", r"a\.csv: line 2: chain without an id"),
        ("a.csv", HEADER, r"a\.csv: no chains"),
        ("a.csv", "id,sequence,states,split\na,MK,HH,extra\n", r"line 2: a: unknown split 'extra'\. Write train"),
        (
            "a.csv",
            'id,note,sequence,states\na,"foo,MK,HH\nb,bar",AC,EE\n',
            r"a\.csv: line 2: a quoted cell contains whole rows",
        ),
        ("a.csv", "id,sequence,states,States\na,MK,HH,EE\n", r"line 1: 2 columns are called 'states'\. Rename or"),
        ("a.csv", "id,len,input,input,expected\na,2,MK,AC,EE\n", r"line 1: 2 columns are called 'input'\. Rename or"),
        ("a.csv", "input,dssp3,disorder\nM K,C C,1.0 2.0\n", r"line 2: chain_1: disorder is '2\.0' at position 2"),
        ("a.fasta", ">a\nMKVL\n>b\nMKKK\n", r"line 1: a: this is FASTA with sequences only.*SEQUENCES\.fasta\+STATES"),
        ("a.fasta", ">a TARGET=HHH\nMK\n", r"a\.fasta: line 1: a: 2 residues but 3 states"),
        ("a.fasta", ">a TARGET=HH\nMK\n>b SET=train\nMK\n", r"line 3: b: no states\. Write them in the header"),
        ("a.fasta", ">a TARGET=HH SET=train\nMK\n>b TARGET=HH\nMK\n", r"line 3: b: no SET=, but other chains have it"),
        ("a.fasta", ">a TARGET=HH\nMK\n>b TARGET=HH SET=test\nMK\n", r"line 1: a: no SET=, but other chains have it"),
        ("a.fasta", ">a TARGET=HH MASK=101\nMK\n", r"line 1: a: 2 residues but 3 values of MASK"),
    ],
)
def test_what_is_not_a_corpus_says_where_and_why(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(CorpusError, match=message):
        load_corpus(str(tmp_path / name), "train")


def test_an_id_that_is_null_is_not_a_name(tmp_path):
    pq.write_table(pa.table({"id": [0, None], "seq": ["MK"] * 2, "ss8": ["HH"] * 2}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a\.parquet: row 2: chain without an id"):
        load_corpus(str(tmp_path / "a.parquet"), "train")


def test_a_relative_folder_with_a_colon_is_not_a_uri(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run:1").mkdir()
    parquet(tmp_path / "run:1")
    assert load_corpus("run:1/chains.parquet", "train")["id"][:] == [chain.id for chain in CHAINS]
    write_corpus("run:1/mine", [Split.of("train", CHAINS)], CardFacts("Mine", "Three chains.", "unknown"))
    assert pq.read_table(next(tmp_path.glob("run:1/mine/data/*.parquet")))["id"].to_pylist() == [c.id for c in CHAINS]


@pytest.mark.parametrize("name", ["mine/chains.fna", "mine/chains.json", "mine/chains.txt.xz", "mine/chains.pir"])
def test_a_missing_file_is_not_taken_for_a_data_set(name):
    with pytest.raises(ValueError, match=rf"^{name}: no such file"):
        resolve_corpus(name)


def test_masks_are_those_of_the_chains(tmp_path):
    fasta_folder(tmp_path)
    masks = [("1abc_A", "110"), ("2xyz_B", "11"), ("P1", "11111")]
    for records, message in (
        (masks[:2], r"sequences\.fasta: line 7: P1: no mask of this id in .*mask\.fasta\. Use the same ids in both"),
        ([], r"sequences\.fasta: line 1: 1abc_A: no mask of this id"),
        ([*masks, ("p1", "11111")], r"mask\.fasta: line 10: p1: no sequence of this id in .*sequences\.fasta"),
        ([*masks, masks[0]], r"mask\.fasta: line 10: 1abc_A: a second record with this id"),
    ):
        fasta(tmp_path / "mask.fasta", records)
        with pytest.raises(CorpusError, match=message):
            load_corpus(str(tmp_path), "train")


def test_a_pair_may_have_the_sign_in_its_paths(tmp_path):
    folder = tmp_path / "H+K" / "a+b"
    folder.mkdir(parents=True)
    pair = fasta_pair(folder)
    assert load_corpus(pair, "train")["id"][:] == [chain.id for chain in CHAINS]
    (folder / "states.fasta").unlink()
    with pytest.raises(CorpusError, match=r"^\S+a\+b/states\.fasta: no such file"):
        load_corpus(pair, "train")


def test_a_pair_of_which_some_chains_have_a_set_is_refused(tmp_path):
    sequences = fasta(tmp_path / "s.fasta", [("a", "MK"), ("b", "MK")])
    labels = fasta(tmp_path / "l.fasta", [("a VALIDATION=True", "HH"), ("b SET=train", "HH")])
    with pytest.raises(CorpusError, match=r"s\.fasta: line 1: a: no SET="):
        load_corpus(f"{sequences}+{labels}", "train")


def test_pairs_whose_ids_differ_say_which(tmp_path):
    pair = f"{fasta(tmp_path / 's.fasta', [('a', 'MK'), ('b', 'MK')])}+{tmp_path / 'l.fasta'}"
    for records, message in (
        ([("a", "HH")], r"s\.fasta: line 4: b: no states of this id in .*l\.fasta"),
        ([("a", "HH"), ("b", "HH"), ("c", "HH")], r"l\.fasta: line 7: c: no sequence of this id in .*s\.fasta"),
        ([("a", "HH"), ("a", "HH")], r"l\.fasta: line 4: a: a second record with this id"),
        ([("a", "HH"), ("b", "HHH")], r"s\.fasta: line 4: b: 2 residues but 3 states"),
    ):
        fasta(tmp_path / "l.fasta", records)
        with pytest.raises(CorpusError, match=message):
            load_corpus(pair, "train")
    (tmp_path / "l.fasta").unlink()
    with pytest.raises(CorpusError, match=r"l\.fasta: no such file"):
        load_corpus(pair, "train")
