"""Structures to chains: compared with the classic output of mkdssp, and what is skipped and why."""

import gzip
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import pytest
from scripts import run_script
from stopped_at import STOPS, check_replacing
from tools import needs_mkdssp

from lift_ss_hf.corpora import CardFacts, Chain, CorpusError, Split, write_corpus
from lift_ss_hf.corpora.labelling import label_structure, label_structures, name_chains
from lift_ss_hf.corpora.mkdssp import CLASSIC_CHAIN_IDS, Mkdssp
from lift_ss_hf.corpora.structures import Polymer, find_structure_files, read_structure

gemmi = pytest.importorskip("gemmi", reason="needs gemmi (pip install gemmi)")

STRUCTURES = Path(__file__).parents[1] / "data" / "structures"
SCRIPT = "dataset_scripts/from_structures.py"


@pytest.fixture(scope="session")
def mkdssp():
    if shutil.which("mkdssp") is None:
        pytest.skip("needs mkdssp (Debian: dssp)")
    return Mkdssp.find()


def classic_states(path, folder):
    """Return the states that mkdssp prints in the classic format, by chain and residue number."""
    target = folder / "classic.dssp"
    subprocess.run(["mkdssp", "--output-format", "dssp", path, target], check=True, capture_output=True)
    lines = iter(target.read_text().splitlines())
    for line in lines:
        if line.startswith("  #  RESIDUE AA"):
            break
    return {(line[11], line[5:11].strip()): line[16].replace(" ", "L") for line in lines if line[13] != "!"}


@needs_mkdssp
@pytest.mark.parametrize("name", ["1orc.pdb.gz", "1A8O.cif.gz", "1A7G.cif.gz", "2BEG.pdb.gz"])
def test_states_are_those_that_mkdssp_prints_residue_by_residue(name, mkdssp, tmp_path):
    expected = classic_states(STRUCTURES / name, tmp_path)
    structure = gemmi.read_structure(str(STRUCTURES / name))
    structure.setup_entities()
    structure.assign_label_seq_id()
    chains = {chain.extra["pdb_chain"]: chain for chain in label_structure(STRUCTURES / name, mkdssp).chains}
    found = {}
    for part in structure[0]:
        for residue in part.get_polymer():
            found[part.name, str(residue.seqid)] = chains[part.name].states[residue.label_seq - 1]
    assert found == expected
    resolved = sum(chain.num_labelled for chain in chains.values())
    assert resolved == len(expected)


@needs_mkdssp
def test_polyproline_is_kept(mkdssp):
    (chain,) = label_structure(STRUCTURES / "1A7G.cif.gz", mkdssp).chains
    assert "PPP" in chain.states


@needs_mkdssp
def test_unresolved_residues_are_in_the_sequence_and_x_in_the_states(mkdssp):
    (chain,) = label_structure(STRUCTURES / "1orc.pdb.gz", mkdssp).chains
    assert (chain.extra["pdb_id"], chain.extra["pdb_chain"]) == ("1orc", "A")
    assert chain.sequence == "MEQRITLKDYAMRFGQTKTAKDLGVYQSAINKAIHAGRKIFLTINADGSVYAEEVKDGEVKPFPSNKKTTA"
    assert [position for position, state in enumerate(chain.states, 1) if state == "X"] == [1, 2, 67, 68, 69, 70, 71]
    assert chain.extra["resolution"] == pytest.approx(1.54)


@needs_mkdssp
def test_modified_residues_become_their_parents_and_are_counted(mkdssp):
    result = label_structure(STRUCTURES / "1A8O.cif.gz", mkdssp)
    (chain,) = result.chains
    assert chain.sequence.startswith("MDIRQGPKEPFRDYV") and chain.sequence.count("M") == 4
    assert result.changes["modified residues MSE, now M"] == 4


@needs_mkdssp
def test_a_position_of_two_residues_is_one_residue(mkdssp):
    (chain,) = label_structure(STRUCTURES / "3JQH.cif.gz", mkdssp).chains
    assert (chain.num_residues, chain.num_labelled) == (167, 23)
    assert chain.states.strip("X") == "LLHHHHHHHHHHHHHHHHHHTTL"


