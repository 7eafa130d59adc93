"""Figures of single chains: helices, strands and coil along the sequence, with the confidence of each residue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..models.wording import counted
from .style import PAGE_WIDTH, STATE_CLASSES, as_fractions, class_colour, new_figure, runs_of_classes, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESIDUES_PER_ROW = 100
ROW_HEIGHT = 1.1  # [inches]
# Vertical positions within a row, from 0 to 2: confidences below, shapes above.
CONFIDENCE_HEIGHT = 0.8  # of a confidence of 1
SHAPE_CENTRE = 1.5
HELIX_HEIGHT, STRAND_HEIGHT, ARROW_HEIGHT = 0.7, 0.4, 0.8
ARROW_LENGTH = 1.5  # [residues]


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
    rows = []
    for name, states, confidence in chains:
        values = as_fractions(confidence, f"confidence of {name}")
        if len(values) != len(states):
            raise ValueError(f"{name}: {counted(len(states), 'state')} but {counted(len(values), 'confidence')}.")
        for start in range(0, len(states), RESIDUES_PER_ROW):
            stop = start + RESIDUES_PER_ROW
            rows.append((name if start == 0 else "", start, states[start:stop], values[start:stop]))
    if not rows:
        raise ValueError("no chain to draw. Give at least one chain with residues.")
    figure = new_figure(PAGE_WIDTH, ROW_HEIGHT * len(rows))
    for axes, (title, start, states, values) in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows, strict=True):
        set_title(axes, title)
        _draw_states(axes, start + 1, states)
        _draw_confidence(axes, start + 1, states, values)
        _set_axes(axes, start)
    axes.set_xlabel("residue", fontsize=7)
    return figure


def _draw_states(axes: Axes, first: int, states: str) -> None:
    """Draw a helix as a capsule, a strand as an arrow and coil as a line; the first state is at position `first`."""
    from matplotlib.patches import FancyArrow, FancyBboxPatch

    for state_class, start, stop in runs_of_classes(states):
        left, width, colour = first + start - 0.5, stop - start, STATE_CLASSES[state_class].colour
        if state_class == "H":
            bottom = SHAPE_CENTRE - HELIX_HEIGHT / 2
            corners = f"round,pad=0,rounding_size={HELIX_HEIGHT / 2}"
            axes.add_patch(FancyBboxPatch((left, bottom), width, HELIX_HEIGHT, boxstyle=corners, color=colour))
        elif state_class == "E":
            shape: dict[str, Any] = {"width": STRAND_HEIGHT, "head_width": ARROW_HEIGHT, "length_includes_head": True}
            shape["head_length"] = min(ARROW_LENGTH, width)
            axes.add_patch(FancyArrow(left, SHAPE_CENTRE, width, 0, **shape, color=colour, linewidth=0))
        else:
            line = [SHAPE_CENTRE, SHAPE_CENTRE]
            axes.plot([left, left + width], line, color=colour, linewidth=1.5, solid_capstyle="butt")


def _draw_confidence(axes: Axes, first: int, states: str, confidence: np.ndarray) -> None:
    positions = np.arange(first, first + len(states))
    colours = [class_colour(state) for state in states]
    axes.bar(positions, CONFIDENCE_HEIGHT * confidence, width=1.0, color=colours, alpha=0.5, linewidth=0)


def _set_axes(axes: Axes, start: int) -> None:
    """Give a row its limits and ticks; positions are counted from 1."""
    axes.set_xlim(start + 0.5, start + RESIDUES_PER_ROW + 0.5)
    axes.set_ylim(0, 2)
    axes.set_xticks(range(start + 10, start + RESIDUES_PER_ROW + 1, 10))
    axes.set_yticks([0, CONFIDENCE_HEIGHT], ["0", "1"], fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_ylabel("confidence", fontsize=7, loc="bottom")
    axes.spines[["top", "right"]].set_visible(False)
