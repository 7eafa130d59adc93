"""An HTML page of predictions: helices, strands and coil drawn as SVG, with confidences. It loads no other file.

A page of a thousand chains has to stay quick, so a row of residues is few elements (one text of residues, and one text
and one path of bars for each run of a class), and the browser draws only what is in view (`content-visibility`).
"""

from __future__ import annotations

import html
from collections.abc import Iterator

from ..models.states import STATE_MEANINGS
from ..models.wording import counted
from ..reports.style import STATE_CLASSES, class_of, runs_of_classes
from .result import Prediction

RESIDUES_IN_ROW = 60
ROWS_IN_BLOCK = 10  # that the browser draws, or passes over, together
STEP = 14  # width of a residue [pixels]
MARGIN = 14  # left and right of a row: half of a five-digit number [pixels]
AXIS, RESIDUE_LINE, STATE_LINE, BAR_LINE, ROW_HEIGHT = 12, 40, 54, 60, 86  # from the top of a row [pixels]
BAR_HEIGHT = 10  # at a confidence of 1 [pixels]
DARK_COLOURS = {"H": "#F0884A", "E": "#56B4E9", "C": "#A3A7B3"}  # of STATE_CLASSES, lighter

SEARCH = """<script>
document.querySelector("input").addEventListener("input", event => {
  const wanted = event.target.value.toLowerCase();
  const chains = [...document.querySelectorAll("section")];
  for (const chain of chains)
    chain.hidden = !chain.firstElementChild.textContent.toLowerCase().includes(wanted);
  const shown = chains.filter(chain => !chain.hidden).length;
  document.querySelector("output").textContent = wanted ? `${shown} of ${chains.length}` : "";
});
</script>
"""


def page_style() -> str:
    """Return the style sheet of the drawings, in light and in dark, on a screen and on paper."""

    def colours(fills: dict[str, str]) -> str:
        return "".join(f".chain .{letter}{{fill:{fill};color:{fill}}}" for letter, fill in fills.items())

    light = {letter: state_class.colour for letter, state_class in STATE_CLASSES.items()}
    return (
        ".chain{margin:1.6em 0}.chain h2{font-size:15px;margin:0;overflow-wrap:anywhere}.chain p{margin:.3em 0}"
        ".rows{overflow-x:auto;content-visibility:auto}.rows svg{display:block;break-inside:avoid}"
        ".rows text{font:11px monospace;text-anchor:middle;fill:currentColor}"
        ".rows .ruler{fill:#888}.rows .bar{opacity:.45}"
        f"{colours(light)}"
        f"@media (prefers-color-scheme:dark){{{colours(DARK_COLOURS)}}}"
        f"@media print{{.rows{{content-visibility:visible;overflow:visible}}{colours(light)}}}"
    )


def legend() -> str:
    """Return what the colours, the bars and the letters of the states mean, as HTML."""
    classes = "".join(
        f'<span class="{letter}">&#9632;</span> {state_class.name} &nbsp; '
        for letter, state_class in STATE_CLASSES.items()
    )
    names = ", ".join(f"{state} {name}" for state, (name, _) in STATE_MEANINGS.items())
    return (
        f'<p class="chain">{classes}&nbsp; Bars: confidence.</p>\n'
        f"<p>States: {html.escape(names)}; in three states: C coil.</p>\n"
    )


def page_start(title: str) -> str:
    """Return the start of the page: head, style, title, legend and search."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title>\n"
        "<style>body{font:14px sans-serif;margin:2em;color:#222;background:#fff}"
        "@media (prefers-color-scheme:dark){body{color:#e2e4e9;background:#1b1e26}}"
        "@media print{body{color:#000;background:#fff;margin:0;zoom:.75}label{display:none}}"
        f"{page_style()}</style></head>\n<body><h1>{html.escape(title)}</h1>\n{legend()}"
        '<label>Find a chain: <input type="search"> <output></output></label>\n'
    )


def page_end() -> str:
    """Return the end of the page."""
    return f"{SEARCH}</body></html>\n"


def draw_chain(prediction: Prediction) -> str:
    """Return a chain as HTML: a heading and a drawing with 60 residues per row."""
    length = len(prediction.sequence)
    rows = -(-length // RESIDUES_IN_ROW)
    blocks = (range(rows)[first : first + ROWS_IN_BLOCK] for first in range(0, rows, ROWS_IN_BLOCK))
    drawn = "".join(
        f'<div class="rows" style="contain-intrinsic-height:{len(block) * ROW_HEIGHT}px">'
        f"{''.join(_row(prediction, row) for row in block)}</div>"
        for block in blocks
    )
    return (
        f'<section class="chain"><h2>{html.escape(prediction.name)}</h2><p>{counted(length, "residue")}, '
        f"mean confidence {prediction.mean_confidence:.3f}</p>\n{drawn}</section>\n"
    )


def _row(prediction: Prediction, row: int) -> str:
    start = row * RESIDUES_IN_ROW
    stop = min(start + RESIDUES_IN_ROW, len(prediction.sequence))
    states = prediction.states[start:stop]
    continues = stop < len(prediction.states) and class_of(prediction.states[stop]) == class_of(states[-1])
    shapes = [_letters(prediction.sequence[start:stop], 0, RESIDUE_LINE)]
    for state_class, first, end in runs_of_classes(states):
        shapes.append(_segment(state_class, first, end, has_head=not (continues and end == len(states))))
        shapes.append(_letters(states[first:end], first, STATE_LINE, state_class))
        shapes.append(_bars(prediction, state_class, start, first, end))
    shapes += _ruler(start, stop)
    width = (stop - start) * STEP + 2 * MARGIN
    return f'<svg width="{width}" height="{ROW_HEIGHT}"><g transform="translate({MARGIN})">{"".join(shapes)}</g></svg>'


def _letters(letters: str, first: int, line: int, state_class: str | None = None) -> str:
    """Return letters as one text, each in the middle of its column."""
    centres = " ".join(f"{(first + column) * STEP + STEP // 2}" for column in range(len(letters)))
    colour = f'class="{state_class}" ' if state_class else ""
    return f'<text {colour}x="{centres}" y="{line}">{letters}</text>'


def _bars(prediction: Prediction, state_class: str, start: int, first: int, end: int) -> str:
    """Return the bars of a run as one path, with what they show as its tooltip."""
    confidence = prediction.confidence[start + first : start + end]
    bars = "".join(
        f"M{(first + column) * STEP + 1} {BAR_LINE}h{STEP - 2}v{BAR_HEIGHT * float(value):.1f}h-{STEP - 2}z"
        for column, value in enumerate(confidence)
    )
    tooltip = (
        f"{STATE_CLASSES[state_class].name} {start + first + 1} to {start + end}, "
        f"confidence {confidence.min():.2f} to {confidence.max():.2f}"
    )
    return f'<path class="bar {state_class}" d="{bars}"><title>{tooltip}</title></path>'


def _ruler(start: int, stop: int) -> Iterator[str]:
    """Yield the number of each tenth residue of a row."""
    for position in range(start + 10, stop + 1, 10):
        centre = (position - start) * STEP - STEP // 2
        yield f'<text class="ruler" x="{centre}" y="{ROW_HEIGHT - 4}">{position}</text>'


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
