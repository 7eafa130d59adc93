"""From structures to chains: gemmi reads mmCIF and PDB files, mkdssp assigns the states.

The sequence is the full one (SEQRES, entity_poly_seq), modified residues as their parents; a residue without
coordinates, or without the backbone that mkdssp needs, has the state X. mkdssp never sees the file itself: it gets
the protein chains of the first model as a plain mmCIF file, because it refuses many files that others read (no
HEADER line, SOURCE without MOL_ID), and takes a position that may be one of two residues (microheterogeneity) for
two residues with a chain break between them. Where there is none of that, the states equal those of a direct run.
Source: Kabsch & Sander 1983, Biopolymers 22:2577; of mkdssp 4: Hekkelman et al. 2025, Protein Science 34:e70208.
"""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Features, Value

from ..models.states import COIL, UNRESOLVED
from .chains import RESIDUES, Chain, CorpusError, check_chain, pdb_origin
from .columns import BASE_FEATURES, PDB_FEATURES

if TYPE_CHECKING:
    import gemmi

STRUCTURE_SUFFIXES = (".cif", ".mmcif", ".pdb", ".ent")  # each also with .gz
STRUCTURE_FEATURES = Features(
    {**BASE_FEATURES, **PDB_FEATURES, "file": Value("string"), "resolution": Value("float32")}
)
STRUCTURE_COLUMNS = {
    "file": "the structure file that the chain is from",
    "resolution": "of the structure [angstrom]; none where the file gives none",
}
PDB_CODE = re.compile(r"[0-9][A-Za-z0-9]{3}")
SECONDS_PER_STRUCTURE = 600.0  # the largest entries of the PDB take mkdssp minutes


class StructureError(Exception):
    """A structure or chain that gives no states; `is_error` where that is a fault, not a choice."""

    def __init__(self, reason: str, is_error: bool = True):
        self.reason, self.is_error = reason, is_error
        super().__init__(reason)


@dataclass(frozen=True)
class Skipped:
    """A structure, or one chain of it, that is not in the corpus.

    Attributes:
        file: the structure file.
        chain: its chain, empty where it is the whole file.
        reason: why.
        is_error: whether something failed; False for what was never meant to be there.
    """

    file: str
    chain: str
    reason: str
    is_error: bool


@dataclass
class LabelledStructure:
    """What one structure file gave; `changes` counts what was changed or left out on the way."""

    chains: list[Chain] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Polymer:
    """One protein chain.

    Attributes:
        name: of the chain in the file.
        monomers: the full sequence.
        residues: coordinates by 0-based position in it.
        is_wanted: False for a chain that is only there because others may have hydrogen bonds to it.
    """

    name: str
    monomers: list[str]
    residues: dict[int, gemmi.Residue]
    is_wanted: bool = True


