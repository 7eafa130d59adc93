"""What is bundled with the package: a sample corpus here, and a small pretrained backbone (`backbones.locate`)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def sample_corpus() -> Path:
    """The folder of the bundled sample corpus, which `datasets.load_dataset` loads."""
    return Path(str(resources.files(__package__).joinpath("sample_corpus")))
