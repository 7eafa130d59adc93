"""Assign states to protein chains with mkdssp.

mkdssp never reads a structure file itself: it gets the protein chains of the first model as a plain mmCIF file. It
rejects many files that others read (no HEADER line, SOURCE without MOL_ID), and takes a position that may be one of
two residues (microheterogeneity) for two residues with a chain break between them. For all other files the states
equal those of a direct run.

Source: Kabsch & Sander 1983, Biopolymers 22:2577; mkdssp 4: Hekkelman et al. 2025, Protein Science 34:e70208.
"""

from __future__ import annotations

import shutil
import string
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..models.states import COIL
from .chains import CorpusError
from .structure_files import StructureError, import_gemmi
from .structures import Polymer

if TYPE_CHECKING:
    import gemmi

CLASSIC_OPTIONS = ("--output-format", "dssp")
CLASSIC_CHAIN_IDS = string.ascii_uppercase + string.ascii_lowercase + string.digits  # its column has one letter
SECONDS_PER_STRUCTURE = 600.0  # mkdssp needs minutes for the largest entries of the PDB


@dataclass(frozen=True)
class Mkdssp:
    """An installed mkdssp.

    Attributes:
        program: its path.
        options: the options that make it write a table of states.
    """

    program: str
    options: tuple[str, ...]

    @classmethod
    def find(cls, program: str = "mkdssp") -> Mkdssp:
        """Find an installed mkdssp by its name or path.

        Raises:
            CorpusError: if it is not installed, or is too old to write a table of states.
        """
        install = "Install it (Debian: apt-get install dssp; conda: dssp of conda-forge) or give its path."
        path = shutil.which(program)
        if path is None:
            raise CorpusError(f"{program} not found. {install}")
        done = subprocess.run([path, "--help"], capture_output=True, text=True)
        usage = done.stdout + done.stderr
        # 4.2 and 4.3 write the table on request, 4.4 and later by default.
        if "--write-experimental" in usage:
            return cls(path, ("--output-format", "mmcif", "--write-experimental"))
        if "--no-dssp-categories" in usage:
            return cls(path, ("--output-format", "mmcif"))
        raise CorpusError(f"{path} is not mkdssp 4.2 or later. {install}")

    def version(self) -> str:
        """Return the program's name and version, such as `mkdssp version 4.2.2`."""
        done = subprocess.run([self.program, "--version"], capture_output=True, text=True)
        return next(iter((done.stdout + done.stderr).splitlines()), "mkdssp")

    def assign_states(self, polymers: Sequence[Polymer]) -> list[dict[int, str]]:
        """Return the states of each chain by 1-based position, for the residues that have one.

        mkdssp gives no state to residues that lack a backbone atom. Where it cannot write its table (4.2 ends with
        "duplicate key" on some structures), the states come from its classic output.

        Args:
            polymers: all chains of one structure.

        Raises:
            StructureError: if mkdssp fails; the reason ends with its last line of output.
        """
        asym_ids: Sequence[str] = [f"C{number}" for number in range(len(polymers))]
        try:
            with self._output(polymers, asym_ids, self.options) as target:
                return _states_in_table(target, asym_ids)
        except StructureError as error:
            if len(polymers) > len(CLASSIC_CHAIN_IDS):
                raise
            asym_ids = CLASSIC_CHAIN_IDS[: len(polymers)]
            try:
                with self._output(polymers, asym_ids, CLASSIC_OPTIONS) as target:
                    return _states_in_classic_output(target, asym_ids)
            except StructureError:
                raise error from None

    @contextmanager
    def _output(self, polymers: Sequence[Polymer], asym_ids: Sequence[str], options: Sequence[str]) -> Iterator[Path]:
        """Run mkdssp on chains, and give the file that it wrote, for as long as the context lasts."""
        with tempfile.TemporaryDirectory(prefix="lift_ss_hf_") as folder:
            source, target = Path(folder, "in.cif"), Path(folder, "out")
            _document(polymers, asym_ids).write_file(str(source))
            try:
                done = subprocess.run(
                    [self.program, *options, str(source), str(target)],
                    capture_output=True,
                    timeout=SECONDS_PER_STRUCTURE,
                )
            except subprocess.TimeoutExpired:
                raise StructureError(f"mkdssp took more than {SECONDS_PER_STRUCTURE:.0f} seconds") from None
            if done.returncode or not target.is_file():
                lines = done.stderr.decode("utf-8", "replace").split("\n")
                last = next((line.strip() for line in reversed(lines) if line.strip()), f"status {done.returncode}")
                raise StructureError(f"mkdssp failed: {last}")
            yield target


def _states_in_table(path: Path, asym_ids: Sequence[str]) -> list[dict[int, str]]:
    """Read the states of each chain from mkdssp's mmCIF output."""
    try:
        block = import_gemmi().cif.read(str(path)).sole_block()
    except (OSError, RuntimeError, ValueError) as error:
        raise StructureError(f"output of mkdssp cannot be read: {' '.join(str(error).split())}") from None
    states: dict[str, dict[int, str]] = defaultdict(dict)
    for row in block.find("_dssp_struct_summary.", ["label_asym_id", "label_seq_id", "secondary_structure"]):
        if row[2] != "?":
            states[row.str(0)][int(row[1])] = row.str(2) or COIL
    return [states[asym] for asym in asym_ids]


def _states_in_classic_output(path: Path, asym_ids: Sequence[str]) -> list[dict[int, str]]:
    """Read the states of each chain, named by one letter, from mkdssp's classic output.

    Columns, from 1: residue number 6-10, chain 12, residue 14 ('!' for a break in the chain), state 17.
    """
    lines = iter(path.read_text("utf-8", "replace").splitlines())
    if not any(line.startswith("  #  RESIDUE AA") for line in lines):  # leaves the lines after it
        raise StructureError("output of mkdssp cannot be read: no table of residues")
    states: dict[str, dict[int, str]] = defaultdict(dict)
    for line in lines:
        if line[13:14] != "!":
            states[line[11]][int(line[5:10])] = line[16].strip() or COIL
    return [states[asym] for asym in asym_ids]


def _document(polymers: Sequence[Polymer], asym_ids: Sequence[str]) -> gemmi.cif.Document:
    """Return the chains as mmCIF for mkdssp, with these ids."""
    gemmi = import_gemmi()
    structure = gemmi.Structure()
    structure.name = "chains"
    structure.info["_entry.id"] = "chains"
    model = gemmi.Model(1)
    for asym, polymer in zip(asym_ids, polymers, strict=True):
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
    _add_scheme(document.sole_block(), polymers, asym_ids)
    return document


def _add_scheme(block: gemmi.cif.Block, polymers: Sequence[Polymer], asym_ids: Sequence[str]) -> None:
    """Add pdbx_poly_seq_scheme: gemmi does not write it, and without it mkdssp 4.2 finds no residues."""
    columns = ["asym_id", "entity_id", "seq_id", "mon_id", "ndb_seq_num", "pdb_seq_num", "auth_seq_num"]
    columns += ["pdb_mon_id", "auth_mon_id", "pdb_strand_id", "pdb_ins_code", "hetero"]
    scheme = block.init_loop("_pdbx_poly_seq_scheme.", columns)
    for asym, polymer in zip(asym_ids, polymers, strict=True):
        for index, monomer in enumerate(polymer.monomers):
            position = str(index + 1)
            observed = [position, monomer, monomer] if index in polymer.residues else ["?", "?", "?"]
            scheme.add_row([asym, asym, position, monomer, position, position, *observed, asym, ".", "n"])
