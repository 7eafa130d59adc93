"""A chain in the terminal: residues and states in colour, under a ruler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

from ..reports.style import FAMILIES, family_of
from .formats import Format
from .result import Prediction

COLOURS = {letter: family.terminal_colour for letter, family in FAMILIES.items()}
RESET = "\033[0m"
WIDTH = 60  # residues a line


def shows_colour(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether to colour: in a terminal, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not environment.get("NO_COLOR")


def show(prediction: Prediction, colour: bool) -> str:
    """A chain as lines of 60 residues: ruler, residues, states, confidence from 0 to 9."""
    title = f"{prediction.name}  {len(prediction.sequence)} residues, mean confidence {prediction.mean_confidence:.2f}"
    lines = [title]
    for start in range(0, len(prediction.sequence), WIDTH):
        stop = min(start + WIDTH, len(prediction.sequence))
        ruler = "".join(f"{place:10d}" for place in range(start + 10, stop + 1, 10))
        digits = "".join(str(min(9, int(10 * value))) for value in prediction.confidence[start:stop])
        states = prediction.states[start:stop]
        shown = "".join(f"{COLOURS[family_of(state)]}{state}{RESET}" for state in states) if colour else states
        lines += ["", f"            {ruler}", f"  residues  {prediction.sequence[start:stop]}"]
        lines += [f"  states    {shown}", f"  conf.     {digits}"]
    return "\n".join(lines) + "\n\n"


class Drawing(Format):
    """Chains as `show` has them, one below the other."""

    def __init__(self, level: str, colour: bool):
        super().__init__(level)
        self.colour = colour

    def chain(self, prediction: Prediction) -> str:
        """A drawing of letters."""
        return show(prediction, self.colour)
