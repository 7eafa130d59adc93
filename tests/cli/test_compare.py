"""`lift-ss compare`: observed and predicted states of a structure's chains; what is missing is one clear line."""

import re
from pathlib import Path

from scripts import run_lift_ss
from tools import needs_mkdssp

from lift_ss_hf.metrics.scoring import score

STRUCTURES = Path(__file__).parents[1] / "data" / "structures"


def joined(out, title):
    """Return the lines of one kind, joined."""
    return "".join(re.findall(rf"^  {title} +(\S.*)$", out, re.MULTILINE))


@needs_mkdssp
def test_one_chain_has_lines_scores_and_a_figure(tmp_path):
    figure = tmp_path / "figure.svg"
    status, out, _ = run_lift_ss("compare", STRUCTURES / "1A8O.cif.gz", "-o", figure)
    assert status == 0
    assert out.startswith("1a8o_A  70 residues, 70 with an observed state\n")
    sequence, observed, predicted = (joined(out, title) for title in ("residues", "observed", "predicted"))
    assert sequence.startswith("MDIRQGPKEP") and len(sequence) == len(observed) == len(predicted) == 70
    scores = score(references=[observed], predictions=[predicted], states="q3")
    assert f"| Q3 (P→C) | {100 * scores['q3']:.2f} |" in out
    assert f"Q3 {100 * scores['q3']:.1f} %, SOV'99 of Q3 {100 * scores['sov99']:.1f} %\n" in out
    num_marks = sum(line.count("*") for line in out.splitlines() if line.startswith("  differs"))
    assert num_marks == sum(a != b for a, b in zip(observed, predicted, strict=True)) > 0
    assert out.endswith(f"{figure}: 1a8o_A\n")
    assert "<svg" in figure.read_text()


@needs_mkdssp
def test_several_chains_are_scored_one_by_one_and_together_or_chosen():
    status, out, _ = run_lift_ss("compare", STRUCTURES / "2BEG.pdb.gz", "--states", "q9")
    assert status == 0
    headings = re.findall(r"^(\w+_\w+)  42 residues, (\d+) with an observed state$", out, re.MULTILINE)
    assert len(headings) == 5
    assert "all 5 chains\n" in out
    assert out.count("| Q3 (P→C) |") == 6
    for chain in ("B", "2beg_B"):
        status, out, _ = run_lift_ss("compare", STRUCTURES / "2BEG.pdb.gz", "--chains", chain)
        assert (status, out.count("| Q3 (P→C) |")) == (0, 1)
        assert out.startswith("2beg_B")


def test_what_is_missing_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(STRUCTURES)
    for arguments, message in (
        (["1A8O.cif.gz", "--mkdssp", "no_such_program"], "no_such_program not found. Install it (Debian: apt-get"),
        (["1A8O.cif.gz", "--states", "q7"], "unknown alphabet 'q7'"),
        (["1A8O.cif.gz", "-o", "a.gif"], "a.gif: not the name of a figure"),
    ):
        status, out, err = run_lift_ss("compare", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert message in err


@needs_mkdssp
def test_files_without_the_chain_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(STRUCTURES)
    (tmp_path / "empty.pdb").write_text("END\n")
    for arguments, message in (
        (["1A80.cif.gz"], "1A80.cif.gz: no such file. Did you mean '1A8O.cif.gz'"),
        (["1A8O.cif.gz", "--chains", "B"], "1A8O.cif.gz: no chain 'B'. Its chains are: A."),
        ([tmp_path / "empty.pdb"], "Expected a structure with a protein chain."),
    ):
        status, out, err = run_lift_ss("compare", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert message in err
