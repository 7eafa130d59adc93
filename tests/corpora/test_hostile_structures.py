"""Damaged structure files: each becomes chains, a row in the table of what was skipped, or one line of error."""

import gzip
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripts import run_script
from tools import needs_mkdssp

from lift_ss_hf.corpora.structure_files import CIF_CATEGORIES, StructureError
from lift_ss_hf.corpora.structures import read_structure

gemmi = pytest.importorskip("gemmi", reason="needs gemmi (pip install gemmi)")

SCRIPT = "dataset_scripts/from_structures.py"
STRUCTURES = Path(__file__).parents[1] / "data" / "structures"
READ = (b"HEADER", b"SEQRES", b"ATOM", b"HETATM", b"TER", b"END")  # of a PDB file: damages elsewhere change nothing


def contents():
    """Return the text of two structures, and of one without a suffix, of which gemmi finds out what it is."""
    pdb, cif = (gzip.decompress((STRUCTURES / f"{name}.gz").read_bytes()) for name in ("1orc.pdb", "1A8O.cif"))
    pdb = b"\n".join(line for line in pdb.splitlines() if line.startswith(READ))
    document = gemmi.cif.read_string(cif)
    for category in document[0].get_mmcif_category_names():
        if not CIF_CATEGORIES.fullmatch(category):
            document[0].find_mmcif_category(category).erase()
    return {"1orc.pdb": pdb, "1orc.txt": pdb, "1A8O.cif": document.as_string().encode()}


FILES = contents()
FUZZ = settings(
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
WIDTH = 80  # columns of a PDB file
WORDS = [
    b"",
    b"?",
    b".",
    b"nan",
    b"inf",
    b"1e30",
    b"-99999999",
    b"9" * 30,
    b"'",
    b'"',
    b";",
    b"_x",
    b"loop_",
    b"data_y",
]
WORDS += [b"\x1b[31m", b"\0", b"|", b"\xc3\xa9", b"#"]


def flip_bytes(draw, content):
    content, random = bytearray(content), draw(st.randoms(use_true_random=False))
    for _ in range(draw(st.sampled_from([1, 10, 100]))):
        content[random.randrange(len(content))] = random.randrange(256)
    return bytes(content)


def cut_end(draw, content):
    return content[: draw(st.integers(0, len(content)))]


def on_lines(change):
    """Return a damage that changes up to 2,000 lines, one after another; `change` gets a list of lines."""

    def damage(draw, content):
        lines = content.split(b"\n")
        start = draw(st.integers(0, len(lines) - 1))
        stop = start + draw(st.sampled_from([1, 5, 100, 2000]))
        lines[start:stop] = change(draw, lines[start:stop])
        return b"\n".join(lines)

    return damage


def repeat(draw, lines):
    return lines * 2


def shift_columns(draw, lines):
    column, width = draw(st.integers(0, WIDTH)), draw(st.integers(-5, 5))
    return [line[:column] + b" " * width + line[column + max(0, -width) :] for line in lines]


def overwrite_columns(draw, lines):
    column, text = (
        draw(st.integers(0, WIDTH)),
        draw(st.sampled_from([b" ", b"9", b"A", b"*", b"-", b"?", b"'", b"\x1b"])) * draw(st.integers(1, 8)),
    )
    return [line[:column] + text + line[column + len(text) :] for line in lines]


def replace_word(draw, lines):
    words, word = lines[0].split(b" "), draw(st.sampled_from(WORDS))
    words[draw(st.integers(0, WIDTH)) % len(words)] = word
    return [b" ".join(words), *lines[1:]]


DAMAGES = [
    flip_bytes,
    cut_end,
    on_lines(lambda draw, lines: []),
    on_lines(lambda draw, lines: [line[: draw(st.integers(0, WIDTH))] for line in lines[:1]] + lines[1:]),
    *map(on_lines, (repeat, shift_columns, overwrite_columns, replace_word)),
]


@st.composite
def damaged_files(draw):
    """Names and contents of a file, damaged in up to three ways, a quarter of them compressed and damaged again."""
    name = draw(st.sampled_from(sorted(FILES)))
    content = FILES[name]
    for damage in draw(st.lists(st.sampled_from(DAMAGES), min_size=1, max_size=3)):
        content = damage(draw, content) or b"\n"
    if draw(st.integers(0, 3)) == 0:
        name, content = f"{name}.gz", gzip.compress(content, mtime=0)
        content = draw(st.sampled_from([cut_end, flip_bytes]))(draw, content)
    return name, content


@settings(FUZZ, max_examples=300)
@given(damaged_files())
def test_a_damaged_file_is_read_or_refused_in_one_printable_line(tmp_path, file):
    name, content = file
    (tmp_path / name).write_bytes(content)
    try:
        found = read_structure(tmp_path / name, 20, Counter())
    except StructureError as error:
        assert error.reason and error.reason.isprintable()
        return
    finally:
        (tmp_path / name).unlink()
    for chain, problem in found.problems:
        assert chain.isprintable() and problem.reason and problem.reason.isprintable()
    for polymer in found.polymers:
        assert polymer.name.isprintable() and "".join(polymer.monomers).isprintable()


def written(folder):
    (path,) = folder.glob("data/*.parquet")
    return pq.read_table(path).to_pylist()


def rows(output):
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in output.splitlines() if line[:1] == "|"][2:]


@needs_mkdssp
@settings(FUZZ, max_examples=25)
@given(st.lists(damaged_files(), min_size=1, max_size=2))
def test_the_command_accounts_for_each_damaged_file(tmp_path, files):
    shutil.rmtree(tmp_path)
    names = []
    for number, (name, content) in enumerate(files):
        names.append(f"{number}_{name}")
        (tmp_path / "in").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / names[-1]).write_bytes(content)
    paths = [tmp_path / "in" / name for name in names]
    done = run_script(SCRIPT, *paths, "--out", tmp_path / "out", "--jobs", 1)
    skipped = rows(done.stdout)
    assert all(len(row) == 4 and row[3] for row in skipped)
    if done.returncode == 2:
        assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
        corpus = []
    else:
        assert done.returncode == any(row[2] == "yes" for row in skipped)
        assert done.stderr == ""
        corpus = written(tmp_path / "out")
        assert all(row["id"].isprintable() for row in corpus)
        assert len({row["id"] for row in corpus}) == len(corpus)
    assert {row["file"] for row in corpus} | {Path(row[0]).name for row in skipped} == set(names)


@needs_mkdssp
@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_a_strange_name_of_a_file_costs_neither_the_corpus_nor_the_table(tmp_path):
    names = [b"latin-\xe9", b"red\x1b[31m", b"two\nlines", b"a|b"]
    for name in names:
        shutil.copy(STRUCTURES / "rnase_frag.pdb.gz", tmp_path / os.fsdecode(name + b".pdb.gz"))
    done = run_script(SCRIPT, tmp_path, "--out", tmp_path / "out", "--jobs", 1)
    assert (done.returncode, done.stderr) == (0, "")
    seen = [f"{tmp_path}/{name}.pdb.gz" for name in ("a/b", "latin-?", "red?[31m", "two lines")]
    assert rows(done.stdout) == [[path, "A", "no", "shorter than 20 residues"] for path in seen]
    assert [row["id"] for row in written(tmp_path / "out")] == ["a|b_B", "latin-?_B", "red?[31m_B", "two lines_B"]
