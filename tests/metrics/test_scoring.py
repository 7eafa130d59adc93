"""Scores against a slow and obvious second implementation, the reference program's output, and hand-made cases."""

import json
import math
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lift_ss_hf.metrics import scored_chains
from lift_ss_hf.metrics.scoring import compare, score
from lift_ss_hf.models.states import ALPHABETS, Q9

# --- the second implementation: one chain, one state, one pair of segments at a time -----------------------------


def slow_segments(states):
    """(state, first, last) of each run."""
    segments, position = [], 0
    for state, run in groupby(states):
        length = len(list(run))
        segments.append((state, position, position + length - 1))
        position += length
    return segments


def slow_sums(reference, prediction):
    """Numerators of SOV'99 and SOV_refine, and N, of one chain."""
    segments, predicted = slow_segments(reference), slow_segments(prediction)
    squares = sum(((last - first + 1) / len(reference)) ** 2 for _, first, last in segments)
    delta_all = len(set(reference)) / squares if reference else 0
    sov99 = refine = norm = 0.0
    for state, first1, last1 in segments:
        if state == "X":
            continue
        length1, paired = last1 - first1 + 1, False
        for other, first2, last2 in predicted:
            minov = min(last1, last2) - max(first1, first2) + 1
            if other != state or minov <= 0:
                continue
            paired = True
            length2, maxov = last2 - first2 + 1, max(last1, last2) - min(first1, first2) + 1
            delta = min(maxov - minov, minov, length1 // 2, length2 // 2)
            delta_refine = min(delta_all * (length1 / len(reference)) * (minov / maxov), maxov - minov)
            sov99 += (minov + delta) / maxov * length1
            refine += (minov + delta_refine) / maxov * length1
            norm += length1
        if not paired:
            norm += length1
    return sov99, refine, norm


def slow_score(references, predictions, states, mode):
    pairs = [
        (ALPHABETS[states].reduce(r), ALPHABETS[states].reduce(p)) for r, p in zip(references, predictions, strict=True)
    ]
    if mode == "masked":
        kept = [[(r, p) for r, p in zip(*pair, strict=True) if r != "X"] for pair in pairs]
        pairs = [("".join(r for r, _ in pair), "".join(p for _, p in pair)) for pair in kept]
    sov99, refine, norm = (sum(column) for column in zip(*(slow_sums(*pair) for pair in pairs), strict=True))
    residues = [(r, p) for pair in pairs for r, p in zip(*pair, strict=True) if r != "X"]
    f1, scores = {}, {}
    for letter in ALPHABETS[states].letters:
        hit = sum(r == p == letter for r, p in residues)
        missed = sum(r == letter != p for r, p in residues)
        false = sum(p == letter != r for r, p in residues)
        rest = len(residues) - hit - missed - false
        root = math.sqrt((hit + false) * (hit + missed) * (rest + false) * (rest + missed))
        scores[f"recall_{letter}"] = hit / (hit + missed) if hit + missed else None
        scores[f"precision_{letter}"] = hit / (hit + false) if hit + false else None
        f1[letter] = 2 * hit / (2 * hit + missed + false) if hit + missed + false else None
        mcc = (hit * rest - false * missed) / root if root else 0.0
        scores[f"mcc_{letter}"] = None if f1[letter] is None else mcc
    predicted = {p for _, p in residues}
    present = [value for value in f1.values() if value is not None]
    return {
        states: sum(r == p for r, p in residues) / len(residues),
        "sov99": sov99 / norm,
        "sov_refine": refine / norm,
        "macro_f1": sum(present) / len(present),
        "macro_f1_predicted": sum(f1[letter] for letter in predicted) / len(predicted),
        **{f"f1_{letter}": value for letter, value in f1.items()},
        **scores,
    }


@st.composite
def chain_pairs(draw):
    """A few chains of runs, with unresolved stretches, and predictions that follow them loosely."""
    references, predictions = [], []
    for _ in range(draw(st.integers(1, 6))):
        runs = draw(st.lists(st.tuples(st.sampled_from("LBEGIHSTPXHEX"), st.integers(1, 9)), min_size=0, max_size=12))
        reference = "".join(state * length for state, length in runs)
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        shifted = np.clip(np.arange(len(reference)) + rng.integers(-2, 3, len(reference)), 0, len(reference) - 1)
        noise = rng.choice(list("LBEGIHSTP"), len(reference))
        copied = rng.random(len(reference)) < draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
        prediction = [reference[j] if keep else n for j, keep, n in zip(shifted, copied, noise, strict=True)]
        predictions.append("".join("H" if state == "X" else state for state in prediction))
        references.append(reference)
    return references, predictions


@pytest.mark.parametrize("mode", ["compatible", "masked"])
@pytest.mark.parametrize("states", ALPHABETS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(pairs=chain_pairs())
def test_agrees_with_the_second_implementation(states, mode, pairs):
    references, predictions = pairs
    if not "".join(references).strip("X"):
        with pytest.raises(ValueError, match="no labelled residue"):
            score(references=references, predictions=predictions, states=states, mode=mode)
        return
    result = score(references=references, predictions=predictions, states=states, mode=mode)
    for name, expected in slow_score(references, predictions, states, mode).items():
        assert result[name] == (None if expected is None else pytest.approx(expected, abs=1e-9)), name


# --- the reference program ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "prediction", "mode", "expected"),
    [
        ("HHHXXX", "HHHHHH", "compatible", 2 / 3),  # LIFT_SS: 66.67 although Q is 100
        ("HHHXXX", "HHHHHH", "masked", 1.0),
        ("HHHHHH", "HHHLHH", "compatible", 7 / 12),  # LIFT_SS: 58.33
        ("HHHHHH", "HHHLHH", "masked", 7 / 12),
    ],
)
@pytest.mark.parametrize("states", ALPHABETS)
def test_the_fixtures_of_lift_ss(reference, prediction, mode, expected, states):
    assert score(references=[reference], predictions=[prediction], states=states, mode=mode)["sov99"] == pytest.approx(
        expected, abs=1e-12
    )


def recorded_pairs():
    lines = (Path(__file__).parents[1] / "data" / "sov_pairs.txt").read_text().splitlines()
    return {"references": lines[1::3], "predictions": lines[2::3]}


# What the formulas of LIFT_SS's SOV.pl give for tests/data/sov_pairs.txt at its default mode: recorded from a condensed
# retyping of it in Perl 5 that prints twelve digits, and sums SOV_refine, which the original computes a chain, the way
# it sums SOV'99. Not from the untouched program.
RECORDED = {
    "q9": {
        "q9": 0.802395209581,
        "sov99": 0.617305601732,
        "sov_refine": 0.717989033350,
        "sov99_B": 1.0,
        "sov99_E": 0.698245614035,
        "sov99_G": 0.818181818182,
        "sov99_H": 0.649431818182,
        "sov99_I": 0.670955882353,
        "sov99_L": 0.520717444017,
        "sov99_P": 0.785440613027,
        "sov99_S": 0.397058823529,
        "sov99_T": 0.601758241758,
    },
    "q3_lift_ss": {
        "q3_lift_ss": 0.860279441118,
        "sov99": 0.635053452164,
        "sov_refine": 0.621670020404,
        "sov99_C": 0.512680206663,
        "sov99_E": 0.749206349206,
        "sov99_H": 0.821652612094,
    },
}


@pytest.mark.parametrize("states", RECORDED)
def test_the_compatible_mode_gives_what_the_reference_program_gave(states):
    result = score(**recorded_pairs(), states=states)
    assert result["sov_mode"] == "compatible"
    for name, expected in RECORDED[states].items():
        assert result[name] == pytest.approx(expected, abs=1e-11), name


# --- what the result says -----------------------------------------------------------------------------------------


def test_the_result_is_flat_and_plain():
    result = score(**recorded_pairs(), states="q8", per_chain=True, bootstrap=20)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["letters"] == "LBEGIHST"
    assert result["num_chains"] == 8
    assert result["num_residues"] == sum(map(sum, result["confusion_matrix"])) == 501
    assert not any(isinstance(value, dict) for value in result.values())
    added = {name for name in result if name.startswith("chain_") or name.endswith(("_low", "_high"))}
    assert set(score(**recorded_pairs(), states="q8")) == set(result) - added


def test_rows_of_the_confusion_matrix_are_the_references_states():
    result = score(references=["CCEH"], predictions=["CEEC"], states="q3")
    assert result["letters"] == "CEH"
    assert result["confusion_matrix"] == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_macro_f1_counts_a_state_that_is_never_predicted_and_the_references_does_not():
    result = score(references=["CCCCH"], predictions=["CCCCC"], states="q3")
    assert result["f1_H"] == 0.0
    assert result["macro_f1"] == pytest.approx((8 / 9 + 0) / 2)
    assert result["macro_f1_predicted"] == pytest.approx(8 / 9)


def test_what_is_not_defined_is_none():
    result = score(references=["HHHH", "XX", ""], predictions=["HHHC", "HH", ""], states="q3", per_chain=True)
    assert [result[f"{name}_E"] for name in ("recall", "precision", "f1", "mcc", "sov99")] == [None] * 5
    assert (result["recall_C"], result["sov99_C"], result["precision_C"], result["f1_C"]) == (None, None, 0.0, 0.0)
    assert result["mcc_C"] == result["mcc_H"] == 0.0  # one state in the reference: the denominator is 0
    assert result["chain_q3"] == [0.75, None, None]
    assert result["chain_sov99"][1:] == result["chain_sov_refine"][1:] == [None, None]
    assert result["chain_num_residues"] == [4, 0, 0]
    assert (result["num_chains"], result["num_residues"]) == (3, 4)


def test_every_chain_alone_scores_what_its_place_in_the_list_says():
    references, predictions = recorded_pairs().values()
    together = score(references=references, predictions=predictions, states="q9", per_chain=True)
    for chain, pair in enumerate(zip(references, predictions, strict=True)):
        alone = score(references=[pair[0]], predictions=[pair[1]], states="q9")
        for name in ("q9", "sov99", "sov_refine"):
            assert together[f"chain_{name}"][chain] == pytest.approx(alone[name], abs=1e-12)


def test_coil_may_be_spelled_as_sources_spell_it():
    results = [score(references=["H" + coil * 3 + "E"], predictions=["HHLCE"], states="q8") for coil in "LC-. "]
    assert all(result == results[0] for result in results)
    assert results[0]["q8"] == 0.8


@pytest.mark.parametrize(("states", "expected"), [("q9", 0.25), ("q8", 0.5), ("q3", 0.75), ("q3_lift_ss", 0.5)])
def test_finer_states_are_folded(states, expected):
    # P and L are one in q8 and q3, not in q3_lift_ss; B and E are one in the three states; S and G nowhere.
    assert score(references=["PBSH"], predictions=["LEGH"], states=states)[states] == expected


def test_segments_of_two_chains_never_join():
    assert score(references=["HHH", "HHH"], predictions=["HHH", "HHH"])["sov99"] == 1.0
    apart = score(references=["HHHL", "LHHH"], predictions=["HHHL", "HHHH"], per_chain=True)
    assert apart["chain_sov99"][0] == 1.0


@pytest.mark.parametrize("residues", [1, 100])  # every chain is longer; most are shorter
@pytest.mark.parametrize("mode", ["compatible", "masked"])
def test_small_blocks_give_the_same(monkeypatch, mode, residues):
    whole = score(**recorded_pairs(), states="q9", mode=mode, per_chain=True)
    monkeypatch.setattr(scored_chains, "BLOCK_RESIDUES", residues)
    blocks = score(**recorded_pairs(), states="q9", mode=mode, per_chain=True)
    assert blocks.pop("confusion_matrix") == whole.pop("confusion_matrix")
    for name, value in whole.items():  # sums are added in another order: equal but for the last digit
        assert blocks[name] == (value if isinstance(value, str) else pytest.approx(value, abs=1e-12)), name


# --- labels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["compatible", "masked"])
def test_labels_score_as_the_strings_they_stand_for(mode):
    pairs = recorded_pairs()
    references = [Q9.encode(chain).tolist() for chain in pairs["references"]]
    predictions = [Q9.encode(chain) for chain in pairs["predictions"]]
    found = score(references=references, predictions=predictions, states="q3", mode=mode, source="q9")
    assert found == score(**pairs, states="q3", mode=mode)
    found = score(references=pairs["references"], predictions=predictions, states="q9", mode=mode)
    assert found == score(**pairs, states="q9", mode=mode)


def test_padded_rows_of_labels_score_as_the_chains_alone():
    # The default of labels is the masked mode: what the model says on padding must not matter.
    references = np.array([[-100, 0, 5, 5, -100], [5, 5, -100, -100, -100]])
    predictions = np.array([[3, 0, 5, 0, 0], [5, 5, 5, 5, -100]])
    result = score(references=references, predictions=predictions)
    assert result["sov_mode"] == "masked"
    assert result == score(references=["LHH", "HH"], predictions=["LHL", "HH"], states="q9", mode="masked")


# --- how sure -----------------------------------------------------------------------------------------------------


def noisy_chains(num_chains, error, seed):
    """The same chain many times, and predictions that lose a share of its H and E to coil."""
    rng = np.random.default_rng(seed)
    reference = "LLLHHHHHHHLLEEEELLHHHHHLEEEEEELLLLEEHHHHHHHHLL"
    lost = rng.random((num_chains, len(reference))) < error
    predictions = ["".join("L" if gone else s for s, gone in zip(reference, row, strict=True)) for row in lost]
    return {"references": [reference] * num_chains, "predictions": predictions}


def test_intervals_hold_the_score_and_are_those_of_the_seed():
    pairs = noisy_chains(40, 0.3, 1)
    result = score(**pairs, states="q3", bootstrap=300, seed=5)
    for name in ("q3", "sov99", "sov_refine"):
        assert result[f"{name}_low"] < result[name] < result[f"{name}_high"]
        assert result[f"{name}_high"] - result[f"{name}_low"] < 0.2
    assert result == score(**pairs, states="q3", bootstrap=300, seed=5)
    assert result != score(**pairs, states="q3", bootstrap=300, seed=6)


def test_the_interval_of_the_accuracy_has_the_width_that_theory_gives():
    # 400 chains of one residue, 0.75 right: the standard error is sqrt(p q / n).
    result = score(references=["H"] * 400, predictions=["H"] * 300 + ["L"] * 100, states="q3", bootstrap=2000)
    assert result["q3_high"] - result["q3_low"] == pytest.approx(2 * 1.96 * math.sqrt(0.75 * 0.25 / 400), rel=0.1)


def test_compare_finds_a_difference_and_its_direction():
    references, good = noisy_chains(40, 0.1, 1).values()
    bad = noisy_chains(40, 0.4, 2)["predictions"]
    result = compare(references=references, predictions_a=bad, predictions_b=good, states="q3", resamples=500)
    for name in ("q3", "sov99", "sov_refine"):
        assert result[f"{name}_difference"] == pytest.approx(result[f"{name}_b"] - result[f"{name}_a"])
        assert 0 < result[f"{name}_difference_low"] < result[f"{name}_difference"] < result[f"{name}_difference_high"]
        assert result[f"{name}_p_value"] == pytest.approx(1 / 501)
    assert result["q3_b"] == score(references=references, predictions=good, states="q3")["q3"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_compare_sees_no_difference_where_there_is_none():
    references, one = noisy_chains(40, 0.2, 1).values()
    same = compare(references=references, predictions_a=one, predictions_b=one, states="q3", resamples=100)
    assert (same["q3_difference"], same["sov99_p_value"]) == (0.0, 1.0)
    # Under the null the p-value is uniform: a mean far from 1/2 would be a wrong test.
    p_values = [
        compare(
            references=references,
            predictions_a=one,
            predictions_b=noisy_chains(40, 0.2, seed)["predictions"],
            states="q3",
            resamples=100,
        )["q3_p_value"]
        for seed in range(2, 32)
    ]
    assert 0.3 < np.mean(p_values) < 0.7


def test_compare_is_exact_on_few_chains():
    # Two chains, b right and a wrong on both: of the four equally likely swaps two are as extreme.
    result = compare(
        references=["HH", "HH"], predictions_a=["LL", "LL"], predictions_b=["HH", "HH"], states="q3", resamples=20_000
    )
    assert result["q3_p_value"] == pytest.approx(0.5, abs=0.02)


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["HH", "HHH"], ["HH", "HH"]), r"chain 2: 3 reference states but 2 predicted\. Mark unresolved residues X"),
        ((["HH"], ["HH", "H"]), r"1 references but 2 predictions\. Give one prediction per reference"),
        (([], []), "no chains: references and predictions are empty"),
        ((["XX"], ["HH"]), r"no labelled residue in 1 chain\(s\)"),
        (([""], [""]), r"no labelled residue in 1 chain\(s\)"),
        ((["HH", "HZH"], ["HH", "HHH"]), r"references, chain 2: unknown state 'Z' at position 2\. Expected one of"),
        ((["HH", "", "HHH"], ["HH", "", "HH漢"]), "predictions, chain 3: unknown state '漢' at position 3"),
        ((["HHH"], ["HhH"]), "predictions, chain 1: unknown state 'h' at position 2"),
        ((["HHH"], ["HHÿ"]), "predictions, chain 1: unknown state 'ÿ' at position 3"),  # the last byte
        ((["HH", "HHX"], ["HH", "HXH"]), r"predictions, chain 2: no state \(X or -100\) at position 2\. Predict"),
        ((["HHX"], ["HHX"]), "predictions, chain 1: no state .* at position 3.* only mode='masked'"),
        ((["HH"], ["HX"]), "Are references and predictions swapped"),
        (("HHH", ["HHH"]), "references is one string. Expected a list"),
        ((["HHH"], None), "predictions is NoneType. Expected a list of chains"),
        ((["HH", [5, 5]], ["HH", "HH"]), "references, chain 2: found list. Expected only strings"),
        (([[5, 5], 5], [[5, 5], [5]]), "references, chain 2: found int. Expected only"),
        (([[5, 9]], [[5, 5]]), r"references, chain 1: label 9 at position 2 is outside q9 \(0 to 8 for LBEGIHSTP"),
        (([[5], [5, -1]], [[5], [5, 5]]), "references, chain 2: label -1 at position 2 is outside q9"),
        (([[5, 5]], [[5.0, 5.0]]), r"predictions has rows of 1 dimension\(s\) and type float64. Expected one integer"),
        (([[5]], [[[0.1, 0.9]]]), r"predictions has rows of 2 dimension\(s\).* argmax of logits"),
        ((["HH"], ["HH"], "q7"), "unknown alphabet 'q7'. Choose one of: q3, q3_lift_ss, q8, q9"),
        ((["HH"], ["HH"], "q8", "strict"), "unknown mode 'strict'. Choose one of: compatible, masked"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        score(**dict(zip(("references", "predictions", "states", "mode"), arguments, strict=False)))
    assert "\n" not in str(error.value)


def test_labels_of_a_coarser_alphabet_are_refused():
    with pytest.raises(ValueError, match="cannot be reduced to"):
        score(references=[[0]], predictions=[[0]], states="q9", source="q3")


@pytest.mark.parametrize("resamples", [-1, True, 2.5])
def test_a_bad_number_of_resamples_is_refused(resamples):
    with pytest.raises(ValueError, match=r"bootstrap is .*Expected a whole number of resamples"):
        score(references=["HH", "HH"], predictions=["HH", "HH"], bootstrap=resamples)
    with pytest.raises(ValueError, match=r"resamples is .*Expected a whole number of resamples"):
        compare(references=["HH", "HH"], predictions_a=["HH", "HH"], predictions_b=["HH", "HH"], resamples=resamples)


def test_one_labelled_chain_cannot_be_resampled():
    with pytest.raises(ValueError, match="needs at least 2 with labels, found 1"):
        score(references=["HH", "XX"], predictions=["HH", "HH"], bootstrap=10)


def test_compare_names_the_predictor_that_is_wrong():
    with pytest.raises(ValueError, match="predictions_b, chain 1: unknown state 'Z'"):
        compare(references=["HH", "HH"], predictions_a=["HH", "HH"], predictions_b=["HZ", "HH"])
    with pytest.raises(ValueError, match="2 references but 1 predictions_a"):
        compare(references=["HH", "HH"], predictions_a=["HH"], predictions_b=["HH", "HH"])


# --- cost ---------------------------------------------------------------------------------------------------------


def test_the_memory_beyond_the_input_does_not_grow_with_the_number_of_pairs():
    import tracemalloc

    def peak(num_chains):
        references, predictions = (["HE" * 200] * num_chains, ["HEE" * 133 + "H"] * num_chains)
        score(references=references[:2], predictions=predictions[:2])
        tracemalloc.start()
        score(references=references, predictions=predictions)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    # Ten times the chains: the sums of each chain (a few dozen bytes) grow, the pairs of segments (kilobytes) do not.
    few, many = peak(1000), peak(10_000)
    assert many - few < 9000 * 400 / 2, f"{few} to {many} bytes"


@pytest.mark.process
def test_scoring_needs_numpy_only():
    heavy = ("torch", "transformers", "datasets", "evaluate", "adapters", "pandas", "scipy", "sklearn")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({heavy!r})); "
        "from lift_ss_hf.metrics.scoring import score; "
        "print(score(references=['HHHHHH'], predictions=['HHHLHH'])['sov99'])"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert finished.stdout.strip() == str(7 / 12), finished.stderr
