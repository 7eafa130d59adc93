"""Structure files as programs write them: none of their chains is lost, and ids differ."""

import codecs
import gzip
import shutil
from collections import Counter
from pathlib import Path

import pytest

from lift_ss_hf.corpora.chains import Chain
from lift_ss_hf.corpora.labelling import LabelledStructure, label_structure, name_chains
from lift_ss_hf.corpora.mkdssp import Mkdssp
from lift_ss_hf.corpora.structures import read_structure

gemmi = pytest.importorskip("gemmi", reason="needs gemmi (pip install gemmi)")

STRUCTURES = Path(__file__).parents[1] / "data" / "structures"
PDB = gzip.decompress((STRUCTURES / "1orc.pdb.gz").read_bytes()).decode()
ATOMS = [line for line in PDB.splitlines() if line.startswith("ATOM")]
CIF = gzip.decompress((STRUCTURES / "1A8O.cif.gz").read_bytes()).decode()


def with_chain(letter, shift=0.0):
    """Return the atoms of 1orc in another chain, moved along x [angstrom]."""
    return [f"{line[:21]}{letter}{line[22:30]}{float(line[30:38]) + shift:8.3f}{line[38:]}" for line in ATOMS]


def read(path, text, **kwargs):
    """Write a structure and return its chains with their lengths, the problems, and the changes."""
    path.write_text(text, **kwargs)
    changes = Counter()
    structure = read_structure(path, 20, changes)
    chains = {polymer.name: len(polymer.residues) for polymer in structure.polymers}
    return chains, structure.problems, changes


@pytest.mark.parametrize(
    "parts, names",
    [
        ([" "], ["_"]),
        ([" ", "A"], ["_", "A"]),
        ([" ", "_"], ["_-2", "_"]),
        ([" ", " "], ["_", "_-2"]),
        (["A", "A"], ["A", "A-2"]),
        (["A", "B", "A"], ["A", "B", "A-2"]),
    ],
)
@pytest.mark.parametrize("end", ["TER", None], ids=["with TER", "without TER"])
def test_no_chain_is_lost_for_want_of_an_id(parts, names, end, tmp_path):
    lines = [line for number, letter in enumerate(parts) for line in [*with_chain(letter, 80.0 * number), end] if line]
    chains, problems, changes = read(tmp_path / "chains.pdb", "\n".join(lines))
    assert chains == dict.fromkeys(names, 64) and not problems
    assert changes["chains without an id, now _"] == parts.count(" ")


def test_ligands_after_the_chain_end_stay_out_of_the_chain(tmp_path):
    whole, _, _ = read(tmp_path / "1orc.pdb", PDB)
    assert whole == {"A": 64}
    ligand = ["TER", *(line.replace("ATOM  ", "HETATM") for line in ATOMS[:40]), *with_chain("A", 80.0)]
    assert read(tmp_path / "ligand.pdb", "\n".join(ATOMS + ligand))[0]["A"] == 64


def test_a_chain_of_nucleotides_is_reported_as_no_protein(tmp_path):
    nucleotides = [
        f"ATOM  {3 * number:5}  {atom:3}  D{'ACGT'[number % 4]} B{number:4}    {3.4 * number:8.3f}   0.000   0.000"
        for number in range(1, 13)
        for atom in ("P", "C1'", "O3'")
    ]
    chains, ((name, problem),), _ = read(tmp_path / "complex.pdb", "\n".join([*ATOMS, "TER", *nucleotides, "TER"]))
    assert chains == {"A": 64}
    assert (name, problem.reason, problem.is_error) == ("B", "not a protein", False)


