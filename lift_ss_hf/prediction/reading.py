"""Read predicted chains back from a `predictions.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


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
        raise ValueError(f"{path}: no such file. Make it with `lift-ss predict ... --format jsonl -o DIR`.")
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
    try:
        chain = json.loads(line)
        if {"name", "states", "confidence"} <= set(chain):
            return chain
    except (ValueError, TypeError):
        pass
    raise ValueError(f"{where}: not a prediction. Expected a predictions.jsonl.")
