"""Figures of a study: accuracy against the levels of a factor, or against the number of trained parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import (
    LINE_COLOURS,
    MARKERS,
    add_grid,
    add_legend_beside,
    as_fractions,
    new_figure,
    ticker,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 6.4, 3.2  # [inches]
LOG_FROM = 10  # ratio of the largest to the smallest number from which on the axis is logarithmic
SHIFT = 0.06  # between series at the same level, so that their bars can be told apart


@dataclass(frozen=True)
class StudyPoint:
    """One point of a figure.

    Attributes:
        place: level of the factor along the axis, or number of trained parameters.
        series: name of its line; with trained parameters, of the point.
        accuracy: mean over the seeds [fraction].
        low: lower end of the interval [fraction]; None for the point that the others are compared with.
        high: its upper end [fraction].
    """

    place: str | int
    series: str
    accuracy: float
    low: float | None
    high: float | None


def plot_levels(points: Sequence[StudyPoint], places: Sequence[str], axis: str) -> Figure:
    """Draw accuracy against the levels of a factor, with a line for each series.

    Args:
        points: what to draw.
        places: levels of the factor, from left to right.
        axis: name of the factor.

    Raises:
        ValueError: if there are no points, a place is not one of `places`, or an accuracy is not a fraction.

    Example:
        >>> points = [StudyPoint("all", "frozen", 0.75, None, None), StudyPoint("all", "adapters", 0.76, 0.755, 0.766)]
        >>> figure = plot_levels(points, ["all"], "data")
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['frozen', 'adapters']
    """
    _check(points)
    unknown = [point.place for point in points if point.place not in places]
    if unknown:
        raise ValueError(f"no place for {unknown[0]!r}. Places: {', '.join(places)}.")
    figure = new_figure(WIDTH, HEIGHT)
    axes = figure.add_subplot()
    series = list(dict.fromkeys(point.series for point in points))
    for number, name in enumerate(series):
        shift = SHIFT * (number - (len(series) - 1) / 2)
        own = sorted((p for p in points if p.series == name), key=lambda point: places.index(str(point.place)))
        positions = [places.index(str(point.place)) + shift for point in own]
        _draw(axes, positions, own, number, name, line=True)
    axes.set_xticks(range(len(places)), places)
    axes.set_xlim(-0.5, len(places) - 0.5)
    _finish(axes, axis)
    add_legend_beside(axes)
    return figure


def plot_trained_parameters(points: Sequence[StudyPoint]) -> Figure:
    """Draw accuracy against the number of trained parameters, with a marker for each series.

    Args:
        points: what to draw; their places are numbers.

    Raises:
        ValueError: if there are no points, or an accuracy is not a fraction.

    Example:
        >>> figure = plot_trained_parameters([StudyPoint(654016, "frozen", 0.75, None, None)])
        >>> figure.axes[0].get_xlabel()
        'trained parameters'
    """
    _check(points)
    figure = new_figure(WIDTH, HEIGHT + 0.6)
    axes = figure.add_subplot()
    for number, name in enumerate(dict.fromkeys(point.series for point in points)):
        own = [point for point in points if point.series == name]
        _draw(axes, [float(point.place) for point in own], own, number, name, line=False)
    numbers = [int(point.place) for point in points]
    if max(numbers) > LOG_FROM * min(numbers):
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(ticker().MaxNLocator(5))
    axes.xaxis.set_major_formatter(ticker().StrMethodFormatter("{x:,.0f}"))
    _finish(axes, "trained parameters")
    add_legend_beside(axes)
    return figure


def _check(points: Sequence[StudyPoint]) -> None:
    if not points:
        raise ValueError("no point to draw. Expected at least one that was run.")
    as_fractions([point.accuracy for point in points], "accuracy")


def _draw(
    axes: Axes, positions: Sequence[float], points: Sequence[StudyPoint], number: int, name: str, line: bool
) -> None:
    """Draw the points of one series with their intervals."""
    heights = np.array([100 * point.accuracy for point in points])
    lows = [point.accuracy if point.low is None else point.low for point in points]
    highs = [point.accuracy if point.high is None else point.high for point in points]
    errors = np.abs(100 * np.array([lows, highs]) - heights)
    look: dict[str, Any] = {"color": LINE_COLOURS[number % len(LINE_COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
    look |= {"ms": 5, "lw": 1.4 if line else 0, "elinewidth": 1, "capsize": 2.5}
    axes.errorbar(positions, heights, errors, label=name, **look)


def _finish(axes: Axes, axis: str) -> None:
    axes.margins(y=0.12)
    axes.set_xlabel(axis)
    axes.set_ylabel("Q3 (P→C) [%]")
    add_grid(axes, "y")
