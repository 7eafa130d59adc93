"""Read predicted chains back from a `predictions.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..models.states import COIL_SPELLINGS, NINE_STATES
from ..models.wording import no_such_file


def read_predictions(path: str | Path, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Read chains from a `predictions.jsonl`.

    Args:
        path: written by `lift-ss predict --format jsonl`.
        names: of the chains to read, in this order; by default the file's first chain.

    Returns:
        One dictionary per chain, as `formats.JsonLines` writes it; the first record if several have the same name.

    Raises:
        ValueError: if the file is missing or is not a `predictions.jsonl`, or a chain is not in it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{no_such_file(path)} Make it with `lift-ss predict ... --format jsonl -o DIR`.")
    found: dict[str, dict[str, Any]] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:  # a binary file then fails at its line 1, below
        for number, line in enumerate(lines, start=1):
            chain = _parse(line, f"{path}: line {number}")
            if not names:
                return [chain]
            if chain["name"] in names:
                found.setdefault(chain["name"], chain)
            if len(found) == len(set(names)):
                break
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{path}: no chain {missing[0]!r}. A name is the first word of the input's header.")
    if not found:
        raise ValueError(f"{path}: no chains.")
    return [found[name] for name in names]


def _parse(line: str, where: str) -> dict[str, Any]:
    if not _is_prediction(chain := _load(line)):
        raise ValueError(f"{where}: not a prediction. Expected a predictions.jsonl.")
    if unknown := set(chain["states"]) - set(NINE_STATES + COIL_SPELLINGS):
        raise ValueError(f"{where}: unknown state {min(unknown)!r}. Expected letters of {NINE_STATES}, or C for coil.")
    return chain


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
