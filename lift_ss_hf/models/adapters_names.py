"""Names that adapters 1.3.0 asks of transformers and huggingface_hub, and that are gone from transformers 5.

adapters pins transformers 4.57 (adapters#834). Its core works on 5 too, but the library does not import: modules that
are never used here ask for these names. They belong to its upload and download of adapters, and raise
NotImplementedError if they are called. Drop this module when adapters supports transformers 5.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any


def _is_gone(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("adapters 1.3.0 cannot exchange files with the Hub under transformers 5")


# By module
MISSING: Mapping[str, Mapping[str, Any]] = {
    "huggingface_hub": {"HfFolder": type("HfFolder", (), {"get_token": staticmethod(_is_gone)})},
    "transformers.utils": {"is_remote_url": _is_gone},
    "transformers.utils.generic": {
        "working_or_temp_dir": _is_gone,
        "_CAN_RECORD_REGISTRY": {},  # of outputs that stock blocks record; ours do not
    },
}


def give_missing_names(module: str) -> None:
    """Give one of these modules the names that adapters imports from it; those that are there stay."""
    owner = importlib.import_module(module)
    for name, value in MISSING[module].items():
        if name not in dir(owner):  # hasattr would import what huggingface_hub loads on use
            setattr(owner, name, value)
