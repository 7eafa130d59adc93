import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift_ss_hf.models.sequences import (
    RARE_RESIDUES,
    STANDARD_RESIDUES,
    ResidueError,
    clean_sequence,
    looks_like_nucleotides,
)

RESIDUES = STANDARD_RESIDUES + RARE_RESIDUES


@pytest.mark.parametrize(
    ("sequence", "found", "position", "words"),
    [
        ("MKT*", "*", 4, "stop codon"),
        ("MK-T", "-", 3, "gap"),
        ("MK.T", ".", 3, "gap"),
        ("MK T", " ", 3, "not a residue"),
        ("1MKT", "1", 1, "not a residue"),
        ("MKα", "α", 3, "not a residue"),
        ("MÉK", "É", 2, "not a residue"),
    ],
)
def test_an_invalid_character_is_named_with_its_position(sequence, found, position, words):
    with pytest.raises(ResidueError, match=words) as caught:
        clean_sequence(sequence)
    assert (caught.value.found, caught.value.position) == (found, position)
    assert f"{found!r} at position {position}" in str(caught.value)


@pytest.mark.parametrize("sequence", ["", "  \n"])
def test_an_empty_sequence_is_refused(sequence):
    with pytest.raises(ValueError, match="sequence is empty"):
        clean_sequence(sequence)
    with pytest.raises(ValueError, match="sequence is empty"):
        clean_sequence("-*.", drop_gaps=True)


@given(st.text(RESIDUES + RESIDUES.lower(), min_size=1))
def test_one_letter_in_is_one_residue_out(sequence):
    clean = clean_sequence(f" {sequence}\n")
    assert str(clean) == sequence.upper()
    assert len(clean) == len(sequence)
    assert clean.codes.dtype == np.uint8
    assert clean.num_lower_case == sum(map(str.islower, sequence))
    assert clean.num_gaps == 0


@given(st.text(RESIDUES + RESIDUES.lower() + "-.*", min_size=1).filter(lambda text: text.strip("-.*")))
def test_gaps_and_stops_are_removed_and_counted(sequence):
    clean = clean_sequence(sequence, drop_gaps=True)
    residues = "".join(letter for letter in sequence if letter not in "-.*")
    assert str(clean) == residues.upper()
    assert clean.num_gaps == len(sequence) - len(residues)
    assert clean.num_lower_case == sum(map(str.islower, residues))


def test_positions_of_errors_count_gaps():
    with pytest.raises(ResidueError) as caught:
        clean_sequence("MK-V1A", drop_gaps=True)
    assert caught.value.position == 5


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        *(("ACGT" * 5, True), ("acgu" * 5, True), ("ACGTN" * 4, True)),
        *(("GATTACA", False), ("AG" * 10, False), ("ACGT" * 10 + "E", False), ("AN" * 10, False)),
        *(("ACGT" * 10 + "W", True), ("ACGTSKGGSS" * 3, False)),  # a few ambiguity codes; too many
    ],
)
def test_nucleotides_are_recognised(sequence, expected):
    assert looks_like_nucleotides(clean_sequence(sequence)) is expected
