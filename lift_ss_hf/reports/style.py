"""The look of figures: colours, classes of states, sizes, and the parts that several figures share.

States are drawn by class: helix, strand or coil. `STATE_CLASSES`, `class_of` and `runs_of_classes` decide what is drawn
for a chain and in which colour; three modules only render it: `chain_figures` with matplotlib (PNG and SVG for print),
`prediction.html_page` as SVG with a tooltip for each run (matplotlib has no tooltips, and takes more than a second
for a chain of 300 residues), and `prediction.terminal` as coloured letters.

Figures are made without pyplot, so they need no window system and change no global state. matplotlib is imported when
the first figure is drawn.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..metrics.calibration import ROUNDING
from ..models.states import Q3, STATE_MEANINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class StateClass(NamedTuple):
    """How a class of states is shown.

    Attributes:
        name: for legends.
        colour: `#RRGGBB`, for figures and pages.
        terminal_colour: the ANSI escape sequence that switches to a similar colour.
    """

    name: str
    colour: str
    terminal_colour: str


# Colours of Okabe & Ito 2008, "Color Universal Design", which are distinct under any colour vision; the grey is ours.
STATE_CLASSES: Mapping[str, StateClass] = {
    "H": StateClass("helix", "#D55E00", "\033[31m"),
    "E": StateClass("strand", "#0072B2", "\033[34m"),
    "C": StateClass("coil", "#6E6E6E", "\033[90m"),
}
BLUE, VERMILION, SKY_BLUE = "#0072B2", "#D55E00", "#56B4E9"  # Okabe & Ito 2008
LINE_COLOURS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", SKY_BLUE, "#000000")  # Okabe & Ito 2008
MARKERS = "osD^vPX*<"
COLUMN_WIDTH, PAGE_WIDTH = 4.5, 7.0  # of a journal [inches]
INK, NOTE_COLOUR = "#202020", "0.35"


def class_of(state: str) -> str:
    """Return the class, H, E or C, of a state of any alphabet.

    Example:
        >>> [class_of(state) for state in "HGBPLC"]
        ['H', 'H', 'E', 'C', 'C', 'C']
    """
    return Q3.folding.get(state, state)


def runs_of_classes(states: str) -> Iterator[tuple[str, int, int]]:
    """Yield each run of states of one class: the class, the first residue and the end (0-based, exclusive).

    Example:
        >>> list(runs_of_classes("HHGTTEB"))
        [('H', 0, 3), ('C', 3, 5), ('E', 5, 7)]
    """
    start = 0
    for state_class, run in itertools.groupby(map(class_of, states)):
        stop = start + len(list(run))
        yield state_class, start, stop
        start = stop


def class_colour(state: str) -> str:
    """Return the colour of a state's class."""
    return STATE_CLASSES[class_of(state)].colour


def sorted_by_class(letters: str) -> str:
    """Sort states as they are drawn: helices, strands, coils, and within a class the state it is named after first.

    Example:
        >>> sorted_by_class("LBEGIHSTP")
        'HGIEBLSTP'
    """
    classes = list(STATE_CLASSES)
    return "".join(sorted(letters, key=lambda state: (classes.index(Q3.reduce(state)), state not in STATE_CLASSES)))


def state_name(state: str, letters: str) -> str:
    """Return the name of a state among `letters`, or of its class if these are the three classes."""
    return STATE_CLASSES[state].name if set(letters) <= set(STATE_CLASSES) else STATE_MEANINGS[state][0]


def tint(colour: str, strength: float) -> tuple[float, ...]:
    """Mix a colour with white; at a strength of 1 it is unchanged. Returns red, green and blue from 0 to 1."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    return tuple(1 - strength * (1 - part) for part in parts)


def short_count(number: float) -> str:
    """Format a count in at most six characters.

    Example:
        >>> short_count(98_765), short_count(123_456)
        ('98,765', '123k')
    """
    return f"{number:,.0f}" if number < 100_000 else f"{number / 1000:,.0f}k"


def as_fractions(values: Sequence[float | None] | np.ndarray, name: str, lowest: float = 0.0) -> np.ndarray:
    """Convert values to floats, None to nan.

    Raises:
        ValueError: if a value is below `lowest` or above 1.
    """
    numbers = np.array([np.nan if value is None else value for value in values], dtype=float)
    wrong = numbers[(numbers < lowest - ROUNDING) | (numbers > 1 + ROUNDING)]
    if wrong.size:
        raise ValueError(f"{name} {wrong[0]:g} is not a fraction. Expected {lowest:g} to 1; divide percentages by 100.")
    return numbers


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size [inches]."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def ticker() -> Any:
    """Return `matplotlib.ticker`."""
    from matplotlib import ticker

    return ticker


def set_title(axes: Axes, title: str) -> None:
    """Set the title of a figure's upper axes; a `$` in it is an ordinary character."""
    axes.set_title(title, fontsize=10, fontweight="bold", parse_math=False)


def add_grid(axes: Axes, axis: Any) -> None:
    """Draw grid lines for one axis, `x` or `y`, and keep only the left and lower frame."""
    axes.grid(axis=axis, color="0.9", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)


def add_legend_beside(axes: Axes, handles: Sequence[Any] | None = None) -> None:
    """Draw the legend to the right of the axes: of what was drawn with a label, or of handles of its own."""
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0, frameon=False, fontsize=8
    )


def add_note(axes: Axes, text: str, colour: str = NOTE_COLOUR, upper_left: bool = False) -> None:
    """Write a note into the lower right corner, or into the upper left one."""
    place = {"x": 0.03, "y": 0.95, "ha": "left", "va": "top"} if upper_left else {"x": 0.98, "y": 0.03, "ha": "right"}
    background = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.5}  # keeps it legible over bars
    axes.text(s=text, transform=axes.transAxes, fontsize=8, color=colour, bbox=background, **place)  # type: ignore[arg-type]


def colour_ticks(axes: Axes, states: str, which: str) -> None:
    """Colour the tick labels of the axes named in `which` (`x`, `y` or `xy`), one state each, by class."""
    for axis in which:
        labels = axes.get_xticklabels() if axis == "x" else axes.get_yticklabels()
        for label, state in zip(labels, states, strict=True):
            label.set_color(class_colour(state))


def separate_classes(axes: Axes, states: str, both: bool = False) -> None:
    """Draw lines between the classes of the states along the x axis, or along both axes."""
    for number in range(1, len(states)):
        if class_of(states[number]) != class_of(states[number - 1]):
            axes.axvline(number - 0.5, color="0.7", lw=0.8)
            if both:
                axes.axhline(number - 0.5, color="0.7", lw=0.8)
