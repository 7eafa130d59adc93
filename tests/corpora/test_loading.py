"""load_corpus: from the source file the first time, from the cache afterwards; and custom corpora."""

from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from corpus_files import TEXT, blob_id

from lift_ss_hf.corpora import CardFacts, Chain, CorpusError, Split, load_corpus, write_corpus
from lift_ss_hf.corpora import loading as loading_module
from lift_ss_hf.corpora.catalogue import CataloguedCorpus, get_corpus
from lift_ss_hf.corpora.loading import resolve_corpus
from lift_ss_hf.corpora.sources import MissingSourceError


@pytest.fixture
def pisces(tmp_path, monkeypatch):
    """A source folder with a small PISCES_25_train.txt, which is pinned in the catalogue."""
    return install(monkeypatch, tmp_path, TEXT)


def install(monkeypatch, tmp_path, text):
    pin(monkeypatch, git_blob=blob_id(text))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("LIFT_SS_DATA_DIR", raising=False)
    folder = tmp_path / "sources"
    folder.mkdir(exist_ok=True)
    (folder / "PISCES_25_train.txt").write_bytes(text)
    return folder


def pin(monkeypatch, **facts):
    """Replace facts about PISCES_25_train.txt in the catalogue."""
    corpus = loading_module.get_corpus("pisces25")
    train = replace(corpus.config.splits["train"], **facts)
    config = replace(corpus.config, splits={**corpus.config.splits, "train": train})
    monkeypatch.setattr(loading_module, "get_corpus", lambda name: CataloguedCorpus(corpus.entry, config))


def load(folder, tmp_path, split="train"):
    return load_corpus("pisces25", split, data_dir=folder, cache_dir=tmp_path / "cache")


def test_a_second_load_needs_no_source(pisces, tmp_path):
    first = load(pisces, tmp_path)
    assert first.to_list() == [
        {"id": "1abc_A", "sequence": "MKV", "states": "LHX", "num_residues": 3, "pdb_id": "1abc", "pdb_chain": "A"},
        {"id": "2xyz_B", "sequence": "AC", "states": "EE", "num_residues": 2, "pdb_id": "2xyz", "pdb_chain": "B"},
    ]
    (pisces / "PISCES_25_train.txt").unlink()
    assert load(None, tmp_path).to_list() == first.to_list()


def test_slices_and_sums(pisces, tmp_path):
    assert load(pisces, tmp_path, "train[1:]")["id"][:] == ["2xyz_B"]
    assert load(pisces, tmp_path, "train[:1] + train")["id"][:] == ["1abc_A", "1abc_A", "2xyz_B"]


def test_a_bad_source_is_one_clear_error_and_leaves_no_half_built_corpus(monkeypatch, tmp_path):
    folder = install(monkeypatch, tmp_path, TEXT + b">3bad_C\nMKV\nHH\n")
    with pytest.raises(CorpusError, match=r"line 8: 3bad_C: 3 residues but 2 states"):
        load(folder, tmp_path)
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_an_unavailable_and_an_unknown_split_are_reported(pisces, tmp_path):
    with pytest.raises(MissingSourceError, match=r"PISCES_25_valid\.txt is not available"):
        load(pisces, tmp_path, None)
    with pytest.raises(ValueError, match=r"pisces25 has no split 'test'\. Choose one of: train, validation"):
        load(pisces, tmp_path, "test")


def test_counts_other_than_the_catalogued_ones_are_an_error(tmp_path, monkeypatch):
    folder = install(monkeypatch, tmp_path, TEXT)
    pin(monkeypatch, chains=3)
    with pytest.raises(CorpusError, match=r"read 2 chains, but the catalogue expects 3"):
        load(folder, tmp_path)


def test_a_custom_corpus_loads_by_its_path(tmp_path):
    chains = [Chain("a", "MKV", "LHX"), Chain("b", "AC", "EE")]
    write_corpus(tmp_path / "mine", [Split.of("train", chains)], CardFacts("Mine", "Two chains.", "unknown"))
    loaded = load_corpus(str(tmp_path / "mine"), "train", cache_dir=tmp_path / "cache")
    assert loaded.to_list() == [chain.row() for chain in chains]
    # a single split serves for any: a filtered set is written as train, but may be used for validation
    assert load_corpus(str(tmp_path / "mine"), "validation", cache_dir=tmp_path / "cache").to_list() == loaded.to_list()
    changed = [Chain("a", "MKV", "HHX"), Chain("b", "AC", "EE")]  # of the same size, so the card is the same
    write_corpus(tmp_path / "mine", [Split.of("train", changed)], CardFacts("Mine", "Two chains.", "unknown"))
    again = load_corpus(str(tmp_path / "mine"), "train", cache_dir=tmp_path / "cache")
    assert again["states"][:] == ["HHX", "EE"]
    parquet = next((tmp_path / "mine" / "data").iterdir())
    parquet.write_bytes(parquet.read_bytes()[:-30])
    with pytest.raises(CorpusError, match="not a complete parquet file"):
        load_corpus(str(tmp_path / "mine"), "train", cache_dir=tmp_path / "cache")
    (tmp_path / "mine.txt").write_bytes(TEXT)
    assert load_corpus(str(tmp_path / "mine.txt"))["id"][:] == ["1abc_A", "2xyz_B"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"not a corpus\. Expected a folder that was built"):
        load_corpus(str(tmp_path / "empty"))


