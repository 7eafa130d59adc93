"""`lift-ss plot`: figures from predictions, from the directory of a run or from sequences; how chains are found."""

import io
import json
import sys

import pytest
from matplotlib.image import imread
from scripts import run_lift_ss
from tiny_models import save_tiny_model

from lift_ss_hf.prediction import reading

FASTA = ">sp|P42212|GFP_AEQVI green\nMKTAYIAKQRQISFVKSHFSRQ\n>two\nACDEFG\n>two\nMMM\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plot")
    save_tiny_model(folder)
    (folder / "chains.fasta").write_text(FASTA)
    return folder


@pytest.mark.parametrize("formats", ["jsonl", "parquet", "tsv", "three-line,tsv"])
def test_predictions_their_directory_and_their_sequences_give_the_same_figure(data, tmp_path, monkeypatch, formats):
    out, model = tmp_path / "out", ("--model", data / "model")
    flags = ("-o", out, "--format", formats, "--quiet")
    assert run_lift_ss("predict", data / "chains.fasta", *flags, *model)[0] == 0
    sources = [(out,), (data / "chains.fasta", *model), ("-", *model), *((path,) for path in out.glob("predictions.*"))]
    figures = []
    for number, source in enumerate(sources):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(FASTA.encode())))
        figure = tmp_path / f"{number}.png"
        status, printed, _ = run_lift_ss("plot", *source, "--names", "P42212", "two", "-o", figure)
        assert (status, printed) == (0, f"{figure}: sp|P42212|GFP_AEQVI, two\n")
        figures.append(imread(figure))
    assert figures[0].std() > 0
    assert all((figure == figures[0]).all() for figure in figures[1:])


@pytest.mark.parametrize(
    ("num_chains", "said"), [(1, ""), (2, " (1 of 2 chains; "), (7, " (1 of more than 5 chains; ")]
)
def test_a_figure_of_the_first_of_several_chains_says_so(data, tmp_path, monkeypatch, num_chains, said):
    monkeypatch.setattr(reading, "MOST_COUNTED", 5)
    path, figure, out = tmp_path / "chains.fasta", tmp_path / "a.svg", tmp_path / "out"
    path.write_text("".join(f">chain{number}\nMKTAYIAKQR\n" for number in range(num_chains)))
    model = ("--model", data / "model")
    run_lift_ss("predict", path, "-o", out, "--format", "jsonl,tsv", "--quiet", *model)
    said += "--names draws others)" if said else ""
    for source in ((path, *model), (out,), (out / "predictions.jsonl",)):
        assert run_lift_ss("plot", *source, "-o", figure)[:2] == (0, f"{figure}: chain0{said}\n")
    assert run_lift_ss("plot", path, *model, "-o", figure, "--names", "chain0")[1] == f"{figure}: chain0\n"


def test_figures_are_svg_png_or_pdf(data, tmp_path):
    for name, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.PDF", b"%PDF-")):
        flags = ("--model", data / "model", "--states", "q3", "-o", tmp_path / name)
        assert run_lift_ss("plot", "MKTAYIAKQR", *flags)[0] == 0
        assert (tmp_path / name).read_bytes().startswith(start)
    status, _, err = run_lift_ss("plot", "nothing.fasta", "-o", "a.gif")
    assert (status, err.count("\n")) == (2, 1)
    assert "a.gif: not the name of a figure. Give one that ends in .png, .svg or .pdf" in err


def test_a_sequence_longer_than_a_file_name_may_be_is_drawn(data, tmp_path):
    flags = ("--model", data / "model", "-o", tmp_path / "a.svg")
    assert run_lift_ss("plot", "MKTAYIAKQR" * 30, *flags)[:2] == (0, f"{tmp_path / 'a.svg'}: record_1\n")


def test_chains_are_found_by_name_accession_and_entry_or_listed(data, tmp_path):
    flags = ("--model", data / "model", "-o", tmp_path / "a.svg", "--names")
    for name in ("P42212", "GFP_AEQVI", "sp|P42212|GFP_AEQVI"):
        assert run_lift_ss("plot", data / "chains.fasta", *flags, name)[0] == 0
    status, _, err = run_lift_ss("plot", data / "chains.fasta", *flags, "P42213")
    assert status == 2
    assert "chains.fasta: no chain 'P42213'. Its chains are: sp|P42212|GFP_AEQVI, two, two." in err
    status, _, err = run_lift_ss("plot", data / "chains.fasta", *flags, "tow")
    assert "no chain 'tow'. Did you mean 'two'? Its chains" in err


