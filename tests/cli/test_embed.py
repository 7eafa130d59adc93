"""The command `lift-ss embed`: output and errors. tests/prediction/test_embedding.py has its values and its runs."""

import gzip
import io
import logging
import re
import sys

import numpy as np
import pytest
import safetensors.numpy
from scripts import run_lift_ss
from tiny_models import save_tiny_backbone

from lift_ss_hf.cli import embed, lift_ss
from lift_ss_hf.prediction.embedding_formats import EMBEDDING_FORMATS, NAMES, POOLINGS
from lift_ss_hf.prediction.loading import PRECISIONS

SEQUENCE = "MKTAYIAKQRQISFVKSHFSRQ"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_tiny_backbone(tmp_path_factory.mktemp("embed") / "backbone", "esm")


def test_help_names_all_choices(monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    status, out, _ = run_lift_ss("embed", "--help")
    assert status == 0
    assert {*EMBEDDING_FORMATS, *POOLINGS, *NAMES, *PRECISIONS, "last", "mix"} <= set(re.findall(r"[\w-]+", out))
    assert tuple(EMBEDDING_FORMATS) == embed.EMBEDDING_FORMAT_NAMES
    assert "{" not in out


def test_several_formats_may_be_separated_by_spaces():
    args = lift_ss.parser().parse_args(["embed", "--format", "npz", "parquet", "a.fasta", "-o", "out"])
    assert (args.format, args.inputs) == (["npz", "parquet"], ["a.fasta"])


def test_the_bundled_model_and_safetensors_are_the_default(tmp_path, caplog):
    caplog.set_level(logging.INFO, "lift_ss_hf")
    out = tmp_path / "out"
    assert run_lift_ss("embed", SEQUENCE, "ACD", "-o", out, "--pooling", "mean").returncode == 0
    found = safetensors.numpy.load_file(out / "embeddings.safetensors")
    assert {key: values.shape for key, values in found.items()} == {"record_1": (256,), "record_2": (256,)}
    assert f"wrote embeddings.safetensors to {out}" in caplog.messages
    assert caplog.messages[-1].startswith("2 chains, 25 residues in ")


def test_all_options_together(backbone, tmp_path):
    options = ("--layer", "2", "--half", "--names", "hash", "--format", "npz,parquet", "--quiet")
    status, out, err = run_lift_ss("embed", SEQUENCE, "-o", tmp_path / "out", "--model", backbone, *options)
    assert (status, out, err) == (0, "", "")
    (values,) = dict(np.load(tmp_path / "out" / "embeddings.npz")).values()
    assert (values.shape, values.dtype) == ((22, 32), np.float16)


def test_a_proteome_may_be_compressed_or_come_by_standard_input(backbone, tmp_path, monkeypatch):
    text = f">sp|P1|ONE\n{SEQUENCE}\n>sp|P2|TWO\nACD\n".encode()
    (tmp_path / "plain.fasta").write_bytes(text)
    (tmp_path / "proteome.fasta.gz").write_bytes(gzip.compress(text))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    results = []
    for source in (tmp_path / "plain.fasta", tmp_path / "proteome.fasta.gz", "-"):
        out = tmp_path / f"out{len(results)}"
        assert run_lift_ss("embed", source, "-o", out, "--model", backbone, "--quiet").returncode == 0
        results.append((out / "embeddings.safetensors").read_bytes())
    assert results[0] == results[1] == results[2]
    assert set(safetensors.numpy.load(results[0])) == {"sp|P1|ONE", "sp|P2|TWO"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "top"], "unknown layer 'top'. Give last, mix or a number"),
        (["--layer", "-1"], "unknown layer '-1'. Give last, mix or a number"),
        (["--layer", "9"], "layer 9, but the backbone has 4 blocks"),
        (["--layer", "mix"], "the model has no mix of its blocks"),
        (["--pooling", "max"], "unknown pooling 'max'. Choose one of: mean, none."),
        (["--names", "number"], "unknown names 'number'. Choose one of: hash, id."),
        (["--names", "hash", "--format", "parquet"], "--names hash names arrays, but parquet is a table with"),
        (["--format", "csv"], "unknown format 'csv'. Choose from: safetensors, npz, h5, parquet."),
        (["--num_workers", "-1"], "--num_workers is -1. Expected 0 or more."),
        (["--precision", "fp8"], "unknown precision 'fp8'"),
        (["--backbone", "bundled"], "--backbone names the backbone of a tuned model"),
        (["-o", "/dev/full"], "/dev/full exists and is not a directory"),
        (["ACGTTGCA" * 5], "record 2 (record_2): its 40 letters are nucleotides"),
        (["nothing.fasta"], "error: nothing.fasta: no such file."),
    ],
)
def test_errors_are_one_line(backbone, tmp_path, arguments, message):
    given = [SEQUENCE, *arguments, "--model", backbone, "--quiet"]
    given += [] if "-o" in arguments else ["-o", tmp_path / "out"]
    status, out, err = run_lift_ss("embed", *given)
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["--layer", "top"], ["--format", "csv"], ["--pooling", "max"]])
def test_what_is_wrong_in_the_arguments_is_said_before_a_model_is_looked_for(tmp_path, arguments):
    status, _, err = run_lift_ss("embed", SEQUENCE, "-o", tmp_path / "out", "--model", "no/model", *arguments)
    assert (status, err.startswith("error: unknown")) == (2, True)
