"""Leakage: exact duplicates, homologues by mmseqs, and the command line that reports and filters."""

import os
import random
import shutil

import datasets
import pytest
from corpus_files import write_three_line
from scripts import run_script
from stopped_at import STOPS, check_replacing
from tools import needs_mmseqs

from lift_ss_hf.corpora import CardFacts, Chain, CorpusError, Split, write_corpus
from lift_ss_hf.corpora.fasta import read_fasta
from lift_ss_hf.corpora.leakage import (
    Homologues,
    Leakage,
    SearchSettings,
    exact_duplicates,
    homologues,
    leakage_table,
    load_chains,
)
from lift_ss_hf.corpora.loading import resolve_corpus
from lift_ss_hf.corpora.mmseqs import MissingMmseqsError

SCRIPT = "dataset_scripts/leakage.py"


# Adenylate kinase of E. coli (P69441), and lambda Cro of 1orc: unrelated.
KINASE = (
    "MRIILLGAPGAGKGTQAQFIMEKYGIPQISTGDMLRAAVKSGSELGKQAKDIMDAGKLVTDELVIALVKERIAQEDCRNGFLLDGFPRTIPQADAMKEAGINVDYV"
    "LEFDVPDELIVDRIVGRRVHAPSGRVYHVKFNPPKVEGKDDVTGEELTTRKDDQEETVRKRLVEYHQMTAPLIGYYSKEAEAGNTKYAKVDGTKPVAEVRADLEKILG"
)
CRO = "MEQRITLKDYAMRFGQTKTAKDLGVYQSAINKAIHAGRKIFLTINADGSVYAEEVKDGEVKPFPSNKKTTA"


def relative(sequence, fraction):
    """The sequence with a fraction of its residues replaced."""
    generator = random.Random(0)
    replaced = set(generator.sample(range(len(sequence)), round(fraction * len(sequence))))
    return "".join("G" if index in replaced and r != "G" else r for index, r in enumerate(sequence))


TRAIN = [
    Chain("cro", CRO, "L" * len(CRO)),
    Chain("kinase", KINASE, "H" * len(KINASE)),
    Chain("cousin", relative(KINASE, 0.2), "E" * len(KINASE)),
    Chain("piece", KINASE[60:85], "T" * 25),
]


@pytest.fixture
def files(tmp_path):
    """A training set, a test set that it leaks into, and one that it does not."""
    random.seed(1)
    alien = "".join(random.choices("ACDEFGHIKLMNPQRSTVWY", k=120))
    return (
        write_three_line(TRAIN, tmp_path / "train.txt"),
        write_three_line([Chain("k", KINASE, "H" * len(KINASE)), Chain("a", alien, "L" * 120)], tmp_path / "kin.txt"),
        write_three_line([Chain("a", alien, "L" * 120)], tmp_path / "alien.txt"),
    )


def rows(output):
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in output.splitlines() if line[:1] == "|"]


def test_exact_duplicates_are_whole_chains_letter_by_letter():
    assert exact_duplicates(["MKV", "MK", "mkv", "AAA"], ["AAA", "MKV"]) == [0, 3]


@needs_mmseqs
def test_homologues_are_reported_for_each_test_set_and_no_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sequences = [chain.sequence for chain in TRAIN]
    tests = {"one": ["A" * 50, relative(KINASE, 0.3)], "two": [CRO, KINASE], "three": ["W" * 40]}
    found = homologues(sequences, tests)
    assert found["one"].train == {1, 2} and found["one"].test == {1}  # the piece has 25 residues
    assert 0.6 < found["one"].highest_identity < 1
    assert (found["two"].train, found["two"].test, found["two"].highest_identity) == ({0, 1, 2}, {0, 1}, 1.0)
    assert found["three"] == Homologues(set(), set(), None)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def identical_hits(monkeypatch):
    """Replace mmseqs by a search for equal sequences, whose hits have 80 % identity over 200 residues, E = 1e-50."""

    def run(command, *arguments):
        if command == "createdb":
            shutil.copy(arguments[0], arguments[1])
        else:
            queries, targets = dict(read_fasta(arguments[0])), dict(read_fasta(arguments[1]))
            pairs = [(q, t) for q in queries for t in targets if queries[q] == targets[t]]
            arguments[2].write_text("".join(f"{query}\t{target}\t0.8\t200\t1e-50\n" for query, target in pairs))

    monkeypatch.setattr("lift_ss_hf.corpora.leakage.require_mmseqs", lambda: None)
    monkeypatch.setattr("lift_ss_hf.corpora.leakage.run_mmseqs", run)


