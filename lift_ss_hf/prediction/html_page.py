"""An HTML page of predictions: helices, strands and coil drawn as SVG, with confidences. It loads no other file."""

from __future__ import annotations

import html

from ..models.states import STATE_MEANINGS
from ..models.wording import counted
from ..reports.style import STATE_CLASSES, class_of, runs_of_classes
from .result import Prediction

RESIDUES_IN_ROW = 60
STEP = 14  # width of a residue [pixels]
AXIS, RESIDUE_LINE, STATE_LINE, BAR_LINE, ROW_HEIGHT = 12, 40, 54, 60, 86  # from the top of a row [pixels]
BAR_HEIGHT = 10  # at a confidence of 1 [pixels]


def page_start(title: str) -> str:
    """Return the start of the page: head, style, title and legend."""
    legend = "".join(
        f'<span style="color:{state_class.colour}">&#9632;</span> {state_class.name} &nbsp; '
        for state_class in STATE_CLASSES.values()
    )
    classes = "".join(f".{letter}{{fill:{state_class.colour}}}" for letter, state_class in STATE_CLASSES.items())
    meanings = ", ".join(f"{state} {name}" for state, (name, _) in STATE_MEANINGS.items())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title>\n<style>"
        "body{font:14px sans-serif;margin:2em;color:#222}h2{font-size:15px;margin:1.6em 0 .3em}"
        f"svg text{{font:11px monospace;text-anchor:middle}}.ruler{{fill:#888}}{classes}.bar{{opacity:.45}}"
        f"</style></head>\n<body><h1>{html.escape(title)}</h1>\n<p>{legend}&nbsp; Bars: confidence.</p>\n"
        f"<p>States: {html.escape(meanings)}; in three states: C coil.</p>\n"
    )


def page_end() -> str:
    """Return the end of the page."""
    return "</body></html>\n"


def draw_chain(prediction: Prediction) -> str:
    """Return a chain as HTML: a heading and a drawing with 60 residues per row."""
    length = len(prediction.sequence)
    rows = -(-length // RESIDUES_IN_ROW)
    width = min(length, RESIDUES_IN_ROW) * STEP + 2
    shapes = "".join(_row(prediction, row) for row in range(rows))
    return (
        f"<h2>{html.escape(prediction.name)}</h2><p>{counted(length, 'residue')}, mean confidence "
        f'{prediction.mean_confidence:.3f}</p>\n<svg width="{width}" height="{rows * ROW_HEIGHT}">{shapes}</svg>\n'
    )


def _row(prediction: Prediction, row: int) -> str:
    start = row * RESIDUES_IN_ROW
    stop = min(start + RESIDUES_IN_ROW, len(prediction.sequence))
    states = prediction.states[start:stop]
    continues = stop < len(prediction.states) and class_of(prediction.states[stop]) == class_of(states[-1])
    shapes = [_segment(*run, has_head=not (continues and run[2] == len(states))) for run in runs_of_classes(states)]
    for column, state in enumerate(states):
        centre, confidence = (column + 0.5) * STEP, float(prediction.confidence[start + column])
        shapes.append(f'<text x="{centre:g}" y="{RESIDUE_LINE}">{prediction.sequence[start + column]}</text>')
        state_class = class_of(state)
        shapes.append(f'<text class="{state_class}" x="{centre:g}" y="{STATE_LINE}">{state}</text>')
        shapes.append(
            f'<rect class="bar {state_class}" x="{column * STEP + 1}" y="{BAR_LINE}" width="{STEP - 2}" '
            f'height="{BAR_HEIGHT * confidence:.1f}"><title>{confidence:.3f}</title></rect>'
        )
        position = start + column + 1
        if position % 10 == 0:
            shapes.append(f'<text class="ruler" x="{centre:g}" y="{ROW_HEIGHT - 4}">{position}</text>')
    return f'<g transform="translate(1,{row * ROW_HEIGHT})">{"".join(shapes)}</g>'


def _segment(state_class: str, start: int, stop: int, has_head: bool) -> str:
    """Return a helix as a capsule, a strand as an arrow, coil as a line; start and stop are columns of the row.

    A strand that continues in the next row has no head in this one.
    """
    left, right = start * STEP, stop * STEP
    if state_class == "H":
        return f'<rect class="H" x="{left}" y="{AXIS - 8}" width="{right - left}" height="16" rx="8"/>'
    if state_class == "E":
        neck = max(left, right - STEP)
        if not has_head:
            return f'<rect class="E" x="{left}" y="{AXIS - 5}" width="{right - left}" height="10"/>'
        return (
            f'<path class="E" d="M{left} {AXIS - 5}H{neck}V{AXIS - 10}L{right} {AXIS}'
            f'L{neck} {AXIS + 10}V{AXIS + 5}H{left}Z"/>'
        )
    return f'<rect class="C" x="{left}" y="{AXIS - 1}" width="{right - left}" height="2"/>'