@needs_mkdssp
def test_a_file_that_mkdssp_itself_rejects_is_read(mkdssp):
    result = label_structure(STRUCTURES / "rnase_frag.pdb.gz", mkdssp, min_residues=5)
    assert [(chain.id, chain.num_residues) for chain in name_chains([result])] == [
        ("rnase_frag_A", 14),
        ("rnase_frag_B", 32),
    ]
    assert result.changes["chains without a full sequence (SEQRES), gaps unknown"] == 2
    assert result.chains[0].extra["pdb_id"] == ""


@needs_mkdssp
def test_the_first_of_several_models_is_used(mkdssp, tmp_path):
    structure = gemmi.read_structure(str(STRUCTURES / "1A8O.cif.gz"))
    second = structure[0].clone()
    second.num = 2
    for atom in second.all():
        atom.atom.pos = gemmi.Position(0, 0, 0)
    structure.add_model(second)
    structure.make_mmcif_document().write_file(str(tmp_path / "models.cif"))
    result = label_structure(tmp_path / "models.cif", mkdssp)
    assert result.changes["structures with several models, first one used"] == 1
    assert result.chains[0].states == label_structure(STRUCTURES / "1A8O.cif.gz", mkdssp).chains[0].states


@needs_mkdssp
def test_a_chain_that_is_skipped_still_forms_bonds_with_the_others(mkdssp, tmp_path):
    text = gzip.decompress((STRUCTURES / "2BEG.pdb.gz").read_bytes()).decode()
    lines = [line for line in text.split("\n") if not (line.startswith("SEQRES") and line[11] != "A")]
    (tmp_path / "2beg.pdb").write_text("\n".join(lines))
    whole = label_structure(STRUCTURES / "2BEG.pdb.gz", mkdssp).chains[0]
    result = label_structure(tmp_path / "2beg.pdb", mkdssp, min_residues=30)
    assert [(entry.chain, entry.reason) for entry in result.skipped] == [
        (name, "shorter than 30 residues") for name in "BCDE"
    ]
    (chain,) = result.chains
    assert chain.states == whole.states and "EEEE" in chain.states  # the strands pair with chain B


def edited(path, edit):
    """Write 1orc to a file, with its text changed."""
    path.write_text(edit(gzip.decompress((STRUCTURES / "1orc.pdb.gz").read_bytes()).decode()))
    return path


def drop_backbone(text):
    return "\n".join(line for line in text.split("\n") if not line.startswith("ATOM") or line[12:16] == " CA ")


def drop_one_oxygen(text):
    return "\n".join(line for line in text.split("\n") if line[12:26] != " O   LEU A   7")


@needs_mkdssp
@pytest.mark.parametrize(
    "name, edit, reason, is_error",
    [
        ("ca.pdb", drop_backbone, "no residue with a complete backbone (N, CA, C, O)", False),
        ("header.pdb", lambda text: f"HEADER    {'HYDROLASE':40}01-JAN-26   1ABC\n", "no coordinates", False),
        ("empty.pdb", lambda text: "", "cannot be read: no structure record", True),
        ("html.pdb", lambda text: "<html>not found</html>", "cannot be read: no structure record", True),
        ("empty.cif", lambda text: "", "cannot be read", True),
        ("blank.cif.gz", lambda text: "", "cannot be read", True),
        ("html.cif", lambda text: "<html>not found</html>", "cannot be read", True),
        ("cut.cif", lambda text: "data_x\nloop_\n_atom_site.id\n_atom_site.Cartn_x\n1 2 3", "cannot be read", True),
        ("nul.cif", lambda text: "\0" * 100, "cannot be read", True),
    ],
)
def test_a_file_without_chains_is_skipped_with_the_reason(name, edit, reason, is_error, mkdssp, tmp_path):
    result = label_structure(edited(tmp_path / name, edit), mkdssp)
    assert not result.chains
    (skipped,) = result.skipped
    assert skipped.reason.startswith(reason) and skipped.is_error == is_error
    assert skipped.file == str(tmp_path / name)


