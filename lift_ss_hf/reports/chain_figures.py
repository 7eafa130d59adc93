"""Figures of single chains: helices, strands and coil along the sequence, with the confidence of each residue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..models.wording import counted
from .style import PAGE_WIDTH, STATE_CLASSES, as_fractions, class_colour, new_figure, runs_of_classes, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESIDUES_PER_ROW = 100
ROW_HEIGHT, LEGEND_HEIGHT = 1.1, 0.3  # [inches]
MIN_WIDTH, MARGIN = 3.0, 0.7  # [inches]; the legend needs the former, the labels beside a row the latter
LETTERS_PER_INCH = 10  # of a title
# Vertical positions within a row: confidences below, shapes above, and those of an observed chain on top.
CONFIDENCE_HEIGHT = 0.8  # of a confidence of 1
SHAPE_CENTRE, OBSERVED_CENTRE = 1.5, 2.5
HELIX_HEIGHT, STRAND_HEIGHT, ARROW_HEIGHT = 0.7, 0.4, 0.8
ARROW_LENGTH = 1.5  # [residues]


@dataclass(frozen=True)
class _Row:
    """Up to 100 residues of a chain, from `start` to `stop` (0-based, exclusive)."""

    title: str
    start: int
    stop: int
    states: str  # of the whole chain
    confidence: np.ndarray
    observed: str | None = None


def plot_chains(chains: Sequence[tuple[str, str, Sequence[float]]]) -> Figure:
    """Draw helices, strands and coil along chains, with the confidence below, 100 residues per row.

    Args:
        chains: for each chain its name, its states, and the confidence of each state [fraction].

    Raises:
        ValueError: if there are no residues, states and confidences differ in number, or a confidence is not a
            fraction.

    Example:
        >>> figure = plot_chains([("1abc_A", "LLHHHHHHTTEEEE", [0.9] * 14)])
        >>> [axes.get_title() for axes in figure.axes]
        ['1abc_A']
    """
    return _draw([row for chain in chains for row in _rows(*chain)])


def plot_comparison(chains: Sequence[tuple[str, str, str, Sequence[float]]]) -> Figure:
    """Draw the observed states of chains above the predicted ones, with the confidence below.

    Args:
        chains: for each chain its name, its observed states (X where unresolved: nothing is drawn there), its
            predicted states, and the confidence of each of these [fraction].

    Raises:
        ValueError: if there are no residues, states and confidences differ in number, or a confidence is not a
            fraction.

    Example:
        >>> figure = plot_comparison([("1abc_A", "XLHHHHHHTTEEEE", "LLHHHHHHTTEEEE", [0.9] * 14)])
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['0', '1', 'predicted', 'observed']
    """
    for name, observed, predicted, _ in chains:
        if len(observed) != len(predicted):
            raise ValueError(f"{name}: {len(observed)} observed but {counted(len(predicted), 'predicted state')}.")
    return _draw([row for name, observed, states, values in chains for row in _rows(name, states, values, observed)])


def _rows(name: str, states: str, confidence: Sequence[float], observed: str | None = None) -> list[_Row]:
    values = as_fractions(confidence, f"confidence of {name}")
    if len(values) != len(states):
        raise ValueError(f"{name}: {counted(len(states), 'state')} but {counted(len(values), 'confidence')}.")
    return [
        _Row(name if start == 0 else "", start, min(start + RESIDUES_PER_ROW, len(states)), states, values, observed)
        for start in range(0, len(states), RESIDUES_PER_ROW)
    ]


def _draw(rows: Sequence[_Row]) -> Figure:
    """Draw rows, as wide as the longest of them needs, and the legend below."""
    if not rows:
        raise ValueError("no chain to draw. Give at least one chain with residues.")
    longest = max(row.stop - row.start for row in rows)
    width = max(MIN_WIDTH, MARGIN + (PAGE_WIDTH - MARGIN) * longest / RESIDUES_PER_ROW)
    height = ROW_HEIGHT * sum(1.0 if row.observed is None else 1.4 for row in rows)
    figure = new_figure(width, height + LEGEND_HEIGHT)
    for axes, row in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows, strict=True):
        set_title(axes, _fitting(row.title, width))
        _draw_states(axes, row, row.states, SHAPE_CENTRE)
        if row.observed is not None:
            _draw_states(axes, row, row.observed, OBSERVED_CENTRE)
        _draw_confidence(axes, row)
        _set_axes(axes, row, longest)
    axes.set_xlabel("residue", fontsize=7)
    _add_legend(figure)
    return figure


def _fitting(title: str, width: float) -> str:
    """Return a title, cut if it is longer than the figure is wide [inches]."""
    most = int(width * LETTERS_PER_INCH)
    return title if len(title) <= most else f"{title[: most - 3]}..."


def _draw_states(axes: Axes, row: _Row, states: str, centre: float) -> None:
    """Draw a helix as a capsule, a strand as an arrow and coil as a line, each where it lies in the whole chain.

    A shape that continues in another row is cut there by the frame, so that it has one arrowhead, or two round ends.
    """
    from matplotlib.patches import FancyArrow, FancyBboxPatch

    for state_class, start, stop in runs_of_classes(states):
        if state_class not in STATE_CLASSES or stop <= row.start or start >= row.stop:
            continue
        left, width, colour = start + 0.5, stop - start, STATE_CLASSES[state_class].colour
        if state_class == "H":
            corners = f"round,pad=0,rounding_size={HELIX_HEIGHT / 2}"
            corner = (left, centre - HELIX_HEIGHT / 2)
            axes.add_patch(FancyBboxPatch(corner, width, HELIX_HEIGHT, boxstyle=corners, color=colour))
        elif state_class == "E":
            shape: dict[str, Any] = {"width": STRAND_HEIGHT, "head_width": ARROW_HEIGHT, "length_includes_head": True}
            shape["head_length"] = min(ARROW_LENGTH, width)
            axes.add_patch(FancyArrow(left, centre, width, 0, **shape, color=colour, linewidth=0))
        else:
            axes.plot([left, left + width], [centre, centre], color=colour, linewidth=1.5, solid_capstyle="butt")


def _draw_confidence(axes: Axes, row: _Row) -> None:
    positions = np.arange(row.start + 1, row.stop + 1)
    colours = [class_colour(state) for state in row.states[row.start : row.stop]]
    heights = CONFIDENCE_HEIGHT * row.confidence[row.start : row.stop]
    axes.bar(positions, heights, width=1.0, color=colours, alpha=0.5, linewidth=0)


def _set_axes(axes: Axes, row: _Row, longest: int) -> None:
    """Give a row its limits, which are as wide in all rows, and a frame and ticks as long as it is, from residue 1."""
    axes.set_xlim(row.start + 0.5, row.start + longest + 0.5)
    axes.set_xticks(range(row.start + 10, row.stop + 1, 10))
    axes.spines["bottom"].set_bounds(row.start + 0.5, row.stop + 0.5)
    axes.spines["left"].set_bounds(0, CONFIDENCE_HEIGHT)
    ticks = {0.0: "0", CONFIDENCE_HEIGHT: "1"}
    if row.observed is not None:
        ticks |= {SHAPE_CENTRE: "predicted", OBSERVED_CENTRE: "observed"}
    axes.set_ylim(0, 2 if row.observed is None else 3)
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_ylabel("confidence", fontsize=7, loc="bottom")
    axes.spines[["top", "right"]].set_visible(False)


def _add_legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=kind.colour, label=kind.name) for kind in STATE_CLASSES.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=7, frameon=False)
