"""Read protein chains from mmCIF and PDB files with gemmi.

The sequence of a chain is the full one (SEQRES, entity_poly_seq), with modified residues as their parents.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .chains import RESIDUES, CorpusError

if TYPE_CHECKING:
    import gemmi

STRUCTURE_SUFFIXES = (".cif", ".mmcif", ".pdb", ".ent")  # each also with .gz
PDB_CODE = re.compile(r"[0-9][A-Za-z0-9]{3}")


class StructureError(Exception):
    """A structure or chain without states.

    Attributes:
        reason: why there are none.
        is_error: True if something failed, False if the chain was left out on purpose.
    """

    def __init__(self, reason: str, is_error: bool = True):
        self.reason, self.is_error = reason, is_error
        super().__init__(reason)


@dataclass(frozen=True)
class Polymer:
    """One protein chain.

    Attributes:
        name: name of the chain in the file.
        monomers: three-letter names of the full sequence, length L.
        residues: observed residues, with coordinates, by 0-based position in the full sequence.
        is_wanted: False for a chain that is kept only because others may form hydrogen bonds with it.
    """

    name: str
    monomers: list[str]
    residues: dict[int, gemmi.Residue]
    is_wanted: bool = True


@dataclass
class ReadStructure:
    """The protein chains of the first model of a structure file.

    Attributes:
        name: the PDB code if the file has one, else the file name without suffix.
        resolution: [angstrom]; None if the file does not give it.
        polymers: protein chains, including those that are not wanted.
        problems: names of the chains that are not wanted, each with the reason.
    """

    name: str
    resolution: float | None
    polymers: list[Polymer] = field(default_factory=list)
    problems: list[tuple[str, StructureError]] = field(default_factory=list)


def import_gemmi():
    """Import gemmi, an optional requirement, and return it.

    Raises:
        CorpusError: if it is not installed.
    """
    try:
        return importlib.import_module("gemmi")
    except ImportError:
        raise CorpusError("gemmi not found. Install it: pip install 'lift_ss_hf[structures]'.") from None


def find_structure_files(paths: Sequence[Path]) -> list[Path]:
    """Return the given files, and all structure files below the given folders, sorted and without repeats.

    Raises:
        CorpusError: if a path does not exist, or there is no structure file.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise CorpusError(f"{path}: no such file or folder.")
        files += sorted(filter(_is_structure, path.rglob("*"))) if path.is_dir() else [path]
    if not files:
        suffixes = ", ".join(STRUCTURE_SUFFIXES)
        raise CorpusError(f"{', '.join(map(str, paths))}: no structure files. Expected {suffixes}, plain or .gz.")
    return list(dict.fromkeys(files))


def _is_structure(path: Path) -> bool:
    return path.is_file() and path.name.lower().removesuffix(".gz").endswith(STRUCTURE_SUFFIXES)


def read_structure(path: Path, min_residues: int, changes: Counter[str]) -> ReadStructure:
    """Read the protein chains of a structure file; those shorter than `min_residues` are not wanted.

    Args:
        path: mmCIF or PDB file, plain or gzip.
        min_residues: length of the shortest chain to keep [residues].
        changes: receives the number of changes made on reading, by description.

    Raises:
        StructureError: if the file cannot be read, or has no coordinates or no protein.
    """
    structure = _open_structure(path, changes)
    result = ReadStructure(_entry_name(structure, path), structure.resolution or None)
    for name, span, entity in _proteins(structure):
        try:
            polymer = _polymer(name, span, entity)
            if len(polymer.monomers) < min_residues:
                raise StructureError(f"shorter than {min_residues} residues", is_error=False)
        except StructureError as error:
            result.problems.append((name, error))
            polymer = _observed(name, span, is_wanted=False)
        else:
            if not entity.full_sequence:
                changes["chains without a full sequence (SEQRES), gaps unknown"] += 1
        result.polymers.append(polymer)
    if not result.polymers:
        raise StructureError("no protein", is_error=False)
    return result


def _open_structure(path: Path, changes: Counter[str]) -> gemmi.Structure:
    """Read a file with gemmi, keep the first model, and number the residues by the full sequence."""
    gemmi = import_gemmi()
    try:
        structure = gemmi.read_structure(str(path))
    except IndexError:  # raised by gemmi 0.7 for a file without a data block
        raise StructureError("cannot be read: no data block") from None
    except (OSError, RuntimeError, ValueError) as error:
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
    structure.setup_entities()
    structure.assign_label_seq_id()
    return structure


def _entry_name(structure: gemmi.Structure, path: Path) -> str:
    """Return the PDB code, or the file name for lack of one: programs write the same placeholder into all files."""
    code = next((value for key, value in structure.info.items() if key == "_entry.id"), "")
    stem = re.sub(r"(?i)(\.(cif|mmcif|pdb|ent))?(\.gz)?$", "", path.name)
    name = code if PDB_CODE.fullmatch(code) else stem
    return name.lower() if PDB_CODE.fullmatch(name) else name


def _proteins(structure: gemmi.Structure) -> Iterator[tuple[str, gemmi.ResidueSpan, gemmi.Entity]]:
    """Yield the name, residues and entity of each protein chain."""
    gemmi = import_gemmi()
    peptides = (gemmi.PolymerType.PeptideL, gemmi.PolymerType.PeptideD)
    for chain in structure[0]:
        for span in chain.subchains():
            entity = structure.get_entity_of(span)
            if entity is None or entity.entity_type != gemmi.EntityType.Polymer:
                continue
            kind = entity.polymer_type
            if kind == gemmi.PolymerType.Unknown:
                kind = span.check_polymer_type()
            if kind in peptides:
                yield chain.name, span, entity


def _polymer(name: str, span: gemmi.ResidueSpan, entity: gemmi.Entity) -> Polymer:
    """Assign observed residues to positions of the full sequence.

    Raises:
        StructureError: if they do not match it.
    """
    gemmi = import_gemmi()
    if not entity.full_sequence:
        return _observed(name, span)
    observed = {}
    for residue in span.first_conformer():
        position = residue.label_seq
        if position is None or not 0 < position <= len(entity.full_sequence):
            raise StructureError(f"{residue.name} {residue.seqid} is not in the full sequence")
        expected = entity.full_sequence[position - 1]
        if residue.name not in expected.split(","):
            raise StructureError(
                f"{residue.name} {residue.seqid} does not match the full sequence: {expected} at position {position}"
            )
        observed[position - 1] = residue
    # If a position may be one of several residues (microheterogeneity), take the one that the file names first.
    return Polymer(name, [gemmi.Entity.first_mon(item) for item in entity.full_sequence], observed)


def _observed(name: str, span: gemmi.ResidueSpan, is_wanted: bool = True) -> Polymer:
    """Return a chain that consists of its observed residues only."""
    residues = list(span.first_conformer())
    return Polymer(name, [residue.name for residue in residues], dict(enumerate(residues)), is_wanted)


def residue_letter(monomer: str, changes: Counter[str]) -> str:
    """Return a residue's letter: for a modified residue that of its parent, or X if it has none."""
    known = import_gemmi().find_tabulated_residue(monomer)
    letter = known.one_letter_code.upper() if known.is_amino_acid() else ""
    if letter not in tuple(RESIDUES):
        changes[f"unknown residues {monomer}, now X"] += 1
        return "X"
    if not known.is_standard():
        changes[f"modified residues {monomer}, now {letter}"] += 1
    return letter
