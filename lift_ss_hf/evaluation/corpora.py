"""Evaluate a model on corpora: accuracies, SOV'99, intervals, leakage, speed; as JSON, a table and figures."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from accelerate import PartialState

from ..batches.cached_chains import PrefixCacheSettings
from ..corpora import load_corpus
from ..corpora.catalogue import find_corpus
from ..corpora.loading import require_labels
from ..metrics.labels import REFERENCE_ALPHABET, encode_references, fold_labels
from ..models.atomic import replacing, require_folder
from ..models.backbones import locate
from ..models.modeling import SecondaryStructureModel
from ..models.states import IGNORE_INDEX, UNRESOLVED, get_alphabet
from ..models.tokenization import ResidueTokenizer
from ..models.wording import counted
from ..prediction.ensemble import Ensemble
from ..prediction.predictor import MAX_TOKENS
from ..reports import figures as plots
from ..reports.provenance import count_duplicates, environment, load_training_chains, write_json
from ..reports.tables import ALPHABET_TITLES, SCORE_TABLES, STANDARD_COLUMNS, results_markdown
from .baselines import ResidueBaseline
from .predictions import Predictions, check_scorable, majority_accuracy, predict_corpora, score_predictions

logger = logging.getLogger(__name__)


def check_bootstrap(resamples: int) -> None:
    """Raise ValueError if a number of bootstrap resamples is negative."""
    if resamples < 0:
        raise ValueError(f"bootstrap is {resamples}. Expected a number of resamples, 0 for no intervals.")


@dataclass(frozen=True)
class EvaluationSettings:
    """How to evaluate.

    Attributes:
        split: the split of each corpus; a file with one split serves as any.
        bootstrap: resamples of the chains for 95 % intervals; 0 for none. A corpus of one chain has none.
        max_tokens: size of a batch [tokens].
        columns: layout of the scores in `results.md`: `standard`, or `lift_ss` for the reference's columns and order.
        keep_states: write the predicted states of each corpus, too: `predicted/CORPUS.txt`, three lines per chain.
        figures: draw the figures of each corpus.
        cache: take the frozen blocks' hidden states from this prefix cache; see `predictions.predict`.

    Raises:
        ValueError: if there is no such layout, or the number of resamples is negative.
    """

    split: str = "test"
    bootstrap: int = 1000
    max_tokens: int = MAX_TOKENS
    columns: str = STANDARD_COLUMNS
    keep_states: bool = False
    figures: bool = True
    cache: PrefixCacheSettings | None = None

    def __post_init__(self):
        if self.columns not in SCORE_TABLES:
            raise ValueError(f"unknown columns {self.columns!r}. Choose one of: {', '.join(sorted(SCORE_TABLES))}.")
        check_bootstrap(self.bootstrap)


DEFAULT_SETTINGS = EvaluationSettings()
STATES_FOLDER = "predicted"  # of the predicted states, with a file for each corpus
THREE_STATES = "HEL"  # three-state corpora are read with coil as L
MAX_STEM = 200  # characters; a file's name has up to 255 bytes, also while it is written under a longer one
ENOUGH_RESIDUES = 300  # of eight states, a fifth of the residues are T, S, G, B or I


def load_corpora(
    names: Sequence[str], split: str = "test", data_dir: str | Path | None = None
) -> dict[str, datasets.Dataset]:
    """Load one split of several corpora, each once.

    Args:
        names: names from the catalogue, or paths.
        split: the split of each corpus.
        data_dir: folder with the source files; see `load_corpus`.

    Raises:
        ValueError: if a corpus is unknown, unavailable, or without a labelled residue.
    """
    corpora = {name: load_corpus(name, split, data_dir=data_dir) for name in dict.fromkeys(names)}
    for name, corpus in corpora.items():
        require_labels(name, corpus)
    return corpora


def num_states_of(name: str, references: Sequence[str]) -> int:
    """Return the number of DSSP states that a corpus distinguishes: nine, eight or three.

    Args:
        name: a name from the catalogue, which records the number; or a path.
        references: states of each chain. A corpus outside the catalogue has nine states if P occurs; three if there are
            only H, E and L, in so many residues that this is no chance.

    Example:
        >>> num_states_of("test2016", []), num_states_of("my_chains.txt", ["LLP"])
        (8, 9)
        >>> num_states_of("my_chains.txt", ["LLHHHHHHHHEEEEEELLLL"] * 20)
        3
    """
    corpus = find_corpus(name)
    if corpus is not None:
        return corpus.entry.num_states
    counts = Counter(itertools.chain.from_iterable(references))
    if counts["P"]:
        return 9
    num_labelled = counts.total() - counts[UNRESOLVED]
    is_three = num_labelled >= ENOUGH_RESIDUES and not set(counts) - set(THREE_STATES + UNRESOLVED)
    return 3 if is_three else 8


def common_num_states(corpora: Mapping[str, datasets.Dataset]) -> int:
    """Return the number of states of several corpora together: that of the one with the fewest."""
    return min(num_states_of(name, corpus["states"]) for name, corpus in corpora.items())


def evaluate_corpora(
    model: Any,
    tokenizer: Any,
    corpora: Mapping[str, datasets.Dataset],
    settings: EvaluationSettings = DEFAULT_SETTINGS,
    *,
    out: str | Path | None = None,
    training_chains: np.ndarray | None = None,
    model_name: str = "",
    baseline: ResidueBaseline | None = None,
) -> dict[str, Any]:
    """Evaluate a model on corpora and write `metrics.json`, `results.md` and `figures/`.

    A chain that is in several corpora is predicted once.

    Args:
        model: a secondary structure model or an ensemble.
        tokenizer: its `ResidueTokenizer`.
        corpora: loaded corpora by name; see `load_corpora`.
        settings: split, bootstrap, batch size, layout, and what to write.
        out: folder to write to, on the main process; None writes nothing.
        training_chains: hashes of the training sequences, to count exact duplicates; None if unknown.
        model_name: for the heading.
        baseline: of the training chains, to compare the model with; None if they are unknown.

    Returns:
        The content of `metrics.json`: `model`, `states`, `environment`, and for each of `corpora` its size, speed,
        majority accuracies, those of the `residue` baseline, and by alphabet the `scores` of `metrics.scoring.score`.
    """
    results: dict[str, Any] = {"model": model_name, "states": model.config.states, "environment": environment()}
    folder = Path(out) if out is not None and PartialState().is_main_process else None
    results["corpora"] = {}
    logger.info(
        "evaluating on %s", ", ".join(f"{name} ({counted(len(corpus), 'chain')})" for name, corpus in corpora.items())
    )
    num_states = {name: num_states_of(name, corpus["states"]) for name, corpus in corpora.items()}
    for name, number in num_states.items():
        check_scorable(model.config.states, name, number)
    sequences_of = {name: corpus["sequence"][:] for name, corpus in corpora.items()}
    predicted = predict_corpora(model, tokenizer, sequences_of, settings.max_tokens, settings.cache)
    for name, corpus in corpora.items():
        sequences, references, predictions = sequences_of[name], encode_references(corpus["states"]), predicted[name]
        num_labelled = sum((labels != IGNORE_INDEX).any() for labels in references)
        resamples = settings.bootstrap if num_labelled > 1 else 0
        if resamples < settings.bootstrap:
            logger.warning("%s: no intervals, which need two chains with labels or more", name)
        scores = score_predictions(references, predictions, num_states[name], resamples)
        result: dict[str, Any] = {
            "split": settings.split,
            **_circumstances(sequences, predictions, training_chains, is_timed=settings.cache is None),
            "majority": {alphabet: majority_accuracy(references, alphabet) for alphabet in scores},
            "residue": {alphabet: baseline.accuracy(sequences, references, alphabet) for alphabet in scores}
            if baseline
            else {},
            "scores": scores,
        }
        results["corpora"][name] = result
        if folder is not None:
            if settings.figures:
                _draw(name, references, predictions, scores, folder / "figures")
            if settings.keep_states:
                _write_states(states_file(folder, name), corpus, predictions)
    if folder is not None:
        write_json(folder / "metrics.json", results)
        with replacing(folder / "results.md") as part:
            part.write_text(results_markdown(results, settings.columns), "utf-8")
    return results


def _circumstances(
    sequences: Sequence[str], predictions: Predictions, training_chains: np.ndarray | None, is_timed: bool
) -> dict[str, Any]:
    """Return the size of a corpus, the number of its chains seen in training, and the speed over all corpora.

    There is no speed if blocks were read from the cache, or run to fill it.
    """
    num_residues = sum(map(len, sequences))
    return {
        "num_chains": len(sequences),
        "num_residues": num_residues,
        "windowed_chains": predictions.windowed,
        "duplicates_in_training": count_duplicates(training_chains, sequences),
        "residues_per_second": round(num_residues / predictions.seconds, 1) if is_timed else None,
    }


def evaluate_saved(
    models: Sequence[str],
    corpora: Sequence[str],
    settings: EvaluationSettings = DEFAULT_SETTINGS,
    *,
    out: str | None = None,
    source: str | None = None,
    backbone: str | None = None,
) -> str:
    """Evaluate a saved model, or several as an ensemble.

    Args:
        models: Hub ids or folders, or `bundled`; several models must share one backbone.
        corpora: names from the catalogue, or paths.
        settings: split, bootstrap, batch size and layout.
        out: folder to write to; None writes nothing.
        source: folder with the source files of the corpora.
        backbone: location of the backbone, if it differs from the one in the model's configuration.

    Returns:
        The results as Markdown tables.

    Raises:
        ValueError: if a model or a corpus cannot be loaded, `out` is not a folder, or two corpora would write the same
            files to it.
    """
    if out is not None:
        require_folder(out)
        check_file_names(corpora, settings.keep_states)
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
        load_corpora(corpora, settings.split, source),
        settings,
        out=out,
        training_chains=np.unique(np.concatenate(known)) if len(known) == len(folders) else None,
        model_name=" + ".join(Path(model).name for model in models),
    )
    return results_markdown(results, settings.columns)


def file_stem(name: str) -> str:
    """Return the start of the names of a corpus's files: its whole path, since several can have one name.

    Example:
        >>> file_stem("promod3:lt25id"), file_stem("mine/test.txt")
        ('promod3-lt25id', 'mine-test.txt')
    """
    stem = name.replace(":", "-").replace("/", "-")[-MAX_STEM:]
    return f"_{stem}" if stem.startswith(".") else stem  # ../test.txt would be hidden


def states_file(folder: Path, name: str) -> Path:
    """Return the file of a run's predicted states for a corpus.

    Args:
        folder: the run's directory.
        name: the corpus.

    Example:
        >>> for name in ("promod3:lt25id", "mine/test.txt"):
        ...     print(states_file(Path("run"), name))
        run/predicted/promod3-lt25id.txt
        run/predicted/mine-test.txt
    """
    return folder / STATES_FOLDER / f"{file_stem(name).removesuffix('.txt')}.txt"


def check_file_names(names: Sequence[str], keep_states: bool) -> None:
    """Raise ValueError if two corpora would write the same files.

    Args:
        names: of the corpora.
        keep_states: the predicted states are written, too.

    Example:
        >>> check_file_names(["a/b.txt", "a-b.txt"], keep_states=False)
        Traceback (most recent call last):
        ValueError: the files of a/b.txt and a-b.txt would have the same names. Rename one, or evaluate them in two
        runs.
    """
    owners: dict[str, str] = {}
    for name in names:
        stem = file_stem(name)
        other = owners.setdefault(stem.removesuffix(".txt") if keep_states else stem, name)
        if other != name:
            raise ValueError(
                f"the files of {other} and {name} would have the same names. Rename one, or evaluate them in two runs."
            )


def _write_states(path: Path, corpus: datasets.Dataset, predictions: Predictions) -> None:
    """Write id, residues and predicted states of each chain, in the model's own alphabet."""
    alphabet = get_alphabet(predictions.states)
    states = (alphabet.decode(labels) for labels in predictions.labels(predictions.states))
    rows = zip(corpus["id"], corpus["sequence"], states, strict=True)
    with replacing(path) as part:
        part.write_text("".join(f">{name}\n{sequence}\n{chain}\n" for name, sequence, chain in rows), "utf-8")


def _draw(
    name: str,
    references: Sequence[np.ndarray],
    predictions: Predictions,
    scores_by_alphabet: Mapping[str, dict[str, Any]],
    folder: Path,
) -> None:
    """Draw the figures of a corpus at the finest alphabet."""
    alphabet, scores = next(iter(scores_by_alphabet.items()))
    title = f"{name}, {ALPHABET_TITLES[alphabet]}"
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
            [len(chain) for chain in references], scores[f"chain_{alphabet}"], title=title
        ),
    }
    labels = fold_labels(np.concatenate(references), REFERENCE_ALPHABET, alphabet)
    scored = labels != IGNORE_INDEX
    confidences = np.concatenate(predictions.calibrated(alphabet)).max(-1)
    correct = np.concatenate(predictions.labels(alphabet)) == labels
    figures["calibration"] = plots.plot_calibration(confidences[scored], correct[scored], title=title)
    for kind, figure in figures.items():
        plots.save_figure(figure, folder / f"{file_stem(name)}-{kind}.png")
