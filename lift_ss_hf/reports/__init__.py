"""Reports of runs and evaluations: provenance, tables, figures and model cards.

May import `corpora`, `metrics`, `batches` and `models`.
"""
