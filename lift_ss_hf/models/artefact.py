"""The files of a model: one folder with `config.json` and `model.safetensors`, megabytes.

The file holds what was trained: adapter, head, centroids, unfrozen blocks. The backbone's frozen weights stay where
they came from; the configuration has their name, commit and fingerprint.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, cached_file

from .atomic import replacing
from .backbones import BackboneError, PickleError, fingerprint, get_family, locate, read_config_file
from .configuration import SecondaryStructureConfig
from .safety import pickle_hint

# What `pipeline(model=..., trust_remote_code=True)` runs.
CUSTOM_PIPELINES = {
    "protein-secondary-structure": {
        "impl": "pipeline.SecondaryStructurePipeline",
        "pt": ["AutoModelForTokenClassification"],
        "tf": [],
    }
}
CODE_FOR_AUTO_CLASSES = {"AutoConfig": "configuration", "AutoModelForTokenClassification": "modeling"}


def write_artefact(folder: Path, config: SecondaryStructureConfig, weights: Mapping[str, torch.Tensor]) -> None:
    """Write weights and configuration, each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    on_disk = {name: tensor.detach().to("cpu").contiguous() for name, tensor in weights.items()}
    with replacing(folder / SAFE_WEIGHTS_NAME) as temporary:
        save_file(on_disk, temporary, metadata={"format": "pt"})
    with replacing(folder / CONFIG_NAME) as temporary:
        # in full: defaults of a later version must not change a model
        temporary.write_text(config.to_json_string(use_diff=False), encoding="utf-8")


def copy_code(folder: Path, model: PreTrainedModel) -> dict[str, str]:
    """Copy the modules a model needs into its folder, for `trust_remote_code=True`.

    Returns:
        The `auto_map` of the configuration.
    """
    source = Path(str(sys.modules[type(model).__module__].__file__))
    paths = {source, *map(Path, get_relative_import_files(source))}
    if (pipeline := source.with_name("pipeline.py")).is_file():
        paths |= {pipeline, *map(Path, get_relative_import_files(pipeline))}
    for path in sorted(paths):
        code = path.read_text(encoding="utf-8")
        if path.stem in (*CODE_FOR_AUTO_CLASSES.values(), "pipeline"):
            # Of a local folder transformers 4.57 fetches the modules that these name, not those named in turn.
            # Drop when it does.
            indirect = {Path(name).stem for name in get_relative_import_files(path)} - {*get_relative_imports(path)}
            lines = [f"    from .{module} import *\n" for module in sorted(indirect)]
            code += "".join(["\n\nif False:  # names what transformers shall fetch\n", *lines] if lines else [])
        (folder / path.name).write_text(code, encoding="utf-8")
    classes = {"AutoConfig": type(model.config), "AutoModelForTokenClassification": type(model)}
    return {auto: f"{CODE_FOR_AUTO_CLASSES[auto]}.{kind.__name__}" for auto, kind in classes.items()}


def read_weights(name: str | os.PathLike, **hub_options: Any) -> dict[str, torch.Tensor]:
    """Read `model.safetensors` of a folder or a Hub repository.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    try:
        path = cached_file(os.fspath(name), SAFE_WEIGHTS_NAME, **hub_options)
    except (OSError, HFValidationError) as error:
        raise ValueError(
            f"there is no {SAFE_WEIGHTS_NAME} in {name}. Expected a folder or repository that save_pretrained wrote. "
            f"{pickle_hint(name)}"
        ) from error
    try:
        return load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}). Fetch or write it again.") from error


def fetch_backbone(
    config: SecondaryStructureConfig, artefact: str | os.PathLike, location: str | os.PathLike | None, **options: Any
) -> PreTrainedModel:
    """Load the backbone of an artefact, and check that it is the one.

    Args:
        config: of the artefact.
        artefact: its folder; a backbone recorded with a relative path is also looked for from there.
        location: where the backbone is, if not where the configuration says.
        options: for `BackboneFamily.load`.

    Raises:
        ValueError: if it is not there, or is not the one the model was trained on.
    """
    name, revision = (location, None) if location else (config.backbone_name, config.backbone_revision)
    if name is None:
        raise ValueError(f"the configuration in {artefact} names no backbone. Pass backbone=, a folder or Hub id.")
    name, revision = find_backbone(name, revision, artefact)
    family = get_family(config.backbone_config.model_type)
    try:
        try:
            backbone = family.load(name, revision=revision, **options)
        except PickleError:
            if revision is None or config.backbone_fingerprint is None:
                raise
            # Of a repository that has only a pickle transformers takes the Hub's converted copy, but asks for it only
            # where no commit is named. The fingerprint tells whether it is the same.
            backbone = family.load(name, **options)
    except BackboneError as error:
        raise BackboneError(f"{error} Needed by {artefact}; if it is elsewhere, pass backbone=.") from error
    check_fingerprint(backbone, config, name)
    return backbone


def find_backbone(name: str | os.PathLike, revision: str | None, artefact: str | os.PathLike) -> tuple[str, str | None]:
    """Where a backbone is that a configuration names: as it says, or beside the artefact; and its revision.

    Raises:
        ValueError: if what came from the Hub names a path: the files of this machine are none of its business.
    """
    if not Path(artefact).is_dir() and (Path(name).is_absolute() or ".." in Path(name).parts):
        raise ValueError(
            f"the configuration of {artefact} has its backbone at {str(name)!r}, a path of some machine. "
            "Pass backbone=, a Hub id or folder."
        )
    name = locate(name)
    if Path(name).is_dir():
        return os.fspath(name), None  # a revision is of the Hub
    beside = Path(artefact) / name
    return (os.fspath(beside), None) if beside.is_dir() else (os.fspath(name), revision)


def read_backbone_location(
    name: str | os.PathLike, backbone: str | os.PathLike | None = None, **hub_options: Any
) -> tuple[str, list[tuple[str, str | None]]]:
    """Where the files of a model's backbone may be; a backbone is its own.

    Args:
        name: Hub id or folder of a model or a backbone.
        backbone: where the backbone is now, if not where the model's configuration says.
        hub_options: revision, cache_dir, token, ...

    Returns:
        The backbone's model type; and places to look, each with its revision: the folder itself, the backbone.

    Raises:
        ValueError: if there is no configuration.
    """
    content = read_config_file(name, **hub_options)
    name = locate(name)
    places: list[tuple[str, str | None]] = [(os.fspath(name), hub_options.get("revision"))]
    if "backbone_config" not in content:
        return content["model_type"], places
    if backbone is not None:
        places.append((os.fspath(backbone), None))
    elif content.get("backbone_name"):
        places.append(find_backbone(content["backbone_name"], content.get("backbone_revision"), name))
    return content["backbone_config"]["model_type"], places


def check_fingerprint(backbone: PreTrainedModel, config: SecondaryStructureConfig, location: object) -> None:
    """Raise ValueError unless the backbone is the one that the configuration was written for."""
    expected = config.backbone_fingerprint
    found = fingerprint(backbone)
    if expected is not None and found != expected:
        raise ValueError(
            f"the backbone at {location} is not the one this model was trained on: its fingerprint is {found}, "
            f"expected {expected}. Pass backbone= the checkpoint {config.backbone_name!r}"
            f"{f' at revision {config.backbone_revision}' if config.backbone_revision else ''}, unchanged."
        )
