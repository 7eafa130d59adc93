"""The files of a saved model: a folder with `config.json` and `model.safetensors`, up to about 20 MB with adapters.

The weights are those that were trained: adapter, head, centroids, unfrozen blocks. The backbone's frozen weights stay
where they came from; the configuration records their name, commit and fingerprint.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PretrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, cached_file

from .atomic import replacing
from .backbones import BackboneError, BackboneFamily, fingerprint, locate, read_config_file
from .configuration import SecondaryStructureConfig
from .origins import known_folder
from .safety import pickle_hint, read_shapes, shortened

# Run by `pipeline(model=..., trust_remote_code=True)`.
CUSTOM_PIPELINES = {
    "protein-secondary-structure": {
        "impl": "pipeline.SecondaryStructurePipeline",
        "pt": ["AutoModelForTokenClassification"],
        "tf": [],
    }
}
BESIDE_THE_MODEL = ("pipeline.py", "tokenization.py")  # also loaded by transformers, through an auto_map


def write_artefact(folder: Path, config: SecondaryStructureConfig, weights: Mapping[str, torch.Tensor]) -> None:
    """Write weights and configuration, each file atomically."""
    on_disk = {name: tensor.detach().to("cpu").contiguous() for name, tensor in weights.items()}
    with replacing(folder / SAFE_WEIGHTS_NAME) as temporary:
        save_file(on_disk, temporary, metadata={"format": "pt"})
    with replacing(folder / CONFIG_NAME) as temporary:
        # in full: defaults of a later version must not change a model
        temporary.write_text(config.to_json_string(use_diff=False), encoding="utf-8")


def is_of_this_package(model: PreTrainedModel) -> bool:
    """Return True if the source of a model's class is part of this package, so that `copy_code` can copy it."""
    return _source(model).parent == Path(__file__).parent


def _source(model: PreTrainedModel) -> Path:
    return Path(str(sys.modules[type(model).__module__].__file__))


def copy_code(folder: Path, model: PreTrainedModel) -> dict[str, str]:
    """Copy the modules that a model needs into its folder, for `trust_remote_code=True`.

    Returns:
        The `auto_map` of the configuration.

    Raises:
        ValueError: if the model's class is not part of this package.
    """
    source = _source(model)
    if not is_of_this_package(model):
        raise ValueError(
            f"{type(model).__name__} is defined in {source.name}, outside this package, so its source cannot be "
            "copied. Save without include_code; whoever loads the model imports your module first."
        )
    entries = [source, *(path for name in BESIDE_THE_MODEL if (path := source.with_name(name)).is_file())]
    for path in sorted({*entries, *(Path(file) for entry in entries for file in get_relative_import_files(entry))}):
        code = path.read_text(encoding="utf-8")
        if path in entries:
            # From a local folder transformers 4.57 fetches the modules that an entry imports, not what those import.
            # Drop when it does.
            indirect = {Path(name).stem for name in get_relative_import_files(path)} - {*get_relative_imports(path)}
            lines = [f"    from .{module} import *\n" for module in sorted(indirect)]
            code += "".join(
                ["\n\nif False:  # lists the modules that transformers must fetch\n", *lines] if lines else []
            )
        (folder / path.name).write_text(code, encoding="utf-8")
    classes = {"AutoConfig": type(model.config), "AutoModelForTokenClassification": type(model)}
    return {auto: f"{source.stem}.{kind.__name__}" for auto, kind in classes.items()}


def read_weights(name: str | os.PathLike, **hub_options: Any) -> dict[str, torch.Tensor]:
    """Read `model.safetensors` of a folder or a Hub repository.

    Raises:
        ValueError: if there is none, it is damaged, or a weight has a type that none can have.
    """
    try:
        path = str(cached_file(os.fspath(name), SAFE_WEIGHTS_NAME, **hub_options))
    except (OSError, HFValidationError) as error:
        raise ValueError(
            f"there is no {SAFE_WEIGHTS_NAME} in {name}. Expected a folder or repository written by save_pretrained. "
            f"{pickle_hint(name)}"
        ) from error
    try:
        read_shapes(path, name)
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}). Download or write it again.") from error


