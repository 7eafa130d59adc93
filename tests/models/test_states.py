"""The alphabets: order, foldings, labels and spellings of coil."""

import numpy as np
import pytest

from lift_ss_hf.models.states import (
    ALPHABETS,
    IGNORE_INDEX,
    NINE_STATES,
    Q3,
    Q3_LIFT_SS,
    Q8,
    Q9,
    STATE_MEANINGS,
    UnknownStateError,
    fold_index,
    get_alphabet,
    normalise_states,
    reduce_probabilities,
)


def test_labels_are_in_the_order_of_lift_ss():
    assert NINE_STATES == "LBEGIHSTP"
    assert Q9.encode("LBEGIHSTPX").tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, IGNORE_INDEX]
    assert len(STATE_MEANINGS) == 9


@pytest.mark.parametrize(
    ("alphabet", "expected"),
    [(Q9, "LBEGIHSTPX"), (Q8, "LBEGIHSTLX"), (Q3, "CEEHHHCCCX"), (Q3_LIFT_SS, "CEEHHHCCHX")],
    ids=lambda value: getattr(value, "name", None),
)
def test_reductions(alphabet, expected):
    assert alphabet.reduce("LBEGIHSTPX") == expected


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=lambda alphabet: alphabet.name)
def test_coil_has_one_label_however_it_is_spelled(alphabet):
    assert len(set(alphabet.encode("LC-. ").tolist())) == 1
    assert alphabet.decode(alphabet.encode(alphabet.letters)) == alphabet.letters


def test_normalise_spells_coil_once_and_keeps_the_unresolved():
    assert normalise_states("HC -.PX") == "HLLLLPX"


@pytest.mark.parametrize("bad", ["Z", "h", "é", "漢"])
def test_an_unknown_state_is_named_with_its_position(bad):
    with pytest.raises(UnknownStateError, match="at position 4") as error:
        Q8.encode("HHH" + bad + "H")
    assert error.value.position == 4
    assert error.value.found == bad


def test_a_label_outside_the_alphabet_is_named_with_its_position():
    with pytest.raises(ValueError, match="label 8 at position 2 is outside q8"):
        Q8.decode([0, 8])


def test_empty_states_are_no_labels():
    assert Q9.encode("").shape == (0,)
    assert Q9.decode([]) == ""


def test_probabilities_sum_over_a_group_before_the_argmax():
    # L, S and T share 0.6 and none of them wins alone: as three states this residue is coil.
    nine = np.array([[0.2, 0, 0, 0, 0, 0.4, 0.2, 0.2, 0.0]])
    three = reduce_probabilities(nine, "q3")
    assert three.tolist() == [pytest.approx([0.6, 0.0, 0.4])]
    assert Q3.decode(three.argmax(-1)) == "C"


def test_probabilities_of_p_go_where_the_folding_says():
    only_p = np.eye(9)[[8]]
    assert reduce_probabilities(only_p, "q3").tolist() == [[1, 0, 0]]
    assert reduce_probabilities(only_p, "q3_lift_ss").tolist() == [[0, 0, 1]]
    assert reduce_probabilities(only_p, "q8").argmax() == 0


@pytest.mark.parametrize("source", ALPHABETS)
@pytest.mark.parametrize("target", ALPHABETS)
def test_folding_by_label_equals_folding_by_letter(source, target):
    source, target = get_alphabet(source), get_alphabet(target)
    if source is not target and len(target) >= len(source):
        with pytest.raises(ValueError, match="cannot be reduced to"):
            fold_index(source, target)
        return
    assert target.decode(fold_index(source, target)) == target.reduce(source.letters)


def test_a_wrong_number_of_probabilities_is_refused():
    with pytest.raises(ValueError, match="8 probabilities, but q9 has 9"):
        reduce_probabilities(np.zeros((3, 8)), "q3")


def test_an_unknown_state_set_lists_the_choices():
    with pytest.raises(ValueError, match="Choose one of: q3, q3_lift_ss, q8, q9"):
        get_alphabet("q7")
