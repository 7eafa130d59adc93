"""benchmarks/paired.py: the files of two runs give the same paired test as their states."""

import json
import random

import pytest
from scripts import ROOT, run_script
from small_runs import make_chains

from lift_ss_hf.metrics.scoring import compare, score

NAMES = ("casp12", "cb513")


def noisy(states, share, seed):
    rng = random.Random(seed)
    return ["".join(rng.choice("HEL") if rng.random() < share else letter for letter in chain) for chain in states]


@pytest.fixture
def runs(tmp_path):
    """Two runs on two corpora, the second one better; and the states of the first corpus for each run."""
    folders, kept = [], []
    for number, share in enumerate((0.5, 0.4)):
        corpora = {}
        for seed, name in enumerate(NAMES):
            references = [chain.states for chain in make_chains(30, seed)]
            predictions = noisy([states.replace("X", "L") for states in references], share, number)
            scores = score(
                references=references, predictions=predictions, states="q3", source="q9", bootstrap=0, per_chain=True
            )
            corpora[name] = {"scores": {"q3": scores}}
            if name == NAMES[0]:
                kept.append((references, predictions))
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps({"corpora": corpora}))
        folders.append(folder)
    return folders, kept


@pytest.fixture
def paired(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # where a script finds the modules beside it
    return lambda *arguments: run_script("benchmarks/paired.py", *arguments)


def test_files_give_what_states_give(runs, paired):
    folders, ((references, first), (_, second)) = runs
    rows = [line for line in paired(*folders, "--resamples", "500").stdout.splitlines() if line.startswith("| c")]
    assert [row.split()[1] for row in rows] == ["corpus", *NAMES]
    expected = compare(
        references=references, predictions_a=first, predictions_b=second, states="q3", source="q9", resamples=500
    )
    difference, low, high = (100 * expected[f"q3_difference{end}"] for end in ("", "_low", "_high"))
    assert f"| {difference:+.2f} [{low:+.2f}, {high:+.2f}] | {expected['q3_p_value']:.4f} |" in rows[1]
    assert difference > 2


def test_runs_with_nothing_in_common_are_an_error(runs, paired):
    folders, _ = runs
    done = paired(*folders, "--states", "q8")
    assert done.returncode == 2
    assert done.stderr.startswith("error: nothing to compare at q8: run0 has casp12 (q3), cb513 (q3); run1 has")
    assert not done.stdout
