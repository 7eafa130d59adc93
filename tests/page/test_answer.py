"""An answer: the files to download, read back; what is shown of it, escaped; and its folder, deleted with it."""

import csv
import tempfile
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lift_ss_hf.page.answer import Answer, answer
from lift_ss_hf.page.chains import EXAMPLE, Limits
from lift_ss_hf.page.view import chain_label, chain_view, message, residue_table
from lift_ss_hf.prediction.html_page import draw_chain
from lift_ss_hf.prediction.loading import load_predictor
from lift_ss_hf.prediction.result import Prediction

HOSTILE = "<script>alert(1)</script><img/src=x/onerror='alert(1)'>"


@pytest.fixture(scope="module")
def predictor():
    return load_predictor("bundled")


@pytest.fixture
def ask(predictor, tmp_path):
    answers = []  # kept: the files of an answer go with it

    def ask(text, alphabet="q3", **options):
        answers.append(answer(text, predictor, alphabet, Limits(), tmp_path, **options))
        return answers[-1]

    return ask


def test_downloads_have_all_chains_and_read_back_to_the_same_states(ask, tmp_path):
    found = ask(EXAMPLE, "q8")
    expected = "".join(prediction.states for prediction in found.predictions)
    ss2, table, parquet = found.write_tables()
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert "".join(row["state"] for row in rows) == expected
    assert "".join(pq.read_table(parquet)["state"].to_pylist()) == expected
    with zipfile.ZipFile(ss2) as archive:
        texts = [archive.read(name).decode() for name in sorted(archive.namelist())]
    three = [[line.split()[2] for line in text.splitlines()[2:]] for text in texts]
    assert list(map("".join, three)) == [prediction.reduce("q3").states for prediction in found.predictions]
    assert {path.parent.parent for path in (ss2, table, parquet)} == {tmp_path}


def test_one_chain_is_one_ss2_file(ask):
    ss2 = ask(">a\nMKTAYIAK").write_tables()[0]
    assert ss2.name == "00000001_a.ss2"
    assert [line.split()[1] for line in ss2.read_text().splitlines()[2:]] == list("MKTAYIAK")


def test_a_model_with_p_as_helix_has_no_ss2_file(tmp_path):
    prediction = Prediction(1, "a", "MK", "q3_lift_ss", np.full((2, 3), 1 / 3, np.float32), "q3_lift_ss")
    ss2, table, parquet = Answer([prediction], "", tempfile.TemporaryDirectory(dir=tmp_path)).write_tables()
    assert (ss2, table.suffix, parquet.suffix) == (None, ".csv", ".parquet")


def test_figures_are_of_one_chain(ask):
    png, svg = ask(EXAMPLE).write_figures(1)
    assert (png.name, svg.name) == ("chain_2.png", "chain_2.svg")
    assert Image.open(png).format == "PNG"
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")


def test_the_summary_says_what_was_changed_and_doubted(ask):
    found = ask(">a\nmk-t\n>primer\nGATTACA")
    assert found.summary.startswith("2 chains, 10 residues in ")
    assert "1 gap or stop codon removed, 3 residues in lower case" in found.summary
    assert "Records that may be DNA or RNA: 1" in found.summary


def test_progress_ends_at_the_number_of_residues(ask):
    told = []
    ask(EXAMPLE, report=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 205)
    assert told[-1] == (205, 205)


def test_an_answer_takes_its_files_with_it(ask, tmp_path):
    found = ask(">a\nMKTAYIAK")
    found.write_tables()
    assert list(tmp_path.iterdir()) == [Path(found.folder.name)]
    found.close()
    assert list(tmp_path.iterdir()) == []


def test_nothing_a_visitor_typed_is_markup(ask):
    prediction = ask(f">{HOSTILE}\nMKTAYIAK").predictions[0]
    assert prediction.name == HOSTILE
    for part in (chain_view(prediction), residue_table(prediction), message(HOSTILE, is_error=True)):
        assert "<script" not in part
        assert "<img" not in part
    assert HOSTILE in chain_label(prediction)  # gradio shows it as text: tests/page/test_browser.py
    svg = ask(f">{HOSTILE}\nMKTAYIAK").write_figures(0)[1]
    assert {element.tag.split("}")[1] for element in ElementTree.parse(svg).iter()}.isdisjoint({"script", "img"})


def test_the_drawing_is_that_of_the_html_format(ask):
    prediction = ask(EXAMPLE).predictions[0]
    assert draw_chain(prediction) in chain_view(prediction)


def test_the_table_has_a_row_for_each_residue(ask):
    prediction = ask(">a\nMKTAYIAK").predictions[0]
    rows = residue_table(prediction).split("<tr>")[2:]
    assert len(rows) == 8
    assert rows[1].startswith(f"<td>2</td><td>K</td><td>{prediction.states[1]}</td>")


def test_states_that_the_model_does_not_have_are_refused(ask):
    with pytest.raises(ValueError, match="unknown alphabet 'q5'"):
        ask(">a\nMKT", "q5")