@pytest.mark.parametrize(
    ("settings", "train"),
    [
        ({}, {0}),
        ({"min_identity": 0.8, "min_aligned": 200}, {0}),
        ({"min_identity": 0.81}, set()),
        ({"min_aligned": 201}, set()),
        ({"max_evalue": 1e-50}, set()),
    ],
)
def test_each_threshold_counts(identical_hits, settings, train):
    assert homologues([KINASE], {"one": [KINASE]}, SearchSettings(**settings))["one"].train == train


def test_indices_are_right_beyond_the_first_chunk(identical_hits, monkeypatch):
    monkeypatch.setattr("lift_ss_hf.corpora.leakage.CHUNK", 2)
    found = homologues([CRO, "W" * 40, CRO, KINASE], {"one": ["A" * 40], "two": ["A" * 40, KINASE]})
    assert (found["one"].train, found["two"].train, found["two"].test) == (set(), {3}, {1})


def test_without_mmseqs_the_search_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingMmseqsError, match=r"mmseqs not found.*Debian: mmseqs2"):
        homologues([CRO], {"one": [CRO]})


@pytest.mark.process
def test_the_error_of_a_failing_mmseqs_has_the_end_of_its_output(tmp_path, monkeypatch):
    (tmp_path / "mmseqs").write_text("#!/bin/sh\necho no space left\nexit 3\n")
    (tmp_path / "mmseqs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(CorpusError, match="mmseqs createdb failed with status 3: no space left"):
        homologues([CRO], {"one": [CRO]})


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"sensitivity": 9}, r"sensitivity is 9\. Expected 1 to 7\.5"),
        ({"min_identity": 25}, r"min_identity is 25\. Expected 0 to 1"),
        ({"threads": 0}, r"threads is 0\. Expected more than 0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SearchSettings(**wrong)


def test_table_says_what_was_not_searched_and_where_nothing_was_found():
    table = rows(leakage_table([Leakage("a", 1200, [3], None), Leakage("b", 5, [], Homologues())]))
    assert table[2] == ["a", "1,200", "1", "not searched", "not searched", "not searched"]
    assert table[3] == ["b", "5", "0", "0", "0", "none"]


def test_the_only_split_of_a_corpus_is_taken_and_several_are_listed(tmp_path):
    write_corpus(tmp_path / "one", [Split.of("test", TRAIN)], CardFacts("One", "One split.", "unknown"))
    loaded = load_chains(tmp_path / "one", "train")
    assert [(chain.id, chain.sequence) for chain in loaded] == [(chain.id, chain.sequence) for chain in TRAIN]
    both = [Split.of("test", TRAIN), Split.of("validation", TRAIN[:1])]
    write_corpus(tmp_path / "two", both, CardFacts("Two", "Two splits.", "unknown"))
    with pytest.raises(ValueError, match=r"two has no split 'train'\. Choose one of: test, validation\."):
        load_chains(tmp_path / "two", "train")


@needs_mmseqs
def test_command_line_reports_and_writes_what_does_not_leak(files, tmp_path):
    train, kin, alien = files
    done = run_script(SCRIPT, train, "--tests", kin, alien, "--write", tmp_path / "clean", "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert rows(done.stdout)[2:] == [
        [str(kin), "2", "1", "2", "1", "100.0 %"],
        [str(alien), "1", "0", "0", "0", "none"],
    ]
    assert "2 of 4 chains leak, 2 are left" in done.stdout
    clean = datasets.load_dataset(str(tmp_path / "clean"), split="train", cache_dir=str(tmp_path / "cache"))
    assert clean["id"][:] == ["cro", "piece"]
    assert "at least 30 aligned residues, at least 25 % identity" in (tmp_path / "clean" / "README.md").read_text()


def splits_of(folder, **splits):
    """A built corpus of these splits."""
    write_corpus(folder, [Split.of(name, chains) for name, chains in splits.items()], CardFacts("A", "B.", "unknown"))
    return folder


def test_command_line_counts_validation_chains_as_it_does_tests(tmp_path):
    cro, kinase, _, piece = TRAIN
    train = splits_of(tmp_path / "mine", train=TRAIN, validation=[cro, Chain("a", "W" * 40, "L" * 40)])
    other = write_three_line([piece], tmp_path / "other.txt")
    test = write_three_line([kinase], tmp_path / "test.txt")

    def counted(*arguments):
        done = run_script(SCRIPT, train, "--exact-only", *arguments)
        assert done.returncode == 0, done.stderr
        return [row[:3] for row in rows(done.stdout)[2:]], done.stdout

    assert counted()[0] == [[f"{train} (validation)", "2", "1"]]
    clean = tmp_path / "clean"
    table, out = counted("--tests", test, "--validation", train, other, "--write", clean)
    assert table == [[f"{train} (validation)", "2", "1"], [f"{other} (validation)", "1", "1"], [str(test), "1", "1"]]
    assert "3 of 4 chains leak, 1 are left" in out
    assert (
        f"Filtered for use with: {train} (validation), {other} (validation), {test}."
        in (clean / "README.md").read_text()
    )
    assert counted("--tests", test, "--validation", "none")[0] == [[str(test), "1", "1"]]
    assert counted("--tests", test, "--split", "validation")[0] == [[str(test), "1", "0"]]  # not against itself


def test_command_line_does_not_remove_other_splits(files, tmp_path):
    train, kin, alien = files
    folder = splits_of(tmp_path / "mine", train=TRAIN, validation=TRAIN[:1])
    done = run_script(SCRIPT, train, "--tests", kin, "--exact-only", "--write", folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{folder}: holds the split validation, which would be removed. Give another directory" in done.stderr
    assert len(load_chains(folder, "validation")) == 1
    for test in (kin, alien):  # the same corpus over itself
        done = run_script(SCRIPT, train, "--tests", test, "--exact-only", "--write", tmp_path / "clean")
        assert (done.returncode, done.stderr) == (0, "")


def test_command_line_without_mmseqs_still_reports_exact_duplicates(files, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    train, kin, _ = files
    done = run_script(SCRIPT, train, "--tests", kin)
    assert done.returncode == 1 and rows(done.stdout)[2] == [str(kin), "2", "1", *["not searched"] * 3]
    assert done.stderr.startswith("mmseqs not found") and len(done.stderr.splitlines()) == 1
    refused = run_script(SCRIPT, train, "--tests", kin, "--write", tmp_path / "clean")
    assert refused.returncode == 2 and "give --exact-only" in refused.stderr and not (tmp_path / "clean").exists()
    exact = run_script(SCRIPT, train, "--tests", kin, "--write", tmp_path / "clean", "--exact-only")
    assert exact.returncode == 0 and "1 of 4 chains leak, 3 are left" in exact.stdout


@pytest.mark.process
@STOPS
def test_command_line_stopped_anywhere_is_completed_by_the_next(files, tmp_path, kill):
    train, kin, alien = files
    folder = tmp_path / "work" / "clean"

    def write(test):
        done = run_script(SCRIPT, train, "--tests", test, "--exact-only", "--write", folder)
        assert (done.returncode, done.stderr) == (0, "")

    check_replacing(lambda: write(alien), lambda: write(kin), folder, kill)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere.txt", "--tests", "casp12"], "nowhere.txt"),
        (["casp12", "--tests", "casp99"], "unknown corpus 'casp99'"),  # reported before CASP12 is loaded
        (["sample", "--tests", "sample", "--min-identity", "25"], "min_identity is 25"),
        (
            ["sample", "--tests", "sample", "--exact-only", "--sensitivity", "7.5"],
            "--exact-only searches no homologues",
        ),
        (["sample", "--validation", "casp99"], "unknown corpus 'casp99'"),
        (["sample", "--validation", "none"], "sample: nothing to compare it with. Name test sets (--tests)"),
        (["cullpdb6133"], "cullpdb6133: nothing to compare it with"),
    ],
)
def test_command_line_refuses_bad_input_in_one_line(arguments, message, monkeypatch):
    monkeypatch.delenv("LIFT_SS_DATA_DIR", raising=False)
    done = run_script(SCRIPT, *arguments)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_command_line_writes_nothing_when_everything_leaks(files, tmp_path):
    train, _, _ = files
    done = run_script(SCRIPT, train, "--tests", train, "--exact-only", "--write", tmp_path / "clean")
    assert done.returncode == 2 and "no chains are left" in done.stderr and not (tmp_path / "clean").exists()


def test_the_filtered_promod3_has_no_chain_of_a_test(shared_corpora):
    def sequences(name, split):
        return [chain.sequence for chain in load_chains(resolve_corpus(name), split, shared_corpora)]

    train, filtered = sequences("promod3", "train"), sequences("promod3:lt25id", "train")
    tests = sequences("casp12", "test") + sequences("test2016", "test")
    assert exact_duplicates(tests, train) and not exact_duplicates(tests, filtered)
