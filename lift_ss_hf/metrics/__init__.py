"""The metrics as modules of the evaluate library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Q8_SOV = Path(__file__).parent / "q8_sov"


def load_q8_sov(states: str = "q9", **options: Any) -> Any:
    """Load the secondary structure metric, without the network.

    Args:
        states: the level it scores at unless `compute(states=...)` says otherwise.
        options: passed to `evaluate.load`: `num_process`, `process_id`, `experiment_id`, `keep_in_memory`, ...

    Returns:
        an `evaluate.Metric`.

    Raises:
        ValueError: for an unknown level.

    Example:
        >>> metric = load_q8_sov("q3")
        >>> metric.compute(references=["HHHHHH"], predictions=["HHHLHH"])["sov99"]
        0.5833333333333334
    """
    import evaluate  # here, so that what only scores needs numpy alone

    return evaluate.load(str(Q8_SOV), states, **options)
