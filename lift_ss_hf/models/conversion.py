"""Write a backbone's encoder as safetensors: from its pickles, once, or from the safetensors that it has.

torch reads a pickle with a reader that accepts only tensors and tables of them (`weights_only=True`), and maps the file
instead of reading it. So a hostile pickle is refused before anything of it has run, and the memory needed is that of
one file written.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.torch_version import TorchVersion
from tqdm.auto import tqdm
from transformers import PretrainedConfig
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, cached_file

from .atomic import is_leftover, locked_file, replacing_folder
from .backbones import BackboneError, BackboneFamily, get_family, locate, read_backbone_config
from .origins import ORIGIN
from .pickles import (
    Pickles,
    computed_checksum,
    file_checksum,
    find_copy,
    find_pickles,
    readable_size,
    write_lookup,
)
from .safety import building, check_checkpoint, check_size, in_one_line, num_parameters
from .tokenizer_files import OTHER_FILES, TOKENIZER_CONFIG, TOKENIZER_FILE, tokenizer_class

logger = logging.getLogger(__name__)

TORCH = "2.10"  # earlier ones ran code of some pickles all the same: CVE-2025-32434, CVE-2026-24747
SHARD_BYTES = 500_000_000  # of one file that is written, and so of the memory needed; ProtT5's encoder in fp32: 4.8 GB
# Of the pickles, for each parameter of the encoder that is described: fp64, with a decoder and an optimizer's states.
MOST_BYTES_PER_PARAMETER = 64
FREE_BYTES = 1e8  # always allowed
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
REFUSED_CALL = re.compile(r"GLOBAL ([\w.]+)")  # in torch's message
OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}  # of norms, in checkpoints that were made from TensorFlow's


def convert_backbone(
    name: str | os.PathLike,
    revision: str | None = None,
    output: str | os.PathLike | None = None,
    **hub_options: Any,
) -> str | None:
    """Convert the weights of a backbone that has them as pickles only, unless they lie somewhere as safetensors.

    Args:
        name: Hub id or folder.
        revision: on the Hub.
        output: a new folder for the encoder, from safetensors where there are any, and the tokenizer: a backbone of its
            own. By default the weights go to the local cache, where `BackboneFamily.load` finds them under the name.
        hub_options: cache_dir, token, ...

    Returns:
        The output, or the folder with the weights, or the Hub's name and revision of a copy there; None if nothing was
        to be done: the backbone has safetensors, and no output was asked for.

    Raises:
        ValueError: if the output exists, torch is too old, there is no such backbone, or its files hold anything but
            weights, are damaged, or lack some of the encoder's.

    Example:
        >>> convert_backbone("bundled") is None
        True
    """
    _check_output(output)
    where = locate(name)
    hub_options = {**hub_options, "revision": revision}
    config = read_backbone_config(where, **hub_options)
    family = get_family(config.model_type)
    hub_options["revision"], pickles, place = _find_weights(where, config, hub_options)
    if pickles is not None and place is None:
        _check_torch()
        _check_sizes(pickles, config)
    if output is not None:
        with replacing_folder(Path(output)) as folder:
            if place is not None:
                _extract(where, place, family, config, folder, hub_options)
            elif pickles is not None:
                _convert(pickles, family, config, folder, hub_options)
            _copy_tokenizer(where, family, folder, hub_options)
        return os.fspath(output)
    if pickles is None:
        return None
    if place is None:
        return str(_convert_to_cache(pickles, family, config, hub_options))
    return place[0] if place[1] is None else f"{place[0]} at {place[1]}"


def _find_weights(
    name: str, config: PretrainedConfig, hub_options: Mapping[str, Any]
) -> tuple[str | None, Pickles | None, tuple[str, str | None] | None]:
    """Find out what there is of a backbone.

    Returns:
        Its commit; its pickles, None if it has safetensors; and where its weights are as safetensors: name or folder,
        and revision, None if nowhere.
    """
    with _fetching(name):
        commit, has_weights, _ = check_checkpoint(name, type(config), **hub_options)
        if has_weights:
            return commit, None, (name, commit)
        hub_options = {**hub_options, "revision": commit}
        pickles = find_pickles(name, commit, **hub_options)
        if pickles is None:
            raise BackboneError(f"{name!r} has no weights that can be converted. Expected pytorch_model.bin.")
        return commit, pickles, find_copy(pickles, **hub_options)


@contextlib.contextmanager
def _fetching(name: str) -> Iterator[None]:
    """Report in one line that files cannot be fetched, or are damaged."""
    try:
        yield
    except SafetensorError as error:
        raise BackboneError(f"the backbone {name!r} is damaged: {in_one_line(error)}. Download it again.") from error
    except (OSError, HFValidationError) as error:
        raise BackboneError(f"cannot fetch the backbone {name!r}: {in_one_line(error)}") from error


def _check_output(output: str | os.PathLike | None) -> None:
    if output is None or not Path(output).exists():
        return
    if not Path(output).is_dir() or any(not is_leftover(path) for path in Path(output).iterdir()):
        raise ValueError(f"{output} exists. Give a new folder.")


def _check_torch() -> None:
    if TorchVersion(torch.__version__) < TORCH:
        raise BackboneError(
            f"torch {torch.__version__} can be made to run code by a pickle (CVE-2025-32434, CVE-2026-24747), so "
            f"pickles are not converted with it. Install torch {TORCH} or later."
        )


def _check_sizes(pickles: Pickles, config: PretrainedConfig) -> None:
    """Raise ValueError if the files are far larger or smaller than the model that the configuration describes."""
    described = num_parameters(config.to_dict())
    most = MOST_BYTES_PER_PARAMETER * described + FREE_BYTES
    if pickles.num_bytes > most:
        raise BackboneError(
            f"{pickles.describe()} of {pickles.name!r} is larger than a model of {described:.1e} parameters can be "
            f"({readable_size(most)}). Download both again."
        )
    check_size(described, pickles.num_bytes / 2, repr(pickles.name))


def _convert_to_cache(
    pickles: Pickles, family: BackboneFamily, config: PretrainedConfig, hub_options: Mapping[str, Any]
) -> Path:
    """Convert pickles in the cache, and return the folder; of several processes one converts, and the others wait."""
    folder = pickles.cache_folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked_file(folder.with_name(f"{folder.name}.lock")):
        if not (folder / CONFIG_NAME).is_file():
            with replacing_folder(folder) as temporary:
                _convert(pickles, family, config, temporary, hub_options)
    write_lookup(pickles)
    return folder


def _convert(
    pickles: Pickles, family: BackboneFamily, config: PretrainedConfig, folder: Path, hub_options: Mapping[str, Any]
) -> None:
    """Write weights, configuration and origin to a folder."""
    logger.info("converting %s of %s", pickles.describe(), pickles.name)
    tensors: dict[str, torch.Tensor] = {}
    for file, expected in pickles.checksums.items():
        with _fetching(pickles.name):
            path = Path(str(cached_file(pickles.name, file, **hub_options)))
        found = computed_checksum(path)
        if found != expected:
            raise BackboneError(
                f"{file} of {pickles.name!r} is damaged: its SHA-256 is {found}, expected {expected}. Remove {path}, "
                "and download it again."
            )
        tensors |= read_pickle(path, f"{file} of {pickles.name!r}")
    origin = {"name": pickles.name, "commit": pickles.commit, "sha256": dict(pickles.checksums)}
    _write(tensors, origin, family, config, folder, hub_options)


def _extract(
    name: str,
    place: tuple[str, str | None],
    family: BackboneFamily,
    config: PretrainedConfig,
    folder: Path,
    hub_options: Mapping[str, Any],
) -> None:
    """Write the same files as `_convert`, from the safetensors at a place: name or folder, and revision."""
    with _fetching(name):
        files = check_checkpoint(place[0], type(config), **{**hub_options, "revision": place[1]}).files
        tensors = {key: tensor for file in files for key, tensor in load_file(file).items()}
    if not files:
        raise BackboneError(
            f"cannot fetch the safetensors of {name!r}: files are missing, or the Hub cannot be reached. Try again "
            "later, or use another checkpoint."
        )
    origin: dict[str, Any] = {"name": name, "commit": hub_options["revision"]}
    origin["sha256"] = {Path(file).name: file_checksum(Path(file)) for file in files}
    _write(tensors, origin, family, config, folder, hub_options)


def _write(
    tensors: Mapping[str, torch.Tensor],
    origin: Mapping[str, Any],
    family: BackboneFamily,
    config: PretrainedConfig,
    folder: Path,
    hub_options: Mapping[str, Any],
) -> None:
    """Write the encoder's weights, its configuration and where they came from."""
    name = origin["name"]
    write_shards(encoder_weights(tensors, family, config, repr(name)), folder)
    shutil.copyfile(str(cached_file(name, CONFIG_NAME, **hub_options)), folder / CONFIG_NAME)
    (folder / ORIGIN).write_text(json.dumps({**origin, "torch": torch.__version__}, indent=2) + "\n", "utf-8")
    for path in folder.iterdir():
        path.chmod((folder / ORIGIN).stat().st_mode)  # safetensors' own are private


