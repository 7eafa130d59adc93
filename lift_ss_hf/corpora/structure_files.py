"""Open mmCIF and PDB files as gemmi structures, whatever program wrote them.

Only what is needed to assign states is read: an annotation that gemmi rejects does not cost the structure.
"""

from __future__ import annotations

import gzip
import importlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..models.sequences import STANDARD_RESIDUES
from .chains import CorpusError
from .file_kinds import DAMAGE_ERRORS, GZIP

if TYPE_CHECKING:
    import gemmi

PDB_SUFFIXES = (".pdb", ".ent")
STRUCTURE_SUFFIXES = (".cif", ".mmcif", *PDB_SUFFIXES)  # each also with .gz
# The categories that are read; all others are dropped first.
CIF_CATEGORIES = re.compile(
    r"_(atom_site|entry|struct|exptl|cell|symmetry|refine|reflns|em_3d_reconstruction|entity|entity_poly|"
    r"entity_poly_seq|struct_asym)\."
)
# What columns 77-80 of an atom may hold: element and charge. Before 1996 they held line numbers.
ELEMENT_AND_CHARGE = re.compile(rb"[ A-Za-z]{2}(?:[0-9][-+]|[-+][0-9]|[ 0]{2})?\s*")
# Each byte is replaced by one: titles may be in any encoding, and must not move the columns of a PDB file. Control
# characters, of which damaged files are full, would reach ids and the terminal, and let mkdssp 4.2 run forever.
PRINTABLE = bytes(
    byte if byte in b"\n\r" or 32 <= byte < 127 else ord(" " if byte in b"\t\v\f" else "?") for byte in range(256)
)
NO_CHAIN_ID = "_"  # as in SCOP
# Protonation states and disulfides in AMBER, CHARMM, GROMACS and OPLS, by parent; gemmi knows only the PDB's names.
FORCE_FIELD_NAMES = {
    "ARG": "ARN ARGN",
    "ASP": "ASH ASPH ASPP",
    "CYS": "CYX CYM CYF CYSH CYS1 CYS2",
    "GLU": "GLH GLUH GLUP",
    "HIS": "HID HIE HIP HSD HSE HSP HISA HISB HISD HISE HISH HISP HIS1 HIS2",
    "LYS": "LYN LYP LSN LYSH LYSN",
}
PARENTS = {name: parent for parent, names in FORCE_FIELD_NAMES.items() for name in names.split()}


class StructureError(Exception):
    """A structure or chain without states.

    Attributes:
        reason: why there are none.
        is_error: True if something failed, False if the chain was left out on purpose.
    """

    def __init__(self, reason: str, is_error: bool = True):
        self.reason, self.is_error = reason, is_error
        super().__init__(reason)


def import_gemmi():
    """Import gemmi, an optional requirement, and return it.

    Raises:
        CorpusError: if it is not installed.
    """
    try:
        return importlib.import_module("gemmi")
    except ImportError:
        raise CorpusError("gemmi not found. Install it: pip install 'gemmi>=0.6.5'.") from None


def open_structure(path: Path, changes: Counter[str]) -> gemmi.Structure:
    """Read a file with gemmi, keep the first model, name all chains, and number residues by the full sequence.

    Args:
        path: mmCIF or PDB file, plain or gzip.
        changes: receives the number of changes made on reading, by description.

    Raises:
        StructureError: if the file cannot be read or has no coordinates.
    """
    try:
        structure = _parse(path, changes)
    except IndexError:  # raised by gemmi 0.7 for a file without a data block
        raise StructureError("cannot be read: no data block") from None
    except (*DAMAGE_ERRORS, RuntimeError, ValueError) as error:
        message = " ".join(str(error).split())
        raise StructureError(f"cannot be read: {message}") from None
    if not len(structure) or not structure[0].count_atom_sites():
        # gemmi skips lines that it does not know: without any record this is another kind of file
        if not (structure.info or structure.raw_remarks or structure.entities):
            raise StructureError("cannot be read: no structure record")
        raise StructureError("no coordinates", is_error=False)
    if len(structure) > 1:
        changes["structures with several models, first one used"] += 1
        del structure[1:]
    _name_chains(structure, changes)
    _rename_to_parents(structure, changes)
    structure.setup_entities()
    structure.assign_label_seq_id()
    return structure


def _parse(path: Path, changes: Counter[str]) -> gemmi.Structure:
    gemmi = import_gemmi()
    content = path.read_bytes()
    if content.startswith(GZIP):
        content = gzip.decompress(content)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("UTF-16 text. Save it as UTF-8")
    content = content.removeprefix(b"\xef\xbb\xbf").translate(PRINTABLE)
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(PDB_SUFFIXES):
        return _parse_pdb(content, changes)
    if name.endswith(STRUCTURE_SUFFIXES):
        return _parse_cif(content)
    return gemmi.read_structure_string(content, format=gemmi.CoorFormat.Detect)


