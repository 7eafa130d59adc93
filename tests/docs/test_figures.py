"""The figures of docs/ are what docs/figures.py draws now."""

import re

import pytest
from docs_pages import DOCS, load

figures = load("figures")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
IDS = re.compile(r"\b[mp][0-9a-f]{10}\b")  # matplotlib's, a hash of what is drawn
COLOURS = re.compile(r"#[0-9a-f]{6}\b", re.I)


@pytest.fixture(scope="module")
def drawn():
    return dict(figures.figures())


def test_the_figures_are_up_to_date(drawn):
    found = (DOCS / "figures").iterdir()
    assert set(drawn) == {path for path in found if not path.name.startswith("study_")}  # of recipes/study.py
    for path, svg in drawn.items():
        now, then = (IDS.sub("", text) for text in (svg, path.read_text("utf-8")))
        how = f"{path.name} is out of date: python docs/figures.py"
        assert NUMBER.sub("0", now) == NUMBER.sub("0", then), how
        # other processors and fonts move lines by less than a pixel
        assert list(map(float, NUMBER.findall(now))) == pytest.approx(list(map(float, NUMBER.findall(then))), abs=1), (
            how
        )


def test_light_and_dark_differ_in_colour_only(drawn):
    for path in (DOCS / "figures").glob("*_dark.svg"):
        light, dark = (drawn[file] for file in (path.with_name(path.name.replace("_dark", "")), path))
        assert light != dark
        assert COLOURS.sub("", IDS.sub("", light)) == COLOURS.sub("", IDS.sub("", dark))
        assert "#d55e00" not in dark.lower()


def test_scores_are_read_with_their_intervals():
    head = "| model | test set | Q9 | Q3 (P→C) |\n| --- | --- | ---: | ---: |"
    table = f"text\n\n{head}\n| a | x | 1.0 | 70.1 [69.0, 71.0] |\n"
    assert figures.measured_q3(table) == {("a", "x"): (70.1, 69.0, 71.0)}
    without = figures.measured_q3(table.replace("70.1 [69.0, 71.0]", "70.1"))["a", "x"]
    assert without[0] == 70.1
    assert str(without[1]) == "nan"
