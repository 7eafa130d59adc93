"""What a run leaves to read: provenance, tables, figures, the model card.

May import `corpora`, `metrics`, `batches` and `models`.
"""
