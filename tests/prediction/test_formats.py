"""Output formats: each is read back by a program that is not ours."""

import csv
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
from Bio import SeqIO
from parquet_files import assert_probabilities_are_plain

from lift_ss_hf.models.states import get_alphabet
from lift_ss_hf.prediction.formats import FORMATS
from lift_ss_hf.prediction.result import Prediction
from lift_ss_hf.prediction.stored import read_stored
from lift_ss_hf.prediction.terminal import TerminalText

NAMES = ["sp|P1|A_B", "two", "two", "a<b>&c/../d"]


def make_predictions(alphabet="q9"):
    rng = np.random.default_rng(0)
    made = []
    for number, name in enumerate(NAMES, start=1):
        length = int(rng.integers(1, 150))
        probabilities = rng.dirichlet(np.full(9, 0.3), length).astype(np.float32)
        sequence = "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWYXUBZ"), length))
        made.append(Prediction(number, name, sequence, "q9", probabilities, alphabet))
    return made


def written(name, predictions, tmp_path, alphabet="q9"):
    """Write predictions in two parts, join them, and return the path of the result."""
    form = FORMATS[name](alphabet)
    parts = [tmp_path / "first", tmp_path / "second"]
    form.write_part(parts[0], predictions[:1])
    form.write_part(parts[1], predictions[1:])
    out = tmp_path / form.file_name
    form.join(iter(parts), out)
    return out


def test_three_lines_per_chain(tmp_path):
    predictions = make_predictions()
    lines = written("three-line", predictions, tmp_path).read_text().splitlines()
    assert lines == [line for p in predictions for line in (f">{p.name}", p.sequence, p.states)]


def test_states_as_fasta_by_biopython(tmp_path):
    predictions = make_predictions("q8")
    records = list(SeqIO.parse(written("fasta", predictions, tmp_path, "q8"), "fasta"))
    assert [(r.id, str(r.seq)) for r in records] == [(p.name, p.states) for p in predictions]


@pytest.mark.parametrize("alphabet", ["q9", "q8", "q3"])
def test_tables_by_pandas(tmp_path, alphabet):
    predictions = make_predictions(alphabet)
    text = pandas.read_csv(written("tsv", predictions, tmp_path, alphabet), sep="\t", keep_default_na=False)
    commas = pandas.read_csv(written("csv", predictions, tmp_path / "c", alphabet), keep_default_na=False)
    columnar = pq.read_table(written("parquet", predictions, tmp_path / "p", alphabet)).to_pandas()
    for table, tolerance in ((text, 5e-5), (commas, 5e-5), (columnar, 1e-7)):
        assert list(table.columns[6:]) == [f"p_{x}" for x in get_alphabet(alphabet).letters]
        for p in predictions:
            rows = table[table.record == p.number]
            assert list(rows.position) == list(range(1, len(p.sequence) + 1))
            assert ("".join(rows.residue), "".join(rows.state), set(rows.name)) == (p.sequence, p.states, {p.name})
            found = rows[[f"p_{x}" for x in p.letters]].to_numpy()
            assert np.allclose(found, p.probabilities, atol=tolerance)
            assert np.allclose(rows.confidence, p.confidence, atol=tolerance)


def test_parquet_stores_probabilities_without_a_dictionary(tmp_path):
    assert_probabilities_are_plain(written("parquet", make_predictions(), tmp_path))


def test_parquet_goes_to_a_relative_folder_with_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run:1").mkdir()
    path = written("parquet", make_predictions(), Path("run:1"))
    assert [prediction.name for prediction in read_stored(path, "q9")] == NAMES


@pytest.mark.parametrize(("name", "separator"), [("tsv", "\t"), ("csv", ",")])
def test_what_would_end_a_field_is_quoted_in_a_name(tmp_path, name, separator):
    quoted = [dataclasses.replace(p, name=f'"{p.name},100%d') for p in make_predictions("q3")]
    table = pandas.read_csv(written(name, quoted, tmp_path, "q3"), sep=separator, keep_default_na=False)
    assert list(dict.fromkeys(table.name)) == list(dict.fromkeys(p.name for p in quoted))


@pytest.mark.parametrize("name", ["=1+1", "-strand", "'=quoted", "'plain", "@a,b"])
def test_no_name_is_a_formula_in_a_spreadsheet_and_each_is_read_back(tmp_path, name):
    predictions = [dataclasses.replace(p, name=name) for p in make_predictions("q3")[:1]]
    for kind in ("csv", "tsv"):
        path = written(kind, predictions, tmp_path, "q3")
        cell = next(iter(csv.DictReader(path.open(newline=""), delimiter="," if kind == "csv" else "\t")))["name"]
        assert kind == "tsv" or cell[0] not in "=+-@"
        assert [p.name for p in read_stored(path, "q3")] == [name]


