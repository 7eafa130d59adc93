"""Scoring a model on corpora: every accuracy, SOV'99, intervals, leakage, speed; as JSON, a table and figures."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from ..corpora import load_catalogue, load_corpus
from ..corpora.catalogue import CorpusName
from ..metrics.scoring import score
from ..models.atomic import replacing
from ..models.backbones import locate
from ..models.modeling import SecondaryStructureModel
from ..models.states import ALPHABETS, IGNORE_INDEX, fold_index, get_alphabet, reduce_probabilities
from ..models.tokenization import ResidueTokenizer
from ..prediction.ensemble import Ensemble
from ..prediction.predictor import MAX_TOKENS, Predictor
from ..reports import figures as plots
from ..reports.provenance import count_duplicates, environment, load_training_chains, write_json
from ..reports.tables import ALPHABET_TITLES, results_markdown

logger = logging.getLogger(__name__)

LEVELS = ("q9", "q8", "q3", "q3_lift_ss")


@dataclass
class Predictions:
    """What a model says of a corpus.

    Attributes:
        probabilities: per chain (residues, states) float32.
        states: name of the alphabet of the last axis.
        seconds: wall clock, of all processes together.
        windowed: chains that were too long to be run whole.
    """

    probabilities: list[np.ndarray]
    states: str
    seconds: float
    windowed: int

    def at_level(self, level: str) -> list[str]:
        """Predicted states of each chain: probabilities summed over each group, then the largest."""
        alphabet = get_alphabet(level)
        return [
            alphabet.decode(reduce_probabilities(chain, alphabet, self.states).argmax(-1))
            for chain in self.probabilities
        ]


def predict(
    model: Any, tokenizer: Any, sequences: Sequence[str], max_tokens: int = MAX_TOKENS, quiet: bool = False
) -> Predictions:
    """Predict the states of chains, as `prediction.predictor` does it; several processes share the chains.

    Args:
        model: a secondary structure model.
        tokenizer: its `ResidueTokenizer`.
        sequences: residues of each chain.
        max_tokens: rows x longest chain of a batch [tokens].
        quiet: no progress bar.
    """
    process = PartialState()
    was_training = model.training
    predictor = Predictor(model, tokenizer, max_tokens)
    # Longest first, so that processes and batches get chains of like length.
    order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))
    own = order[process.process_index :: process.num_processes]
    started = time.perf_counter()
    found: list[tuple[int, np.ndarray]] = []
    residues = sum(map(len, sequences))
    with tqdm(total=residues, unit="residue", unit_scale=True, disable=quiet or not process.is_main_process) as bar:
        for place, probabilities in predictor.predict([sequences[index] for index in own]):
            found.append((own[place], probabilities))
            bar.update(len(probabilities) * process.num_processes)
    if process.num_processes > 1:
        found = gather_object(found)
    model.train(was_training)
    return Predictions(
        probabilities=[chain for _, chain in sorted(found, key=lambda item: item[0])],
        states=model.config.states,
        seconds=time.perf_counter() - started,
        windowed=sum(map(predictor.is_windowed, sequences)),
    )


def levels_of(states: str, num_states: int) -> list[str]:
    """The levels that a model's states can be scored at on a corpus of nine or eight states.

    A corpus without P cannot be scored at nine states: its L is another state than the nine-state L.
    """
    levels = []
    for level in LEVELS:
        try:
            fold_index(states, level)
        except ValueError:
            continue
        if level != "q9" or num_states == 9:
            levels.append(level)
    return levels


def num_states_of(name: str, references: Sequence[str]) -> int:
    """Nine or eight: what the catalogue says, or for one's own corpus whether P occurs."""
    entry = load_catalogue().get(CorpusName.parse(name).corpus)
    if entry is not None:
        return entry.num_states
    return 9 if any("P" in states for states in references) else 8


def score_predictions(
    references: Sequence[str], predictions: Predictions, num_states: int, bootstrap: int = 0
) -> dict[str, dict[str, Any]]:
    """Score at every level that applies; see `scoring.score` for what each holds."""
    return {
        level: score(references, predictions.at_level(level), level, bootstrap=bootstrap, per_chain=True)
        for level in levels_of(predictions.states, num_states)
    }


def majority_accuracy(references: Sequence[str], level: str) -> float:
    """Accuracy of always saying the commonest state [fraction]."""
    labels = np.concatenate([get_alphabet(level).encode(states) for states in references])
    counts = np.bincount(labels[labels != IGNORE_INDEX])
    return float(counts.max() / counts.sum())