@dataclass(frozen=True)
class Mkdssp:
    """A program that assigns states, and what makes it write a table of them."""

    program: str
    options: tuple[str, ...]

    @classmethod
    def find(cls, program: str = "mkdssp") -> Mkdssp:
        """The installed mkdssp.

        Raises:
            CorpusError: if there is none, or it is too old to write a table of states.
        """
        install = "Install it (Debian: apt-get install dssp; conda: dssp of conda-forge) or give its path."
        path = shutil.which(program)
        if path is None:
            raise CorpusError(f"{program} not found. {install}")
        told = subprocess.run([path, "--help"], capture_output=True, text=True)
        usage = told.stdout + told.stderr
        # 4.2 and 4.3 write the table on demand, 4.4 and later unless told not to.
        if "--write-experimental" in usage:
            return cls(path, ("--output-format", "mmcif", "--write-experimental"))
        if "--no-dssp-categories" in usage:
            return cls(path, ("--output-format", "mmcif"))
        raise CorpusError(f"{path} is no mkdssp 4.2 or later. {install}")

    def version(self) -> str:
        """What the program calls itself: `mkdssp version 4.2.2`."""
        told = subprocess.run([self.program, "--version"], capture_output=True, text=True)
        return next(iter((told.stdout + told.stderr).splitlines()), "mkdssp")

    def run(self, document: gemmi.cif.Document) -> dict[str, dict[int, str]]:
        """For each label_asym_id the states by label_seq_id (1-based), for the residues that have one.

        Raises:
            StructureError: if mkdssp fails; with its last words.
        """
        with tempfile.TemporaryDirectory(prefix="lift_ss_hf_") as folder:
            source, target = Path(folder, "in.cif"), Path(folder, "out.cif")
            document.write_file(str(source))
            command = [self.program, *self.options, str(source), str(target)]
            try:
                done = subprocess.run(command, capture_output=True, timeout=SECONDS_PER_STRUCTURE)
            except subprocess.TimeoutExpired:
                raise StructureError(f"mkdssp took more than {SECONDS_PER_STRUCTURE:.0f} seconds") from None
            if done.returncode or not target.is_file():
                lines = done.stderr.decode("utf-8", "replace").split("\n")
                words = next((line.strip() for line in reversed(lines) if line.strip()), f"status {done.returncode}")
                raise StructureError(f"mkdssp failed: {words}")
            try:
                block = _gemmi().cif.read(str(target)).sole_block()
            except (OSError, RuntimeError, ValueError) as error:
                raise StructureError(f"what mkdssp wrote cannot be read: {' '.join(str(error).split())}") from None
        table = block.find("_dssp_struct_summary.", ["label_asym_id", "label_seq_id", "secondary_structure"])
        states: dict[str, dict[int, str]] = defaultdict(dict)
        for row in table:
            if row[2] != "?":
                states[row.str(0)][int(row[1])] = row.str(2) or COIL
        return states


def _gemmi():
    """The gemmi library, which only this module needs.

    Raises:
        CorpusError: if it is not installed.
    """
    try:
        return importlib.import_module("gemmi")
    except ImportError:
        raise CorpusError("gemmi not found. Install it: pip install 'lift_ss_hf[structures]'.") from None


def find_structure_files(paths: Sequence[Path]) -> list[Path]:
    """Files as given, and all structure files below the folders, sorted, each once.

    Raises:
        CorpusError: for a path that is not there, or if nothing is found.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise CorpusError(f"{path}: no such file or folder.")
        files += sorted(filter(_is_structure, path.rglob("*"))) if path.is_dir() else [path]
    if not files:
        raise CorpusError(f"{', '.join(map(str, paths))}: no structure file ({', '.join(STRUCTURE_SUFFIXES)}, or gz).")
    return list(dict.fromkeys(files))


def _is_structure(path: Path) -> bool:
    return path.is_file() and path.name.lower().removesuffix(".gz").endswith(STRUCTURE_SUFFIXES)


def label_structures(
    files: Sequence[Path], mkdssp: Mkdssp, min_residues: int = 20, jobs: int = 1
) -> Iterator[LabelledStructure]:
    """Label structures in parallel; one result a file, in their order.

    Args:
        files: mmCIF or PDB files, gz or not.
        mkdssp: the program.
        min_residues: leave out shorter chains [residues].
        jobs: how many at a time.

    Raises:
        CorpusError: if gemmi is missing. No file raises: what is wrong with it is in its result.
    """
    _gemmi()
    first_file: dict[str, str] = {}
    # Threads: mkdssp is a process of its own, and takes nearly all of the time.
    with ThreadPoolExecutor(jobs) as pool:
        results = pool.map(lambda path: label_structure(path, mkdssp, min_residues), files)
        for path, result in zip(files, results, strict=True):
            chains, result.chains = result.chains, []
            for chain in chains:
                if chain.id in first_file:
                    reason = f"duplicate id, already taken from {first_file[chain.id]}"
                    result.skipped.append(Skipped(str(path), chain.id, reason, False))
                else:
                    first_file[chain.id] = str(path)
                    result.chains.append(chain)
            yield result


def label_structure(path: Path, mkdssp: Mkdssp, min_residues: int = 20) -> LabelledStructure:
    """The protein chains of one structure file with their states."""
    result = LabelledStructure()
    try:
        structure = _read_structure(path, result.changes)
        polymers = list(_polymers(structure, path, min_residues, result))
        if any(polymer.is_wanted for polymer in polymers):
            states = mkdssp.run(_document(polymers))
            name = _entry_name(structure, path)
            for number, polymer in enumerate(polymers):
                if polymer.is_wanted:
                    own = states.get(_asym_id(number), {})
                    _add_chain(f"{name}_{polymer.name}", polymer, own, path, structure.resolution or None, result)
    except StructureError as error:
        result.skipped.append(Skipped(str(path), "", error.reason, error.is_error))
    except CorpusError as error:  # a letter of mkdssp's that is no state: one file's trouble, not everyone's
        result.skipped.append(Skipped(str(path), "", str(error), True))
    return result


def _read_structure(path: Path, changes: Counter[str]) -> gemmi.Structure:
    gemmi = _gemmi()
    try:
        structure = gemmi.read_structure(str(path))
    except IndexError:  # gemmi 0.7, of a file without a data block
        raise StructureError("cannot be read: no data block in it") from None
    except (OSError, RuntimeError, ValueError) as error:
        words = " ".join(str(error).split())
        raise StructureError(f"cannot be read: {words}") from None
    if not len(structure) or not structure[0].count_atom_sites():
        # gemmi skips the lines it does not know: without a single record this is another kind of file
        if not (structure.info or structure.raw_remarks or structure.entities):
            raise StructureError("cannot be read: no record of a structure in it")
        raise StructureError("no coordinates", is_error=False)
    if len(structure) > 1:
        changes["structures of several models, of which the first was taken"] += 1
        del structure[1:]
    structure.setup_entities()
    structure.assign_label_seq_id()
    return structure


def _entry_name(structure: gemmi.Structure, path: Path) -> str:
    """The PDB code where the file has one, else the file's name: programs write one placeholder into all files."""
    code = next((value for key, value in structure.info.items() if key == "_entry.id"), "")
    stem = re.sub(r"(?i)(\.(cif|mmcif|pdb|ent))?(\.gz)?$", "", path.name)
    name = code if PDB_CODE.fullmatch(code) else stem
    return name.lower() if PDB_CODE.fullmatch(name) else name


