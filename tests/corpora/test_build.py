"""Building corpora: dataset_scripts/build.py, and the folders that it writes."""

import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import yaml
from corpus_files import example_catalogue, write_example_sources
from scripts import ROOT, run_script
from stopped_at import STOPS, check_replacing

from lift_ss_hf.corpora import CardFacts, Chain, CorpusError, Split, read_chains, write_corpus
from lift_ss_hf.corpora import catalogue as catalogue_module
from lift_ss_hf.corpora.writing import require_replaceable

SCRIPT = "dataset_scripts/build.py"
NEWER = (30, 35, 40, 45, 50)  # PISCES training sets of two versions
CHAINS = [Chain("a", "MKV", "LHX"), Chain("b", "AC", "EE")]
FACTS = CardFacts("Mine", "Two chains.", "unknown")


@pytest.fixture(scope="module")
def built(shared_corpora, tmp_path_factory):
    """All corpora built from the real source files with an empty cache, and the output of the command."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, ROOT / SCRIPT, "--all", "--source", shared_corpora, "--out", folder / "lift_ss"]
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    return folder, subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.process
def test_all_builds_the_available_splits_and_reports_the_others(built):
    folder, result = built
    assert result.returncode == 1  # the training files of LIFT_SS are not in the folder
    assert "casp12 test: 47 chains, 13,718 residues, 12,442 with a state" in result.stdout
    failed = [line.split(":")[0].strip() for line in result.stderr.splitlines() if "is not available" in line]
    assert failed == [
        f"{name} train"
        for name in ("cb634", "pisces25", *(f"pisces{n}{year}" for year in ("", "_2022") for n in NEWER), "spot1d")
    ]
    assert "Traceback" not in result.stderr
    assert not [path.name for path in (folder / "lift_ss").iterdir() if path.name.startswith(".")]


@pytest.mark.process
@pytest.mark.parametrize("streaming", [False, True])
def test_load_dataset_reads_it_back_by_name_in_a_clean_process(built, tmp_path, streaming):
    code = (
        "import datasets; d = datasets.load_dataset('lift_ss/casp12', split='test', "
        f"streaming={streaming}); print(len(list(d)))"
    )
    env = {**os.environ, "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=built[0], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "47", done.stderr


@pytest.mark.process
def test_a_built_corpus_equals_its_source_chain_by_chain(built, shared_corpora, tmp_path):
    sources = {
        ("test2018", "default", "test"): "lift_ss/Test2018.txt",  # CRLF
        ("cb634", "default", "validation"): "lift_ss/CB634_valid.txt",
        ("promod3", "lt25id", "train"): "promod3/chains_q9_lt25id_to_tests.txt",
    }
    for (name, config, split), source in sources.items():
        corpus = datasets.load_dataset(str(built[0] / "lift_ss" / name), config, split=split, cache_dir=str(tmp_path))
        lines = (shared_corpora / source).read_text().splitlines()
        assert [f">{i}" for i in corpus["id"]] == lines[0::3]
        assert corpus["sequence"][:] == lines[1::3]
        assert corpus["states"][:] == lines[2::3]


@pytest.mark.process
def test_the_card_has_the_metadata_of_the_hub_and_the_changes(built):
    text = (built[0] / "lift_ss" / "cb513" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "cc0-1.0"
    assert front["dataset_info"][0]["splits"] == [{"name": "test", "num_bytes": 496653, "num_examples": 511}]
    assert "coil written 'C', now L: 33,086" in text
    assert "513 domains" in text
    promod3 = (built[0] / "lift_ss" / "promod3" / "README.md").read_text()
    assert [config["config_name"] for config in yaml.safe_load(promod3.split("---")[1])["configs"]] == [
        "default",
        "lt25id",
    ]
    assert "Changes made on reading: none" in promod3


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A source folder with the files of the catalogue's example, whose corpus is added to the catalogue."""
    catalogue = {
        **catalogue_module.load_catalogue(),
        **catalogue_module.parse_catalogue(example_catalogue()),
    }
    monkeypatch.setattr(catalogue_module, "load_catalogue", lambda: catalogue)
    monkeypatch.delenv("LIFT_SS_DATA_DIR", raising=False)
    return write_example_sources(tmp_path / "sources")


