"""Figures of a study: places in the order of the levels, bars that are the intervals, and what cannot be drawn."""

import pytest

from lift_ss_hf.reports.study_figures import StudyPoint, plot_levels, plot_trained_parameters


def test_points_stand_at_their_level_with_their_interval():
    points = [
        StudyPoint("all", "adapters", 0.76, 0.75, 0.78),
        StudyPoint("half", "adapters", 0.74, 0.73, 0.75),
        StudyPoint("half", "frozen", 0.75, None, None),
    ]
    axes = plot_levels(points, ["half", "all"], "data").axes[0]
    adapters, frozen = axes.containers
    assert [round(place) for place in adapters.lines[0].get_xdata()] == [0, 1]
    assert adapters.lines[0].get_ydata() == pytest.approx([74, 76])
    _, _, (bars,) = adapters
    assert [end for segment in bars.get_segments() for end in segment[:, 1]] == pytest.approx([73, 75, 75, 78])
    assert frozen.lines[0].get_ydata() == pytest.approx([75])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["half", "all"]


@pytest.mark.parametrize(("largest", "scale"), [(700_000, "linear"), (8_000_000, "log")])
def test_numbers_of_parameters_are_on_a_logarithmic_axis_if_they_differ_much(largest, scale):
    points = [StudyPoint(650_000, "frozen", 0.75, None, None), StudyPoint(largest, "lora", 0.76, 0.75, 0.77)]
    axes = plot_trained_parameters(points).axes[0]
    assert axes.get_xscale() == scale
    assert axes.xaxis.get_major_formatter()(650_000) == "650,000"


def test_what_cannot_be_drawn_is_an_error():
    with pytest.raises(ValueError, match=r"no point to draw"):
        plot_levels([], ["all"], "data")
    with pytest.raises(ValueError, match=r"no place for 'half'\. Places: all\."):
        plot_levels([StudyPoint("half", "frozen", 0.75, None, None)], ["all"], "data")
    with pytest.raises(ValueError, match=r"accuracy 75 is not a fraction"):
        plot_trained_parameters([StudyPoint(1, "frozen", 75.0, None, None)])