def _polymers(
    structure: gemmi.Structure, path: Path, min_residues: int, result: LabelledStructure
) -> Iterator[Polymer]:
    """The protein chains of the first model, those too that are not wanted; the reasons go to the result.

    Raises:
        StructureError: if there is no protein.
    """
    gemmi = _gemmi()
    peptides = (gemmi.PolymerType.PeptideL, gemmi.PolymerType.PeptideD)
    found = False
    for chain in structure[0]:
        for span in chain.subchains():
            entity = structure.get_entity_of(span)
            if entity is None or entity.entity_type != gemmi.EntityType.Polymer:
                continue
            kind = entity.polymer_type
            if kind == gemmi.PolymerType.Unknown:
                kind = span.check_polymer_type()
            if kind not in peptides:
                continue
            found = True
            try:
                polymer = _polymer(chain.name, span, entity)
                if len(polymer.monomers) < min_residues:
                    raise StructureError(f"shorter than {min_residues} residues", is_error=False)
            except StructureError as error:
                result.skipped.append(Skipped(str(path), chain.name, error.reason, error.is_error))
                yield replace(_observed(chain.name, span), is_wanted=False)
                continue
            if not entity.full_sequence:
                result.changes["chains without a full sequence (SEQRES), their gaps unknown"] += 1
            yield polymer
    if not found:
        raise StructureError("no protein", is_error=False)


def _polymer(name: str, span: gemmi.ResidueSpan, entity: gemmi.Entity) -> Polymer:
    """Observed residues put on the full sequence.

    Raises:
        StructureError: if they do not fit on it.
    """
    gemmi = _gemmi()
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
                f"{residue.name} {residue.seqid} stands where the full sequence has {expected} (position {position})"
            )
        observed[position - 1] = residue
    # Where a position may be one of several residues (microheterogeneity), the first that the file names.
    return Polymer(name, [gemmi.Entity.first_mon(item) for item in entity.full_sequence], observed)