def fetch_backbone(
    config: SecondaryStructureConfig,
    family: BackboneFamily,
    artefact: str | os.PathLike,
    location: str | os.PathLike | None,
    backbone_config: PretrainedConfig | None = None,
    **options: Any,
) -> PreTrainedModel:
    """Load the backbone of an artefact, and check that it is the right one.

    Args:
        config: of the artefact.
        family: of the backbone.
        artefact: its folder; a backbone recorded with a relative path is also searched from there.
        location: where the backbone is, if not where the configuration says.
        backbone_config: instead of the backbone's own.
        options: of `BackboneFamily.load`.

    Raises:
        ValueError: if the backbone is not found, or is not the one the model was trained on.
    """
    name, revision = (location, None) if location else (config.backbone_name, config.backbone_revision)
    if name is None:
        raise ValueError(f"the configuration in {artefact} names no backbone. Pass backbone=, a folder or Hub id.")
    name, revision = find_backbone(name, revision, artefact)
    options["config"] = backbone_config
    try:
        backbone = family.load(name, revision=revision, **options)
    except BackboneError as error:
        raise BackboneError(f"{error} Needed by {artefact}; if it is elsewhere, pass backbone=.") from error
    check_fingerprint(backbone, config, name)
    return backbone


def find_backbone(name: str | os.PathLike, revision: str | None, artefact: str | os.PathLike) -> tuple[str, str | None]:
    """Return where the backbone named by a configuration is, and its revision.

    That is as named, beside the artefact, or where it was used on this machine (`origins.py`).

    Raises:
        ValueError: if an artefact from the Hub names a path: it must not reach for files of this machine.
    """
    if not Path(artefact).is_dir() and (Path(name).is_absolute() or ".." in Path(name).parts):
        raise ValueError(
            f"the configuration of {artefact} has its backbone at {str(name)!r}, a path on another machine. "
            "Pass backbone=, a Hub id or folder."
        )
    name = locate(name)
    if Path(name).is_dir():
        return os.fspath(name), None  # a revision is of the Hub
    beside = Path(artefact) / name
    folder = os.fspath(beside) if beside.is_dir() else known_folder(os.fspath(name), revision)
    return (os.fspath(name), revision) if folder is None else (folder, None)


class BackboneLocation(NamedTuple):
    """Where the files of a backbone may be.

    Attributes:
        model_type: of the backbone.
        vocab_size: of the backbone, as its configuration has it.
        places: folders or Hub ids, each with its revision: the model itself, its backbone.
        is_artefact: the first place is a saved model rather than a backbone.
        config: the `config.json` of the first place.
    """

    model_type: str
    vocab_size: Any
    places: list[tuple[str, str | None]]
    is_artefact: bool
    config: Mapping[str, Any]


def read_backbone_location(
    name: str | os.PathLike, backbone: str | os.PathLike | None = None, **hub_options: Any
) -> BackboneLocation:
    """Return where the files of a model's backbone may be; for a backbone, that is its own folder.

    Args:
        name: Hub id or folder of a model or a backbone.
        backbone: where the backbone is now, if not where the model's configuration says.
        hub_options: revision, cache_dir, token, ...

    Raises:
        ValueError: if there is no configuration.
    """
    content, where = read_config_file(name, **hub_options), repr(str(name))
    name = locate(name)
    places: list[tuple[str, str | None]] = [(os.fspath(name), hub_options.get("revision"))]
    if "backbone_config" not in content:
        return BackboneLocation(content["model_type"], content.get("vocab_size"), places, False, content)
    for key in ("backbone_name", "backbone_revision", "leading_token"):
        if not isinstance(content.get(key), str | None):
            raise ValueError(f"the config.json of {where} has {key} {shortened(content[key])}. Expected a string.")
    if backbone is not None:
        places.append((os.fspath(backbone), None))
    elif content.get("backbone_name"):
        places.append(find_backbone(content["backbone_name"], content.get("backbone_revision"), name))
    model_type = content["backbone_config"].get("model_type")
    if not isinstance(model_type, str):
        raise ValueError(f"the config.json of {where} has a backbone_config without a model_type. Download it again.")
    return BackboneLocation(model_type, content["backbone_config"].get("vocab_size"), places, True, content)


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