@needs_mkdssp
def test_a_residue_with_an_incomplete_backbone_is_x_and_counted(mkdssp, tmp_path):
    result = label_structure(edited(tmp_path / "hole.pdb", drop_one_oxygen), mkdssp)
    (chain,) = result.chains
    assert chain.sequence[6] == "L" and chain.states[6] == "X"
    assert result.changes["residues with coordinates but an incomplete backbone, now X"] == 1


def test_a_chain_that_contradicts_its_sequence_is_skipped(tmp_path):
    text = gzip.decompress((STRUCTURES / "1A8O.cif.gz").read_bytes()).decode()
    wrong = text.replace("1 2  ASP n", "1 2  TRP n")
    assert wrong != text
    (tmp_path / "wrong.cif").write_text(wrong)
    (skipped,) = label_structure(tmp_path / "wrong.cif", Mkdssp("no-such-program", ())).skipped
    assert skipped.is_error and skipped.chain == "A"
    assert skipped.reason == "ASP 152 does not match the full sequence: TRP at position 2"


@pytest.mark.process
def test_a_failing_mkdssp_is_a_problem_of_one_file(tmp_path):
    program = tmp_path / "mkdssp"
    program.write_text("#!/bin/sh\necho loading >&2\necho out of luck >&2\nexit 3\n")
    program.chmod(0o755)
    results = list(label_structures([STRUCTURES / "1orc.pdb.gz"], Mkdssp(str(program), ())))
    assert [entry.reason for result in results for entry in result.skipped] == ["mkdssp failed: out of luck"]


@needs_mkdssp
@pytest.mark.parametrize("name", ["1orc.pdb.gz", "1A7G.cif.gz", "2BEG.pdb.gz", "3JQH.cif.gz", "rnase_frag.pdb.gz"])
def test_the_classic_output_serves_where_mkdssp_cannot_write_its_table(name, mkdssp, tmp_path):
    program = tmp_path / "mkdssp"
    failure = "echo 'Duplicate Key violation, cat: dssp_struct_ladder' >&2; exit 1"
    program.write_text(f'#!/bin/sh\ncase "$*" in *mmcif*) {failure};; esac\nexec {mkdssp.program} "$@"\n')
    program.chmod(0o755)
    found = label_structure(STRUCTURES / name, Mkdssp(str(program), mkdssp.options), min_residues=5)
    assert found == label_structure(STRUCTURES / name, mkdssp, min_residues=5)
    assert found.chains and not found.skipped


@needs_mkdssp
def test_the_classic_output_tells_as_many_chains_apart_as_it_can_name(mkdssp):
    (polymer,) = read_structure(STRUCTURES / "1orc.pdb.gz", 20, Counter()).polymers
    polymers = []
    for number in range(len(CLASSIC_CHAIN_IDS)):
        start, end = number % 20, number % 20 + 25
        residues = {i - start: residue.clone() for i, residue in polymer.residues.items() if start <= i < end}
        for atom in (atom for residue in residues.values() for atom in residue):
            atom.pos.x += 60.0 * number
        polymers.append(Polymer(f"{number}", polymer.monomers[start:end], residues))
    classic_only = Mkdssp(mkdssp.program, ("--output-format", "no-such-format"))
    assert classic_only.assign_states(polymers) == mkdssp.assign_states(polymers)


@pytest.mark.process
def test_a_missing_or_old_mkdssp_says_how_to_get_one(tmp_path):
    with pytest.raises(CorpusError, match=r"nowhere not found. Install it \(Debian: apt-get install dssp"):
        Mkdssp.find("nowhere")
    old = tmp_path / "mkdssp"
    old.write_text("#!/bin/sh\necho 'mkdssp 3.0 options'\n")
    old.chmod(0o755)
    with pytest.raises(CorpusError, match=r"is not mkdssp 4\.2 or later"):
        Mkdssp.find(str(old))


