"""Scores of predicted states, numpy only; the code is in `metrics/scoring.py`."""

from .metrics.scoring import compare, score

__all__ = ["compare", "score"]