@pytest.fixture(autouse=True)
def folders(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "c").mkdir()


def test_json_lines(tmp_path):
    predictions = make_predictions()
    objects = [json.loads(line) for line in written("jsonl", predictions, tmp_path).read_text().splitlines()]
    for p, found in zip(predictions, objects, strict=True):
        assert (found["record"], found["name"], found["sequence"], found["states"]) == (
            *(p.number, p.name, p.sequence),
            p.states,
        )
        assert np.allclose(np.column_stack(list(found["probabilities"].values())), p.probabilities, atol=5e-5)
        assert found["mean_confidence"] == pytest.approx(np.mean(found["confidence"]), abs=1e-4)


def test_psipred_vertical_form_has_coil_helix_and_strand_in_that_order(tmp_path):
    predictions = make_predictions()
    files = sorted(written("ss2", predictions, tmp_path).iterdir())
    assert [file.name for file in files] == [
        *("00000001_sp_P1_A_B.ss2", "00000002_two.ss2", "00000003_two.ss2"),
        "00000004_a_b__c_.._d.ss2",  # a name leads to no other folder
    ]
    for p, file in zip(predictions, files, strict=True):
        assert file.read_text().startswith("# PSIPRED VFORMAT")
        rows = pandas.read_csv(file, sep=r"\s+", comment="#", header=None, keep_default_na=False)
        three = p.reduce("q3")
        assert ("".join(rows[1]), "".join(rows[2])) == (p.sequence, three.states)
        assert set(rows[2]) <= set("CHE")
        expected = three.probabilities[:, [three.letters.index(state) for state in "CHE"]]
        assert np.allclose(rows[[3, 4, 5]].to_numpy(), expected, atol=6e-4)


def test_psipred_horizontal_form(tmp_path):
    predictions = make_predictions()
    for p, file in zip(predictions, sorted(written("horiz", predictions, tmp_path).iterdir()), strict=True):
        lines = file.read_text().splitlines()
        columns = {key: "".join(line[6:] for line in lines if line.startswith(key)) for key in ("Conf:", "Pred:")}
        residues = "".join(line[6:] for line in lines if line.startswith("  AA:"))
        three = p.reduce("q3")
        assert (residues, columns["Pred:"]) == (p.sequence, three.states)
        assert columns["Conf:"] == "".join(str(min(9, int(10 * value))) for value in three.confidence)
        if len(p.sequence) >= 10:  # the ruler's last digit stands under the tenth residue
            assert next(line for line in lines if line.rstrip().endswith("10") or " 10 " in line)[14:16] == "10"


def test_s4pred_reads_as_its_own_example(tmp_path):
    """The first residues of example/1qys_ss_conf.fas in S4PRED's repository, written from their probabilities."""
    coil = [0.997, 0.984, 0.812, 0.351, 0.084, 0.042, 0.021, 0.019, 0.021, 0.053]
    helix = [0.000, 0.000, 0.001, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.001]
    strand = [0.002, 0.016, 0.187, 0.648, 0.915, 0.958, 0.979, 0.981, 0.979, 0.946]
    probabilities = np.column_stack([coil, strand, helix]).astype(np.float32)
    top7 = Prediction(1, "1QYS_1|CHAIN", "MGDIQVQVNI", "q3", probabilities, "q3")
    assert written("s4pred", [top7], tmp_path, "q3").read_text() == (
        ">1QYS_1|CHAIN\nMGDIQVQVNI\nCCCEEEEEEE\n"
        "0.997 0.984 0.812 0.351 0.084 0.042 0.021 0.019 0.021 0.053\n"
        "0.000 0.000 0.001 0.000 0.000 0.000 0.000 0.000 0.000 0.001\n"
        "0.002 0.016 0.187 0.648 0.915 0.958 0.979 0.981 0.979 0.946\n"
    )


def test_s4pred_has_six_lines_per_chain_in_three_states(tmp_path):
    predictions = make_predictions()
    lines = written("s4pred", predictions, tmp_path).read_text().splitlines()
    assert len(lines) == 6 * len(predictions)
    for i, p in enumerate(predictions):
        name, residues, states, *numbers = lines[6 * i : 6 * i + 6]
        three = p.reduce("q3")
        assert (name, residues, states) == (f">{p.name}", p.sequence, three.states)
        expected = three.probabilities[:, [three.letters.index(state) for state in "CHE"]]
        assert np.allclose(np.loadtxt(numbers, ndmin=2), expected.T, atol=6e-4)


