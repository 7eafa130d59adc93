"""Scores of predictions: the metric, its evaluate module `q8_sov`, the Trainer's metrics, and calibration.

May import `models` (the states only), and the maths needs numpy only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

Q8_SOV = Path(__file__).parent / "q8_sov"


def load_q8_sov(states: str = "q9", **options: Any) -> Any:
    """Load the secondary structure metric of the evaluate library, offline.

    Args:
        states: the alphabet to score at, unless `compute(states=...)` names another: q9, q8, q3 or q3_lift_ss.
        options: options of `evaluate.load`: `num_process`, `process_id`, `experiment_id`, `keep_in_memory`, ...

    Returns:
        An `evaluate.Metric`.

    Raises:
        ValueError: if the alphabet is unknown.

    Example:
        >>> metric = load_q8_sov("q3")
        >>> metric.compute(references=["HHHHHH"], predictions=["HHHLHH"])["sov99"]
        0.5833333333333334
    """
    import evaluate  # here, so that `lift_ss_hf.scoring` needs numpy only

    return evaluate.load(str(Q8_SOV), states, **options)
