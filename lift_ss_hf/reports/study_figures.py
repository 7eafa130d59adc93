"""Figures of a study: accuracy against the levels of a factor, or against the number of trained parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import (
    LINE_COLOURS,
    MARKERS,
    NOTE_COLOUR,
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
SHIFT = 0.08  # between series at the same level, so that their bars can be told apart
APART = 5  # between points with the same number of trained parameters [1/72 inch]
MAX_TICK = 9  # length of a level's name above which all are broken into lines [characters]


@dataclass(frozen=True)
class StudyPoint:
    """One point of a figure.

    Attributes:
        place: level of the factor along the axis, or number of trained parameters.
        colour: what its colour stands for; empty if there is only one.
        marker: what its marker stands for; empty if it has that of its colour.
        accuracy: mean over the seeds [fraction].
        low: lower end of the interval [fraction]; None for a point without.
        high: its upper end [fraction].
        is_complete: False draws it hollow.
    """

    place: str | int
    colour: str
    marker: str
    accuracy: float
    low: float | None = None
    high: float | None = None
    is_complete: bool = True


def plot_levels(points: Sequence[StudyPoint], places: Sequence[str], axis: str, lines: bool = False) -> Figure:
    """Draw accuracy against the levels of a factor.

    Args:
        points: what to draw.
        places: levels of the factor, from left to right.
        axis: name of the factor.
        lines: join the complete points of a colour.

    Raises:
        ValueError: if there are no points, a place is not one of `places`, or an accuracy is not a fraction.

    Example:
        >>> points = [StudyPoint("all", "frozen", "", 0.75), StudyPoint("all", "adapters", "", 0.76, 0.755, 0.766)]
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
    colours = list(dict.fromkeys(point.colour for point in points))
    looks = [(name, LINE_COLOURS[n % len(LINE_COLOURS)], MARKERS[n % len(MARKERS)]) for n, name in enumerate(colours)]
    for number, (name, colour, marker) in enumerate(looks):
        shift = SHIFT * (number - (len(looks) - 1) / 2)
        own = sorted((p for p in points if p.colour == name), key=lambda point: places.index(str(point.place)))
        positions = [places.index(str(point.place)) + shift for point in own]
        if lines:
            whole = [(x, 100 * point.accuracy) for x, point in zip(positions, own, strict=True) if point.is_complete]
            axes.plot(*np.reshape(whole, (-1, 2)).T, color=colour, lw=1.4)
        for position, point in zip(positions, own, strict=True):
            _draw(axes, position, point, colour, marker)
    is_long = max(map(len, places)) > MAX_TICK
    axes.set_xticks(range(len(places)), [place.replace(" ", "\n") if is_long else place for place in places])
    axes.set_xlim(-0.5, len(places) - 0.5)
    _finish(axes, axis)
    _add_legend(axes, looks)
    return figure


def plot_trained_parameters(points: Sequence[StudyPoint]) -> Figure:
    """Draw accuracy against the number of trained parameters.

    Points with the same number and marker stand side by side around it.

    Args:
        points: what to draw; their places are numbers.

    Raises:
        ValueError: if there are no points, or an accuracy is not a fraction.

    Example:
        >>> figure = plot_trained_parameters([StudyPoint(654016, "frozen", "", 0.75)])
        >>> figure.axes[0].get_xlabel()
        'trained parameters'
    """
    _check(points)
    figure = new_figure(WIDTH, HEIGHT + 0.6)
    axes = figure.add_subplot()
    colours = {name: _distinct_colour(number) for number, name in enumerate(dict.fromkeys(p.colour for p in points))}
    markers = dict(zip(dict.fromkeys(point.marker for point in points), MARKERS, strict=False))
    for point in points:
        near = [other for other in points if (other.place, other.marker) == (point.place, point.marker)]
        shift = APART * (near.index(point) - (len(near) - 1) / 2)
        _draw(axes, float(point.place), point, colours[point.colour], markers[point.marker], shift)
    numbers = [int(point.place) for point in points]
    if max(numbers) > LOG_FROM * min(numbers):
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(ticker().MaxNLocator(5))
    axes.xaxis.set_major_formatter(ticker().StrMethodFormatter("{x:,.0f}"))
    _finish(axes, "trained parameters")
    looks = [(name, colour, MARKERS[0]) for name, colour in colours.items()]
    _add_legend(axes, [*looks, *((name, NOTE_COLOUR, marker) for name, marker in markers.items())])
    return figure


def _check(points: Sequence[StudyPoint]) -> None:
    if not points:
        raise ValueError("no point to draw. Expected at least one that was run.")
    as_fractions([point.accuracy for point in points], "accuracy")


def _distinct_colour(number: int) -> Any:
    """Return one of ten colours, for more series than `LINE_COLOURS` has."""
    from matplotlib import colormaps

    return colormaps["tab10"](number % 10)


def _draw(axes: Axes, position: float, point: StudyPoint, colour: Any, marker: str, shift: float = 0) -> None:
    """Draw a point with its interval, `shift` / 72 inches to the right of its position."""
    from matplotlib.transforms import ScaledTranslation

    height = 100 * point.accuracy
    look: dict[str, Any] = {"color": colour, "marker": marker, "mfc": colour if point.is_complete else "white"}
    bars = None
    if point.low is not None and point.high is not None:
        bars = [[height - 100 * point.low], [100 * point.high - height]]
    if shift:
        look["transform"] = axes.transData + ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
    axes.errorbar([position], [height], bars, lw=0, ms=5, elinewidth=1, capsize=2.5, **look)


def _add_legend(axes: Axes, looks: Iterable[tuple[str, Any, str]]) -> None:
    """Say what colours and markers stand for, if there is more than one name."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], lw=0, ms=5, color=colour, marker=marker, label=name) for name, colour, marker in looks]
    handles = [handle for handle in handles if handle.get_label()]
    if len(handles) > 1:
        add_legend_beside(axes, handles)


def _finish(axes: Axes, axis: str) -> None:
    axes.margins(y=0.12)
    axes.set_xlabel(axis)
    axes.set_ylabel("Q3 (P→C) [%]")
    add_grid(axes, "y")
