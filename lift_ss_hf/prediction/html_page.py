"""Chains drawn as a page: helices, strands and coil with their confidence, in one HTML file that needs no other."""

from __future__ import annotations

import html

from ..models.states import STATE_MEANINGS
from ..reports.style import FAMILIES, family_of, runs_of_families
from .result import Prediction

RESIDUES_IN_ROW = 60
STEP, MIDDLE = 14, 12  # pixels: a residue, the axis
LETTER_LINE, STATE_LINE, BAR_LINE, ROW = 40, 54, 60, 86  # pixels from the top of a row


def page_start(title: str) -> str:
    """Head of the page, its style and legend."""
    legend = "".join(
        f'<span style="color:{family.colour}">&#9632;</span> {family.name} &nbsp; ' for family in FAMILIES.values()
    )
    classes = "".join(f".{letter}{{fill:{family.colour}}}" for letter, family in FAMILIES.items())
    meanings = ", ".join(f"{state} {name}" for state, (name, _) in STATE_MEANINGS.items())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title>\n<style>"
        "body{font:14px sans-serif;margin:2em;color:#222}h2{font-size:15px;margin:1.6em 0 .3em}"
        f"svg text{{font:11px monospace;text-anchor:middle}}.ruler{{fill:#888}}{classes}.bar{{opacity:.45}}"
        f"</style></head>\n<body><h1>{html.escape(title)}</h1>\n<p>{legend}&nbsp; Bars: confidence.</p>\n"
        f"<p>States: {html.escape(meanings)}; of three: C coil.</p>\n"
    )


def page_end() -> str:
    """End of the page."""
    return "</body></html>\n"


def draw_chain(prediction: Prediction) -> str:
    """A chain as HTML: a heading, and a drawing of 60 residues a row."""
    length = len(prediction.sequence)
    rows = -(-length // RESIDUES_IN_ROW)
    width = min(length, RESIDUES_IN_ROW) * STEP + 2
    shapes = "".join(_row(prediction, row) for row in range(rows))
    return (
        f"<h2>{html.escape(prediction.name)}</h2><p>{length} residues, mean confidence "
        f'{prediction.mean_confidence:.3f}</p>\n<svg width="{width}" height="{rows * ROW}">{shapes}</svg>\n'
    )


def _row(prediction: Prediction, row: int) -> str:
    start = row * RESIDUES_IN_ROW
    stop = min(start + RESIDUES_IN_ROW, len(prediction.sequence))
    states = prediction.states[start:stop]
    shapes = [_segment(family, a, b) for family, a, b in runs_of_families(states)]
    for place in range(stop - start):
        centre, confidence = (place + 0.5) * STEP, float(prediction.confidence[start + place])
        shapes.append(f'<text x="{centre:g}" y="{LETTER_LINE}">{prediction.sequence[start + place]}</text>')
        family = family_of(states[place])
        shapes.append(f'<text class="{family}" x="{centre:g}" y="{STATE_LINE}">{states[place]}</text>')
        shapes.append(
            f'<rect class="bar {family}" x="{place * STEP + 1}" y="{BAR_LINE}" width="{STEP - 2}" '
            f'height="{10 * confidence:.1f}"><title>{confidence:.3f}</title></rect>'
        )
        if (start + place + 1) % 10 == 0:
            shapes.append(f'<text class="ruler" x="{centre:g}" y="{ROW - 4}">{start + place + 1}</text>')
    return f'<g transform="translate(1,{row * ROW})">{"".join(shapes)}</g>'


def _segment(family: str, start: int, stop: int) -> str:
    """A helix as a capsule, a strand as an arrow, coil as a line."""
    left, right = start * STEP, stop * STEP
    if family == "H":
        return f'<rect class="H" x="{left}" y="{MIDDLE - 8}" width="{right - left}" height="16" rx="8"/>'
    if family == "E":
        neck = max(left, right - STEP)
        return (
            f'<path class="E" d="M{left} {MIDDLE - 5}H{neck}V{MIDDLE - 10}L{right} {MIDDLE}'
            f'L{neck} {MIDDLE + 10}V{MIDDLE + 5}H{left}Z"/>'
        )
    return f'<rect class="C" x="{left}" y="{MIDDLE - 1}" width="{right - left}" height="2"/>'
