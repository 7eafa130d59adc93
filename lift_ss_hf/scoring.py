"""Public name of `metrics/scoring.py`: scores of predicted states. Needs numpy only."""

from .metrics.scoring import compare, score

__all__ = ["compare", "score"]
