"""Figures of chains: each run of states is one shape, in its place and colour, over its confidences."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrow, FancyBboxPatch, Rectangle

from lift_ss_hf.reports.chain_figures import CONFIDENCE_HEIGHT, RESIDUES_PER_ROW, plot_chains
from lift_ss_hf.reports.figures import save_figure
from lift_ss_hf.reports.style import STATE_CLASSES, class_of


def shapes(axes, kind):
    return [patch for patch in axes.patches if type(patch) is kind]


def test_a_helix_is_a_capsule_a_strand_an_arrow_and_coil_a_line():
    states, confidence = "LLHHGGSEEE", np.linspace(0.1, 1, 10)
    (axes,) = plot_chains([("1abc_A", states, confidence)]).axes
    assert axes.get_title() == "1abc_A"
    (helix,) = shapes(axes, FancyBboxPatch)
    assert (helix.get_x(), helix.get_width()) == (2.5, 4)  # residues 3 to 6, each from half before to half behind
    (strand,) = shapes(axes, FancyArrow)
    assert (strand.get_xy()[:, 0].min(), strand.get_xy()[:, 0].max()) == (7.5, 10.5)
    assert [list(line.get_xdata()) for line in axes.lines] == [[0.5, 2.5], [6.5, 7.5]]
    bars = shapes(axes, Rectangle)
    assert [bar.get_height() for bar in bars] == pytest.approx(list(CONFIDENCE_HEIGHT * confidence))
    colours = [STATE_CLASSES[class_of(state)].colour for state in states]
    assert [bar.get_facecolor()[:3] for bar in bars] == [to_rgb(colour) for colour in colours]


def test_long_chains_are_cut_into_rows_and_only_the_first_row_has_the_name():
    length = RESIDUES_PER_ROW + 20
    figure = plot_chains([("long", "H" * length, [0.5] * length), ("short", "E", [0.5])])
    assert [axes.get_title() for axes in figure.axes] == ["long", "", "short"]
    second = figure.axes[1]
    assert second.get_xlim() == (RESIDUES_PER_ROW + 0.5, 2 * RESIDUES_PER_ROW + 0.5)
    (helix,) = shapes(second, FancyBboxPatch)
    assert (helix.get_x(), helix.get_width()) == (RESIDUES_PER_ROW + 0.5, 20)


@pytest.mark.parametrize(
    ("chains", "message"),
    [
        ([], "no chain to draw"),
        ([("empty", "", [])], "no chain to draw"),
        ([("a", "HH", [0.5])], "a: 2 states but 1 confidence"),
        ([("a", "H", [50.0])], "confidence of a 50 is not a fraction"),
    ],
)
def test_chains_that_cannot_be_drawn_are_refused(chains, message):
    with pytest.raises(ValueError, match=message):
        plot_chains(chains)


def test_a_dollar_in_a_name_is_a_letter(tmp_path):
    figure = plot_chains([("$\\frac{1}$", "HH", [0.5, 0.5])])
    assert [axes.get_title() for axes in figure.axes] == ["$\\frac{1}$"]
    save_figure(figure, tmp_path / "chain.svg")  # as mathematics, this is invalid
