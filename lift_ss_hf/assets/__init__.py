"""The files bundled with the package: a sample corpus, a backbone, a trained predictor and the model card template."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def sample_corpus() -> Path:
    """Return the folder of the bundled sample corpus, which `datasets.load_dataset` can load."""
    return Path(str(resources.files(__package__).joinpath("sample_corpus")))
