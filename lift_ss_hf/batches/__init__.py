"""Datasets of labelled chains, and the batches made of them: collating, masking, caching hidden states.

May import `models` only.
"""
