"""Read protein chains from mmCIF and PDB files with gemmi.

The sequence of a chain is the full one (SEQRES, entity_poly_seq), with modified residues as their parents.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..models.wording import no_such_file
from .chains import RESIDUES, CorpusError
from .structure_files import STRUCTURE_SUFFIXES, StructureError, import_gemmi, open_structure, unique_name

if TYPE_CHECKING:
    import gemmi

PDB_CODE = re.compile(r"[1-9][A-Za-z0-9]{3}")  # programs write 0000 as a placeholder


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
        code: the PDB code, in lower case; empty if neither the file nor its name has one.
        resolution: [angstrom]; None if the file does not give it.
        polymers: protein chains, including those that are not wanted.
        problems: names of the chains that are not wanted, each with the reason.
    """

    code: str
    resolution: float | None
    polymers: list[Polymer] = field(default_factory=list)
    problems: list[tuple[str, StructureError]] = field(default_factory=list)


def find_structure_files(paths: Sequence[Path]) -> list[Path]:
    """Return the given files, and all structure files below the given folders, sorted and without repeats.

    Raises:
        CorpusError: if a path does not exist, or there is no structure file.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise CorpusError(no_such_file(path, "file or folder"))
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
    structure = open_structure(path, changes)
    result = ReadStructure(_pdb_code(structure, path), structure.resolution or None)
    names: set[str] = set()
    for chain_name, span, entity in _polymers(structure):
        name = unique_name(chain_name, names)
        if (problem := _why_not_protein(span, entity)) is not None:
            result.problems.append((name, problem))
            continue
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
    if not result.polymers and not any(problem.is_error for _, problem in result.problems):
        raise StructureError("no protein", is_error=False)
    return result


def file_stem(path: Path) -> str:
    """Return a structure file's name without its suffixes."""
    return re.sub(r"(?i)(\.(cif|mmcif|pdb|ent))?(\.gz)?$", "", path.name)


def _pdb_code(structure: gemmi.Structure, path: Path) -> str:
    """Return the PDB code in lower case, from the file or its name; empty if there is none."""
    entry = next((value for key, value in structure.info.items() if key == "_entry.id"), "")
    return next((code.lower() for code in (entry, file_stem(path)) if PDB_CODE.fullmatch(code)), "")


def _polymers(structure: gemmi.Structure) -> Iterator[tuple[str, gemmi.ResidueSpan, gemmi.Entity]]:
    """Yield the name, residues and entity of each polymer."""
    gemmi = import_gemmi()
    for chain in structure[0]:
        for span in chain.subchains():
            entity = structure.get_entity_of(span)
            if entity is not None and entity.entity_type == gemmi.EntityType.Polymer:
                yield chain.name, span, entity


def _why_not_protein(span: gemmi.ResidueSpan, entity: gemmi.Entity) -> StructureError | None:
    """Return None for a protein chain, else why it is not one: an error if that cannot be determined."""
    gemmi = import_gemmi()
    kind = entity.polymer_type
    if kind == gemmi.PolymerType.Unknown:
        kind = span.check_polymer_type()
    if kind in (gemmi.PolymerType.PeptideL, gemmi.PolymerType.PeptideD):
        return None
    if kind != gemmi.PolymerType.Unknown:
        return StructureError("not a protein", is_error=False)
    names = sorted({residue.name for residue in span})
    return StructureError(f"kind of polymer unknown: residues {', '.join(names[:5])}")


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