def evaluate_corpora(
    model: Any,
    tokenizer: Any,
    tests: Sequence[str],
    *,
    source: str | None = None,
    split: str = "test",
    out: str | Path | None = None,
    bootstrap: int = 1000,
    max_tokens: int = 2048,
    training_chains: np.ndarray | None = None,
    model_name: str = "",
) -> dict[str, Any]:
    """Evaluate a model on corpora and write `metrics.json`, `results.md` and `figures/` to `out`.

    Args:
        model: a secondary structure model.
        tokenizer: its `ResidueTokenizer`.
        tests: corpora of the catalogue, or paths.
        source: folder that holds their sources.
        split: of each corpus.
        out: where to write, on the main process; nothing is written where None.
        bootstrap: resamples of the chains for 95 % intervals; 0 for none.
        max_tokens: of a batch [tokens].
        training_chains: hashes of the training sequences, to count exact duplicates.
        model_name: for the heading.

    Raises:
        ValueError: for unknown or unreachable corpora, before any prediction.
    """
    corpora = {name: load_corpus(name, split, data_dir=source) for name in dict.fromkeys(tests)}
    results: dict[str, Any] = {"model": model_name, "states": model.config.states, "environment": environment()}
    results["corpora"] = {}
    for name, corpus in corpora.items():
        references, sequences = corpus["states"][:], corpus["sequence"][:]
        logger.info("evaluating on %s: %d chains", name, len(sequences))
        predictions = predict(model, tokenizer, sequences, max_tokens)
        num_states = num_states_of(name, references)
        residues = sum(map(len, sequences))
        result = {
            "split": split,
            "num_chains": len(sequences),
            "num_residues": residues,
            "windowed_chains": predictions.windowed,
            "duplicates_in_training": count_duplicates(training_chains, sequences),
            "residues_per_second": round(residues / predictions.seconds, 1),
            "majority": {
                level: majority_accuracy(references, level) for level in levels_of(model.config.states, num_states)
            },
            "levels": score_predictions(references, predictions, num_states, bootstrap),
        }
        results["corpora"][name] = result
        if out is not None and PartialState().is_main_process:
            _draw(name, references, predictions, result, Path(out) / "figures")
    if out is not None and PartialState().is_main_process:
        write_json(Path(out) / "metrics.json", results)
        with replacing(Path(out) / "results.md") as part:
            part.write_text(results_markdown(results), "utf-8")
    return results


def evaluate_saved(
    models: Sequence[str],
    corpora: Sequence[str],
    *,
    out: str | None = None,
    source: str | None = None,
    backbone: str | None = None,
    split: str = "test",
    bootstrap: int = 1000,
    max_tokens: int = 2048,
) -> str:
    """Load a model, or several as an ensemble, and evaluate it; the table as Markdown.

    Args:
        models: Hub ids or folders, or `bundled`; several models must share one backbone.
        corpora: test corpora, or paths.
        out: where to write.
        source: folder that holds the corpora.
        backbone: where the backbone is, if not where the model says.
        split: of each corpus.
        bootstrap: resamples of the chains.
        max_tokens: of a batch [tokens].

    Raises:
        ValueError: for a model or a corpus that cannot be loaded.
    """
    folders = [locate(model, "predictor") for model in models]
    predictor: Any = (
        SecondaryStructureModel.from_pretrained(folders[0], backbone=backbone)
        if len(folders) == 1
        else Ensemble.from_pretrained(folders, backbone=backbone)
    )
    trained_on = [load_training_chains(folder) for folder in folders]
    known = [chains for chains in trained_on if chains is not None]
    results = evaluate_corpora(
        predictor.to(PartialState().device),
        ResidueTokenizer.from_pretrained(folders[0], backbone=backbone),
        corpora,
        source=source,
        split=split,
        out=out,
        bootstrap=bootstrap,
        max_tokens=max_tokens,
        training_chains=np.unique(np.concatenate(known)) if len(known) == len(folders) else None,
        model_name=" + ".join(Path(model).name for model in models),
    )
    return results_markdown(results)


def _draw(name: str, references: Sequence[str], predictions: Predictions, result: dict[str, Any], folder: Path) -> None:
    level, scores = next(iter(result["levels"].items()))
    title, stem = f"{name}, {ALPHABET_TITLES[level]}", Path(name).name.replace(":", "-")
    alphabet = ALPHABETS[level]
    figures = {
        "confusion": plots.plot_confusion(scores["confusion_matrix"], scores["letters"], title),
        "states": plots.plot_state_scores(
            {
                state: {metric: scores[f"{metric}_{state}"] for metric in ("recall", "precision", "f1")}
                for state in scores["letters"]
            },
            dict(zip(scores["letters"], map(sum, scores["confusion_matrix"]), strict=True)),
            title,
        ),
        "length": plots.plot_accuracy_by_length(
            [len(states) for states in references], scores[f"chain_{level}"], title=title
        ),
    }
    labels = np.concatenate([alphabet.encode(states) for states in references])
    reduced = np.concatenate(
        [reduce_probabilities(chain, alphabet, predictions.states) for chain in predictions.probabilities]
    )
    scored = labels != IGNORE_INDEX
    figures["calibration"] = plots.plot_calibration(
        reduced[scored].max(-1), reduced[scored].argmax(-1) == labels[scored], title=title
    )
    for kind, figure in figures.items():
        plots.save_figure(figure, folder / f"{stem}-{kind}.png")
