"""The main job: from corpora and a backbone to a scored, reloadable model, with the stock Trainer.

May import `evaluation` and the rooms below it; only recipes and `cli` import it.
"""
