"""dataset_scripts/cluster_sequences.py: whole clusters are held out, one representative each."""

import random
import shutil

import pytest
from scripts import run_script
from stopped_at import STOPS, check_replacing
from tools import needs_mmseqs

from lift_ss_hf.corpora import mmseqs
from lift_ss_hf.corpora.fasta import read_fasta
from lift_ss_hf.models.sequences import STANDARD_RESIDUES

SCRIPT = "dataset_scripts/cluster_sequences.py"
NUM_FAMILIES = 20


def written(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["heldout.fasta", "train.fasta"]
    return [dict(read_fasta(folder / f"{name}.fasta")) for name in ("train", "heldout")]


@pytest.fixture
def fasta(tmp_path):
    """Unrelated sequences of 100 residues, each with two relatives of other ends."""
    generator = random.Random(0)
    lines = []
    for family in range(NUM_FAMILIES):
        parent = "".join(generator.choices(STANDARD_RESIDUES, k=100))
        lines += [f">family{family}_{member}\n{parent[member:-10]}{10 * 'WYG'[member]}\n" for member in range(3)]
    (tmp_path / "all.fasta").write_text("".join(lines))
    return tmp_path / "all.fasta"


@needs_mmseqs
def test_each_family_gives_one_sequence_to_train_or_to_heldout(fasta, tmp_path):
    done = run_script(SCRIPT, fasta, "--out", tmp_path / "out", "--heldout", 5)
    assert (done.returncode, done.stderr) == (0, "")
    train, heldout = written(tmp_path / "out")
    families = [name.split("_")[0] for name in (*train, *heldout)]
    assert len(train) == NUM_FAMILIES - 5 and len(heldout) == 5
    assert len(set(families)) == len(families) == NUM_FAMILIES
    known = dict(read_fasta(fasta))
    assert all(known[name] == sequence for name, sequence in (train | heldout).items())
    assert done.stdout.splitlines() == [
        f"{tmp_path / 'out' / 'heldout.fasta'}: 5 sequences, 500 residues",
        f"{tmp_path / 'out' / 'train.fasta'}: 15 sequences, 1,500 residues",
    ]


@needs_mmseqs
def test_the_seed_decides_what_is_held_out_and_an_older_split_is_replaced(fasta, tmp_path):
    found = []
    for seed in (0, 0, 1):
        run_script(SCRIPT, fasta, "--out", tmp_path / "out", "--heldout", 5, "--seed", seed)
        found.append(written(tmp_path / "out"))
    assert found[0] == found[1] != found[2]


@needs_mmseqs
def test_a_failure_changes_nothing(fasta, tmp_path):
    run_script(SCRIPT, fasta, "--out", tmp_path / "out", "--heldout", 5)
    before = written(tmp_path / "out")
    for arguments, message in (
        ([fasta, "--heldout", NUM_FAMILIES], "20 clusters are too few to hold out 20. Lower --heldout."),
        ([tmp_path / "no.fasta"], "no.fasta does not exist"),
    ):
        done = run_script(SCRIPT, *arguments, "--out", tmp_path / "out")
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert written(tmp_path / "out") == before


@needs_mmseqs
def test_a_folder_with_other_files_is_left_alone(fasta, tmp_path):
    done = run_script(SCRIPT, fasta, "--out", tmp_path, "--heldout", 5)
    assert done.returncode == 2
    assert f"error: {tmp_path}: contains other files than clusters. Name another folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["all.fasta"]


@pytest.mark.parametrize("wrong", [["--identity", "30"], ["--heldout", "0"], ["--heldout", "-5"]])
def test_options_out_of_range_are_refused(tmp_path, wrong):
    done = run_script(SCRIPT, "all.fasta", "--out", tmp_path / "out", *wrong)
    assert done.returncode == 2
    assert "--identity must be from 0 to 1, and --heldout 1 or more" in done.stderr


@pytest.mark.process
@STOPS
def test_a_run_stopped_anywhere_is_completed_by_the_next(fasta, tmp_path, kill, monkeypatch):
    def keep_all(command, source, result, *arguments):  # mmseqs takes 0.3 s and leaves 70 files
        shutil.copy(source, f"{result}_rep_seq.fasta")

    def write(seed):
        done = run_script(SCRIPT, fasta, "--out", folder, "--heldout", 5, "--seed", seed)
        assert (done.returncode, done.stderr) == (0, "")

    monkeypatch.setattr(mmseqs, "require_mmseqs", lambda: None)
    monkeypatch.setattr(mmseqs, "run_mmseqs", keep_all)
    folder = tmp_path / "work" / "clusters"
    check_replacing(lambda: write(0), lambda: write(1), folder, kill)
