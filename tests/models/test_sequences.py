from pathlib import Path

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
    may_be_nucleotides,
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
    ("sequence", "looks", "may_be"),
    [
        *(("ACGT" * 5, True, True), ("acgu" * 5, True, True), ("ACGTN" * 4, True, True)),
        *(("GATTACA", False, True), ("GATTA", False, False), ("AG" * 20, False, False), ("AN" * 20, False, False)),
        ("ACGT" * 10 + "E", False, False),
        *(("ACGT" * 10 + "W", True, True), ("ACGT" * 10 + "XXXX", True, True)),  # a few ambiguity codes, a repeat
        *(("ACGTRYSWKM" * 3, False, True), ("ACGTRYSWKMBDHVN" * 2, False, True), ("ACGTXXX" * 5, False, True)),
        ("CKGKGASCRKTMYDCCRGSCRSGRC", False, False),  # an omega-conotoxin
        ("MARYRHSRSRSRSRYRRRRRRRSRYRSRRRRYRGRRRRRSRRGRRRRGYSCRRYSRRRRRRY", False, False),  # a protamine, UniProt Q9GLQ8
    ],
)
def test_nucleotides_are_recognised_and_proteins_of_the_same_letters_are_not(sequence, looks, may_be):
    clean = clean_sequence(sequence)
    assert (looks_like_nucleotides(clean), may_be_nucleotides(clean)) == (looks, may_be)


def test_no_protein_is_taken_for_nucleotides(shared_corpora):
    lines = Path(shared_corpora, "promod3", "chains_q9.txt").read_text().splitlines()
    chains = [clean_sequence(sequence) for sequence in lines[1::3]]
    assert len(chains) == 20_881
    assert not any(looks_like_nucleotides(chain) or may_be_nucleotides(chain) for chain in chains)
