"""The bundled sample corpus, and the script that draws it."""

import pytest
from scripts import ROOT, load_module, run_script
from tools import needs_mmseqs

from lift_ss_hf import ResidueTokenizer, bundled_model
from lift_ss_hf.assets import sample_corpus
from lift_ss_hf.corpora import Chain, crossed_tests, load_corpus
from lift_ss_hf.corpora.chains import RESIDUES
from lift_ss_hf.corpora.leakage import SearchSettings, exact_duplicates, homologues
from lift_ss_hf.corpora.loading import resolve_corpus
from lift_ss_hf.evaluation.predictions import majority_accuracy, predict, score_predictions
from lift_ss_hf.metrics.labels import encode_references
from lift_ss_hf.models.states import Q9

SCRIPT = "dataset_scripts/sample.py"
TESTS = ("casp12", "casp13", "casp14", "cb433", "cb634", "test2016", "test2018", "cb513")
THOROUGH = SearchSettings(sensitivity=7.5, min_aligned=1)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return load_corpus("sample", cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def script():
    return load_module(ROOT / SCRIPT)


def test_it_has_three_splits_of_a_few_hundred_valid_chains(sample):
    assert {name: len(split) for name, split in sample.items()} == {"train": 300, "validation": 60, "test": 60}
    for split in sample.values():
        for row in split:
            assert 40 <= len(row["sequence"]) == len(row["states"]) == row["num_residues"] <= 250
            assert set(row["sequence"]) <= set(RESIDUES)
            assert set(row["states"]) <= set(Q9.letters)
            assert row["id"] == f"{row['pdb_id']}_{row['pdb_chain']}"
    assert set("".join(sample["train"]["states"])) == set(Q9.letters)  # each state can be learnt


def test_no_chain_is_there_twice(sample):
    for column in ("id", "sequence"):
        values = [value for split in sample.values() for value in split[column]]
        assert len(set(values)) == len(values)


@needs_mmseqs
def test_no_homologue_of_another_split(sample):
    splits = {name: split["sequence"][:] for name, split in sample.items()}
    sequences = [sequence for split in splits.values() for sequence in split]
    found = homologues(sequences, splits, THOROUGH)
    for name, split in splits.items():
        related = {sequences[place] for place in found[name].train}
        assert related == set(split), f"{name} has homologues elsewhere, or does not find itself"


@needs_mmseqs
def test_no_homologue_in_any_test_set(sample, shared_corpora, tmp_path):
    tests = {name: load_corpus(name, "test", data_dir=shared_corpora, cache_dir=tmp_path) for name in TESTS}
    chains = [sequence for split in sample.values() for sequence in split["sequence"]]
    found = homologues(chains, {name: corpus["sequence"][:] for name, corpus in tests.items()}, THOROUGH)
    assert {name: len(entry.train) for name, entry in found.items()} == dict.fromkeys(TESTS, 0)
    assert not any(exact_duplicates(chains, corpus["sequence"]) for corpus in tests.values())


def test_its_chains_equal_those_of_the_source(sample, shared_corpora, tmp_path):
    source = load_corpus("promod3:lt25id", "train", data_dir=shared_corpora, cache_dir=tmp_path)
    known = dict(zip(source["id"], zip(source["sequence"], source["states"], strict=True), strict=True))
    for split in sample.values():
        for row in split:
            assert known[row["id"]] == (row["sequence"], row["states"])


def test_it_is_small_and_its_card_gives_credit():
    folder = sample_corpus()
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 150_000
    card = (folder / "README.md").read_text("utf-8")
    for fact in (
        "apache-2.0",
        "CC0",
        "studer2021promod3",
        "sample.py --chains 300 60 60 --seed 0",
        "easy-cluster -s 7.5",
    ):
        assert fact in card


def test_its_name_takes_precedence_over_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "sample").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_corpus("sample") == sample_corpus()
    assert len(load_corpus("sample", "test[:3]", cache_dir=tmp_path / "cache")) == 3


def test_an_unknown_split_lists_those_it_has(tmp_path):
    with pytest.raises(ValueError, match=r"(?s)dev.*train.*validation.*test"):
        load_corpus("sample", "dev", cache_dir=tmp_path)


def test_it_may_be_used_with_every_test_set():
    assert crossed_tests("sample", TESTS) == []


@needs_mmseqs
def test_the_script_finds_homologues_and_chains_that_cannot_be_searched(script, sample):
    first, second = (Chain(row["id"], row["sequence"], row["states"]) for row in sample["train"].select(range(2)))
    masked = Chain("masked", "GGAGGAPGG" * 6, "L" * 54)
    assert script.searchable([first, masked, second], SearchSettings(sensitivity=1)) == [first, second]
    relative = Chain("relative", first.sequence[3:] + "GS", first.states[3:] + "LL")
    assert script.without_homologues([first, second], [relative], SearchSettings(sensitivity=1)) == [second]


def test_the_script_keeps_homologues_out_of_other_splits(script, monkeypatch):
    chains = [Chain(name, name[0], "L") for name in ("a1", "b1", "a2", "c1", "c2", "d1", "e1", "c3", "f1", "f2")]

    def families(chains, others, settings):
        return [chain for chain in chains if chain.sequence not in {other.sequence for other in others}]

    monkeypatch.setattr(script, "without_homologues", families)
    splits = script.split_up(chains, {"train": 3, "validation": 3, "test": 2}, script.SEARCH)
    assert {split.name: [chain.id for chain in split.chains] for split in splits} == {
        "train": ["e1", "f1", "f2"],
        "validation": ["c1", "c2", "d1"],
        "test": ["a1", "b1"],
    }
    with pytest.raises(ValueError, match=r"3 chains are left for train, expected 4\. Ask for fewer: --chains"):
        script.split_up(chains, {"train": 4, "validation": 3, "test": 2}, script.SEARCH)


def test_without_mmseqs_the_script_says_so_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run_script(SCRIPT, "--out", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: mmseqs not found") and len(done.stderr.splitlines()) == 1


def test_a_split_without_chains_is_refused():
    done = run_script(SCRIPT, "--chains", 10, 0, 10)
    assert done.returncode == 2
    assert done.stderr.endswith("error: --chains: each split needs at least one chain\n")


@needs_mmseqs
def test_a_failing_mmseqs_is_one_line(script):
    with pytest.raises(ValueError, match=r"^mmseqs easy-cluster failed with status \d+: \S+"):
        script.cluster([], 1)


def test_the_bundled_predictor_is_complete():
    """The predictor was trained on chains of the sample's source: its accuracy here is not a measurement."""
    corpus = load_corpus("sample", "test")
    model, tokenizer = bundled_model(), ResidueTokenizer.from_pretrained("bundled")
    assert sum(path.stat().st_size for path in sample_corpus().parent.rglob("*") if path.is_file()) < 16e6
    predictions = predict(model, tokenizer, corpus["sequence"][:], quiet=True)
    references = encode_references(corpus["states"])
    found = score_predictions(references, predictions, 9)["q3"]
    assert found["q3"] > 0.6 > majority_accuracy(references, "q3")
