"""dataset_scripts/promod3.py: with a stand-in for ProMod3's database, and with the real one if it is installed."""

import hashlib
import math
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import load_module

SCRIPT = Path(__file__).parents[2] / "dataset_scripts" / "promod3.py"
DEBIAN_PYTHON = "/usr/bin/python3"

# The part of ProMod3's interface that the script uses, with four chains: the second is short, the fourth repeats the
# first. As in the real database, coil is C.
STAND_IN = """
class Info:
    def __init__(self, id, chain_name, size):
        self.id, self.chain_name, self.size = id, chain_name, size

class FragmentInfo:
    def __init__(self, index, offset, length):
        assert offset == 0
        self.index = index

class Database:
    chains = [("1ABC", "A", "MKVAC" * 4, "CCCCH" * 4), ("1ABC", "B", "MKV", "CCC"),
              ("2XYZ", "a", "G" * 20, "E" * 20), ("3XYZ", "A", "MKVAC" * 4, "TTTTT" * 4)]
    def GetNumCoords(self):
        return len(self.chains)
    def GetCoordInfo(self, index):
        id, name, sequence, _ = self.chains[index]
        return Info(id, name, len(sequence))
    def GetSequence(self, fragment):
        return self.chains[fragment.index][2]
    def GetDSSPStates(self, fragment):
        return self.chains[fragment.index][3]
    def GetDihedralAngles(self, fragment):
        return [(-1.309, 2.531)] * len(self.chains[fragment.index][2])

def LoadStructureDB():
    %s
"""


@pytest.fixture(scope="module")
def promod3():
    return load_module(SCRIPT)


def run(*arguments, python=sys.executable, path=""):
    return subprocess.run(
        [python, SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(path)},
    )


def stand_in(folder, load="return Database()"):
    (folder / "promod3").mkdir()
    (folder / "promod3" / "__init__.py").touch()
    (folder / "promod3" / "loop.py").write_text(STAND_IN % load)
    (folder / "ost.py").write_text("def PushVerbosityLevel(level): pass")
    return folder


def radians(*degrees):
    return [(math.radians(phi), math.radians(psi)) for phi, psi in degrees]


INSIDE, OUTSIDE = (-75, 145), (-60, -45)


@pytest.mark.parametrize(
    "states, torsions, expected",
    [
        ("CCCC", [INSIDE] * 4, "PPPP"),
        ("CCCC", [INSIDE, INSIDE, OUTSIDE, INSIDE], "LLLL"),  # two in a row are too few
        ("CCCCC", [OUTSIDE, INSIDE, INSIDE, INSIDE, OUTSIDE], "LPPPL"),
        ("CSC", [INSIDE] * 3, "PSP"),  # a bend counts for the stretch and stays a bend
        ("EEEC", [INSIDE] * 4, "EEEP"),
        ("CCC", [(-103.9, 116.1), (-46.1, 173.9), INSIDE], "PPP"),  # the edges are inside
        ("CCC", [(-104.1, 145), INSIDE, INSIDE], "LLL"),
        ("CCC", [(-75, 174.1), INSIDE, INSIDE], "LLL"),
        ("HGIBEST", [INSIDE] * 7, "HGIBEST"),
    ],
)
def test_polyproline_over_coil_only_in_stretches_of_three(promod3, states, torsions, expected):
    assert promod3.add_polyproline(states, radians(*torsions)) == expected


@pytest.mark.process
def test_short_and_repeated_chains_are_left_out_and_counted(tmp_path):
    out = tmp_path / "deep" / "chains.txt"
    done = run("--out", out, path=stand_in(tmp_path))
    assert out.read_text() == f">1abc_A\n{'MKVAC' * 4}\n{'PPPPH' * 4}\n>2xyz_a\n{'G' * 20}\n{'E' * 20}\n"
    assert "2 chains, 40 residues" in done.stdout
    assert "left out: 1 of fewer than 20 residues, 1 with a repeated sequence" in done.stdout
    assert done.returncode == 1 and done.stderr.startswith("warning: not the file in the catalogue")
    assert [path.name for path in out.parent.iterdir()] == ["chains.txt"]


def test_an_error_while_writing_keeps_the_old_file(promod3, tmp_path):
    out = tmp_path / "chains.txt"
    out.write_text("old")

    def chains():
        yield "1abc_A", "MKV", "LLL"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        promod3.write_corpus(chains(), out)
    assert [path.name for path in tmp_path.iterdir()] == ["chains.txt"] and out.read_text() == "old"


@pytest.mark.process
def test_the_next_run_leaves_nothing_of_a_killed_one(promod3, tmp_path):
    def killed():
        yield "1abc_A", "MKV", "LLL"
        os._exit(9)

    out = tmp_path / "chains.txt"
    writer = multiprocessing.get_context("fork").Process(target=lambda: promod3.write_corpus(killed(), out))
    writer.start()
    writer.join()
    assert writer.exitcode == 9 and not out.exists() and len(list(tmp_path.iterdir())) == 1
    promod3.write_corpus(iter([("2xyz_A", "AC", "EE")]), out)
    assert [path.name for path in tmp_path.iterdir()] == ["chains.txt"]
    assert out.read_text() == ">2xyz_A\nAC\nEE\n"


@pytest.mark.process
def test_missing_packages_are_one_line_that_says_how_to_get_them(tmp_path):
    (tmp_path / "ost.py").write_text("raise ImportError(\"No module named 'ost'\")")
    done = run("--out", tmp_path / "chains.txt", path=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "ProMod3 not found" in done.stderr and "apt-get install python3-promod3 promod3-data" in done.stderr
    assert not (tmp_path / "chains.txt").exists()


@pytest.mark.process
def test_an_unreadable_database_is_one_line(tmp_path):
    load = "raise RuntimeError('Could not find structure_db.dat.')"
    done = run("--out", tmp_path / "chains.txt", path=stand_in(tmp_path, load))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "cannot be read (Could not find structure_db.dat). Install" in done.stderr


def test_too_little_memory_is_reported_before_reading(promod3, monkeypatch):
    monkeypatch.setattr(promod3, "_available_memory", lambda: 512 << 20)
    with pytest.raises(promod3.DatabaseError, match="needs 1024 MB of memory, but only 512 are free"):
        promod3.load_database()


@pytest.mark.process
def test_real_database_gives_the_catalogued_file(promod3, tmp_path):
    probe = [DEBIAN_PYTHON, "-c", "import ost, promod3.loop"]
    if not Path(DEBIAN_PYTHON).exists() or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs Debian's packages python3-promod3 and promod3-data")
    done = run("--out", tmp_path / "chains.txt", python=DEBIAN_PYTHON)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256((tmp_path / "chains.txt").read_bytes()).hexdigest() == promod3.EXPECTED_SHA256


def test_the_checksum_is_that_of_the_catalogue(promod3):
    from lift_ss_hf.corpora.catalogue import get_corpus

    assert get_corpus("promod3").config.splits["train"].checksum == f"sha256:{promod3.EXPECTED_SHA256}"
