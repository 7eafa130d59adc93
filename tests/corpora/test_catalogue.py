"""The catalogue: complete, pinned, and clear about which training set goes with which test."""

import logging
import re

import pytest
from corpus_files import example_catalogue, write_example_sources

from lift_ss_hf.corpora import CardFacts, Chain, Split, write_corpus
from lift_ss_hf.corpora.building import build_corpus
from lift_ss_hf.corpora.catalogue import crossed_tests, get_corpus, load_catalogue, parse_catalogue
from lift_ss_hf.corpora.columns import FORM_FEATURES
from lift_ss_hf.corpora.loading import warn_if_crossed

PISCES_2022 = [f"pisces{identity}_2022" for identity in (30, 35, 40, 45, 50)]
PISCES = ["pisces25", *(name.removesuffix("_2022") for name in PISCES_2022), *PISCES_2022]
SEVEN_TESTS = ["casp12", "casp13", "casp14", "cb433", "cb634", "test2016", "test2018"]


def test_every_corpus_of_lift_ss_is_there():
    splits = {name: set(entry.configs["default"].splits) for name, entry in load_catalogue().items()}
    for name in [*SEVEN_TESTS, "cb513"]:
        assert "test" in splits[name]
    for name in [*PISCES, "cb634", "spot1d"]:
        assert {"train", "validation"} <= splits[name]
    assert splits["cullpdb6133"] == splits["promod3"] == {"train"}
    assert set(get_corpus("promod3:lt25id").config.splits) == {"train"}


def test_every_file_is_pinned_and_has_a_way_to_get_it():
    checksums: dict[str, str] = {}
    for entry in load_catalogue().values():
        assert entry.citation.startswith("@")
        for config in entry.configs.values():
            for source in config.splits.values():
                assert re.fullmatch(r"git_blob:[0-9a-f]{40}|sha256:[0-9a-f]{64}", source.checksum), source.name
                assert source.form in FORM_FEATURES
                assert source.url or source.instead
                assert checksums.setdefault(source.checksum, source.path) == source.path


def test_the_pisces_corpora_are_the_references_pairs():
    """Blob ids and commits from upstream's git history; which file validates from datasets/dataset.py at da0319f."""
    validation = get_corpus("pisces25").config.splits["validation"]
    for name in PISCES_2022:
        now, then = (get_corpus(each).config.splits for each in (name.removesuffix("_2022"), name))
        assert now["validation"] == validation
        assert now["train"].name == then["train"].name
        assert now["train"].checksum != then["train"].checksum
        assert "/da0319f" in now["train"].url
        assert "/9ce8846" in then["train"].url
        assert "/9ce8846" in then["validation"].url
        assert then["validation"].name == then["train"].name.replace("train", "valid")
    old = {name: get_corpus(name).config.splits["train"].git_blob[:8] for name in PISCES_2022}
    assert list(old.values()) == ["b779140b", "b18f4dd4", "daf9f3cf", "430d742f", "67b4df90"]


@pytest.mark.parametrize(
    ("train", "crossed"),
    [
        ("pisces25", ["cb634", "test2016", "test2018"]),
        ("pisces30_2022", ["cb634", "test2016", "test2018"]),
        ("cb634", ["casp12", "casp13", "casp14", "cb433", "test2016", "test2018"]),
        ("spot1d", ["casp12", "casp13", "casp14", "cb433", "cb634"]),
        ("promod3", SEVEN_TESTS),
        ("promod3:lt25id", []),
    ],
)
def test_tests_that_a_training_corpus_must_not_be_used_for(train, crossed):
    assert crossed_tests(train, SEVEN_TESTS) == crossed


def test_crossing_warns_in_one_line(caplog):
    with caplog.at_level(logging.WARNING):
        warn_if_crossed("spot1d", ["test2016", "casp12", "my_chains.txt"])
        warn_if_crossed("spot1d", ["test2016"])
    assert [record.getMessage() for record in caplog.records] == [
        "spot1d is not a training set for casp12: they share chains or homologues, so scores would be too high. "
        "It may be used for: test2016, test2018."
    ]


def test_chains_that_were_filtered_are_not_taken_for_the_corpus_that_their_folder_is_named_after(tmp_path, caplog):
    split = Split.of("train", [Chain("1abc_A", "MKV", "LHX")])
    titles = {"full": get_corpus("promod3").entry.title, "filtered": "promod3 without chains of casp12"}
    for folder, title in titles.items():
        write_corpus(tmp_path / folder / "promod3", [split], CardFacts(title, "One chain.", "cc0-1.0"))
        warn_if_crossed(str(tmp_path / folder / "promod3"), ["casp12"])
    broken = tmp_path / "broken" / "promod3"
    broken.mkdir(parents=True)
    (broken / "README.md").write_text("---\n{\n---\n")
    warn_if_crossed(str(broken), ["casp12"])
    warned = [record.getMessage().split(" is not")[0] for record in caplog.records]
    assert warned == [str(tmp_path / "full" / "promod3"), str(broken)]


def test_an_unknown_name_is_reported_with_suggestions():
    with pytest.raises(ValueError, match=r"unknown corpus 'CASP_12'\. Did you mean 'casp12'\? Choose one of: casp12, "):
        get_corpus("CASP_12")
    with pytest.raises(ValueError, match=r"unknown corpus 'PISCES_30_2022'\. Did you mean 'pisces30_2022'\?"):
        get_corpus("PISCES_30_2022")
    with pytest.raises(ValueError, match=r"promod3 has no configuration 'lt30id'\. Choose one of: default, lt25id"):
        get_corpus("promod3:lt30id")


def test_a_built_corpus_is_recognised_by_the_name_of_its_folder():
    assert crossed_tests("lift_ss/pisces25", ["lift_ss/casp12", "out/test2018", "cb513"]) == ["out/test2018", "cb513"]
    assert crossed_tests("mine/own_chains", ["lift_ss/casp12"]) == []


def test_the_example_in_the_header_builds(tmp_path):
    entry = parse_catalogue(example_catalogue())["my_corpus"]
    assert entry.configs["default"].splits["train"].url == "https://example.org/corpora/files/my_chains.txt"
    result = build_corpus(entry, tmp_path / "built", write_example_sources(tmp_path))
    assert result.failures == []
    assert result.built == [
        "my_corpus train: 2 chains, 5 residues, 4 with a state",
        "my_corpus small/train: 1 chain, 3 residues, 2 with a state",
    ]
    card = (tmp_path / "built" / "my_corpus" / "README.md").read_text()
    assert "- my_corpus may be used to train models for: casp12." in card
    assert "- my_corpus, configuration small, must not be used" in card


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    splits:", "    parts:", r"my_corpus: missing field or unknown origin 'splits'"),
        ("origin: my_lab", "origin: your_lab", r"my_corpus: missing field or unknown origin 'your_lab'"),
        ("      train:", "      training:", r"my_corpus: unknown field or split training"),
        ("    title: My corpus", "    name: My corpus", r"my_corpus: .*argument 'name'"),
        ("    summary: Two short chains.\n", "", r"my_corpus: .*missing .* 'summary'"),
        (", form: three_line", "", r"my_corpus: .*missing .* 'form'"),
    ],
)
def test_an_invalid_entry_is_reported(old, new, message):
    text = example_catalogue()
    assert old in text
    with pytest.raises(ValueError, match=rf"catalogue\.yaml: {message}.*See the header of the file"):
        parse_catalogue(text.replace(old, new))