def test_a_custom_corpus_is_checked_once(tmp_path, monkeypatch):
    write_corpus(tmp_path / "mine", [Split.of("train", [Chain("a", "MKV", "LHX")])], CardFacts("Mine", "One.", "mit"))
    read = []
    monkeypatch.setattr(loading_module, "read_chains", lambda path: read.append(path.name) or [])
    for _ in range(2):
        load_corpus(str(tmp_path / "mine"), "train", cache_dir=tmp_path / "cache")
    assert read == ["train-00000-of-00001.parquet"]


@pytest.mark.parametrize("name", ["promod3:lt25id", "casp12"])
def test_a_name_of_the_catalogue_is_not_a_path(name):
    assert str(resolve_corpus(name)) == name


@pytest.mark.parametrize("name", ["mien.txt", "./mien.txt", "folder/"])
def test_a_missing_file_is_told_as_one(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").touch()
    hint = "" if name == "folder/" else r" Did you mean 'mine\.txt'\?"
    with pytest.raises(ValueError, match=rf"^{name}: no such file\.{hint} Give chains with their states"):
        load_corpus(name)


@pytest.mark.parametrize("name", ["mine", "promod3:lt99id"])
def test_an_unknown_name_lists_all_that_can_be_loaded(name):
    with pytest.raises(ValueError, match=r"Choose one of: .*\. Or give sample, or the path of an existing file or fo"):
        load_corpus(name)


def test_a_custom_corpus_crossed_with_its_test_warns(tmp_path, caplog):
    facts = CardFacts(get_corpus("spot1d").entry.title, "One.", "mit")
    write_corpus(tmp_path / "spot1d", [Split.of("train", [Chain("a", "MKV", "LHX")])], facts)
    load_corpus(str(tmp_path / "spot1d"), "train", cache_dir=tmp_path / "cache", tests=["casp12"])
    assert "spot1d is not a training set for casp12" in caplog.text


@pytest.mark.parametrize(
    ("name", "split", "chains", "residues", "labelled", "longest"),
    [  # as published by LIFT_SS
        ("casp12", "test", 47, 13_718, 12_442, 1494),
        ("casp13", "test", 41, 12_217, 11_169, 756),
        ("casp14", "test", 33, 9_049, 8_031, 2194),
        ("cb433", "test", 433, 106_122, 102_777, 874),
        ("cb634", "test", 634, 192_164, 179_191, 1368),
        ("test2016", "test", 1213, 287_877, 287_877, 699),
        ("test2018", "test", 250, 56_654, 50_889, 615),
        ("pisces25", "validation", 512, 127_236, 118_602, 756),
        ("cb634", "validation", 512, 130_023, 121_037, 770),
        ("spot1d", "validation", 983, 215_803, 215_803, 693),
        ("cb513", "test", 511, 144_011, 83_427, 874),
    ],
)
def test_the_real_corpora_have_their_published_size(
    shared_corpora, tmp_path, name, split, chains, residues, labelled, longest
):
    corpus = load_corpus(name, split, data_dir=shared_corpora, cache_dir=tmp_path)
    states = "".join(corpus["states"])
    assert len(corpus) == chains
    assert sum(corpus["num_residues"]) == residues == len(states)
    assert len(states) - states.count("X") == labelled
    assert max(corpus["num_residues"]) == longest


def test_a_corpus_whose_writer_was_killed_while_replacing_it_is_still_there(tmp_path):
    folder, split = tmp_path / "mine", Split.of("train", [Chain("1abc_A", "MKV", "LHX")])
    facts = CardFacts("Mine", "One chain.", "cc0-1.0")
    write_corpus(folder, [split], facts)
    folder.rename(tmp_path / ".mine.lift_ss_hf.old")
    assert load_corpus(str(folder), "train", cache_dir=tmp_path / "cache")["id"] == ["1abc_A"]
    folder.rename(tmp_path / ".mine.lift_ss_hf.old")
    write_corpus(folder, [split], facts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "mine"]
