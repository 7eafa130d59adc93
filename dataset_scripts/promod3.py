#!/usr/bin/python3
"""Write the promod3 corpus: real PDB chains with nine states, from the structure database of ProMod3.

Run it with Debian's own Python, after `apt-get install python3-promod3 promod3-data`:

    /usr/bin/python3 dataset_scripts/promod3.py --out FOLDER/promod3/chains_q9.txt

The file has three lines per chain (`>id`, residues, states), in the order of the database; build the corpus from it
with `build.py promod3 --source FOLDER`. States are those of DSSP as stored in the database, with P (polyproline II)
added from the torsions. The database holds resolved segments only, so there is no X. Chains of fewer than 20 residues
and repeated sequences are left out. This takes a few seconds and 0.6 GB of memory.

This file does not import lift_ss_hf, since Debian's Python has neither torch nor datasets.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from collections import Counter
from pathlib import Path

INSTALL = "Install Debian's packages (apt-get install python3-promod3 promod3-data) and run this with /usr/bin/python3."
MIN_RESIDUES = 20
NEEDED_MEMORY = 1 << 30  # bytes; the database of promod3-data 3.2.1 takes 0.6 GB in memory
# For promod3-data 3.2.1+ds-6. The same as in lift_ss_hf/corpora/catalogue.yaml, which this file cannot read.
EXPECTED_SHA256 = "9b7bd5fa84471346a6f13518207f412b77bb41ab8427a488ac1178e04d9bb785"
# Polyproline II as defined by mkdssp 4: at least three residues with torsions near these. Mansiaux et al. 2011,
# PLoS ONE 6:e18401.
PHI, PSI, TOLERANCE, MIN_STRETCH = -75.0, 145.0, 29.0, 3  # degrees, residues


class DatabaseError(Exception):
    """The structure database is not available; the message says what to do."""


def add_polyproline(states: str, torsions: list[tuple[float, float]]) -> str:
    """Convert C (coil) to L, or to P in stretches of polyproline II.

    Args:
        states: DSSP states as stored in the database, with C for coil; length L.
        torsions: phi and psi of each residue [radians], length L.

    Returns:
        nine-state string, length L.
    """
    nine = list(states.replace("C", "L"))
    start = 0
    for end in range(len(nine) + 1):
        if end < len(nine) and _is_polyproline(*torsions[end]):
            continue
        if end - start >= MIN_STRETCH:
            nine[start:end] = [state if state != "L" else "P" for state in nine[start:end]]
        start = end + 1
    return "".join(nine)


def _is_polyproline(phi: float, psi: float) -> bool:
    return abs(math.degrees(phi) - PHI) <= TOLERANCE and abs(math.degrees(psi) - PSI) <= TOLERANCE


def load_database():
    """Return the `loop` module of ProMod3 and its structure database.

    Raises:
        DatabaseError: if a package is missing or there is too little memory.
    """
    free = _available_memory()
    if free < NEEDED_MEMORY:
        raise DatabaseError(
            f"the structure database needs {NEEDED_MEMORY / 2**20:.0f} MB of memory, but only {free / 2**20:.0f} "
            "are free. Close other programs, or run this on a larger machine."
        )
    # This file has the same name as the package it imports, and its folder is the first entry of sys.path.
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]
    sys.modules.pop("promod3", None)
    try:
        import ost
        from promod3 import loop
    except ImportError as error:
        raise DatabaseError(f"ProMod3 not found for {sys.executable} ({error}). {INSTALL}") from None
    ost.PushVerbosityLevel(-1)  # the messages below replace its own
    try:
        return loop, loop.LoadStructureDB()
    except Exception as error:  # RuntimeError for a missing file, a bare Exception for a truncated one
        reason = str(error).rstrip(".")
        raise DatabaseError(f"the structure database cannot be read ({reason}). {INSTALL}") from None


def _available_memory() -> float:
    """Return the available memory [bytes], or infinity if the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return math.inf
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), math.inf)


def read_chains(loop, database, counts: Counter[str]):
    """Yield the id, residues and states of each chain to keep; `counts` receives the numbers of chains."""
    seen: set[str] = set()
    number = database.GetNumCoords()
    for index in range(number):
        if sys.stderr.isatty() and (index % 500 == 0 or index + 1 == number):
            print(f"\r{index + 1:,} of {number:,} chains", end="", file=sys.stderr, flush=True)
        info = database.GetCoordInfo(index)
        segment = loop.FragmentInfo(index, 0, info.size)
        sequence = str(database.GetSequence(segment))
        if len(sequence) < MIN_RESIDUES:
            counts["short"] += 1
        elif sequence in seen:
            counts["repeated"] += 1
        else:
            seen.add(sequence)
            counts["chains"] += 1
            counts["residues"] += len(sequence)
            states = add_polyproline(str(database.GetDSSPStates(segment)), database.GetDihedralAngles(segment))
            yield f"{info.id.lower()}_{info.chain_name}", sequence, states
    if sys.stderr.isatty():
        print(file=sys.stderr)


def write_corpus(chains, path: Path) -> str:
    """Write the three-line file, completely or not at all, and return its SHA-256."""
    digest = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.lift_ss_hf.incomplete")  # fixed: the next run takes over a killed one's
    try:
        with part.open("wb") as file:
            for chain_id, sequence, states in chains:
                lines = f">{chain_id}\n{sequence}\n{states}\n".encode("ascii")
                digest.update(lines)
                file.write(lines)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return digest.hexdigest()


def main() -> int:
    """Write the corpus, print its counts, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 written, 1 written but not the file in the catalogue, 2 not written.",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the three-line file to write")
    args = parser.parse_args()
    counts: Counter[str] = Counter()
    try:
        loop, database = load_database()
        checksum = write_corpus(read_chains(loop, database, counts), args.out)
    except (DatabaseError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(f"{args.out}: {counts['chains']:,} chains, {counts['residues']:,} residues, sha256 {checksum}")
    short, repeated = counts["short"], counts["repeated"]
    print(f"left out: {short:,} of fewer than {MIN_RESIDUES} residues, {repeated:,} with a repeated sequence")
    if checksum != EXPECTED_SHA256:
        print(
            f"warning: not the file in the catalogue (expected sha256 {EXPECTED_SHA256}). Is this another version of "
            "promod3-data than 3.2.1? `build.py promod3` will reject the file; load it by its path instead.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
