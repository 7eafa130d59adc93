"""Read predicted chains back: from a `predictions.jsonl`, or from the directory of a run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..models.states import COIL_SPELLINGS, NINE_STATES, Q3
from ..models.wording import did_you_mean, no_such_file
from .prediction_folder import read_finished, stored_result
from .result import Prediction
from .stored import read_stored

MOST_LISTED = 10  # names in a message
MOST_COUNTED = 1000  # chains; of a larger input it is enough to know that there are more
Item = TypeVar("Item")


class PredictedChain(NamedTuple):
    """What a figure shows of a chain.

    Attributes:
        name: of the chain.
        states: predicted, length L.
        confidence: of each state [fraction], length L.
    """

    name: str
    states: str
    confidence: Sequence[float]

    @classmethod
    def of(cls, prediction: Prediction) -> PredictedChain:
        """Return what a figure shows of a prediction."""
        return cls(prediction.name, prediction.states, prediction.confidence.tolist())


def choose_chains(
    chains: Iterable[Item], names: Sequence[str], where: str, name_of: Callable[[Item], str]
) -> tuple[list[Item], int]:
    """Return the chains with these names, in this order; without names, the first chain. Count the others seen.

    Args:
        chains: read only as far as needed.
        names: whole names, or a part between bars: `P42212` and `GFP_AEQVI` find `sp|P42212|GFP_AEQVI`. The first
            chain counts if several match.
        where: source of the chains, for messages.
        name_of: returns a chain's name.

    Returns:
        The chains; and without names, how many others there are, or `MOST_COUNTED` if there are as many or more. With
        names that is 0, as they were chosen.

    Raises:
        ValueError: if there are no chains, or a name is not among them; the message lists those that are.

    Example:
        >>> choose_chains(["sp|P69905|HBA_HUMAN", "sp|P42212|GFP_AEQVI"], ["P42212"], "a.fasta", str)
        (['sp|P42212|GFP_AEQVI'], 0)
        >>> choose_chains(["one", "two", "three"], [], "a.fasta", str)
        (['one'], 2)
    """
    chains = iter(chains)
    found: dict[str, Item] = {}
    seen: list[str] = []
    for chain in chains:
        if not names:
            return [chain], sum(1 for _ in itertools.islice(chains, MOST_COUNTED))
        seen.append(name_of(chain))
        for name in {seen[-1], *seen[-1].split("|")} & set(names):
            found.setdefault(name, chain)
        if len(found) == len(set(names)):
            break
    if not seen:
        raise ValueError(f"{where}: no chains.")
    if missing := [name for name in names if name not in found]:
        more = ", ..." if len(seen) > MOST_LISTED else ""
        raise ValueError(
            f"{where}: no chain {missing[0]!r}.{did_you_mean(missing[0], seen)} Its chains are: "
            f"{', '.join(seen[:MOST_LISTED])}{more}."
        )
    return [found[name] for name in names], 0


def read_predictions(path: str | Path, names: Sequence[str] = ()) -> tuple[list[PredictedChain], int]:
    """Read chains from a `predictions.jsonl`, written by `lift-ss predict --format jsonl`.

    Args:
        path: of the file.
        names: of the chains to read, as for `choose_chains`.

    Returns:
        The chains, and how many others there are, as for `choose_chains`.

    Raises:
        ValueError: if the file is missing or is not a `predictions.jsonl`, or a chain is not in it.
    """
    if not Path(path).is_file():
        raise ValueError(f"{no_such_file(path)} Make it with `lift-ss predict ... --format jsonl -o DIR`.")
    return choose_chains(_chains(Path(path)), names, str(path), lambda chain: chain.name)


def read_run_predictions(folder: str | Path, names: Sequence[str] = ()) -> tuple[list[PredictedChain], int]:
    """Read chains from the directory of a run of `lift-ss predict`.

    Args:
        folder: of a run that wrote confidences: as Parquet, JSON lines, TSV or CSV.
        names: of the chains to read, as for `choose_chains`.

    Returns:
        The chains, and how many others there are, as for `choose_chains`.

    Raises:
        ValueError: if the directory holds no such run, the run is not finished, or a chain is not in it.
    """
    settings = read_finished(folder)
    path = stored_result(Path(folder), settings["formats"])
    if path is None:
        raise ValueError(
            f"{folder}: holds the formats {', '.join(settings['formats'])}, which have no confidences. "
            "Predict again with --format jsonl, to another directory."
        )
    chains = read_stored(path, settings["states"])
    chosen, num_others = choose_chains(chains, names, str(folder), lambda chain: chain.name)
    return list(map(PredictedChain.of, chosen)), num_others


def _chains(path: Path) -> Iterator[PredictedChain]:
    with path.open(encoding="utf-8", errors="replace") as lines:  # a binary file then fails at its line 1, below
        for number, line in enumerate(lines, start=1):
            yield _parse(line, f"{path}: line {number}")


def _parse(line: str, where: str) -> PredictedChain:
    if not _is_prediction(chain := _load(line)):
        raise ValueError(f"{where}: not a prediction. Expected a predictions.jsonl.")
    if unknown := set(chain["states"]) - set(NINE_STATES + COIL_SPELLINGS):
        raise ValueError(f"{where}: unknown state {min(unknown)!r}. Expected letters of {NINE_STATES}, or C for coil.")
    return PredictedChain(chain["name"], _with_one_coil(chain["states"]), chain["confidence"])


def _with_one_coil(states: str) -> str:
    """Spell coil as figures do: L among finer states, C in a chain of three.

    Example:
        >>> [_with_one_coil(states) for states in ("HH-E", "HGC ", "HHLE")]
        ['HHCE', 'HGLL', 'HHLE']
    """
    others = COIL_SPELLINGS.replace("L", "")
    coil = "C" if set(states) <= set(Q3.letters + others) else "L"
    return states.translate(dict.fromkeys(map(ord, others), coil))


def _load(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_prediction(chain: Any) -> bool:
    if not isinstance(chain, dict) or not {"name", "states", "confidence"} <= set(chain):
        return False
    texts = isinstance(chain["name"], str) and isinstance(chain["states"], str)
    confidence = chain["confidence"]
    return texts and isinstance(confidence, list) and all(isinstance(value, (int, float)) for value in confidence)
