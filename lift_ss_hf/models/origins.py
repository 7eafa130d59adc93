"""Folders that `lift-ss convert-backbone -o DIR` wrote: which backbone of the Hub is in them, and where they are.

A model over such a folder records the Hub's name and commit, so that it loads on other machines. On this one, which may
have no network, the folder is found again by that name: `folders/ORG--NAME@COMMIT.json`, in the cache that `pickles`
describes, says where it was used last.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .pickles import keep, kept_file
from .safety import read_json_object

ORIGIN = "origin.json"
COMMIT = re.compile(r"[0-9a-f]{40}")


def read_origin(folder: str | os.PathLike) -> tuple[str, str] | None:
    """Return Hub id and commit of the backbone that was written to a folder; None if it came from elsewhere.

    Whether the weights still are those of that commit is for their fingerprint to say.
    """
    if not Path(folder).is_dir():
        return None
    try:
        content = read_json_object(folder, ORIGIN) or {}
        name, commit = content.get("name"), content.get("commit")
        if not isinstance(name, str) or not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            return None
        validate_repo_id(name)
    except (OSError, ValueError, HFValidationError):  # not a file of ours
        return None
    return name, commit


def note_folder(folder: str | os.PathLike) -> None:
    """Remember where the backbone of a folder is, if it came from the Hub."""
    origin = read_origin(folder)
    if origin is None or known_folder(*origin) == (path := str(Path(folder).resolve())):
        return
    keep(kept_file("folders", *origin), {"folder": path})


def known_folder(name: str, commit: str | None) -> str | None:
    """Return the folder in which a backbone of the Hub was used here; None if there is none that still holds it."""
    if commit is None:
        return None
    try:
        folder = json.loads(kept_file("folders", name, commit).read_text("utf-8"))["folder"]
    except (OSError, ValueError, TypeError, LookupError):  # there is none, or it is damaged
        return None
    return folder if isinstance(folder, str) and read_origin(folder) == (name, commit) else None