def test_the_command_writes_what_load_dataset_reads(sources, tmp_path):
    result = run_script(SCRIPT, "my_corpus", "--source", sources, "--out", tmp_path / "out")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "my_corpus train: 2 chains, 5 residues, 4 with a state",
        "my_corpus small/train: 1 chain, 3 residues, 2 with a state",
    ]
    folder = str(tmp_path / "out" / "my_corpus")
    for config, states in (("default", ["LHX", "EE"]), ("small", ["LHX"])):
        corpus = datasets.load_dataset(folder, config, split="train", cache_dir=str(tmp_path / "cache"))
        assert corpus["states"][:] == states


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["casp15"], "error: unknown corpus 'casp15'. Did you mean 'casp1"),
        (["casp12", "--source", "/nowhere"], "error: /nowhere is not a folder"),
        (["promod3:lt25id"], "error: promod3:lt25id: all configurations of a corpus are built together. Give promod3."),
        ([], "name corpora, or give --all"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(tmp_path, arguments, message):
    result = run_script(SCRIPT, *arguments, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_wrong_source_builds_nothing_and_is_named(sources, tmp_path):
    (sources / "my_lab" / "my_chains.txt").write_text(">a\nMK\nHH\n")
    (sources / "my_chains_small.txt").unlink()
    result = run_script(SCRIPT, "my_corpus", "--source", sources, "--out", tmp_path / "out")
    assert result.returncode == 1
    assert "my_chains.txt: not the file in the catalogue" in result.stderr
    assert "my_chains_small.txt is not available" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_split_is_on_the_card(sources, tmp_path):
    (sources / "my_chains_small.txt").unlink()
    result = run_script(SCRIPT, "my_corpus", "--source", sources, "--out", tmp_path)
    assert result.returncode == 1
    card = (tmp_path / "my_corpus" / "README.md").read_text()
    assert "Not in this build: small/train (my_chains_small.txt was missing or invalid at build time)." in card


def test_a_folder_that_cannot_be_written_does_not_stop_the_others(sources, tmp_path, monkeypatch):
    (tmp_path / "my_corpus").mkdir()
    (tmp_path / "my_corpus" / "notes.txt").write_text("mine")
    (tmp_path / "a_file").write_text("mine")
    catalogue = catalogue_module.load_catalogue()
    for name in ("other", "a_file"):
        monkeypatch.setitem(catalogue, name, replace(catalogue["my_corpus"], name=name))
    result = run_script(SCRIPT, "my_corpus", "a_file", "other", "--source", sources, "--out", tmp_path)
    assert result.returncode == 1
    assert "a_file exists and is not a directory" in result.stderr
    assert "my_corpus: contains files that do not belong to a corpus" in result.stderr
    assert "other train: 2 chains" in result.stdout
    assert "my_corpus train" not in result.stdout
    assert (tmp_path / "my_corpus" / "notes.txt").read_text() == "mine"


def test_a_corpus_is_not_replaced_if_a_split_would_be_lost(sources, tmp_path):
    folder = tmp_path / "my_corpus"
    write_corpus(folder, [Split.of("train", CHAINS)], FACTS)
    (sources / "my_lab" / "my_chains.txt").unlink()
    result = run_script(SCRIPT, "my_corpus", "--source", sources, "--out", tmp_path)
    assert result.returncode == 1
    assert f"{folder} was left unchanged: train would be lost. Remove it to build the rest." in result.stderr
    assert list(read_chains(folder / "data" / "train-00000-of-00001.parquet")) == CHAINS


def test_the_card_loads_the_corpus_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder, name in (("runs/mine", "runs/mine"), (tmp_path / "mine", "mine")):
        write_corpus(folder, [Split.of("train", CHAINS)], FACTS)
        assert f'datasets.load_dataset("{name}", split="train")' in (Path(folder) / "README.md").read_text()


def test_writing_replaces_an_older_corpus_and_nothing_else(tmp_path):
    folder = tmp_path / "mine"
    write_corpus(folder, [Split.of("train", CHAINS), Split.of("test", CHAINS[:1])], FACTS)
    write_corpus(folder, [Split.of("train", CHAINS[:1])], FACTS)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["mine/README.md", "mine/data/train-00000-of-00001.parquet"]
    assert list(read_chains(folder / "data" / "train-00000-of-00001.parquet")) == CHAINS[:1]
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.tex").write_text("years of work")
    with pytest.raises(CorpusError, match=r"thesis: contains files that do not belong to a corpus"):
        write_corpus(other, [Split.of("train", CHAINS)], FACTS)
    assert (other / "chapter1.tex").exists()
    (other / "data").mkdir()  # a project may have such a folder too
    (folder / "data" / "notes.txt").write_text("mine")
    for kept in (other, folder):
        with pytest.raises(CorpusError, match="contains files that do not belong to a corpus"):
            write_corpus(kept, [Split.of("train", CHAINS)], FACTS)
    with pytest.raises(ValueError, match=r"chapter1\.tex exists and is not a directory"):
        write_corpus(other / "chapter1.tex", [Split.of("train", CHAINS)], FACTS)
    assert (other / "chapter1.tex").is_file()
    assert (folder / "data" / "notes.txt").exists()


@pytest.mark.parametrize(
    "splits, message",
    [
        (["test"], r"mine: holds the split train, which would be removed\. Give another directory, or remove it\."),
        (["validation"], r"mine: holds the splits test, train, which would be removed\."),
        (["train", "test"], None),
    ],
)
def test_splits_that_would_be_lost_can_be_refused_before_the_work(tmp_path, splits, message):
    folder = tmp_path / "mine"
    require_replaceable(folder, splits)
    write_corpus(folder, [Split.of("train", CHAINS), Split.of("test", CHAINS[:1])], FACTS)
    with nullcontext() if message is None else pytest.raises(CorpusError, match=message):
        require_replaceable(folder, splits)
    (folder / "notes.txt").touch()
    with pytest.raises(CorpusError, match="contains files that do not belong to a corpus"):
        require_replaceable(folder, splits)


def test_a_failed_write_leaves_the_old_corpus_whole(tmp_path):
    folder = tmp_path / "mine"
    write_corpus(folder, [Split.of("train", CHAINS)], FACTS)
    broken = [Chain("a", "MK", "HH", {"weight": 1}), Chain("b", "MK", "HH", {"weight": "heavy"})]
    with pytest.raises(Exception, match=r"weight|heavy|convert"):
        write_corpus(folder, [Split.of("train", broken)], FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert list(read_chains(folder / "data" / "train-00000-of-00001.parquet")) == CHAINS


@pytest.mark.process
@STOPS
def test_a_build_stopped_anywhere_is_completed_by_the_next(sources, tmp_path, kill):
    def build():
        done = run_script(SCRIPT, "my_corpus", "--source", sources, "--out", tmp_path / "out")
        assert (done.returncode, done.stderr) == (0, "")

    folder = tmp_path / "out" / "my_corpus"
    check_replacing(lambda: write_corpus(folder, [Split.of("train", CHAINS[:1])], FACTS), build, folder, kill)


def test_nothing_to_write_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match=r"nothing to write \(test has no chains\)"):
        write_corpus(tmp_path / "mine", [Split.of("train", CHAINS), Split.of("test", [])], FACTS)
    assert not (tmp_path / "mine").exists()
