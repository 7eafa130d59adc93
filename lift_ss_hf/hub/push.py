"""Push models and Spaces to the Hub: staged on disk first (models are checked there), then pushed in one commit."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.constants import REPOCARD_NAME
from huggingface_hub.errors import HFValidationError
from transformers import TrainingArguments

from ..metrics import Q8_SOV
from ..models.artefact import is_of_this_package
from ..models.backbones import BUNDLED, portable_name
from ..models.modeling import SecondaryStructureModel
from ..models.tokenization import ResidueTokenizer
from ..models.wording import counted
from ..reports.model_card import ABSOLUTE_PATH, hub_id
from ..reports.provenance import TOKEN, TRAINING_CHAINS

PACKAGE = Path(__file__).parents[1]
PUSHED_SUFFIXES = {".json", ".safetensors", ".py", ".md", ".txt", ".model"}
UNNAMED = "ORG/NAME"  # stands for the repository in the template of a model's card
ROOTS = {"home", "root", "tmp", "mnt", "data", "Users", "scratch", "var", "opt"}  # top folders of users' files


def push_model(folder: str | Path, repo: str, private: bool = False, revision: str | None = None) -> str:
    """Push a saved model with its code, tokenizer and card in one commit.

    Args:
        folder: written by `save_pretrained` or a training run.
        repo: `ORG/NAME`, created if missing.
        private: visibility of a repository that is created.
        revision: branch to push to, created if missing; None for the main branch.

    Returns:
        The commit's URL.

    Raises:
        ValueError: if the folder does not hold a model, or holds something that must not leave this machine.
        OSError: from the Hub's client: no token, no permission, no connection.
    """
    with tempfile.TemporaryDirectory() as staging:
        stage_model(Path(folder), Path(staging))
        repo = make_repository(repo, private=private)
        _name_in_card(Path(staging), UNNAMED, repo)
        api = HfApi()
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        return str(
            api.upload_folder(repo_id=repo, folder_path=staging, revision=revision, commit_message="Push the model")
        )


def plan_push(folder: str | Path) -> str:
    """Return what `push_model` would push, a line for each file with its size; nothing is sent.

    Args:
        folder: as for `push_model`.

    Raises:
        ValueError: as `push_model`, except for the name of the repository.
    """
    with tempfile.TemporaryDirectory() as staging:
        stage_model(Path(folder), Path(staging))
        files = sorted(path for path in Path(staging).rglob("*") if path.is_file())
        sizes = {path.relative_to(staging).as_posix(): path.stat().st_size for path in files}
    lines = [f"{size:>14,} bytes  {name}" for name, size in sizes.items()]
    return "\n".join([*lines, f"{sum(sizes.values()):>14,} bytes in {counted(len(sizes), 'file')}"])


def push_metric(repo: str) -> str:
    """Push the metric as a Space, which `evaluate.load` reads without this package.

    Args:
        repo: `ORG/NAME`, created if missing.

    Returns:
        The commit's URL.

    Raises:
        ValueError: if the name is invalid.
        OSError: from the Hub's client: no token, no permission, no connection.
    """
    return push_space(repo, Q8_SOV, unnamed=f"{PACKAGE.name}/{Q8_SOV.relative_to(PACKAGE).as_posix()}")


def push_space(
    repo: str, folder: Path, with_package: bool = False, private: bool = False, unnamed: str = UNNAMED
) -> str:
    """Push a folder of this package as a Space, in one commit; links are followed.

    Args:
        repo: `ORG/NAME`, created if missing.
        folder: with the Space's README.md and app.py.
        with_package: push this package beside them, since it cannot be installed from an index.
        private: visibility of a Space that is created.
        unnamed: what stands for the repository's name in the Space's README.md.

    Returns:
        The commit's URL.

    Raises:
        ValueError: if the name is invalid.
        OSError: from the Hub's client: no token, no permission, no connection.
    """
    ignore = shutil.ignore_patterns("__pycache__")
    with tempfile.TemporaryDirectory() as staging:
        shutil.copytree(folder, staging, ignore=ignore, dirs_exist_ok=True)
        if with_package:
            shutil.copytree(PACKAGE, Path(staging) / PACKAGE.name, ignore=ignore)
        repo = make_repository(repo, private=private, repo_type="space", space_sdk="gradio")
        _name_in_card(Path(staging), unnamed, repo)
        return str(
            HfApi().upload_folder(
                repo_id=repo,
                repo_type="space",
                folder_path=staging,
                commit_message="Push the Space",
            )
        )


def make_repository(repo: str, **options: Any) -> str:
    """Create a repository if it is missing.

    Args:
        repo: `ORG/NAME`, or just `NAME` for the user's own namespace.
        options: of `HfApi.create_repo`: private, repo_type, ...

    Returns:
        `ORG/NAME`.

    Raises:
        ValueError: if the name is invalid.
        OSError: from the Hub's client.
    """
    try:
        return HfApi().create_repo(repo, exist_ok=True, **options).repo_id
    except HFValidationError as error:
        raise ValueError(f"{repo!r} is not a valid repository name: {error} Expected ORG/NAME.") from error


def prepare_push(training: TrainingArguments, backbone: str) -> str | None:
    """Make the repository that a run will be pushed to, before training.

    The token goes to the environment. The Trainer itself must not push: it would push an incomplete run at every save.

    Args:
        training: its push_to_hub, hub_model_id, hub_token and hub_private_repo.
        backbone: Hub id or folder of the model's backbone.

    Returns:
        The repository for `push_model` once the run is complete; None if nothing is pushed.

    Raises:
        ValueError: if the backbone is a folder, which nobody else has, or the repository's name is invalid.
        OSError: if the Hub's client fails: no token, no permission, no connection.
    """
    if training.hub_token:
        os.environ["HF_TOKEN"] = training.hub_token
    if not training.push_to_hub:
        return None
    _check_backbone({"backbone_name": portable_name(backbone)[0]})
    name = training.hub_model_id or Path(str(training.output_dir)).name
    return make_repository(name, private=bool(training.hub_private_repo)) if training.process_index == 0 else name


def stage_model(folder: Path, staging: Path) -> None:
    """Write everything that will be pushed to `staging`, and check it.

    Raises:
        ValueError: as `push_model`.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: no config.json. Expected the folder of a saved model: RUN/model.")
    model = SecondaryStructureModel.from_pretrained(folder)
    with_code = is_of_this_package(model)  # others import the module of a family from elsewhere
    model.save_pretrained(staging, include_code=with_code)
    ResidueTokenizer.from_pretrained(folder).save_pretrained(staging, include_code=with_code)
    for name in (REPOCARD_NAME, TRAINING_CHAINS):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, staging / name)
    check_staged(staging)


