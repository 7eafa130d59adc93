"""`lift-ss plot`: chains of a `predictions.jsonl` as a figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..reports.chain_figures import plot_chains
from ..reports.figures import save_figure

MAX_CHAINS = 20  # of a figure: more fit no page


def plot_predictions(path: str, names: Sequence[str], out: str) -> None:
    """Draw chains of a file to SVG or PNG.

    Args:
        path: a `predictions.jsonl`.
        names: chains to draw, in this order; the first where none is named.
        out: the figure, `.svg` or `.png`.

    Raises:
        ValueError: if the file holds no such chains, or is no predictions.
    """
    if len(names) > MAX_CHAINS:
        raise ValueError(f"{len(names)} chains were named, a figure holds {MAX_CHAINS}. Draw several figures.")
    chains = read_chains(Path(path), names)
    save_figure(plot_chains([(chain["name"], chain["states"], chain["confidence"]) for chain in chains]), out)


def read_chains(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """The named chains, or the first, of a `predictions.jsonl`; of one name the first record."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file. Make it with `lift-ss predict ... --format jsonl -o DIR`.")
    found: dict[str, dict[str, Any]] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:  # so that a binary file is told by its line 1
        for number, line in enumerate(lines, start=1):
            try:
                chain = json.loads(line)
                name, _, _ = chain["name"], chain["states"], chain["confidence"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path}: line {number}: no prediction. Expected a predictions.jsonl.") from None
            if not names:
                return [chain]
            if name in names:
                found.setdefault(name, chain)
            if len(found) == len(set(names)):
                break
    if absent := [name for name in names if name not in found]:
        raise ValueError(f"{path}: no chain {absent[0]!r}. Names are the first words of the input's headers.")
    if not found:
        raise ValueError(f"{path}: no chains.")
    return [found[name] for name in names]
