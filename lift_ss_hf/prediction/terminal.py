"""Predictions in a terminal: residues and coloured states under a ruler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

from ..models.wording import counted
from ..reports.style import STATE_CLASSES, class_of
from .formats import LINE_WIDTH, Format, confidence_digits, position_ruler
from .result import Prediction

COLOURS = {letter: state_class.terminal_colour for letter, state_class in STATE_CLASSES.items()}
RESET = "\033[0m"


class TerminalText(Format):
    """Blocks of 60 residues per chain: ruler, residues, states, confidence from 0 to 9.

    Args:
        alphabet: name of the alphabet to report.
        colour: colour the states by helix, strand and coil.
    """

    def __init__(self, alphabet: str, colour: bool):
        super().__init__(alphabet)
        self.colour = colour

    def chain(self, prediction: Prediction) -> str:
        """Return the blocks of a chain under a title."""
        confidence, digits = prediction.mean_confidence, confidence_digits(prediction)
        lines = [f"{prediction.name}  {counted(len(prediction.sequence), 'residue')}, mean confidence {confidence:.2f}"]
        for start in range(0, len(prediction.sequence), LINE_WIDTH):
            stop = min(start + LINE_WIDTH, len(prediction.sequence))
            lines += ["", f"            {position_ruler(start, stop)}"]
            lines += [f"  residues  {prediction.sequence[start:stop]}"]
            lines += [f"  states    {self._states(prediction.states[start:stop])}", f"  conf.     {digits[start:stop]}"]
        return "\n".join(lines) + "\n\n"

    def _states(self, states: str) -> str:
        if not self.colour:
            return states
        return "".join(f"{COLOURS[class_of(state)]}{state}{RESET}" for state in states)


def supports_colour(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Return True for a terminal, unless NO_COLOR is set (see no-color.org)."""
    return stream.isatty() and not environment.get("NO_COLOR")