def test_netsurfp_by_pandas(tmp_path):
    """Read as programs do that read the download of NetSurfP-3: with spaces in the header, and `>` before a name."""
    predictions = [dataclasses.replace(p, name=f"{p.name},100%d") for p in make_predictions("q8")]
    path = written("netsurfp", predictions, tmp_path, "q8")
    assert path.read_text().startswith(
        "id, seq, n, rsa, asa, q3, p[q3_H], p[q3_E], p[q3_C], q8, p[q8_G], p[q8_H], p[q8_I], p[q8_B], p[q8_E], "
        "p[q8_S], p[q8_T], p[q8_C], phi, psi, disorder\n"  # CSV_HEADER of healthtech/config.py in its repository
    )
    table = pandas.read_csv(path, skipinitialspace=True)
    assert table[["rsa", "asa", "phi", "psi", "disorder"]].isna().all(axis=None)
    starts = np.flatnonzero(table.n == 1)
    for p, start in zip(predictions, starts, strict=True):
        rows = table.iloc[start : start + len(p.sequence)]
        assert set(rows.id.str.lstrip(">")) == {p.name}
        assert (list(rows.n), "".join(rows.seq)) == (list(range(1, len(p.sequence) + 1)), p.sequence)
        for alphabet, column in (("q3", rows.q3), ("q8", rows.q8)):
            reduced = p.reduce(alphabet)
            assert "".join(column) == reduced.states.replace("L", "C")
            found = rows[[f"p[{alphabet}_{'C' if state == 'L' else state}]" for state in reduced.letters]].to_numpy()
            assert np.allclose(found, reduced.probabilities, atol=5e-5)


class Page(HTMLParser):
    """A parsed page: its headings, its letters, the files it loads, and the tags left open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.letters, self.loads = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "input"):
            self.open.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if self.open and self.open[-1] == "text":
            self.letters.append(data)


def test_the_page_is_whole_and_needs_no_other_file(tmp_path):
    predictions = make_predictions()
    page = Page(written("html", predictions, tmp_path).read_text())
    assert not page.open and not page.loads
    assert page.headings == NAMES  # escaped, not swallowed
    shown = "".join(letters for letters in page.letters if letters.isalpha())
    rows = ((p, start) for p in predictions for start in range(0, len(p.sequence), 60))
    assert shown == "".join(p.sequence[start : start + 60] + p.states[start : start + 60] for p, start in rows)


def test_numbers_at_the_end_of_a_row_of_the_page_are_inside_its_drawing(tmp_path):
    probabilities = np.tile(np.float32([0.1, 0.8, 0.1]), (120, 1))
    page = written("html", [Prediction(1, "a", "M" * 120, "q3", probabilities, "q3")], tmp_path, "q3").read_text()
    numbers = re.findall(r'<text class="ruler" x="(\d+)" y="\d+">(\d+)</text>', page)
    assert [number for _, number in numbers] == [str(number) for number in range(10, 130, 10)]
    width, margin = int(re.search(r'<svg width="(\d+)"', page)[1]), int(re.search(r"translate\((\d+)\)", page)[1])
    letter = 7  # a digit of an 11-pixel monospaced font [pixels]
    assert all(margin + int(x) + letter * len(number) / 2 <= width for x, number in numbers)


def test_a_chain_takes_less_than_sixty_bytes_for_each_residue_of_the_page(tmp_path):
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], 50).astype("float32").repeat(7, axis=0)
    chain = Prediction(1, "a", "M" * 350, "q3", probabilities, "q3")
    one, many = (written("html", [chain] * times, tmp_path, "q3").stat().st_size for times in (2, 12))
    assert (many - one) / (10 * 350) < 60


def test_a_strand_that_continues_in_the_next_row_of_the_page_has_one_arrowhead(tmp_path):
    probabilities = np.tile(np.float32([0.1, 0.8, 0.1]), (130, 1))  # coil, strand, helix
    page = written("html", [Prediction(i, "a", "M" * 130, "q3", probabilities, "q3") for i in (1, 2)], tmp_path, "q3")
    assert page.read_text().count('<path class="E"') == 2
    assert page.read_text().count('<rect class="E"') == 4


def test_a_chain_in_the_terminal():
    (prediction, *_) = make_predictions("q3")
    plain, coloured = (TerminalText("q3", colour).chain(prediction) for colour in (False, True))
    assert "\033" not in plain and "\033[" in coloured
    residues = "".join(line.split()[1] for line in plain.splitlines() if line.startswith("  residues"))
    assert residues == prediction.sequence
    ruler, line = plain.splitlines()[2:4]
    if len(prediction.sequence) >= 10:
        assert ruler.index("10") + 1 == len("  residues  ") + 9  # 0-based column of the tenth residue
        assert line[len("  residues  ") + 9] == prediction.sequence[9]
