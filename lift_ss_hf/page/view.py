"""What the page shows of an answer, as HTML. Everything that a visitor typed is escaped here or in `html_page`."""

from __future__ import annotations

import html

from ..models.wording import counted
from ..prediction.html_page import draw_chain, legend, page_style
from ..prediction.result import Prediction

COLUMNS = ("position", "residue", "state", "confidence")
# gradio sets the class `dark`, after the visitor's colour scheme, and styles tables and the blocks around HTML.
STYLE = f"""\
:root{{color-scheme:light}}.dark{{color-scheme:dark}}
{page_style()}
.gradio-container{{width:100%;max-width:960px!important;margin:auto!important}}
.html-container{{padding:0!important}}
#chain{{max-height:14em;overflow:auto}}#chain label{{overflow-wrap:anywhere}}
#chains textarea{{font-family:var(--font-mono)}}
.chain{{margin:.3em 0}}
.residues{{max-height:24em;overflow:auto}}
.residues table{{border-collapse:collapse;width:100%;max-width:32em}}
.residues :is(table,tr,th,td){{border:0!important}}
.residues :is(th,td){{padding:.15em .3em;text-align:right;font-size:14px}}
.residues tr{{border-bottom:1px solid var(--border-color-primary)!important}}
.residues th{{position:sticky;top:0;background:var(--block-background-fill)}}
.residues :is(th,td):is(:nth-child(2),:nth-child(3)){{text-align:center}}
.message{{margin:0;padding:.6em .8em;border-radius:6px;overflow-wrap:anywhere}}
.message.error{{background:light-dark(#fdecea,#3b1512);color:light-dark(#8c1d13,#ffb4ab)}}
.message.summary{{background:light-dark(#eef4fa,#16283a)}}
.open-file{{display:inline-block;padding:.35em 1em;border-radius:var(--button-small-radius);cursor:pointer;
  background:var(--button-secondary-background-fill);color:var(--button-secondary-text-color)}}
.open-file:focus-within{{outline:2px solid currentColor}}
.open-file input{{position:absolute;width:1px;opacity:0}}
"""

# The file is read in the browser, up to a character over the limit, and put into the box as if it were pasted: no file
# is sent to the server.
OPEN_FILE = """\
<label class="open-file">Open a FASTA file <input type="file" onchange="
  const box = document.querySelector('#chains textarea');
  this.files[0]?.slice(0, {most} + 1).text().then(text => {{
    box.value = text;
    box.dispatchEvent(new Event('input', {{bubbles: true}}));
    this.value = '';
  }});"></label>"""


def open_file(characters: int) -> str:
    """Return a button that reads a file into the box of chains, up to a number of characters."""
    return OPEN_FILE.format(most=characters)


def message(text: str, is_error: bool = False) -> str:
    """Return a line to the visitor, which a screen reader reads out."""
    kind, role = ("error", "alert") if is_error else ("summary", "status")
    return f'<p class="message {kind}" role="{role}">{html.escape(text)}</p>'


def chain_view(prediction: Prediction) -> str:
    """Return the drawing of a chain, as in `predictions.html`, and what its colours and letters mean."""
    return draw_chain(prediction) + legend()


def residue_table(prediction: Prediction) -> str:
    """Return the states and confidences of a chain as a table, with a row for each residue."""
    head = "".join(f'<th scope="col">{column}</th>' for column in COLUMNS)
    residues = zip(prediction.sequence, prediction.states, prediction.confidence.tolist(), strict=True)
    rows = "".join(
        f"<tr><td>{position}</td><td>{residue}</td><td>{state}</td><td>{confidence:.3f}</td></tr>"
        for position, (residue, state, confidence) in enumerate(residues, start=1)
    )
    return (
        '<div class="residues" tabindex="0" role="region" aria-label="States of each residue">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def chain_label(prediction: Prediction) -> str:
    """Return how the list of chains names a chain.

    Example:
        >>> import numpy as np
        >>> chain_label(Prediction(2, "1abc_A", "MK", "q3", np.eye(3)[:2], "q3"))
        '2. 1abc_A, 2 residues'
    """
    return f"{prediction.number}. {prediction.name}, {counted(len(prediction.sequence), 'residue')}"