def _copy_tokenizer(name: str, family: BackboneFamily, folder: Path, hub_options: Mapping[str, Any]) -> None:
    """Copy the tokenizer's files, as far as there are any."""
    vocabularies = {
        file for stock in family.tokenizer_classes for file in tokenizer_class(stock).vocab_files_names.values()
    }
    options = {**hub_options, "_raise_exceptions_for_missing_entries": False}
    for file in sorted({*vocabularies, *OTHER_FILES, TOKENIZER_CONFIG, TOKENIZER_FILE}):
        if (path := cached_file(name, file, **options)) is not None:
            shutil.copyfile(str(path), folder / file)


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_pickle(path: Path, where: str) -> dict[str, torch.Tensor]:
    """Return the weights in a file of torch; they are mapped, not read, and nothing of it runs.

    Files of torch 1.5 and earlier cannot be mapped: they are read whole.

    Args:
        path: the file.
        where: it, for error messages.

    Raises:
        BackboneError: if it holds anything but weights by name, or is damaged.
    """
    try:
        is_archive = zipfile.is_zipfile(path)
        if is_archive:
            with zipfile.ZipFile(path) as archive:  # torch compresses nothing; what is, could fill the memory
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise BackboneError("it has compressed parts")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of instructions that are refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:  # the unpickler raises whatever the bytes lead it to
        call = REFUSED_CALL.search(str(error))
        reason = f"it asks for {call[1]}, which is no weight" if call else "it is not a file of weights, or is cut"
        raise BackboneError(
            f"{where} cannot be converted: {reason}. Nothing of it was run. Use another checkpoint."
        ) from error
    weights = content if isinstance(content, Mapping) else {}
    if not weights or not all(isinstance(key, str) and is_plain(value) for key, value in weights.items()):
        raise BackboneError(f"{where} cannot be converted: expected a table of weights. Use another checkpoint.")
    return dict(weights)


