"""Figures of a study: places in the order of the levels, bars that are the intervals, and what cannot be drawn."""

import pytest

from lift_ss_hf.reports.figures import save_figure
from lift_ss_hf.reports.study_figures import StudyPoint, plot_levels, plot_trained_parameters


def test_points_stand_at_their_level_with_their_interval():
    points = [
        StudyPoint("all", "adapters", "", 0.76, 0.75, 0.78),
        StudyPoint("half", "adapters", "", 0.74, 0.73, 0.75),
        StudyPoint("half", "frozen", "", 0.75),
        StudyPoint("all", "frozen", "", 0.70, is_complete=False),
    ]
    axes = plot_levels(points, ["half", "all"], "data", lines=True).axes[0]
    adapters, *_ = axes.get_lines()
    assert [round(place) for place in adapters.get_xdata()] == [0, 1]
    assert adapters.get_ydata() == pytest.approx([74, 76])
    drawn = [(round(x), y, marker.get_mfc() != "white") for marker, (x, y) in markers(axes)]
    assert drawn == [(0, 74, True), (1, 76, True), (0, 75, True), (1, 70, False)]
    bars = [segment[:, 1] for container in axes.containers[:2] for segment in container[2][0].get_segments()]
    assert [end for bar in bars for end in bar] == pytest.approx([73, 75, 75, 78])
    assert not axes.containers[2][2]  # no interval, no bar
    assert [label.get_text() for label in axes.get_xticklabels()] == ["half", "all"]


def markers(axes):
    """Return the markers that were drawn, with their places."""
    return [(line, line.get_xydata()[0]) for container in axes.containers for line in [container.lines[0]]]


def test_levels_without_an_order_have_no_lines_and_one_series_needs_no_legend():
    points = [StudyPoint(place, "", "", 0.75) for place in ("frozen", "full")]
    axes = plot_levels(points, ["frozen", "full"], "regime").axes[0]
    assert len(axes.get_lines()) == len(points)
    assert axes.get_legend() is None


def test_long_names_of_levels_are_broken_into_lines():
    points = [StudyPoint("all blocks", "adapters", "", 0.75)]
    axes = plot_levels(points, ["top sixth", "all blocks"], "depth").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["top\nsixth", "all\nblocks"]


def test_colours_and_markers_of_parameters_are_explained_apart():
    points = [StudyPoint(650_000, "frozen", "", 0.75)]
    points += [StudyPoint(700_000, name, depth, 0.76) for name in ("lora", "ia3") for depth in ("third", "all")]
    axes = plot_trained_parameters(points).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["frozen", "lora", "ia3", "third", "all"]
    looks = [(line.get_color(), line.get_marker()) for line, _ in markers(axes)]
    assert len(set(looks)) == 5
    assert looks[1][0] == looks[2][0] != looks[3][0]
    assert looks[1][1] == looks[3][1] != looks[2][1]


def test_points_with_the_same_number_of_parameters_stand_side_by_side():
    names = ["compacter", "parallel_compacter"]
    points = [StudyPoint(700_000, name, depth, 0.76, 0.75, 0.77) for depth in ("third", "all") for name in names]
    points.append(StudyPoint(650_000, "lora", "third", 0.76))
    figure = plot_trained_parameters(points)
    axes = figure.axes[0]
    figure.draw_without_rendering()
    drawn = [line for line, _ in markers(axes)]
    place = [line.get_transform().transform(line.get_xydata())[0, 0] * 72 / figure.dpi for line in drawn]
    true = [axes.transData.transform((point.place, 0))[0] * 72 / figure.dpi for point in points]
    assert [x - real for x, real in zip(place, true, strict=True)] == pytest.approx([-2.5, 2.5, -2.5, 2.5, 0])


@pytest.mark.parametrize(("largest", "scale"), [(700_000, "linear"), (8_000_000, "log")])
def test_numbers_of_parameters_are_on_a_logarithmic_axis_if_they_differ_much(largest, scale):
    points = [StudyPoint(650_000, "frozen", "", 0.75), StudyPoint(largest, "lora", "", 0.76, 0.75, 0.77)]
    axes = plot_trained_parameters(points).axes[0]
    assert axes.get_xscale() == scale
    assert axes.xaxis.get_major_formatter()(650_000) == "650,000"


def test_what_cannot_be_drawn_is_an_error():
    with pytest.raises(ValueError, match=r"no point to draw"):
        plot_levels([], ["all"], "data")
    with pytest.raises(ValueError, match=r"no place for 'half'\. Places: all\."):
        plot_levels([StudyPoint("half", "frozen", "", 0.75)], ["all"], "data")
    with pytest.raises(ValueError, match=r"accuracy 75 is not a fraction"):
        plot_trained_parameters([StudyPoint(1, "frozen", "", 75.0)])


@pytest.mark.parametrize("kind", ["svg", "pdf", "png"])
def test_the_same_figure_gives_the_same_file(tmp_path, kind):
    for name in ("a", "b"):
        save_figure(plot_levels([StudyPoint("all", "", "", 0.75)], ["all"], "data"), tmp_path / f"{name}.{kind}")
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