@pytest.mark.parametrize("name, text", [("bom.pdb", "\n".join(ATOMS)), ("bom.cif", CIF), ("bom.pdb.gz", PDB)])
def test_a_byte_order_mark_loses_no_atom(name, text, tmp_path):
    content = codecs.BOM_UTF8 + text.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (tmp_path / "plain").with_suffix(Path(name.removesuffix(".gz")).suffix).write_text(text)
    plain = read_structure(next(tmp_path.glob("plain.*")), 20, Counter())
    (found,), (expected,) = read_structure(tmp_path / name, 20, Counter()).polymers, plain.polymers
    assert [len(found.residues[i]) for i in found.residues] == [len(expected.residues[i]) for i in expected.residues]


def test_a_structure_in_utf_16_says_so(tmp_path):
    (tmp_path / "wide.pdb").write_text(PDB, "utf-16")
    (skipped,) = label_structure(tmp_path / "wide.pdb", Mkdssp("no-such-program", ())).skipped
    assert skipped.reason == "cannot be read: UTF-16 text. Save it as UTF-8" and skipped.is_error


def test_letters_in_another_encoding_do_not_refuse_a_file(tmp_path):
    (tmp_path / "latin.pdb").write_bytes("\n".join(with_chain("\xe9")).encode("latin-1"))
    (polymer,) = read_structure(tmp_path / "latin.pdb", 20, Counter()).polymers
    assert (polymer.name, len(polymer.residues)) == ("?", 64)


def test_control_characters_become_question_marks_and_move_no_column(tmp_path):
    residue = "\n".join(ATOMS).replace("LYS A   8", "L\x04S A   8")
    (tmp_path / "damaged.pdb").write_text("TITLE\tA\x1b[31m\0\n" + residue)
    (polymer,) = read_structure(tmp_path / "damaged.pdb", 20, Counter()).polymers
    assert polymer.monomers[5] == "L?S" and len(polymer.residues) == 64


def renamed(old, new, text=PDB):
    return "\n".join(
        line[:17] + new + line[20:] if line.startswith("ATOM") and line[17:20] == old else line
        for line in text.splitlines()
    )


@pytest.mark.parametrize(
    "parent, names",
    [
        ("HIS", ["HID", "HIE", "HIP", "HSD", "HSE", "HSP"]),
        ("ASP", ["ASH"]),
        ("GLU", ["GLH"]),
        ("LYS", ["LYN"]),
        ("ARG", ["ARN"]),
    ],
)
@pytest.mark.parametrize("has_sequence", [True, False])
def test_names_of_force_fields_are_read_as_their_parents(parent, names, has_sequence, tmp_path):
    text = PDB if has_sequence else "\n".join(ATOMS)
    (tmp_path / "plain.pdb").write_text(text)
    (plain,) = read_structure(tmp_path / "plain.pdb", 20, Counter()).polymers
    for name in names:
        _, _, changes = read(tmp_path / "field.pdb", renamed(parent, name, text))
        (found,) = read_structure(tmp_path / "field.pdb", 20, Counter()).polymers
        assert found.monomers == plain.monomers
        assert [found.residues[i].name for i in found.residues] == [plain.residues[i].name for i in plain.residues]
        assert changes[f"residues {name}, read as {parent}"] == sum(
            residue.name == parent for residue in plain.residues.values()
        )


def test_homoserine_is_not_histidine(tmp_path):
    text = renamed("SER", "HSE", "\n".join(line.replace(" OG  SER", " OD  SER") for line in ATOMS))
    _, _, changes = read(tmp_path / "homoserine.pdb", text)
    assert "residues HSE, read as HIS" not in changes


def test_files_from_before_1996_are_read_to_column_72(tmp_path):
    old = "\n".join(f"{line[:72]:72}1ORC{number:4}" for number, line in enumerate(PDB.splitlines(), start=1))
    chains, _, changes = read(tmp_path / "old.pdb", old)
    assert chains == {"A": 64}
    assert changes["structures with other text in place of elements, read to column 72"] == 1
    found, expected = (
        read_structure(path, 20, Counter()) for path in (tmp_path / "old.pdb", STRUCTURES / "1orc.pdb.gz")
    )
    assert found.resolution == expected.resolution and found.code == "1orc"
    elements = [
        [atom.element.name for residue in structure.polymers[0].residues.values() for atom in residue]
        for structure in (found, expected)
    ]
    assert elements[0] == elements[1]


