"""The chains of a run: named, the training corpus's own, held out, or none; never the bundled sample unasked."""

import pytest
from corpus_files import write_three_line
from small_runs import make_chains

from lift_ss_hf.corpora.chains import Chain
from lift_ss_hf.training import corpora as training_corpora
from lift_ss_hf.training.arguments import CorpusArguments
from lift_ss_hf.training.corpora import load_training_corpora
from lift_ss_hf.training.recipes import RecipeError

pytestmark = pytest.mark.usefixtures("without_mmseqs")


@pytest.fixture
def chains(tmp_path):
    return str(write_three_line(make_chains(40, 0), tmp_path / "chains.txt"))


def ids(corpora):
    return {
        "train": set(corpora.train["id"]),
        "validation": set(corpora.validation["id"]),
        **{name: set(test["id"]) for name, test in corpora.tests.items()},
    }


def test_what_is_not_named_is_held_out_and_said(chains, caplog):
    caplog.set_level("INFO")
    corpora = load_training_corpora(CorpusArguments(train=[chains]))
    parts = ids(corpora)
    assert {name: len(part) for name, part in parts.items()} == {"train": 32, "validation": 4, "held_out": 4}
    assert len(set.union(*parts.values())) == 40
    assert set(corpora.held_out) == {"validation", "test"}
    assert "holding out chains for testing and validation (40 in all)" in caplog.text
    assert "train: 32 chains" in caplog.text
    assert "validation: 4 chains" in caplog.text
    assert "test held_out: 4 chains" in caplog.text
    assert "held out by exact sequence (mmseqs2 is not installed)" in caplog.text
    assert ids(load_training_corpora(CorpusArguments(train=[chains]))) == parts
    assert ids(load_training_corpora(CorpusArguments(train=[chains], split_seed=1))) != parts
    # the training fraction changes neither
    fewer = ids(load_training_corpora(CorpusArguments(train=[chains], train_fraction=0.5)))
    assert (fewer["validation"], fewer["held_out"], len(fewer["train"])) == (parts["validation"], parts["held_out"], 16)


def test_none_leaves_out_validation_and_tests(chains):
    corpora = load_training_corpora(CorpusArguments(train=[chains], validation=["none"], tests=["none"]))
    assert (len(corpora.train), len(corpora.validation), corpora.tests) == (40, 0, {})
    assert corpora.num_states == corpora.trained_states == 9


def test_split_holds_out_what_a_corpus_has_itself(chains):
    corpora = load_training_corpora(CorpusArguments(train=["sample"], validation=["split"], validation_fraction=0.2))
    assert (len(corpora.train), len(corpora.validation)) == (240, 60)
    assert {name: len(test) for name, test in corpora.tests.items()} == {"sample": 60}


def test_the_splits_of_the_training_corpus_are_taken(tmp_path):
    splits = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    rows = [f"{c.id},{c.sequence},{c.states},{s}" for c, s in zip(make_chains(10, 0), splits, strict=True)]
    path = tmp_path / "chains.csv"
    path.write_text("\n".join(["id,sequence,states,split", *rows]))
    corpora = load_training_corpora(CorpusArguments(train=[str(path)]))
    assert [len(part) for part in (corpora.train, corpora.validation, corpora.tests[str(path)])] == [6, 2, 2]
    assert corpora.held_out == {}


def test_named_corpora_are_taken_beside_what_is_held_out(chains, tmp_path):
    other = str(write_three_line(make_chains(5, 9), tmp_path / "other.txt"))
    corpora = load_training_corpora(CorpusArguments(train=[chains], validation=["split", other], tests=[other]))
    assert (len(corpora.train), len(corpora.validation), list(corpora.tests)) == (36, 9, [other])
    rows = {row["name"]: row for row in corpora.overlaps()}
    assert (rows["validation"]["in_train"], rows[other]["in_train"], rows[other]["in_validation"]) == (0, 0, 5)


def test_a_fold_is_the_test_whatever_the_corpus_has_itself(chains):
    parts = []
    for number in (1, 2, 3):
        corpora = load_training_corpora(CorpusArguments(train=[chains], fold=f"{number}/3"))
        parts.append(ids(corpora))
        assert corpora.origins["held_out"].startswith("held out by exact sequence")
        assert (len(corpora.validation), set(corpora.held_out)) == (4, {"validation", "test"})
    tests = [part["held_out"] for part in parts]
    assert sorted(map(len, tests)) == [13, 13, 14]
    assert len(set.union(*tests)) == 40
    corpora = load_training_corpora(CorpusArguments(train=["sample"], fold="1/3"))
    assert {name: len(test) for name, test in corpora.tests.items()} == {"held_out": 100}
    assert (len(corpora.train), len(corpora.validation)) == (200, 60)


def test_a_fold_is_a_test_beside_those_named(chains, tmp_path):
    other = str(write_three_line(make_chains(5, 9), tmp_path / "other.txt"))
    corpora = load_training_corpora(CorpusArguments(train=[chains], tests=[other], fold="1/4"))
    assert {name: len(test) for name, test in corpora.tests.items()} == {other: 5, "held_out": 10}


@pytest.mark.parametrize("fold", ["0/5", "6/5", "1/1", "2", "a/b", "1/2/3", "-1/5", "", "²/5"])
def test_a_fold_that_is_not_one_is_an_error(chains, fold):
    with pytest.raises(RecipeError, match=r"fold is '.*'\. Expected K/N, such as 2/5 for the second of five folds\."):
        load_training_corpora(CorpusArguments(train=[chains], fold=fold))


@pytest.mark.parametrize(("letters", "alphabet"), [("HELP", "q9"), ("HELT", "q8"), ("HEC", "q3")])
def test_the_states_to_train_on_are_those_of_the_chains(letters, alphabet, tmp_path):
    chains = [Chain(c.id, c.sequence, (letters * 20)[: c.num_residues]) for c in make_chains(20, 0)]
    path = str(write_three_line(chains, tmp_path / "chains.txt"))
    corpora = load_training_corpora(CorpusArguments(train=[path]))
    assert corpora.finest_alphabet == alphabet


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"validation_fraction": 0.001},
            r"cannot hold out test and validation: of 40 chains, none would be left for v",
        ),
        ({"test_fraction": 1.0}, r"none would be left for validation"),
        ({"test_fraction": -0.1}, r"test_fraction is -0\.1"),
        ({"max_train_residues": 5}, r"no training chains are left\. Raise --max_train_residues"),
    ],
)
def test_too_few_chains_are_an_error(arguments, message, chains):
    with pytest.raises(ValueError, match=message):
        load_training_corpora(CorpusArguments(train=[chains], **arguments))


@pytest.mark.parametrize("part", ["validation", "tests"])
def test_a_wrong_name_is_told_before_chains_are_held_out(part, chains, monkeypatch):
    monkeypatch.setattr(training_corpora, "hold_out", None)
    with pytest.raises(ValueError, match="unknown corpus 'casp99'"):
        load_training_corpora(CorpusArguments(train=[chains], **{part: ["casp99"]}))


def test_a_training_file_is_no_test(chains):
    with pytest.raises(RecipeError, match=r"chains\.txt is given for training and as a test"):
        load_training_corpora(CorpusArguments(train=[chains], tests=[chains]))
