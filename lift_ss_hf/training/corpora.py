"""Load the corpora of a run: training, validation and test chains, checked before any long work."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..corpora.holdout import hold_out
from ..corpora.leakage import exact_duplicates
from ..corpora.loading import own_splits, require_labels, resolve_corpus, warn_if_crossed
from ..evaluation.corpora import check_bootstrap, check_file_names, common_num_states, load_corpora
from ..evaluation.predictions import scorable_alphabets
from ..metrics.labels import encode_references
from .arguments import HELD_OUT, CorpusArguments, unless_none
from .recipes import RecipeError

logger = logging.getLogger(__name__)

COLUMNS = ["id", "sequence", "states", "num_residues"]
HELD_OUT_TEST = "held_out"  # name of the test set that is held out of the training chains


@dataclass(frozen=True)
class TrainingCorpora:
    """The chains of a run.

    Attributes:
        train: training chains, with `COLUMNS`.
        validation: validation chains, likewise; may be empty.
        tests: test chains by corpus, likewise; may be empty.
        num_states: number of DSSP states that the validation chains distinguish: nine, eight or three; of the training
            chains if there are none.
        trained_states: the same of the training chains.
        origins: where validation and test chains come from, in words, by `validation` and the name of the test.
        held_out: chains that were held out of the training chains, by part: `validation`, `test`.
    """

    train: datasets.Dataset
    validation: datasets.Dataset
    tests: dict[str, datasets.Dataset]
    num_states: int
    trained_states: int
    origins: dict[str, str] = field(default_factory=dict)
    held_out: dict[str, datasets.Dataset] = field(default_factory=dict)

    @cached_property
    def references(self) -> list[np.ndarray]:
        """Labels of the validation chains, for `evaluation.predictions`."""
        return encode_references(self.validation["states"])

    @cached_property
    def num_leaked(self) -> int:
        """Number of validation chains whose exact sequence is a training chain."""
        return len(exact_duplicates(self.validation["sequence"], self.train["sequence"]))

    @property
    def finest_alphabet(self) -> str:
        """Name of the alphabet with all states of the training chains."""
        return scorable_alphabets("q9", self.trained_states)[0]

    @property
    def parts(self) -> dict[str, datasets.Dataset]:
        """All chains by part: `train`, `validation`, and the tests by name."""
        return {"train": self.train, "validation": self.validation, **self.tests}

    def overlaps(self) -> list[dict[str, Any]]:
        """Return for each part its name, origin, size, and its chains that are exactly those of an earlier part."""
        known = {name: set(self.parts[name]["sequence"]) for name in ("train", "validation")}
        rows: list[dict[str, Any]] = []
        for name, part in self.parts.items():
            if not len(part):
                continue
            row = {"name": name, "origin": self.origins.get(name, ""), "chains": len(part)}
            row["residues"] = sum(part["num_residues"])
            for earlier, sequences in known.items():
                is_earlier = earlier != name and name != "train"
                shared = exact_duplicates(part["sequence"], sequences) if is_earlier else None
                row[f"in_{earlier}"] = None if shared is None else len(shared)
            rows.append(row)
        return rows


def load_training_corpora(arguments: CorpusArguments) -> TrainingCorpora:
    """Load the training, validation and test chains, or hold out of the former what is not named.

    Raises:
        RecipeError: if there are no training chains, a fraction is out of range, or a training file is also a test.
        ValueError: if a corpus is unknown, cannot be fetched, has no labelled residue, or is too small to hold out.
    """
    _check(arguments)
    fold = None if arguments.fold is None else parse_fold(arguments.fold)
    all_named = arguments.validation and arguments.tests
    own = {} if all_named else {name: own_splits(resolve_corpus(name)) for name in arguments.train}
    sources = {
        "validation": _sources(arguments.validation, own, "validation"),
        "test": _sources(arguments.tests or ([HELD_OUT] if fold else []), own, "test"),
    }
    named = {split: [name for name in names if name != HELD_OUT] for split, names in sources.items()}
    for name in arguments.train:
        warn_if_crossed(name, named["test"])
    train, trained_states = _load(arguments.train, "train", arguments.source)
    tests = load_corpora(named["test"], "test", arguments.source)
    tests = {name: corpus.select_columns(COLUMNS) for name, corpus in tests.items()}
    loaded = _load(named["validation"], "validation", arguments.source) if named["validation"] else None
    fractions = {"test": arguments.test_fraction, "validation": arguments.validation_fraction}
    wanted = {part: fraction for part, fraction in fractions.items() if HELD_OUT in sources[part]}
    if fold is not None:
        wanted.pop("test", None)
    held_out, method, train = _hold_out(train, wanted, arguments.split_seed, fold)
    origin = f"{method}, from {', '.join(arguments.train)}"
    origins = dict.fromkeys(tests, "named" if arguments.tests else "its own split") | {
        "train": ", ".join(arguments.train)
    }
    if "test" in held_out:
        tests[HELD_OUT_TEST], origins[HELD_OUT_TEST] = held_out["test"], origin
    validation, num_states = _validation(loaded, held_out.get("validation"), trained_states)
    named_origin = [", ".join(named["validation"])] if named["validation"] else []
    origins["validation"] = "; ".join(named_origin + [origin] * ("validation" in held_out))
    train = _shorten(train, arguments)
    corpora = TrainingCorpora(train, validation, tests, num_states, trained_states, origins, held_out)
    _describe(corpora)
    return corpora


def _check(arguments: CorpusArguments) -> None:
    for name, lowest in (("train_fraction", 1e-9), ("validation_fraction", 0.0), ("test_fraction", 0.0)):
        if not lowest <= getattr(arguments, name) <= 1:
            raise RecipeError(f"{name} is {getattr(arguments, name)}. Expected a fraction of at most 1.")
    check_bootstrap(arguments.bootstrap)
    check_file_names(arguments.tests, arguments.keep_states)
    for name in arguments.tests:
        if name in arguments.train and Path(name).is_file():
            raise RecipeError(f"{name} is given for training and as a test. Name another test.")


def parse_fold(text: str) -> tuple[int, int]:
    """Return the number of a fold, from 1 on, and the number of folds.

    Raises:
        RecipeError: if the text is not of the form K/N, with K from 1 to N and N of at least 2.

    Example:
        >>> parse_fold("2/5")
        (2, 5)
    """
    numbers = [int(part) for part in text.split("/") if part.isascii() and part.isdigit()]
    if text.count("/") != 1 or len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1] or numbers[1] < 2:
        raise RecipeError(f"fold is {text!r}. Expected K/N, such as 2/5 for the second of five folds.")
    return numbers[0], numbers[1]


def _sources(names: Sequence[str], own: dict[str, list[str]], split: str) -> list[str]:
    """Return the corpora of a split: those named, or the training corpora's own; `HELD_OUT` where they have none."""
    named = [name for name in names if unless_none(name)]
    if names:
        return named
    with_own = [name for name, splits in own.items() if split in splits]
    return with_own + ([] if len(with_own) == len(own) else [HELD_OUT])


