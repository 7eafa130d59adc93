"""The page in gradio: what is on it, and what its buttons do.

Each visitor's answer is in the state of their session. No other visitor sees it, and its files are deleted with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio

from ..models.states import reportable_alphabets
from ..models.wording import first_line
from ..prediction.predictor import Predictor
from .answer import FIGURES, TABLES, Answer, answer
from .chains import EXAMPLE, Limits
from .view import chain_label, chain_view, message, open_file, residue_table

TITLE = "Secondary structure from sequence"
KEPT_FOR = 3600  # an answer, whether or not the visitor is still there [s]
WAITING = 20  # visitors in the queue
ALPHABET_LABELS = {"q9": "nine", "q8": "eight", "q3": "three", "q3_lift_ss": "three, P as helix"}
BUTTON_LABELS = {"ss2": ".ss2", "csv": "CSV", "parquet": "Parquet", "png": "PNG", "svg": "SVG"}
PROGRESS = gradio.Progress()  # as a default it asks gradio for the bar of each call
GONE = "This answer was deleted, or the page was restarted. Predict again."


class Callbacks:
    """What happens when a visitor clicks.

    Args:
        models: by the name that visitors see.
        limits: of one prediction.
        folder: of the files of all answers.
    """

    def __init__(self, models: Mapping[str, Predictor], limits: Limits, folder: Path):
        self.models, self.limits, self.folder = models, limits, folder

    def alphabets(self, model: str) -> dict[str, Any]:
        """Return the choices of states of a model, and the finest as the value."""
        names = reportable_alphabets(self.models[model].alphabet)
        return {"choices": [(ALPHABET_LABELS[name], name) for name in names], "value": names[0]}

    def predict(
        self, text: str, model: str, alphabet: str, previous: Answer | None, progress: Any = PROGRESS
    ) -> list[Any]:
        """Predict, and return the answer, the message, the results, the chains to choose from, and the files."""

        def report(done: int, total: int) -> None:
            progress((done, total), desc="Predicting", unit="residues")

        if previous is not None:
            previous.close()
        try:
            found = answer(text, self.models[model], alphabet, self.limits, self.folder, report)
            tables = found.write_tables()
        except ValueError as error:
            unchanged = [gradio.skip()] * (1 + len(TABLES))  # the chains to choose from, and the files
            return [None, message(first_line(error), is_error=True), gradio.update(visible=False), *unchanged]
        chains = [(chain_label(prediction), str(index)) for index, prediction in enumerate(found.predictions)]
        return [
            found,
            message(found.summary),
            gradio.update(visible=True),
            gradio.update(choices=chains, value="0", visible=len(chains) > 1),
            *(gradio.update(value=path and str(path), visible=path is not None) for path in tables),
        ]

    def show(self, found: Answer | None, chain: str) -> list[Any]:
        """Return the drawing and the table of a chain, and no figures, which are drawn next."""
        no_figures = [gradio.update(value=None, interactive=False)] * len(FIGURES)
        if found is None:
            return [message(GONE, is_error=True), "", *no_figures]
        prediction = found.predictions[int(chain)]
        return [chain_view(prediction), residue_table(prediction), *no_figures]

    def draw(self, found: Answer | None, chain: str) -> list[Any]:
        """Return the figures of a chain to download."""
        if found is None:
            return [gradio.skip()] * len(FIGURES)
        return [gradio.update(value=str(path), interactive=True) for path in found.write_figures(int(chain))]


def build_page(models: Mapping[str, Predictor], limits: Limits, folder: Path, about: str = "") -> gradio.Blocks:
    """Build the page.

    Args:
        models: by the name that visitors see; the first is chosen.
        limits: of one prediction.
        folder: of the files of all answers.
        about: Markdown below the title, for example how accurate the models are.
    """
    callbacks = Callbacks(models, limits, folder)
    first = next(iter(models))
    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        gradio.Markdown(f"# {TITLE}\n{about}")
        chains = gradio.Textbox(
            label=f"Protein sequences: FASTA, or one sequence. Up to {limits}.",
            placeholder=">name\nMKTAYIAKQRQISFVKSHFSRQ",
            lines=7,
            max_lines=14,
            elem_id="chains",
        )
        gradio.HTML(open_file(limits.characters))
        with gradio.Row():
            model = gradio.Radio(list(models), value=first, label="Model", visible=len(models) > 1)
            alphabet = gradio.Radio(**callbacks.alphabets(first), label="States")
        with gradio.Row():
            start = gradio.Button("Predict", variant="primary", elem_id="predict")
            example = gradio.Button("Example", elem_id="example")
        line = gradio.HTML(elem_id="message")
        found = gradio.State(time_to_live=KEPT_FOR, delete_callback=lambda value: value and value.close())
        with gradio.Column(visible=False) as results:
            # not a Dropdown, whose list stays open when Tab leaves it (gradio 6.31)
            chain = gradio.Radio(label="Chain", elem_id="chain")
            drawing = gradio.HTML(elem_id="drawing")
            with gradio.Row():
                tables = [_download(name, f"{BUTTON_LABELS[name]}, all chains") for name in TABLES]
                figures = [_download(name, f"{BUTTON_LABELS[name]}, this chain", interactive=False) for name in FIGURES]
            with gradio.Accordion("States of each residue", open=False):
                table = gradio.HTML(elem_id="table")
        shown, chosen = [drawing, table, *figures], [found, chain]
        private: dict[str, Any] = {"api_visibility": "private"}  # for visitors of the page only
        prediction = {
            "fn": callbacks.predict,
            "inputs": [chains, model, alphabet, found],
            "outputs": [found, line, results, chain, *tables],
            "show_progress_on": line,
            **private,
        }
        model.change(lambda name: gradio.update(**callbacks.alphabets(name)), model, alphabet, **private)
        filled = example.click(lambda: EXAMPLE, None, chains, **private)
        triggers: tuple[Any, ...] = (start.click(**prediction).then, filled.then(**prediction).then, chain.input)
        for trigger in triggers:
            drawn = trigger(callbacks.show, chosen, shown, show_progress="hidden", **private)
            drawn.then(callbacks.draw, chosen, figures, show_progress="hidden", **private)
    return page.queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)


def _download(name: str, label: str, interactive: bool = True) -> gradio.DownloadButton:
    return gradio.DownloadButton(label, elem_id=f"download_{name}", size="sm", min_width=120, interactive=interactive)