def _observed(name: str, span: gemmi.ResidueSpan) -> Polymer:
    """The chain with nothing but its observed residues."""
    residues = list(span.first_conformer())
    return Polymer(name, [residue.name for residue in residues], dict(enumerate(residues)))


def _document(polymers: Sequence[Polymer]) -> gemmi.cif.Document:
    """The chains as mmCIF that mkdssp reads, with their place in `polymers` as label_asym_id."""
    gemmi = _gemmi()
    structure = gemmi.Structure()
    structure.name = "chains"
    structure.info["_entry.id"] = "chains"
    model = gemmi.Model(1)
    for number, polymer in enumerate(polymers):
        asym = _asym_id(number)
        entity = gemmi.Entity(asym)
        entity.entity_type, entity.polymer_type = gemmi.EntityType.Polymer, gemmi.PolymerType.PeptideL
        entity.full_sequence, entity.subchains = polymer.monomers, [asym]
        structure.entities.append(entity)
        chain = gemmi.Chain(asym)
        for position, residue in sorted(polymer.residues.items()):
            copy = residue.clone()
            copy.seqid = gemmi.SeqId(position + 1, " ")
            copy.label_seq, copy.subchain, copy.entity_id = position + 1, asym, asym
            chain.add_residue(copy)
        model.add_chain(chain)
    structure.add_model(model)
    document = structure.make_mmcif_document()
    _add_scheme(document.sole_block(), polymers)
    return document


def _add_scheme(block: gemmi.cif.Block, polymers: Sequence[Polymer]) -> None:
    """Add pdbx_poly_seq_scheme, which gemmi does not write and without which mkdssp 4.2 sees no residue."""
    columns = ["asym_id", "entity_id", "seq_id", "mon_id", "ndb_seq_num", "pdb_seq_num", "auth_seq_num"]
    columns += ["pdb_mon_id", "auth_mon_id", "pdb_strand_id", "pdb_ins_code", "hetero"]
    scheme = block.init_loop("_pdbx_poly_seq_scheme.", columns)
    for number, polymer in enumerate(polymers):
        asym = _asym_id(number)
        for position, monomer in enumerate(polymer.monomers):
            place = str(position + 1)
            observed = [place, monomer, monomer] if position in polymer.residues else ["?", "?", "?"]
            scheme.add_row([asym, asym, place, monomer, place, place, *observed, asym, ".", "n"])


def _asym_id(number: int) -> str:
    return f"C{number}"


def _add_chain(
    chain_id: str,
    polymer: Polymer,
    states: Mapping[int, str],
    path: Path,
    resolution: float | None,
    result: LabelledStructure,
) -> None:
    """Spell the chain in letters and add it to the result, unless mkdssp gave it no state.

    Args:
        chain_id: the chain's name in the corpus.
        polymer: the chain.
        states: by 1-based position in the full sequence.
        path: the structure file.
        resolution: [angstrom].
        result: what the structure gives.
    """
    if not states:
        reason = "no residue with a whole backbone (N, CA, C, O)"
        result.skipped.append(Skipped(str(path), polymer.name, reason, False))
        return
    letters = [_letter(monomer, result.changes) for monomer in polymer.monomers]
    spelled = (states.get(position, UNRESOLVED) for position in range(1, len(letters) + 1))
    sequence, normal = check_chain(chain_id, "".join(letters), "".join(spelled), str(path), Counter())
    if unassigned := len(polymer.residues) - len(states):
        result.changes["residues with coordinates but without a whole backbone, now X"] += unassigned
    extra = {**pdb_origin(chain_id), "file": path.name, "resolution": resolution}
    result.chains.append(Chain(chain_id, sequence, normal, extra))


def _letter(monomer: str, changes: Counter[str]) -> str:
    """The residue's letter; a modified residue's is its parent's, X where it has none."""
    known = _gemmi().find_tabulated_residue(monomer)
    letter = known.one_letter_code.upper() if known.is_amino_acid() else ""
    if letter not in tuple(RESIDUES):
        changes[f"residues {monomer}, unknown, now X"] += 1
        return "X"
    if not known.is_standard():
        changes[f"residues {monomer}, modified, now {letter}"] += 1
    return letter
