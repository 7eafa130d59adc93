"""Load the corpora of a run: training, validation and test chains, checked before any long work."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..corpora.leakage import exact_duplicates
from ..corpora.loading import warn_if_crossed
from ..evaluation.corpora import common_num_states, load_corpora
from ..metrics.labels import encode_references
from .arguments import CorpusArguments, unless_none
from .recipes import RecipeError

logger = logging.getLogger(__name__)

COLUMNS = ["id", "sequence", "states", "num_residues"]


@dataclass(frozen=True)
class TrainingCorpora:
    """Training and validation chains.

    Attributes:
        train: training chains, with `COLUMNS`.
        validation: validation chains, likewise.
        num_states: number of DSSP states that the validation chains distinguish, nine or eight.
    """

    train: datasets.Dataset
    validation: datasets.Dataset
    num_states: int

    @cached_property
    def references(self) -> list[np.ndarray]:
        """Labels of the validation chains, for `evaluation.predictions`."""
        return encode_references(self.validation["states"])

    @cached_property
    def num_leaked(self) -> int:
        """Number of validation chains whose exact sequence is a training chain."""
        return len(exact_duplicates(self.validation["sequence"], self.train["sequence"]))


def load_training_corpora(arguments: CorpusArguments) -> TrainingCorpora:
    """Load the training and the validation chains.

    Raises:
        RecipeError: if there are no training or no validation chains, or a fraction is out of range.
        ValueError: if a corpus is unknown, cannot be fetched or has no labelled residue.
    """
    for name in arguments.train:
        warn_if_crossed(name, arguments.tests)
    _check_fractions(arguments)
    corpora = _split(arguments)
    if corpora.num_leaked:
        logger.warning(
            "%d of %d validation chains are training chains too, so the best epoch is chosen, and confidences are "
            "calibrated, on chains that the model has seen. To train without them and their homologues: python "
            "dataset_scripts/leakage.py TRAIN --validation NAME --write DIR.",
            corpora.num_leaked,
            len(corpora.validation),
        )
    return corpora


def _split(arguments: CorpusArguments) -> TrainingCorpora:
    """Load the training and the validation chains, or hold out some of the former as the latter."""
    train, num_states = _load(arguments.train, "train", arguments.source)
    if arguments.max_train_residues:
        keep = [i for i, length in enumerate(train["num_residues"]) if length <= arguments.max_train_residues]
        logger.info("left out %d of %d training chains as too long", len(train) - len(keep), len(train))
        train = train.select(keep)
    if arguments.train_fraction < 1:
        train = train.shuffle(seed=0).select(range(max(1, round(arguments.train_fraction * len(train)))))
    if any(map(unless_none, arguments.validation)):
        return TrainingCorpora(train, *_load(arguments.validation, "validation", arguments.source))
    num_held_out = round(arguments.validation_fraction * len(train))
    if not 0 < num_held_out < len(train):
        raise RecipeError("no validation chains. Name corpora (--validation NAME ...), or give --validation_fraction.")
    train = train.shuffle(seed=0)
    return TrainingCorpora(train.select(range(num_held_out, len(train))), train.select(range(num_held_out)), num_states)


def _check_fractions(arguments: CorpusArguments) -> None:
    for name, lowest in (("train_fraction", 1e-9), ("validation_fraction", 0.0)):
        if not lowest <= getattr(arguments, name) <= 1:
            raise RecipeError(f"{name} is {getattr(arguments, name)}. Expected a fraction of at most 1.")


def _load(names: Sequence[str], split: str, source: str | None) -> tuple[datasets.Dataset, int]:
    """Return one split of several corpora, concatenated, and the number of states that all of them distinguish."""
    corpora = load_corpora(names, split, source)
    if not sum(map(len, corpora.values())):
        raise RecipeError(f"no {split} chains. Name corpora: --{split} NAME ...")
    parts = [corpora[name].select_columns(COLUMNS) for name in names]
    return datasets.concatenate_datasets(parts), common_num_states(corpora)


def load_tests(arguments: CorpusArguments) -> dict[str, datasets.Dataset]:
    """Load the test chains, before training so that a wrong name costs no time.

    Raises:
        RecipeError: if a training file is also given as a test.
        ValueError: if a corpus is unknown, cannot be fetched or has no labelled residue.
    """
    tests = load_corpora(arguments.tests, "test", arguments.source)
    for name in tests:
        if name in arguments.train and Path(name).is_file():
            raise RecipeError(f"{name} is given for training and as a test. Name another test.")
    return tests


def describe_corpus(corpus: datasets.Dataset) -> dict[str, Any]:
    """Return the numbers of chains and residues that a run uses, and the checksum of their sequences and states."""
    digest = sha256()
    for sequence, states in zip(corpus["sequence"], corpus["states"], strict=True):
        digest.update(f"{sequence}\n{states}\n".encode())
    return {
        "chains": len(corpus),
        "residues": sum(corpus["num_residues"]),
        "sha256_of_sequences_and_states": digest.hexdigest(),
    }
