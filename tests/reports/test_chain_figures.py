"""Figures of chains: each run of states is one shape, in its place and colour, over its confidences."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrow, FancyBboxPatch, Rectangle

from lift_ss_hf.reports.chain_figures import (
    CONFIDENCE_HEIGHT,
    MIN_WIDTH,
    RESIDUES_PER_ROW,
    plot_chains,
    plot_comparison,
)
from lift_ss_hf.reports.figures import save_figure
from lift_ss_hf.reports.style import PAGE_WIDTH, STATE_CLASSES, class_of


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
    assert [axes.spines["bottom"].get_bounds() for axes in figure.axes] == [(0.5, 100.5), (100.5, 120.5), (0.5, 1.5)]


@pytest.mark.parametrize("state", "HE")
def test_a_shape_that_crosses_the_end_of_a_row_is_drawn_whole_and_cut_by_the_frame(state):
    """Cut into two shapes, a strand had two arrowheads, and a helix four round ends."""
    states = "L" * (RESIDUES_PER_ROW - 5) + state * 10 + "L"
    figure = plot_chains([("a", states, [0.5] * len(states))])
    for axes in figure.axes:
        (shape,) = shapes(axes, FancyArrow if state == "E" else FancyBboxPatch)
        box = shape.get_path().transformed(shape.get_patch_transform()).get_extents()
        assert (box.x0, box.x1) == pytest.approx((RESIDUES_PER_ROW - 4.5, RESIDUES_PER_ROW + 5.5))
        assert shape.get_clip_on()


def test_a_figure_is_as_wide_as_its_longest_row_and_has_a_legend_of_colours():
    widths = [plot_chains([("a", "H" * length, [0.5] * length)]).get_figwidth() for length in (20, 60, 100, 250)]
    assert widths[0] == MIN_WIDTH < widths[1] < widths[2] == widths[3] == PAGE_WIDTH
    (legend,) = plot_chains([("a", "HHH", [0.5] * 3)]).legends
    shown = {
        text.get_text(): patch.get_facecolor()[:3]
        for text, patch in zip(legend.texts, legend.get_patches(), strict=True)
    }
    assert shown == {kind.name: to_rgb(kind.colour) for kind in STATE_CLASSES.values()}


def test_a_title_fits_into_its_figure():
    (axes,) = plot_chains([("a" * 200, "HHH", [0.5] * 3)]).axes
    assert axes.get_title() == "a" * 27 + "..."


def test_a_comparison_draws_observed_states_above_and_leaves_unresolved_residues_out():
    (axes,) = plot_comparison([("1abc_A", "XXHHHHEE", "LLLHHHEE", [0.5] * 8)]).axes
    observed, predicted = sorted(shapes(axes, FancyBboxPatch), key=lambda helix: -helix.get_y())
    assert (observed.get_x(), observed.get_width()) == (2.5, 4)
    assert (predicted.get_x(), predicted.get_width()) == (3.5, 3)
    assert [list(line.get_xdata()) for line in axes.lines] == [[0.5, 3.5]]  # no coil where nothing is known
    with pytest.raises(ValueError, match="1abc_A: 2 observed but 1 predicted state"):
        plot_comparison([("1abc_A", "HH", "H", [0.5])])


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