def test_a_chain_without_an_id_keeps_its_full_sequence(tmp_path):
    columns = {"ATOM": 21, "HETA": 21, "TER ": 21, "SEQR": 11}
    lines = [
        f"{line[:column]} {line[column + 1 :]}" if (column := columns.get(line[:4])) else line
        for line in PDB.splitlines()
    ]
    (tmp_path / "blank.pdb").write_text("\n".join(lines))
    (polymer,) = read_structure(tmp_path / "blank.pdb", 20, Counter()).polymers
    assert (polymer.name, len(polymer.monomers), len(polymer.residues)) == ("_", 71, 64)


SIFTS = "entity_id asym_id seq_id_ordinal seq_id observed unp_res unp_num unp_acc"
CONNECTIONS = "id conn_type_id ptnr1_label_comp_id ptnr2_label_comp_id ptnr1_label_atom_id ptnr2_label_atom_id"


@pytest.mark.parametrize(
    "category, columns, row",
    [
        ("_pdbx_sifts_xref_db.", SIFTS, "1 Z 1 1 y M 1 P12497"),
        ("_struct_conn.", CONNECTIONS, "c1 covale MSE PRO C N"),
    ],
)
def test_an_annotation_that_is_not_needed_does_not_refuse_a_file(category, columns, row, tmp_path):
    document = gemmi.cif.read_string(CIF)
    document[0].find_mmcif_category(category).erase()
    document[0].init_loop(category, columns.split()).add_row(row.split())
    with pytest.raises((RuntimeError, ValueError)):
        gemmi.make_structure_from_block(document[0])
    chains, _, _ = read(tmp_path / "annotated.cif", document.as_string())
    assert chains == {"A": 70}


def structure_of(path, code="", chains="A"):
    return LabelledStructure(Path(path), code, [Chain(name, "M", "L") for name in chains])


@pytest.mark.parametrize(
    "structures, ids",
    [
        ([structure_of("a/x.pdb", "1abc", "AB"), structure_of("b/y.pdb", "2abc")], ["1abc_A", "1abc_B", "2abc_A"]),
        ([structure_of("a/x.pdb"), structure_of("b/y.pdb")], ["x_A", "y_A"]),
        ([structure_of("P1/ranked_0.pdb"), structure_of("P2/ranked_0.pdb")], ["P1/ranked_0_A", "P2/ranked_0_A"]),
        (
            [structure_of("P1/s/r.pdb"), structure_of("P2/s/r.pdb"), structure_of("P2/t/r.pdb")],
            ["P1/s/r_A", "P2/s/r_A", "t/r_A"],
        ),
        ([structure_of("d1abca1.ent", "1abc"), structure_of("d1abca2.ent", "1abc")], ["d1abca1_A", "d1abca2_A"]),
        ([structure_of("x.pdb"), structure_of("x.cif.gz")], ["x.pdb_A", "x.cif.gz_A"]),
        ([structure_of("x.pdb", chains=["b_c"]), structure_of("x_b.pdb", chains=["c"])], ["x_b_c", "x_b_c-2"]),
    ],
)
def test_ids_differ_by_as_much_of_the_path_as_is_needed(structures, ids):
    assert [chain.id for chain in name_chains(structures)] == ids


def test_a_placeholder_is_not_a_pdb_code(tmp_path):
    path = tmp_path / "model.pdb"
    path.write_text("HEADER    MODEL                                   01-JAN-26   0000\n" + "\n".join(ATOMS))
    assert read_structure(path, 20, Counter()).code == ""
    shutil.copy(path, tmp_path / "1ABC.pdb")
    assert read_structure(tmp_path / "1ABC.pdb", 20, Counter()).code == "1abc"
