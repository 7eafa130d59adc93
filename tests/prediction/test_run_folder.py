"""A run's directory, stopped at any file operation, resumes to the same bytes with nothing left over."""

import shutil

import numpy as np
import pytest
from stopped_at import STOPS, stopped_everywhere, tree

from lift_ss_hf.prediction.prediction_folder import PredictionFolder
from lift_ss_hf.prediction.records import Part, RejectedRecord
from lift_ss_hf.prediction.result import Prediction
from lift_ss_hf.prediction.run_folder import Counts

SETTINGS = {"states": "q3", "formats": ["ss2"]}
PREDICTIONS = [
    Prediction(number, f"chain{number}", "MK", "q3", np.array([[0.1, 0.7, 0.2], [0.2, 0.2, 0.6]], np.float32), "q3")
    for number in range(1, 3)
]
PARTS = [Part(0, 1, [], [RejectedRecord(4, "bad", "no residues")], "a"), Part(1, 5, [], [], "b")]


def run(out):
    folder = PredictionFolder(out, SETTINGS)
    folder.open(resume=True)
    for part, predictions in zip(PARTS, (PREDICTIONS[:1], PREDICTIONS[1:]), strict=True):
        if not folder.is_done(part):
            folder.write_part(part, predictions, Counts(chains=len(predictions), rejected=len(part.rejected)))
    assert folder.num_missing(len(PARTS)) == 0
    folder.join(len(PARTS))
    return folder


@pytest.fixture
def whole(tmp_path):
    run(tmp_path / "whole")
    found = tree(tmp_path / "whole")
    assert len([name for name in found if name.startswith("ss2/")]) == 2
    assert b"bad" in found["rejected.tsv"] and not any("parts" in name for name in found)
    return found


@pytest.mark.process
@STOPS
def test_a_run_stopped_anywhere_resumes_to_the_same_bytes(tmp_path, whole, kill):
    out = tmp_path / "run"
    for _ in stopped_everywhere(lambda: run(out), tmp_path, kill):
        run(out)
        assert tree(out) == whole
        shutil.rmtree(out)
    assert tree(out) == whole


@pytest.mark.process
@STOPS
def test_a_run_stopped_before_its_first_part_leaves_nothing_once_it_is_given_up(tmp_path, kill):
    out = tmp_path / "run"

    def start():
        folder = PredictionFolder(out, SETTINGS)
        folder.open(resume=True)
        return folder

    for _ in stopped_everywhere(start, tmp_path, kill):
        start().discard_if_empty()
        assert not out.exists()


def test_a_joined_run_loses_its_parts_when_it_is_resumed(tmp_path, whole):
    (tmp_path / "whole" / "parts" / "000001").mkdir(parents=True)
    run(tmp_path / "whole")
    assert tree(tmp_path / "whole") == whole
