"""Predict the chains of a corpus, and score the predictions."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from ..batches.cached_chains import PrefixCacheSettings, evaluating, with_cached_states
from ..metrics.labels import REFERENCE_ALPHABET, fold_labels, most_probable
from ..metrics.scored_chains import COMPATIBLE
from ..metrics.scoring import score
from ..models.states import IGNORE_INDEX, reduce_probabilities, reportable_alphabets, temper_probabilities
from ..prediction.predictor import MAX_TOKENS, Predictor, is_windowed


@dataclass(frozen=True)
class Predictions:
    """The predictions of a model for the chains of a corpus.

    Attributes:
        probabilities: one (residues, states) float32 array per chain, before calibration.
        states: name of the alphabet of the last axis.
        seconds: wall time, for all processes together; a share of it where more chains were predicted.
        windowed: number of chains that were too long to be run whole.
        temperature: the model's temperature, which calibrates the probabilities of any alphabet.
    """

    probabilities: list[np.ndarray]
    states: str
    seconds: float
    windowed: int
    temperature: float = 1.0

    def labels(self, alphabet: str) -> list[np.ndarray]:
        """Return the most probable states as one (residues,) int8 array of labels per chain."""
        return [most_probable(chain, self.states, alphabet) for chain in self.probabilities]

    def calibrated(self, alphabet: str) -> list[np.ndarray]:
        """Return calibrated probabilities as one (residues, states of the alphabet) array per chain."""
        reduced = (reduce_probabilities(chain, alphabet, self.states) for chain in self.probabilities)
        return [temper_probabilities(chain, self.temperature) for chain in reduced]


def predict(
    model: Any,
    tokenizer: Any,
    sequences: Sequence[str],
    max_tokens: int = MAX_TOKENS,
    quiet: bool = False,
    cache: PrefixCacheSettings | None = None,
) -> Predictions:
    """Predict the states of chains with `prediction.predictor`; processes share the chains.

    Args:
        model: a secondary structure model or an ensemble.
        tokenizer: its `ResidueTokenizer`.
        sequences: residues of each chain.
        max_tokens: size of a batch [tokens].
        quiet: show no progress bar.
        cache: take the frozen blocks' hidden states from this cache, rounded to 16 bits, and add those that it lacks;
            not for an ensemble. None computes them.
    """
    process = PartialState()
    # Longest first, so that processes and batches get chains of similar length.
    order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))
    own = order[process.process_index :: process.num_processes]
    started = time.perf_counter()
    found: list[tuple[int, np.ndarray]] = []
    residues = sum(map(len, sequences))
    disable = quiet or not process.is_main_process
    with evaluating(model), tqdm(total=residues, unit=" residues", unit_scale=True, disable=disable) as bar:
        predictor = Predictor(model, tokenizer, max_tokens)
        chains: Any = predictor.encode(sequences)
        if cache is not None:
            [chains] = with_cached_states(model, [chains], tokenizer.pad_token_id, cache)
        for index, probabilities in predictor.predict_chains(chains, own):
            found.append((index, probabilities))
            bar.update(len(probabilities) * process.num_processes)
    if process.num_processes > 1:
        found = gather_object(found)
    return Predictions(
        probabilities=[chain for _, chain in sorted(found, key=lambda item: item[0])],
        states=model.config.states,
        seconds=time.perf_counter() - started,
        windowed=sum(is_windowed(model, sequence) for sequence in sequences),
        temperature=predictor.temperature,
    )


def predict_corpora(
    model: Any,
    tokenizer: Any,
    sequences: Mapping[str, Sequence[str]],
    max_tokens: int = MAX_TOKENS,
    cache: PrefixCacheSettings | None = None,
) -> dict[str, Predictions]:
    """Predict the chains of several corpora; a chain that is in several is computed once.

    Args:
        model: as for `predict`.
        tokenizer: as for `predict`.
        sequences: residues of each chain, by corpus.
        max_tokens: as for `predict`.
        cache: as for `predict`.

    Returns:
        The predictions of each corpus.
    """
    distinct = list(dict.fromkeys(itertools.chain.from_iterable(sequences.values())))
    if not distinct:
        return {}
    together = predict(model, tokenizer, distinct, max_tokens, cache=cache)
    by_sequence = dict(zip(distinct, together.probabilities, strict=True))
    seconds_a_residue = together.seconds / sum(map(len, distinct))
    return {
        name: replace(
            together,
            probabilities=[by_sequence[sequence] for sequence in chains],
            seconds=seconds_a_residue * sum(map(len, chains)),
            windowed=sum(is_windowed(model, sequence) for sequence in chains),
        )
        for name, chains in sequences.items()
    }


# The states that a corpus must distinguish to be scored at an alphabet; in three states, P is neither helix nor coil.
NEEDED_STATES = {"q9": 9, "q8": 8, "q3_lift_ss": 8}


def scorable_alphabets(model_states: str, num_states: int) -> list[str]:
    """Return the alphabets at which a model can be scored on a corpus, the finest first.

    A corpus without P cannot be scored at nine states: its L also covers the P of nine states. One of three states can
    only be scored at these.

    Args:
        model_states: alphabet of the model.
        num_states: states of the corpus: nine, eight or three; see `evaluation.corpora.num_states_of`.

    Example:
        >>> scorable_alphabets("q9", 8)
        ['q8', 'q3', 'q3_lift_ss']
    """
    return [name for name in reportable_alphabets(model_states) if num_states >= NEEDED_STATES.get(name, 3)]


def check_scorable(model_states: str, name: str, num_states: int) -> None:
    """Raise ValueError if a model cannot be scored on a corpus at any alphabet.

    Args:
        model_states: alphabet of the model.
        name: of the corpus, for the message.
        num_states: states of the corpus, nine, eight or three.

    Example:
        >>> check_scorable("q3_lift_ss", "mine.txt", 3)
        Traceback (most recent call last):
        ValueError: mine.txt: its 3 states are too few to score a model of q3_lift_ss. Expected at least 8; or train
        with --states q3.
    """
    if not scorable_alphabets(model_states, num_states):
        raise ValueError(
            f"{name}: its {num_states} states are too few to score a model of {model_states}. Expected at least "
            f"{NEEDED_STATES[model_states]}; or train with --states q3."
        )


def score_predictions(
    references: Sequence[np.ndarray], predictions: Predictions, num_states: int, bootstrap: int = 0
) -> dict[str, dict[str, Any]]:
    """Score predictions at every alphabet that applies, in the compatible mode.

    Args:
        references: q9 labels of each chain, from `metrics.labels.encode_references`.
        predictions: of the same chains.
        num_states: states of the corpus, nine, eight or three.
        bootstrap: resamples for 95 % intervals; 0 for none.

    Returns:
        The result of `metrics.scoring.score`, with the scores of every chain, by alphabet.
    """
    return {
        alphabet: score(
            references=[fold_labels(chain, REFERENCE_ALPHABET, alphabet) for chain in references],
            predictions=predictions.labels(alphabet),
            states=alphabet,
            mode=COMPATIBLE,  # IGNORE_INDEX is an unresolved residue here, never padding
            bootstrap=bootstrap,
            per_chain=True,
        )
        for alphabet in scorable_alphabets(predictions.states, num_states)
    }


def majority_accuracy(references: Sequence[np.ndarray], alphabet: str) -> float:
    """Return the accuracy of always predicting the most frequent state [fraction].

    Args:
        references: q9 labels of each chain.
        alphabet: the alphabet to score at.
    """
    labels = fold_labels(np.concatenate(references), REFERENCE_ALPHABET, alphabet)
    counts = np.bincount(labels[labels != IGNORE_INDEX])
    return float(counts.max() / counts.sum())
