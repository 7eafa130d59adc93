"""Formats that a finished run gets later: the bytes of a run that had them from the start, without predicting again."""

import json
import random

import pytest
from stopped_at import tree
from tiny_models import save_tiny_model

from lift_ss_hf.evaluation.calibration import store_temperature
from lift_ss_hf.prediction import added_formats, running
from lift_ss_hf.prediction.formats import FORMATS
from lift_ss_hf.prediction.inputs import Inputs
from lift_ss_hf.prediction.loading import load_predictor
from lift_ss_hf.prediction.predictor import Predictor
from lift_ss_hf.prediction.running import PredictionOptions, predict_to_folder

CHEAP = ["csv", "fasta", "three-line", "tsv"]
NEED_MORE = ("ss2", "horiz", "s4pred", "netsurfp")  # than the probabilities of nine states


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("added")
    save_tiny_model(folder)
    store_temperature(folder / "model", 1.7)
    rng = random.Random(0)
    with (folder / "chains.fasta").open("w") as file:
        for index in range(30):
            name = 'a,"b"' if index % 9 == 0 else f"chain{index}"
            file.write(f">{name}\n{''.join(rng.choices('ACDEFGHIKLMNPQRSTVWY', k=rng.randint(1, 150)))}\n")
    return folder


def run(data, out, formats, **options):
    inputs = Inputs([str(data / "chains.fasta")])
    return predict_to_folder(
        load_predictor(str(data / "model")), inputs, out, PredictionOptions(formats=formats, quiet=True, **options)
    )


@pytest.mark.parametrize(
    ("held", "added", "states"),
    [
        (["parquet"], [name for name in FORMATS if name not in ("parquet", *NEED_MORE)], "q9"),
        (["parquet", "three-line"], ["html", "jsonl"], "q8"),
        (["parquet"], [name for name in FORMATS if name not in ("parquet", "netsurfp")], "q3"),
        (["jsonl"], CHEAP, "q9"),
        (["tsv", "html"], ["csv", "fasta", "three-line"], "q9"),
        (["csv"], ["fasta", "three-line", "tsv"], "q3"),
    ],
)
def test_added_formats_have_the_bytes_of_a_run_that_had_them_from_the_start(
    data, tmp_path, monkeypatch, held, added, states
):
    for module in (running, added_formats):
        monkeypatch.setattr(module, "PART_RESIDUES", 500)
    monkeypatch.setattr("lift_ss_hf.prediction.stored.ROWS", 64)  # chains continue in the next batch
    counts = run(data, tmp_path / "whole", [*held, *added], alphabet=states)
    run(data, tmp_path / "run", held, alphabet=states)
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict", lambda *_: pytest.fail("predicted again"))
        assert run(data, tmp_path / "run", added, alphabet=states, resume=True) == counts
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")


def test_a_run_killed_while_it_wrote_formats_writes_them_again(data, tmp_path, monkeypatch):
    run(data, tmp_path / "run", ["parquet"])
    before = tree(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(FORMATS["html"], "join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path / "run", ["csv", "html"], resume=True)
    assert before.items() <= tree(tmp_path / "run").items()
    run(data, tmp_path / "run", ["csv", "html"], resume=True)
    run(data, tmp_path / "whole", ["parquet", "csv", "html"])
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")


@pytest.mark.parametrize(
    ("held", "added", "message"),
    [
        (["three-line"], ["tsv"], "tsv cannot be written from three-line, which has no probabilities"),
        (["jsonl"], ["html"], "html cannot be written from jsonl: it needs the probabilities as predicted"),
        (["parquet"], ["ss2"], "ss2 cannot be written from the results of a run with states q9: its probabilities"),
        (["parquet"], ["netsurfp"], "netsurfp cannot be written from the results of a run with states q9: its prob"),
    ],
)
def test_a_format_that_needs_more_says_what(data, tmp_path, held, added, message):
    run(data, tmp_path / "run", held)
    before = tree(tmp_path / "run")
    with pytest.raises(ValueError, match=rf"{message}.* Give another directory to predict again\.$"):
        run(data, tmp_path / "run", added, resume=True)
    assert tree(tmp_path / "run") == before


def test_an_unfinished_run_is_finished_first(data, tmp_path):
    run(data, tmp_path / "run", ["parquet"])
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    del settings["digests"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"has formats \['parquet'\].*; a finished run can get more formats\."):
        run(data, tmp_path / "run", ["csv"], resume=True)


def test_a_result_that_is_gone_is_predicted_again_with_all_formats(data, tmp_path, caplog):
    run(data, tmp_path / "whole", ["parquet", "csv"])
    run(data, tmp_path / "run", ["parquet"])
    (tmp_path / "run" / "predictions.parquet").unlink()
    run(data, tmp_path / "run", ["csv"], resume=True)
    assert "predictions.parquet is missing or incomplete, so the run starts again" in caplog.text
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")


def test_what_was_written_and_that_a_run_is_finished_is_said(data, tmp_path, caplog):
    caplog.set_level("INFO", "lift_ss_hf")
    out = tmp_path / "run"
    run(data, out, ["parquet", "ss2"], alphabet="q3")
    assert caplog.messages[-1] == f"wrote predictions.parquet, ss2/ to {out}"
    run(data, out, ["csv"], alphabet="q3", resume=True)
    assert caplog.messages[-3:] == [
        f"csv: written from {out / 'predictions.parquet'}, without predicting again",
        f"the run in {out} is finished: there was nothing left to do",
        f"wrote predictions.csv, predictions.parquet, ss2/ to {out}",
    ]
