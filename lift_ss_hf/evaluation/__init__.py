"""Scoring models on whole corpora, and calibrating their confidences.

May import `prediction`, `hub` and the rooms below them.
"""
