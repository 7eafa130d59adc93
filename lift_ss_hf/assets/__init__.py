"""What is bundled with the package: a small pretrained backbone and a sample corpus, found through importlib."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def _folder(name: str) -> Path:
    folder = Path(str(resources.files(__package__).joinpath(name)))
    if not folder.is_dir():
        raise ValueError(f"the bundled {name.replace('_', ' ')} is missing from this installation. Install it again.")
    return folder


def bundled_backbone() -> Path:
    """The folder of the bundled backbone, which `EsmModel.from_pretrained` loads."""
    return _folder("backbone")


def sample_corpus() -> Path:
    """The folder of the bundled sample corpus, which `datasets.load_dataset` loads."""
    return _folder("sample_corpus")
