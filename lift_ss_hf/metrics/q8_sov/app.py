"""The page of the metric as a Space: paste states, get scores."""

from __future__ import annotations

import json
from pathlib import Path

import evaluate
import gradio
from states import ALPHABETS  # not `.states`, since a Space runs this file as a script

METRIC = evaluate.load(str(Path(__file__).with_name("q8_sov.py")))


def scores_of(references: str, predictions: str, states: str, mode: str) -> str:
    """Score chains, one per line; if the input is invalid, return the message."""
    # Not stripped, since a blank means coil.
    chains = {"references": references.split("\n"), "predictions": predictions.split("\n")}
    try:
        return json.dumps(METRIC.compute(**chains, states=states, mode=mode), indent=2)
    except ValueError as error:
        return f"error: {error}"


def page() -> gradio.Interface:
    """Build the page: two boxes of states, the alphabet and the mode."""
    return gradio.Interface(
        fn=scores_of,
        inputs=[
            gradio.Textbox(label="References: one chain per line, X where unresolved", value="HHHHHH", lines=4),
            gradio.Textbox(label="Predictions: the same chains in the same order", value="HHHLHH", lines=4),
            gradio.Dropdown(list(ALPHABETS), label="Alphabet", value="q8"),
            gradio.Radio(["compatible", "masked"], label="Unresolved residues", value="compatible"),
        ],
        outputs=gradio.Code(label="Scores [fraction]", language="json"),
        title="q8_sov",
        description=METRIC.description,
    )


if __name__ == "__main__":
    page().launch()
