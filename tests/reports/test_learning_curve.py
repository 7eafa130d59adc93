"""The learning curve: what is drawn is what was logged."""

import pytest

from lift_ss_hf.reports.figures import save_figure
from lift_ss_hf.reports.learning_curve import plot_learning_curve

HISTORY = [
    {"step": 5, "loss": 1.5},
    {"step": 5, "eval_loss": 1.6, "eval_q9": 0.4, "eval_q3": 0.6},
    {"step": 10, "loss": 1.2, "learning_rate": 1e-3},
    {"step": 10, "eval_loss": 1.4, "eval_q9": 0.5, "eval_q3": 0.7},
    {"step": 15, "eval_loss": 1.5, "eval_q9": 0.45, "eval_q3": 0.65},
    {"step": 15, "train_runtime": 3.0},
]


def lines(axes):
    return [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axes.get_lines()]


def test_losses_and_the_finest_accuracy_are_drawn_and_the_best_is_marked(tmp_path):
    figure = plot_learning_curve(HISTORY)
    upper, lower = figure.axes
    assert lines(upper) == [[(5, 1.5), (10, 1.2)], [(5, 1.6), (10, 1.4), (15, 1.5)]]
    accuracies, best = lines(lower)
    assert accuracies == [(5, 40.0), (10, 50.0), (15, 45.0)]
    assert best == [(10, 50.0)]
    assert lower.get_ylabel() == "Q9 [%]"
    assert [text.get_text() for text in lower.texts] == ["best: 50.0 % at step 10"]
    save_figure(figure, tmp_path / "curve.png")


@pytest.mark.parametrize(("history", "num_axes"), [([{"step": 1, "loss": 2.0}], 1), (HISTORY[1:2], 2)])
def test_without_validation_or_training_losses_the_rest_is_drawn(history, num_axes):
    assert len(plot_learning_curve(history).axes) == num_axes


def test_nothing_logged_is_nothing_drawn():
    assert plot_learning_curve([{"step": 3, "train_runtime": 1.0}]) is None
