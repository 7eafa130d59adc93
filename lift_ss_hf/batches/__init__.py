"""Datasets of labelled chains and the batches made of them: collating, masking, cached hidden states.

May import `models` only.
"""
