import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift_ss_hf.models.sequences import RARE_RESIDUES, STANDARD_RESIDUES, CleaningCounts, ResidueError, clean_residues


def test_lower_case_goes_up_and_what_a_backbone_lacks_becomes_x():
    clean, counts = clean_residues("  MKtBuO\n", replace="BJOUZ")
    assert clean == "MKTXXX"
    assert counts == CleaningCounts(chains=1, residues=6, lower_case=2, replaced={"B": 1, "O": 1, "U": 1})


@pytest.mark.parametrize(
    ("sequence", "found", "position", "words"),
    [
        ("MKT*", "*", 4, "stop codon"),
        ("MK-T", "-", 3, "gap"),
        ("MK.T", ".", 3, "gap"),
        ("MK T", " ", 3, "no residue"),
        ("1MKT", "1", 1, "no residue"),
        ("MKα", "α", 3, "no residue"),
        ("MÉK", "É", 2, "no residue"),
    ],
)
def test_what_is_no_residue_is_named_with_its_place(sequence, found, position, words):
    with pytest.raises(ResidueError, match=words) as caught:
        clean_residues(sequence)
    assert (caught.value.found, caught.value.position) == (found, position)
    assert f"{found!r} at position {position}" in str(caught.value)


@pytest.mark.parametrize("sequence", ["", "  \n"])
def test_an_empty_sequence_is_refused(sequence):
    with pytest.raises(ValueError, match="sequence is empty"):
        clean_residues(sequence)


@given(st.text(STANDARD_RESIDUES + RARE_RESIDUES + STANDARD_RESIDUES.lower(), min_size=1), st.text("BJOUZ"))
def test_one_letter_in_one_letter_out(sequence, replace):
    clean, counts = clean_residues(sequence, replace)
    expected = "".join("X" if letter in replace else letter for letter in sequence.upper())
    assert clean == expected
    assert counts.residues == len(sequence)
    assert counts.lower_case == sum(letter.islower() for letter in sequence)
    assert sum(counts.replaced.values()) == sum(letter in replace for letter in sequence.upper())


def test_counts_add_up_over_chains():
    total = clean_residues("MUU", "U")[1] + clean_residues("mBU", "BU")[1]
    assert total == CleaningCounts(chains=2, residues=6, lower_case=1, replaced={"B": 1, "U": 3})
    assert str(total) == "6 residues of 2 chains: 1 were lower case, replaced by X: 1 B, 3 U."