def test_a_missing_gemmi_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gemmi", None)
    with pytest.raises(CorpusError, match=r"gemmi not found\. Install it: pip install 'gemmi>="):
        next(label_structures([STRUCTURES / "1orc.pdb.gz"], Mkdssp("mkdssp", ())))


def test_files_are_found_below_folders_once_and_in_order(tmp_path):
    for name in ("b.pdb", "a.CIF.gz", "sub/c.ent", "notes.txt", "sub/x.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_structure_files([tmp_path / "b.pdb", tmp_path])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["b.pdb", "a.CIF.gz", "sub/c.ent"]
    with pytest.raises(CorpusError, match="gone: no such file or folder"):
        find_structure_files([tmp_path / "gone"])
    (tmp_path / "none").mkdir()
    with pytest.raises(CorpusError, match="no structure files"):
        find_structure_files([tmp_path / "none"])


@needs_mkdssp
def test_command_line_writes_the_corpus_and_reports_what_it_skipped(tmp_path):
    shutil.copytree(STRUCTURES, tmp_path / "in")
    shutil.copy(STRUCTURES / "1orc.pdb.gz", tmp_path / "in" / "again.pdb.gz")
    (tmp_path / "in" / "broken.pdb.gz").write_bytes((STRUCTURES / "1orc.pdb.gz").read_bytes()[:5000])
    done = run_script(SCRIPT, tmp_path / "in", "--out", tmp_path / "mine", "--jobs", 2, "--license", "cc0-1.0")
    assert done.returncode == 1 and "Traceback" not in done.stderr  # broken.pdb.gz
    table = {tuple(cell.strip() for cell in line.split("|")[1:4]) for line in done.stdout.splitlines() if "|" in line}
    assert (str(tmp_path / "in" / "broken.pdb.gz"), "", "yes") in table
    assert (str(tmp_path / "in" / "rnase_frag.pdb.gz"), "A", "no") in table  # 14 residues
    assert "modified residues MSE, now M: 4" in done.stdout
    corpus = datasets.load_dataset(str(tmp_path / "mine"), split="train", cache_dir=str(tmp_path / "cache"))
    assert Counter(id.split("_")[0] for id in corpus["id"]) == {
        "1a7g": 1,
        "1a8o": 1,
        "1orc": 1,  # the PDB code is that of again.pdb.gz too
        "again": 1,
        "2beg": 5,
        "3jqh": 1,
        "rnase": 1,
    }
    assert all(len(row["sequence"]) == len(row["states"]) == row["num_residues"] for row in corpus)
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "license: cc0-1.0" in card and "mkdssp version" in card


def test_command_line_does_not_remove_another_split(tmp_path):
    folder = tmp_path / "mine"
    write_corpus(folder, [Split.of("train", [Chain("a", "MKV", "LHX")])], CardFacts("Mine", "One chain.", "unknown"))
    done = run_script(SCRIPT, STRUCTURES, "--out", folder, "--split", "test")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {folder}: holds the split train, which would be removed. Give another directory, or remove it.\n"
    )
    assert len(list(folder.glob("data/train-*.parquet"))) == 1


@needs_mkdssp
def test_command_line_without_any_chain_writes_nothing(tmp_path):
    (tmp_path / "empty.pdb").touch()
    done = run_script(SCRIPT, tmp_path / "empty.pdb", "--out", tmp_path / "mine")
    assert done.returncode == 2
    assert done.stderr == "error: no chain with states in 1 file: nothing was written.\n"
    assert not (tmp_path / "mine").exists()


@needs_mkdssp
@STOPS
def test_command_line_stopped_anywhere_is_completed_by_the_next(tmp_path, kill):
    folder = tmp_path / "work" / "mine"

    def write(min_residues):
        done = run_script(
            SCRIPT, STRUCTURES / "rnase_frag.pdb.gz", "--out", folder, "--min-residues", min_residues, "--jobs", 1
        )
        assert (done.returncode, done.stderr) == (0, "")

    check_replacing(lambda: write(20), lambda: write(5), folder, kill)