@pytest.mark.parametrize("states", ["HH-E", "HG.C", "H  L"])
def test_coil_of_predictions_may_be_written_in_any_way(tmp_path, states):
    path, figure = tmp_path / "p.jsonl", tmp_path / "a.svg"
    path.write_text(json.dumps({"name": "one", "states": states, "confidence": [0.5] * 4}))
    assert run_lift_ss("plot", path, "-o", figure)[:2] == (0, f"{figure}: one\n")


def test_errors_are_one_line(data, tmp_path):
    line = {"name": "one", "states": "HH", "confidence": [0.5, 0.5]}
    path, out = tmp_path / "p.jsonl", ("-o", tmp_path / "a.png")
    for content, arguments, message in (
        (json.dumps(line), ("--names", "other"), "no chain 'other'. Its chains are: one."),
        (json.dumps(line), ("--names", *(f"n{i}" for i in range(30))), "a figure holds 20"),
        (json.dumps(line | {"confidence": ["a", None]}), (), "line 1: not a prediction"),
        (json.dumps(line | {"states": "H?"}), (), "line 1: unknown state '?'. Expected letters of LBEGIHSTP, or C"),
        (json.dumps(line | {"states": None}), (), "not a prediction"),
        (json.dumps(line | {"name": ["x"]}), (), "not a prediction"),
        ("[" * 100_000, (), "not a prediction"),
        ("1" * 5000, (), "not a prediction"),
        ("\0\1", (), "line 1: not a prediction"),
    ):
        path.write_text(content + "\n")
        status, _, err = run_lift_ss("plot", path, *out, *arguments)
        assert (status, len(err.splitlines())) == (2, 1), err
        assert message in err
    for source, message in (
        (tmp_path / "nothing.jsonl", "nothing.jsonl: no such file. Did you mean"),
        (data / "model" / "model.safetensors", "expected '>' and a name"),
    ):
        status, _, err = run_lift_ss("plot", source, *out)
        assert (status, len(err.splitlines())) == (2, 1), err
        assert message in err


def test_a_record_that_is_not_a_protein_is_an_error_without_advice_for_other_commands(data, tmp_path):
    (tmp_path / "bad.fasta").write_text(">a\nMK1\n")
    status, _, err = run_lift_ss("plot", tmp_path / "bad.fasta", "--model", data / "model", "-o", tmp_path / "a.png")
    assert (status, err.startswith("error: record 1 (a): '1' at position 3")) == (2, True)
    assert "--skip-bad" not in err


@pytest.mark.parametrize("source", ["predictions.jsonl", ""])
@pytest.mark.parametrize("option", ["--states", "--model", "--backbone"])
def test_options_for_sequences_are_refused_for_predictions(tmp_path, source, option):
    (tmp_path / "run.json").write_text(json.dumps({"formats": ["jsonl"], "states": "q3", "digests": []}))
    (tmp_path / "predictions.jsonl").write_text('{"name": "a", "states": "HH", "confidence": [0.5, 0.5]}\n')
    source, out = tmp_path / source, tmp_path / "a.svg"
    status, _, err = run_lift_ss("plot", source, option, "bundled", "-o", out)
    assert (status, err) == (
        2,
        f"error: {option} is for sequences, but {source} is read as predictions. Leave it out, or give the "
        "sequences.\n",
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"formats": ["three-line"], "states": "q9", "digests": []}, "three-line, which have no confidences"),
        ({"states": "q9", "counts": {}}, "a run with Ray, whose results are the Parquet files in it"),
        ({"formats": ["jsonl"], "states": "q9"}, "the run is not finished. Resume it with --resume"),
        ({"formats": ["jsonl"]}, "run.json is damaged"),
        ({"formats": ["npz"], "layer": "last", "digests": []}, "a run of `lift-ss embed`, which has hidden states"),
        ({"formats": ["parquet"], "states": "q9", "digests": []}, "predictions.parquet is damaged"),
        ({"formats": ["tsv"], "states": "q9", "digests": []}, "predictions.tsv is damaged"),
    ],
)
def test_a_directory_without_confidences_is_an_error(tmp_path, settings, message):
    (tmp_path / "run.json").write_text(json.dumps(settings))
    (tmp_path / "predictions.parquet").write_bytes(b"PAR1")
    (tmp_path / "predictions.tsv").write_text("record\tname\tp_L\n1\ta\t0.5\n")
    status, _, err = run_lift_ss("plot", tmp_path, "-o", tmp_path / "a.png")
    assert (status, len(err.splitlines())) == (2, 1)
    assert message in err