def _parse_cif(content: bytes) -> gemmi.Structure:
    gemmi = import_gemmi()
    document = gemmi.cif.read_string(content)
    block = document[0]
    if any(other.find_values("_atom_site.id") for other in document[1:]):
        raise ValueError("coordinates in several data blocks. Write one file for each")
    for category in block.get_mmcif_category_names():
        if not CIF_CATEGORIES.fullmatch(category.lower()):
            block.find_mmcif_category(category).erase()
    structure = gemmi.make_structure_from_block(block)
    structure.merge_chain_parts()
    return structure


def _parse_pdb(content: bytes, changes: Counter[str]) -> gemmi.Structure:
    gemmi = import_gemmi()
    lines = content.splitlines()
    width = 0  # gemmi's default
    if any(line.startswith((b"ATOM", b"HETATM")) and not ELEMENT_AND_CHARGE.fullmatch(line[76:80]) for line in lines):
        width = 72
        changes["structures with other text in place of elements, read to column 72"] += 1
    segments = list(_with_chain_ends(lines))
    splits = _atoms_follow_chain_end(segments)
    structure = gemmi.read_pdb_string(
        b"\n".join(segments if splits else lines) + b"\n", max_line_length=width, split_chain_on_ter=splits
    )
    if splits:
        _keep_segments(structure)
    else:
        structure.merge_chain_parts()
    return structure


def _with_chain_ends(lines: list[bytes]) -> Iterator[bytes]:
    """Yield the lines of a PDB file, with a TER line wherever the residue numbers of a chain start again."""
    seen: set[bytes] = set()
    previous = b""
    for line in lines:
        if line.startswith((b"TER", b"MODEL", b"ENDMDL")):
            seen, previous = set(), b""
        elif line.startswith(b"ATOM") and line[16:17] == b" ":
            residue = line[20:27]  # chain, number and insertion code
            if residue != previous and residue in seen:
                yield b"TER".ljust(20) + residue[:2]
                seen = set()
            seen.add(residue)
            previous = residue
        yield line


def _atoms_follow_chain_end(lines: list[bytes]) -> bool:
    """Return True if a protein chain of the first model continues after its TER record: gemmi would drop the rest."""
    ended: set[bytes] = set()
    chain = b""
    for line in lines:
        if line.startswith(b"ENDMDL"):
            return False
        if line.startswith(b"TER"):
            ended.add(line[20:22] if line[20:22].strip() else chain)
        elif line.startswith((b"ATOM", b"HETATM")):
            chain = line[20:22]
            if chain in ended and line.startswith(b"ATOM") and line[12:16] == b" CA ":
                return True
    return False


def _keep_segments(structure: gemmi.Structure) -> None:
    """Make each part of a chain that ends with TER a chain; drop later parts that are ligands and waters only."""
    for model in structure:
        names: set[str] = set()
        for number, chain in reversed(list(enumerate(model))):
            is_later = any(model[earlier].name == chain.name for earlier in range(number))
            if is_later and all(residue.het_flag == "H" for residue in chain):
                del model[number]
        for chain in model:
            chain.name = unique_name(chain.name, names)


def unique_name(name: str, used: set[str]) -> str:
    """Return a name, with a number if it is used already, and add it to the used ones.

    Example:
        >>> used = set()
        >>> unique_name("A", used), unique_name("A", used)
        ('A', 'A-2')
    """
    found, number = name, 1
    while found in used:
        number += 1
        found = f"{name}-{number}"
    used.add(found)
    return found


def _name_chains(structure: gemmi.Structure, changes: Counter[str]) -> None:
    """Name the chains without an id: without a name, gemmi gives them no entity."""
    names = {chain.name for chain in structure[0]}
    for chain in structure[0]:
        if stem := re.fullmatch(r"\s*(-\d+)?", chain.name):
            chain.name = unique_name(NO_CHAIN_ID + (stem[1] or ""), names)
            changes[f"chains without an id, now {NO_CHAIN_ID}"] += 1


def _rename_to_parents(structure: gemmi.Structure, changes: Counter[str]) -> None:
    """Rename residues that are known by their force field's name, in the chains and in the full sequences."""
    observed: dict[str, list[gemmi.Residue]] = {}
    for chain in structure[0]:
        for residue in chain:
            observed.setdefault(residue.name, []).append(residue)
    in_sequences = {name for entity in structure.entities for item in entity.full_sequence for name in item.split(",")}
    for name in sorted({*observed, *in_sequences}):
        parent = _parent(name)
        residues = observed.get(name, [])
        # The PDB has other compounds by some of these names: HSE is homoserine, with an oxygen OD.
        is_other = any(residue.find_atom("OD", "*") for residue in residues)
        is_amino_acid = not residues or any(residue.find_atom("CA", "*") for residue in residues)
        if parent and is_amino_acid and not is_other:
            structure.rename_residues(name, parent)
            changes[f"residues {name}, read as {parent}"] += len(residues)


def _parent(name: str) -> str | None:
    """Return the standard residue for which a force field has another name, with N or C before it at the termini."""
    if name in PARENTS:
        return PARENTS[name]
    if len(name) == 4 and name[0] in "NC":
        known = import_gemmi().find_tabulated_residue(name[1:])
        return name[1:] if known.is_standard() and known.one_letter_code in STANDARD_RESIDUES else PARENTS.get(name[1:])
    return None
