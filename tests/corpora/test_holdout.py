"""Holding out: whole groups of related chains, the same for one seed, and never more than asked for."""

import random
import shutil

import pytest
from small_runs import make_chains

from lift_ss_hf.corpora import holdout
from lift_ss_hf.corpora.chains import CorpusError
from lift_ss_hf.corpora.holdout import EXACT_METHOD, IDENTITY_METHOD, deal, hold_out

UNRELATED = [chain.sequence for chain in make_chains(40, 0)]


def related(sequence, seed):
    """Return a chain with a quarter of its residues changed."""
    rng = random.Random(seed)
    return "".join(rng.choice("ACDEFGHIKLMNPQRSTVWY") if rng.random() < 0.25 else residue for residue in sequence)


def test_without_mmseqs_equal_chains_stay_together_with_a_warning(without_mmseqs, caplog):
    sequences = [*UNRELATED, *UNRELATED[:20]]
    held_out = hold_out(sequences, {"test": 0.2, "validation": 0.1})
    parts = {name: {sequences[index] for index in part} for name, part in held_out.parts.items()}
    assert not (parts["train"] & parts["test"] or parts["train"] & parts["validation"])
    assert not parts["test"] & parts["validation"]
    assert sorted(index for part in held_out.parts.values() for index in part) == list(range(60))
    assert {name: len(part) for name, part in held_out.parts.items()} == {"test": 12, "validation": 6, "train": 42}
    assert held_out.method == EXACT_METHOD
    assert "mmseqs2 is not installed: held-out chains may be homologous" in caplog.text


def test_the_seed_decides_what_is_held_out(without_mmseqs):
    first, again, other = (hold_out(UNRELATED, {"test": 0.2}, seed).parts["test"] for seed in (0, 0, 1))
    assert first == again != other


def test_a_group_that_does_not_fit_is_left_for_training(without_mmseqs):
    sequences = ["MKV"] * 8 + ["GGA", "AC"]
    held_out = hold_out(sequences, {"test": 0.2})
    assert held_out.parts == {"test": [8, 9], "train": list(range(8))}


def test_each_chain_is_in_one_fold_and_equal_chains_in_the_same(without_mmseqs):
    sequences = [*UNRELATED, *UNRELATED[:7]]
    folds = [hold_out(sequences, {"validation": 0.1}, 3, (number, 4)) for number in (1, 2, 3, 4)]
    tests = [fold.parts["test"] for fold in folds]
    assert sorted(index for test in tests for index in test) == list(range(47))
    assert sorted(map(len, tests)) == [11, 12, 12, 12]
    for fold in folds:
        assert sorted(index for part in fold.parts.values() for index in part) == list(range(47))
        parts = {name: {sequences[index] for index in part} for name, part in fold.parts.items()}
        assert len(fold.parts["validation"]) == 5
        assert not parts["test"] & (parts["train"] | parts["validation"])
        assert not parts["train"] & parts["validation"]
    assert tests[0] != hold_out(sequences, {}, 4, (1, 4)).parts["test"]


def test_a_large_group_of_relatives_does_not_unbalance_the_other_folds():
    folds = deal([[0], [1], [2], list(range(3, 13)), [13], [14], [15]], 3)
    assert [sum(map(len, fold)) for fold in folds] == [10, 3, 3]


def test_more_folds_than_groups_of_chains_are_an_error(without_mmseqs):
    with pytest.raises(CorpusError, match=r"cannot make 3 folds of 5 chains: they are 2 groups of related chains"):
        hold_out(["MKV"] * 4 + ["GA"], {}, 0, (1, 3))


@pytest.mark.parametrize("sequences", [["MKV"] * 3, ["MKV", "GGA"]])
def test_too_few_chains_to_hold_any_out_are_an_error(sequences, without_mmseqs):
    with pytest.raises(CorpusError, match=r"cannot hold out test and validation: of \d chains, none would be left"):
        hold_out(sequences, {"test": 0.1, "validation": 0.1})


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.tools
@pytest.mark.skipif(shutil.which("mmseqs") is None, reason="needs mmseqs2")
def test_homologues_stay_together():
    rng = random.Random(0)
    families = ["".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=rng.randint(80, 120))) for _ in range(20)]
    sequences = [*families, *(related(family, 1) for family in families), *(family[20:70] for family in families), "MK"]
    held_out = hold_out(sequences, {"test": 0.3})
    assert held_out.method == IDENTITY_METHOD
    assert "no pair with 25 % identity or more over 30 % of the shorter chain" in IDENTITY_METHOD
    part_of = {index: name for name, part in held_out.parts.items() for index in part}
    assert len(part_of) == 61
    assert all(part_of[k] == part_of[20 + k] == part_of[40 + k] for k in range(20))
    assert len(held_out.parts["test"]) in (18, 19)
    assert holdout.related_groups(["MKV", "MKV", "GA"]) == [[0, 1], [2]]
