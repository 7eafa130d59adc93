"""Predict states from sequences at scale: inputs, packed prediction, output formats, resumable runs.

May import `reports` and the rooms below it. Nothing is imported here, so that `lift-ss --help` is fast.
"""