def _hold_out(
    train: datasets.Dataset, fractions: dict[str, float], seed: int, fold: tuple[int, int] | None
) -> tuple[dict[str, datasets.Dataset], str, datasets.Dataset]:
    """Return the parts that are held out, how, and the chains that are left."""
    if not fractions and fold is None:
        return {}, "", train
    purposes = [] if fold is None else [f"testing (fold {fold[0]} of {fold[1]})"]
    purposes += [{"test": "testing"}.get(part, part) for part in fractions]
    logger.info("holding out chains for %s (%d in all)", " and ".join(purposes), len(train))
    process = PartialState()
    # once: another process might not have mmseqs2
    found = hold_out(train["sequence"][:], fractions, seed, fold) if process.is_main_process else None
    found = broadcast_object_list([found])[0] if process.num_processes > 1 else found
    assert found is not None
    parts = {name: train.select(indices) for name, indices in found.parts.items()}
    for name, part in parts.items():
        require_labels(name, part)
    left = parts.pop("train")
    return parts, f"held out {found.method}", left


def _validation(
    named: tuple[datasets.Dataset, int] | None, held_out: datasets.Dataset | None, trained_states: int
) -> tuple[datasets.Dataset, int]:
    """Return the validation chains, and the number of states that all of them distinguish.

    Args:
        named: chains of the named corpora, and the number of their states.
        held_out: chains that were held out of the training chains.
        trained_states: number of states of the training chains.
    """
    parts = [] if held_out is None else [(held_out, trained_states)]
    parts += [] if named is None else [named]
    if not parts:
        return datasets.Dataset.from_dict({name: [] for name in COLUMNS}), trained_states
    return datasets.concatenate_datasets([chains for chains, _ in parts]), min(number for _, number in parts)


def _load(names: Sequence[str], split: str, source: str | None) -> tuple[datasets.Dataset, int]:
    """Return one split of several corpora, concatenated, and the number of states that all of them distinguish."""
    corpora = load_corpora(names, split, source)
    if not sum(map(len, corpora.values())):
        raise RecipeError(f"no {split} chains. Name corpora: --{split} NAME ...")
    parts = [corpora[name].select_columns(COLUMNS) for name in names]
    return datasets.concatenate_datasets(parts), common_num_states(corpora)


def _shorten(train: datasets.Dataset, arguments: CorpusArguments) -> datasets.Dataset:
    """Leave out training chains that are too long, or more than the fraction to train on."""
    if arguments.max_train_residues:
        keep = [i for i, length in enumerate(train["num_residues"]) if length <= arguments.max_train_residues]
        logger.info("left out %d of %d training chains as too long", len(train) - len(keep), len(train))
        train = train.select(keep)
    if arguments.train_fraction < 1:
        train = train.shuffle(seed=0).select(range(max(1, round(arguments.train_fraction * len(train)))))
    if not len(train):
        raise RecipeError("no training chains are left. Raise --max_train_residues.")
    return train


def _describe(corpora: TrainingCorpora) -> None:
    """Log the size and the origin of each part, and warn of validation chains that are training chains."""
    for name, part in corpora.parts.items():
        role = f"test {name}" if name in corpora.tests else name
        origin = corpora.origins.get(name, "") if len(part) else "none"
        logger.info("%s: %d chains, %d residues (%s)", role, len(part), sum(part["num_residues"]), origin)
    if corpora.num_leaked:
        logger.warning(
            "%d of %d validation chains are training chains too, so the best epoch is chosen, and confidences are "
            "calibrated, on chains that the model has seen. To train without them and their homologues: python "
            "dataset_scripts/leakage.py TRAIN --validation NAME --write DIR.",
            corpora.num_leaked,
            len(corpora.validation),
        )


def describe_corpora(corpora: TrainingCorpora) -> dict[str, dict[str, Any]]:
    """Return what `describe_corpus` says of each part with chains: training, validation and tests."""
    return {name: describe_corpus(part) for name, part in corpora.parts.items() if len(part)}


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