def check_staged(staging: Path) -> None:
    """Raise ValueError for anything that must not be pushed: pickles, tokens, absolute paths, an invalid card."""
    for path in sorted(staging.rglob("*")):
        if path.is_file() and path.suffix not in PUSHED_SUFFIXES:
            raise ValueError(f"{path.name}: files of this type are not pushed (only safetensors, JSON, text, code).")
        if path.suffix not in (".json", ".md"):
            continue
        text = path.read_text("utf-8")
        if TOKEN.search(text):
            raise ValueError(f"{path.name}: contains an access token. Remove it, and revoke the token.")
        if found := _absolute_path(text):
            raise ValueError(
                f"{path.name}: contains {found!r}, an absolute path of this machine. A backbone must be a Hub id, or "
                "travel with the model (save_pretrained(..., include_backbone=True))."
            )
    _check_backbone(json.loads((staging / "config.json").read_text("utf-8")))
    if (staging / REPOCARD_NAME).is_file():
        ModelCard.load(staging / REPOCARD_NAME)


def _name_in_card(staging: Path, unnamed: str, repo: str) -> None:
    """Put a repository's name where a staged card leaves it open, so that its examples run."""
    card = staging / REPOCARD_NAME
    if card.is_file():
        card.write_text(card.read_text("utf-8").replace(unnamed, repo), "utf-8")


def _check_backbone(config: Mapping[str, Any]) -> None:
    """Raise ValueError unless others can download the backbone."""
    name = config.get("backbone_name")
    if config.get("includes_backbone") or name == BUNDLED:
        return
    if hub_id(name) is None or (Path(str(name)).is_dir() and not HfApi().repo_exists(str(name))):
        raise ValueError(
            f"config.json: the backbone {name!r} is a local folder, which nobody else has. Train on a Hub id, or save "
            "with include_backbone=True."
        )


def _absolute_path(text: str) -> str | None:
    home = str(Path.home())
    for found in ABSOLUTE_PATH.finditer(text):
        if found[0].lstrip("/").split("/")[0] in ROOTS or home in found[0]:
            return found[0]
    return None
