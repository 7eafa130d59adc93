"""Compare the predicted states of a structure's chains with those that mkdssp observes in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..corpora.chains import Chain
from ..corpora.labelling import label_structure, name_chains
from ..corpora.mkdssp import Mkdssp
from ..metrics.scoring import score
from ..models.states import Q3_LIFT_SS, UNRESOLVED, get_alphabet
from ..models.wording import no_such_file
from ..prediction.predictor import Predictor
from ..prediction.records import Record
from ..prediction.result import Prediction
from ..prediction.running import predict_records
from .predictions import scorable_alphabets

logger = logging.getLogger(__name__)

MKDSSP_STATES = 9  # of version 4.2 and later


@dataclass(frozen=True)
class ComparedChain:
    """A chain with its observed and its predicted states.

    Attributes:
        observed: the chain as mkdssp sees it, X where unresolved.
        prediction: of its sequence.
    """

    observed: Chain
    prediction: Prediction

    def states(self, alphabet: str) -> tuple[str, str]:
        """Return the observed and the predicted states in an alphabet."""
        return get_alphabet(alphabet).reduce(self.observed.states), self.prediction.reduce(alphabet).states

    @property
    def num_observed(self) -> int:
        """Residues with an observed state."""
        return len(self.observed.states) - self.observed.states.count(UNRESOLVED)


def observe_chains(path: str | Path, mkdssp: Mkdssp, names: Sequence[str] = ()) -> list[Chain]:
    """Read the protein chains of a structure with their states.

    Args:
        path: mmCIF or PDB file, plain or gzip.
        mkdssp: the program that assigns the states.
        names: of the chains to read, as in the file (`A`) or with it (`1abc_A`); all by default.

    Raises:
        ValueError: if the file is missing, cannot be read or has no such chain.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{no_such_file(path)} Give an mmCIF or PDB file.")
    structure = label_structure(path, mkdssp, min_residues=1)
    if not structure.chains:
        reason = next((skipped.reason for skipped in structure.skipped), "no protein")
        raise ValueError(f"{path}: {reason}. Expected a structure with a protein chain.")
    for skipped in structure.skipped:
        logger.warning("chain %s is left out: %s", skipped.chain, skipped.reason)
    named = {short.id: chain for short, chain in zip(structure.chains, name_chains([structure]), strict=True)}
    known = named | {chain.id: chain for chain in named.values()}
    for name in names:
        if name not in known:
            raise ValueError(f"{path}: no chain {name!r}. Its chains are: {', '.join(named)}.")
    return [known[name] for name in names] or list(named.values())


def compare_chains(chains: Sequence[Chain], predictor: Predictor) -> list[ComparedChain]:
    """Predict the states of observed chains.

    Raises:
        RecordError: if a chain is not a protein.
    """
    records = [Record(number, chain.id, chain.sequence) for number, chain in enumerate(chains, start=1)]
    return [ComparedChain(*pair) for pair in zip(chains, predict_records(predictor, records), strict=True)]


def score_chains(chains: Sequence[ComparedChain]) -> dict[str, dict[str, Any]]:
    """Score the predictions of chains together, at every alphabet of the model, the finest first.

    Args:
        chains: one or more; intervals over chains are not computed.

    Returns:
        The result of `metrics.scoring.score` by alphabet. Q3 counts P as coil.
    """
    scores = {}
    for alphabet in scorable_alphabets(chains[0].prediction.model_alphabet, MKDSSP_STATES):
        if alphabet != Q3_LIFT_SS.name or alphabet == chains[0].prediction.model_alphabet:
            observed, predicted = zip(*(chain.states(alphabet) for chain in chains), strict=True)
            scores[alphabet] = score(references=observed, predictions=predicted, states=alphabet)
    return scores
