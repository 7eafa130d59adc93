"""Make labelled chains from structure files; residues without coordinates or without a state are X."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets import Features, Value

from ..models.states import UNRESOLVED
from .chains import Chain, CorpusError, check_chain
from .columns import BASE_FEATURES, PDB_FEATURES
from .file_kinds import printable
from .mkdssp import Mkdssp
from .structure_files import StructureError, import_gemmi, unique_name
from .structures import Polymer, ReadStructure, file_stem, read_structure, residue_letter

STRUCTURE_FEATURES = Features(
    {**BASE_FEATURES, **PDB_FEATURES, "file": Value("string"), "resolution": Value("float32")}
)
STRUCTURE_COLUMNS = {
    "file": "the structure file that contains the chain",
    "resolution": "resolution of the structure [angstrom]; null if the file does not give it",
}


@dataclass(frozen=True)
class Skipped:
    """A structure file, or one chain of it, that is not in the corpus.

    Attributes:
        file: the structure file.
        chain: the chain; empty for the whole file.
        reason: why it was skipped.
        is_error: True if something failed, False if it was left out on purpose.
    """

    file: str
    chain: str
    reason: str
    is_error: bool

    @classmethod
    def of(cls, path: Path, chain: str, error: StructureError) -> Skipped:
        """Return the entry for a structure file, or one chain of it, that raised an error."""
        return cls(str(path), chain, error.reason, error.is_error)


@dataclass
class LabelledStructure:
    """The chains of one structure file.

    Attributes:
        path: the file.
        code: its PDB code, in lower case; empty if it has none.
        chains: labelled chains; their ids are the names of the chains in the file until `name_chains` completes them.
        skipped: chains that were skipped, or the whole file.
        changes: number of changes made on reading, by description.
    """

    path: Path
    code: str = ""
    chains: list[Chain] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)


def label_structures(
    files: Sequence[Path], mkdssp: Mkdssp, min_residues: int = 20, jobs: int = 1
) -> Iterator[LabelledStructure]:
    """Label structures in parallel, and yield one result per file, in their order.

    Problems with a file do not raise an error: they are in its result.

    Args:
        files: mmCIF or PDB files, plain or gzip.
        mkdssp: the program that assigns the states.
        min_residues: length of the shortest chain to keep [residues].
        jobs: number of files to process at a time.

    Raises:
        CorpusError: if gemmi is not installed.
    """
    import_gemmi()
    # Threads suffice: mkdssp runs as a process and takes nearly all of the time.
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda path: label_structure(path, mkdssp, min_residues), files)


def name_chains(structures: Sequence[LabelledStructure]) -> Iterator[Chain]:
    """Yield all chains with ids that differ: file and chain, such as `1abc_A`.

    A file is named by its PDB code if no other file has the same one, else by its name without suffix, with as many
    parent folders as are needed to tell it from the others.
    """
    used: set[str] = set()
    for structure, name in zip(structures, _file_names(structures), strict=True):
        for chain in structure.chains:
            yield replace(chain, id=unique_name(printable(f"{name}_{chain.id}"), used))


def _file_names(structures: Sequence[LabelledStructure]) -> list[str]:
    paths = [structure.path.absolute() for structure in structures]
    in_folder = Counter((path.parent, file_stem(path)) for path in paths)
    stems = [path.name if in_folder[path.parent, file_stem(path)] > 1 else file_stem(path) for path in paths]
    names = [structure.code or stem for structure, stem in zip(structures, stems, strict=True)]
    # Every file has a different path, so this ends.
    for num_folders in range(max((len(path.parts) for path in paths), default=0)):
        counts = Counter(names)
        for index, path in enumerate(paths):
            if counts[names[index]] > 1:
                folders = path.parts[max(1, len(path.parts) - 1 - num_folders) : -1]
                names[index] = "/".join([*folders, stems[index]])
    return names


def label_structure(path: Path, mkdssp: Mkdssp, min_residues: int = 20) -> LabelledStructure:
    """Return the protein chains of one structure file with their states; arguments as for `label_structures`."""
    result = LabelledStructure(path)
    try:
        structure = read_structure(path, min_residues, result.changes)
        result.code = structure.code
        result.skipped += [Skipped.of(path, name, error) for name, error in structure.problems]
        if any(polymer.is_wanted for polymer in structure.polymers):
            # All chains: those that are not wanted may form hydrogen bonds with the others.
            states = mkdssp.assign_states(structure.polymers)
            for polymer, chain_states in zip(structure.polymers, states, strict=True):
                if not polymer.is_wanted:
                    continue
                try:
                    result.chains.append(_labelled_chain(structure, polymer, chain_states, path, result.changes))
                except StructureError as error:
                    result.skipped.append(Skipped.of(path, polymer.name, error))
    except StructureError as error:
        result.skipped.append(Skipped.of(path, "", error))
    except CorpusError as error:  # an unknown state from mkdssp: a problem of this file only
        result.skipped.append(Skipped(str(path), "", str(error), True))
    return result


def _labelled_chain(
    structure: ReadStructure, polymer: Polymer, states: Mapping[int, str], path: Path, changes: Counter[str]
) -> Chain:
    """Return a protein chain in letters.

    Args:
        structure: the structure that contains the chain.
        polymer: the chain.
        states: its states by 1-based position.
        path: the structure file.
        changes: receives the number of changed residues, by description.

    Raises:
        StructureError: if mkdssp gave no residue a state.
    """
    if not states:
        raise StructureError("no residue with a complete backbone (N, CA, C, O)", is_error=False)
    residues = "".join(residue_letter(monomer, changes) for monomer in polymer.monomers)
    letters = "".join(states.get(position, UNRESOLVED) for position in range(1, len(residues) + 1))
    sequence, letters = check_chain(polymer.name, residues, letters, str(path), Counter())
    if num_incomplete := len(polymer.residues) - len(states):
        changes["residues with coordinates but an incomplete backbone, now X"] += num_incomplete
    extra = {
        "pdb_id": structure.code,
        "pdb_chain": polymer.name if structure.code else "",
        "file": printable(path.name),
        "resolution": structure.resolution,
    }
    return Chain(polymer.name, sequence, letters, extra)