def is_plain(value: Any) -> bool:
    """Return True for a tensor whose values are all in its file, which a view that repeats them is not."""
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    return value.is_quantized is False and value.nbytes <= value.untyped_storage().nbytes()


def encoder_weights(
    tensors: Mapping[str, torch.Tensor], family: BackboneFamily, config: PretrainedConfig, where: str
) -> dict[str, torch.Tensor]:
    """Return the weights of a family's encoder by its own names, tied ones once.

    Args:
        tensors: of the whole checkpoint, perhaps with a decoder and heads; its names may be those of a model around the
            encoder, or of TensorFlow.
        family: of the backbone.
        config: of the backbone.
        where: the checkpoint, for error messages.

    Raises:
        BackboneError: if a weight is missing, or has the wrong size or type.
    """
    with torch.device("meta"), building(where):
        encoder = family.build(config, initialise=False)
    found = {_own_name(key, f"{family.model_class.base_model_prefix}."): tensor for key, tensor in tensors.items()}
    names: dict[torch.nn.Parameter, list[str]] = {}
    for key, parameter in encoder.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(key)
    weights = {key: tensor for key, tensor in found.items() if key.endswith(family.computed)}
    missing = [first for first, *others in names.values() if not found.keys() & {first, *others}]
    if missing:
        raise BackboneError(
            f"{where} lacks {len(missing)} weights of its encoder, the first is {min(missing)}. Use a complete "
            "checkpoint of an encoder."
        )
    for parameter, keys in names.items():
        tensor = next(found[key] for key in keys if key in found)
        if tensor.shape != parameter.shape or tensor.dtype not in FLOATS:
            raise BackboneError(
                f"{keys[0]} of {where} is {tensor.dtype} of shape {tuple(tensor.shape)}. Expected floating-point "
                f"numbers of shape {tuple(parameter.shape)}, as its config.json says. Download both again."
            )
        weights[keys[0]] = tensor.detach()
    return weights


def _own_name(key: str, prefix: str) -> str:
    key = key.removeprefix(prefix)
    for old, new in OLD_NAMES.items():
        if key.endswith(f"LayerNorm{old}"):
            return key.removesuffix(old) + new
    return key


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_shards(weights: Mapping[str, torch.Tensor], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write weights as safetensors, one file after the other.

    Args:
        weights: by name.
        folder: an empty folder.
        shard_bytes: largest size of a file, unless a single weight is larger.
    """
    plan = split_torch_state_dict_into_shards(dict(weights), max_shard_size=shard_bytes)
    total = sum(tensor.nbytes for tensor in weights.values())
    with tqdm(total=total, desc="converting", unit="B", unit_scale=True, disable=None) as bar:
        for file, names in plan.filename_to_tensors.items():
            save_file(_whole(weights, names), folder / file, metadata={"format": "pt"})
            bar.update(sum(weights[name].nbytes for name in names))
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2), "utf-8")


def _whole(weights: Mapping[str, torch.Tensor], names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return weights as tensors that share no memory: safetensors refuses those that do."""
    whole = {}
    for name in names:
        tensor = weights[name]
        is_part = tensor.nbytes < tensor.untyped_storage().nbytes()
        whole[name] = tensor.clone(memory_format=torch.contiguous_format) if is_part else tensor.contiguous()
    return whole
