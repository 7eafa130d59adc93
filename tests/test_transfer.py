"""States carried over to homologous sequences: residue by residue, and only where chain and sequence are aligned."""

import gzip
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_leakage import CRO, KINASE, relative, write_chains

from lift_ss_hf.corpora import load_corpus
from lift_ss_hf.corpora.chains import Chain
from lift_ss_hf.corpora.transfer import TransferSettings, homologous_chains, transfer

SCRIPT = Path(__file__).parents[1] / "dataset_scripts" / "homologues.py"
needs_mmseqs = pytest.mark.skipif(shutil.which("mmseqs") is None, reason="needs mmseqs (Debian: mmseqs2)")

STATES = "".join(random.Random(0).choices("HGIEBTSPL", k=len(KINASE)))
CHAINS = [Chain("cro", CRO, "L" * len(CRO)), Chain("kinase", KINASE, STATES)]
HEAD, INSERT, CUT = "MSTNWYFC" * 5, "WYFWC", slice(100, 104)
# Half of its residues are others', it begins later, has five more in its midst, lacks four further on.
COUSIN = relative(KINASE, 0.3)
SEQUENCES = {
    "alien": "".join(random.Random(1).choices("ACDEFGHIKLMNPQRSTVWY", k=150)),
    "twin": KINASE,
    "cousin": HEAD + COUSIN[:60] + INSERT + COUSIN[60 : CUT.start] + COUSIN[CUT.stop :],
    "closer": relative(KINASE, 0.25),
    "near": relative(KINASE, 0.1),
    "piece": KINASE[40:100],
}


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "sequences.fasta.gz"
    path.write_bytes(gzip.compress("".join(f">{n} of a\n{s}\n" for n, s in SEQUENCES.items()).encode()))
    return path


def test_gaps_leave_no_state_behind():
    assert transfer("HELT", "AC-DE", "A-GDW") == ("AGDW", "HXLT")
    assert transfer("HEL", "ACD", "WYF") == ("WYF", "HEL")


@needs_mmseqs
def test_homologues_get_the_states_of_the_residues_they_are_aligned_with(fasta):
    found = {chain.id: chain for chain in homologous_chains(CHAINS, fasta)}
    assert list(found) == ["kinase~cousin", "kinase~near"]  # closer is no step from cousin, twin nothing new
    near, cousin = found["kinase~near"], found["kinase~cousin"]
    assert (near.sequence, near.states) == (SEQUENCES["near"], STATES)
    assert len(cousin.sequence) == len(cousin.states) <= len(KINASE) + len(INSERT) - 4
    assert cousin.sequence in SEQUENCES["cousin"]
    assert cousin.states[-50:] == STATES[-50:]
    first = COUSIN.index(cousin.sequence[:40])  # a local alignment may leave out what differs at the end
    assert cousin.states[:40] == STATES[first : first + 40]
    assert 0 < cousin.states.count("X") <= len(INSERT)


@needs_mmseqs
def test_a_sequence_is_taken_once_and_settings_are_kept(fasta):
    twice = [*CHAINS, Chain("again", KINASE, STATES)]
    assert [chain.id for chain in homologous_chains(twice, fasta)] == ["kinase~cousin", "kinase~near", "again~closer"]
    assert [chain.id for chain in homologous_chains(CHAINS, fasta, TransferSettings(per_chain=1))] == ["kinase~cousin"]
    strict = TransferSettings(min_identity=0.85, max_identity=1, step=0, min_coverage=0)
    assert {chain.id for chain in homologous_chains(CHAINS, fasta, strict)} >= {"kinase~near", "kinase~twin"}


def test_settings_that_cannot_be_are_told():
    with pytest.raises(ValueError, match=r"min_identity is 0\.96\. Expected 0 to 0\.95"):
        TransferSettings(min_identity=0.96)
    with pytest.raises(ValueError, match=r"per_chain is 0\. Expected more than 0"):
        TransferSettings(per_chain=0)


@needs_mmseqs
def test_the_script_writes_a_corpus_to_train_on(fasta, tmp_path):
    train = write_chains(tmp_path / "train.txt", CHAINS)
    command = [sys.executable, SCRIPT, train, "--sequences", fasta, "--write", tmp_path / "out", "--threads", "1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 homologues of 2 chains" in done.stdout and "leakage.py" in done.stdout
    assert load_corpus(str(tmp_path / "out"), "train")["id"][:] == ["kinase~cousin", "kinase~near"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "40 to 95 % identity" in card and "never evaluate" in card


@needs_mmseqs
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (">", "no sequences in it"),
        ("ACDEF", "expected '>' and a name"),
        (f">a\n{SEQUENCES['alien']}\n", "no homologue of"),
    ],
)
def test_sequences_that_are_none_are_told_in_one_line(content, message, tmp_path):
    train, sequences = write_chains(tmp_path / "train.txt", CHAINS), tmp_path / "bad.fasta"
    if content is not None:
        sequences.write_text(content if content != ">" else "")
    command = [sys.executable, SCRIPT, train, "--sequences", sequences, "--write", tmp_path / "out"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
