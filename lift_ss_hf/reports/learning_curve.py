"""The learning curve of a run: loss and validation accuracy by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .style import BLUE, COLUMN_WIDTH, VERMILION, add_grid, add_note, new_figure, set_title, ticker
from .tables import ALPHABET_TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_learning_curve(history: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw the loss of training and validation, and below it the validation accuracy at the finest alphabet.

    Args:
        history: the Trainer's `log_history`: entries with `step`, and `loss` or `eval_loss` and accuracies such as
            `eval_q9` [fraction].

    Returns:
        The figure; None if nothing was logged.

    Example:
        >>> figure = plot_learning_curve([{"step": 5, "loss": 1.2}, {"step": 10, "eval_loss": 1.0, "eval_q3": 0.7}])
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'Q3 (P→C) [%]']
    """
    training = _points(history, "loss")
    validation = _points(history, "eval_loss")
    alphabet = next((name for name in ALPHABET_TITLES if _points(history, f"eval_{name}")), None)
    if not training and not validation:
        return None
    figure = new_figure(COLUMN_WIDTH, 4.2 if alphabet else 2.6)
    upper, *lower = figure.subplots(2 if alphabet else 1, sharex=True, squeeze=False)[:, 0]
    set_title(upper, "Learning curve")
    for points, colour, label in ((training, BLUE, "training"), (validation, VERMILION, "validation")):
        if points:
            upper.plot(*zip(*points, strict=True), color=colour, marker="o", ms=3, lw=1.3, label=label)
    upper.set_ylabel("loss")
    upper.legend(loc="upper right", frameon=False, fontsize=8)
    add_grid(upper, "y")
    if alphabet:
        _draw_accuracy(lower[0], _points(history, f"eval_{alphabet}"), ALPHABET_TITLES[alphabet])
    last = lower[0] if lower else upper
    last.set_xlabel("step")
    last.xaxis.set_major_locator(ticker().MaxNLocator(integer=True, min_n_ticks=1))
    figure.align_ylabels()
    return figure


def _points(history: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Return the steps at which a value was logged, and the values; the last one of each step."""
    return list({entry["step"]: entry[name] for entry in history if entry.get(name) is not None}.items())


def _draw_accuracy(axes: Axes, points: Sequence[tuple[int, float]], name: str) -> None:
    """Draw the accuracy of each evaluation, the best one marked."""
    best_step, best = max(points, key=lambda point: point[1])
    steps, values = zip(*points, strict=True)
    axes.plot(steps, [100 * value for value in values], color=VERMILION, marker="o", ms=3, lw=1.3)
    axes.plot([best_step], [100 * best], color=VERMILION, marker="o", ms=8, mfc="none")
    add_note(axes, f"best: {100 * best:.1f} % at step {best_step:,}")
    axes.margins(y=0.15)
    axes.set_ylabel(f"{name} [%]")
    add_grid(axes, "y")
