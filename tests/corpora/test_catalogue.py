"""The catalogue: complete, pinned, and clear about which training set goes with which test."""

import logging
import re

import pytest

from lift_ss_hf.corpora.catalogue import crossed_tests, get_corpus, load_catalogue
from lift_ss_hf.corpora.columns import FORM_FEATURES
from lift_ss_hf.corpora.loading import warn_if_crossed

SEVEN_TESTS = ["casp12", "casp13", "casp14", "cb433", "cb634", "test2016", "test2018"]


def test_every_corpus_of_lift_ss_is_there():
    splits = {name: set(entry.config().splits) for name, entry in load_catalogue().items()}
    for name in [*SEVEN_TESTS, "cb513"]:
        assert "test" in splits[name]
    for name in ["pisces25", "pisces30", "pisces35", "pisces40", "pisces45", "pisces50", "cb634", "spot1d"]:
        assert {"train", "validation"} <= splits[name]
    assert splits["cullpdb6133"] == splits["promod3"] == {"train"}
    assert set(get_corpus("promod3").config("lt25id").splits) == {"train"}


def test_every_file_is_pinned_and_has_a_way_to_get_it():
    checksums = []
    for entry in load_catalogue().values():
        assert entry.citation.startswith("@")
        for config in entry.configs.values():
            for source in config.splits.values():
                assert re.fullmatch(r"git_blob:[0-9a-f]{40}|sha256:[0-9a-f]{64}", source.checksum), source.name
                assert source.form in FORM_FEATURES
                assert source.url or source.instead
                checksums.append(source.checksum)
    assert len(set(checksums)) == len(checksums)


@pytest.mark.parametrize(
    ("train", "crossed"),
    [
        ("pisces25", ["cb634", "test2016", "test2018"]),
        ("cb634", ["casp12", "casp13", "casp14", "cb433", "test2016", "test2018"]),
        ("spot1d", ["casp12", "casp13", "casp14", "cb433", "cb634"]),
        ("promod3", SEVEN_TESTS),
        ("promod3:lt25id", []),
    ],
)
def test_who_must_not_train_for_whom(train, crossed):
    assert crossed_tests(train, SEVEN_TESTS) == crossed


def test_crossing_warns_in_one_line(caplog):
    with caplog.at_level(logging.WARNING):
        warn_if_crossed("spot1d", ["test2016", "casp12", "a file of my own"])
        warn_if_crossed("spot1d", ["test2016"])
    assert [record.getMessage() for record in caplog.records] == [
        "spot1d is no training set for casp12: they share chains or homologues, and scores would be too good. "
        "It may train for: test2016, test2018."
    ]


def test_an_unknown_corpus_or_configuration_is_named_with_the_closest():
    with pytest.raises(ValueError, match=r"unknown corpus 'CASP_12'\. Did you mean casp12\? Choose one of: casp12, "):
        get_corpus("CASP_12")
    with pytest.raises(ValueError, match=r"promod3 has no configuration 'lt30id'\. Choose one of: default, lt25id"):
        get_corpus("promod3").config("lt30id")


def test_a_corpus_is_known_by_the_folder_it_was_built_in_too():
    assert crossed_tests("lift_ss/pisces25", ["lift_ss/casp12", "out/test2018", "cb513"]) == ["out/test2018", "cb513"]
    assert crossed_tests("mine/own_chains", ["lift_ss/casp12"]) == []
