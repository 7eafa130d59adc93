"""Check files that other people wrote before they are used: they must not run code, read other files or fill memory.

`config.json` and the weights are checked here, the tokenizer's files in `tokenizer_files`. Weights are read as
safetensors only.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from safetensors import safe_open
from transformers import PretrainedConfig
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    cached_file,
    is_peft_available,
)
from transformers.utils.hub import extract_commit_hash

# Options of a download, of all our `from_pretrained`.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "subfolder", "token")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# Would make transformers fetch kernels (code), read a file by its path, or put other layers in.
STEERING = (
    "_attn_implementation",
    "_attn_implementation_internal",
    "_experts_implementation",
    "_experts_implementation_internal",
    "attn_implementation",
    "experts_implementation",
    "transformers_weights",
)
# What transformers and adapters raise for values that they do not check; the last from transformers 5 on.
BUILD_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError),
    StrictDataclassError,
)
REFUSED = ("quantization_config",)
# Far above any real encoder, and low enough to refuse impossible sizes before memory is allocated.
LARGEST = {
    **dict.fromkeys(("hidden_size", "d_model", "vocab_size"), 1 << 20),
    **dict.fromkeys(("intermediate_size", "d_ff", "embedding_size"), 1 << 18),
    **dict.fromkeys(("num_hidden_layers", "num_layers"), 1 << 10),
    **{"head_channels": 1 << 13, "head_depth": 1 << 6},  # LIFT_SS: 1024 and 2
    **dict.fromkeys(("num_attention_heads", "num_heads", "d_kv", "head_dim"), 1 << 14),
    **dict.fromkeys(("prefix_length", "r", "phm_dim"), 1 << 14),
    **dict.fromkeys(("max_position_embeddings", "relative_attention_num_buckets", "max_residues"), 1 << 26),
}
MOST_PARAMETERS = 2e11  # the largest public encoder of proteins has 1.5e10
FREE_PARAMETERS = 1e8  # always allowed: 400 MB
SIZES = (  # of backbones, at least 1
    *("hidden_size", "d_model", "vocab_size", "intermediate_size", "d_ff", "d_kv", "num_hidden_layers", "num_layers"),
    *("num_attention_heads", "num_heads", "max_position_embeddings", "relative_attention_num_buckets"),
)
RANGES = {  # of backbones
    **dict.fromkeys(("layer_norm_eps", "layer_norm_epsilon"), (1e-20, 1.0)),
    **dict.fromkeys(("attention_probs_dropout_prob", "hidden_dropout_prob", "dropout_rate"), (0.0, 1.0)),
    **dict.fromkeys(("initializer_range", "initializer_factor"), (0.0, 1e3)),
}
WHOLE_OR_NULL = ("bos_token_id", "eos_token_id", "mask_token_id", "pad_token_id", "sep_token_id")
LARGEST_INTEGER = (1 << 63) - 1
MOST_NESTED = 32  # levels of a JSON file
MOST_BYTES = 1 << 26  # of a JSON file
MOST_SHARDS = 1000  # files of weights
FLOATS = ("BF16", "F16", "F32", "F64")  # types of weights, as safetensors calls them
INTEGERS = ("position_ids", "token_type_ids")  # endings of the buffers of transformers that are integers


# ---- JSON --------------------------------------------------------------------------------------------------------


def read_json_object(
    name: str | os.PathLike, file: str, must_exist: bool = False, **hub_options: Any
) -> dict[str, Any] | None:
    """Read a JSON file of a folder or a Hub repository; None if there is no such file.

    Args:
        name: Hub id or folder.
        file: its name there.
        must_exist: raise OSError, with transformers' reason, instead of returning None.
        hub_options: revision, cache_dir, token, ...; and those of `cached_file` of transformers.

    Raises:
        OSError: if there is no such folder or repository.
        ValueError: if the file is too large, is not a JSON object, or is nested too deeply.
    """
    where = f"the {file} of {str(name)!r}"
    path = cached_file(os.fspath(name), file, _raise_exceptions_for_missing_entries=must_exist, **hub_options)
    if path is None:
        return None
    if Path(path).stat().st_size > MOST_BYTES:
        raise ValueError(f"{where} has more than {MOST_BYTES:,} bytes. Download or write it again.")
    too_deep = f"{where} is nested more than {MOST_NESTED} levels deep. Download or write it again."
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except RecursionError:
        raise ValueError(too_deep) from None
    except ValueError as error:
        raise ValueError(f"{where} is not a valid JSON file: {error}. Download or write it again.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{where} is not a JSON object. Download or write it again.")
    level: list[Any] = [content]
    for _ in range(MOST_NESTED):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            break
    else:
        raise ValueError(too_deep)
    content["_commit_hash"] = extract_commit_hash(path, None)
    return content


def _children(value: Any) -> list[Any]:
    """Return the lists and tables directly in a list or table."""
    values = value.values() if isinstance(value, dict) else value
    return [child for child in values if isinstance(child, (dict, list))]


def in_one_line(error: BaseException) -> str:
    """Return a library's error message, cut to one line."""
    if isinstance(error, HFValidationError) or str(error).startswith("Repo id must be"):
        return "no such folder, and not a Hub id either."
    if isinstance(error, KeyError):
        return f"no {error}"
    if isinstance(error.__cause__, GatedRepoError):
        return "the repository is gated. Accept its terms on its page, and log in with `hf auth login`."
    if isinstance(error.__cause__, RepositoryNotFoundError):
        return "no such folder, and no such repository on the Hub. If it is private, log in with `hf auth login`."
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


# ---- config.json -------------------------------------------------------------------------------------------------


def check_config_content(content: Mapping[str, Any], where: str) -> None:
    """Check a `config.json`, with the configurations in it.

    Args:
        content: as read.
        where: the model, for error messages.

    Raises:
        ValueError: if a value would run code, read other files or fill memory; the message names the value.
    """
    for name, value in _entries(content):
        found = f"the config.json of {where} has {name} {shortened(value)}"
        if name in STEERING and value not in (None, "eager", "sdpa"):
            raise ValueError(f"{found}, which could load code or files from elsewhere. Remove it.")
        if name in REFUSED and value:
            raise ValueError(f"{found}: quantised weights. Use the unquantised checkpoint.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{found}. Expected a finite number.")
        largest = LARGEST.get(name, LARGEST_INTEGER)
        if isinstance(value, (int, float)) and (name in LARGEST or isinstance(value, int)) and abs(value) > largest:
            raise ValueError(f"{found}. Expected at most {largest:,}.")
    parts = [content]
    if "backbone_config" in content:
        if not isinstance(content["backbone_config"], Mapping):
            raise ValueError(
                f"the config.json of {where} has backbone_config {shortened(content['backbone_config'])}. "
                "Expected the backbone's configuration."
            )
        parts.append(content["backbone_config"])
    for part in parts:
        if num_parameters(part) > MOST_PARAMETERS:
            raise ValueError(
                f"the config.json of {where} describes {num_parameters(part):.0e} parameters. "
                f"Expected at most {MOST_PARAMETERS:.0e}."
            )


def check_config_values(content: Mapping[str, Any], config_class: type[PretrainedConfig], where: str) -> None:
    """Check types and ranges of the values of a configuration of transformers.

    A value must have the type of the class's default, or be null.

    Args:
        content: as read.
        config_class: of transformers.
        where: the model, for error messages.

    Raises:
        ValueError: if a value has another type, or cannot be the backbone's.
    """
    defaults = config_class().to_dict()
    for name, value in content.items():
        expected = None
        if name in SIZES and not (_is_kind(value, 1) and value >= 1):
            expected = "a whole number of at least 1"
        elif name in RANGES and not (_is_kind(value, 1.0) and RANGES[name][0] <= value <= RANGES[name][1]):
            expected = "a number from {:g} to {:g}".format(*RANGES[name])
        elif value is not None and name in WHOLE_OR_NULL and not (_is_kind(value, 1) and value >= 0):
            expected = "a whole number of at least 0, or null"
        elif value is not None and not _is_kind(value, defaults.get(name)):
            expected = f"a value like {shortened(defaults[name])}"
        if expected:
            raise ValueError(f"the config.json of {where} has {name} {shortened(value)}. Expected {expected}.")


def _is_kind(value: Any, example: Any) -> bool:
    """Return True if a value of a JSON file has the type of an example; None stands for any type."""
    if example is None:
        return True
    if isinstance(example, (bool, str)):
        return isinstance(value, type(example))
    if isinstance(example, (int, float)):
        kinds = (int,) if isinstance(example, int) else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, Mapping if isinstance(example, Mapping) else (list, tuple))


def shortened(value: Any) -> str:
    """Return a value for an error message, in one line of at most about 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more than 4300 digits
        return "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _entries(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield all names and values, those in nested tables and lists too."""
    for name, value in content.items():
        yield name, value
        if isinstance(value, Mapping):
            yield from _entries(value)
        elif isinstance(value, (list, tuple)):
            yield from _entries({f"{name}[{number}]": item for number, item in enumerate(value)})


def num_parameters(config: Mapping[str, Any]) -> float:
    """Estimate the parameters of an encoder from its configuration."""

    def number(*names: str) -> float:
        """Return the largest: a configuration may hold names of another family's, which count for nothing."""
        return float(max((config[name] for name in names if isinstance(config.get(name), (int, float))), default=0))

    width, wide = number("hidden_size", "d_model"), number("intermediate_size", "d_ff")
    inner = max(width, number("num_heads", "num_attention_heads") * number("d_kv"))
    blocks = number("num_hidden_layers", "num_layers")
    buckets = number("relative_attention_num_buckets") * number("num_heads", "num_attention_heads")
    per_block = width * (4 * inner + 2 * wide)
    return blocks * per_block + width * (number("vocab_size") + number("max_position_embeddings")) + buckets


@contextlib.contextmanager
def building(where: str | os.PathLike) -> Iterator[None]:
    """Report in one line what goes wrong while a configuration that was read becomes a model.

    Configurations and modules of transformers and adapters do not check their values, and fail anywhere.

    Raises:
        ValueError: instead of their errors.
    """
    try:
        yield
    except ValueError as error:
        if len(str(error).splitlines()) > 1:
            raise ValueError(f"{in_one_line(error)} (in the configuration of {where})") from error
        raise
    except BUILD_ERRORS as error:
        raise ValueError(
            f"the configuration of {where} does not describe a model that can be built: {in_one_line(error)}. "
            "Download or write it again."
        ) from error


# ---- weights -----------------------------------------------------------------------------------------------------


class Checkpoint(NamedTuple):
    """What `check_checkpoint` has found.

    Attributes:
        commit: of the repository on the Hub; None for a folder.
        has_weights: there are safetensors, or it could not be found out.
        files: paths of the safetensors, if all of them are there.
    """

    commit: str | None
    has_weights: bool
    files: tuple[str, ...] = ()


def check_checkpoint(name: str | os.PathLike, config_class: type[PretrainedConfig], **hub_options: Any) -> Checkpoint:
    """Check the configuration of a checkpoint, the index of its weights if there is one, their types and number.

    Args:
        name: Hub id or folder.
        config_class: of transformers, whose defaults hold for what the configuration leaves out.
        hub_options: revision, cache_dir, token, ...

    Raises:
        OSError: if there is no such folder or repository, or a repository without configuration.
        ValueError: if `check_config_content` or `check_config_values` refuses the configuration, it describes a far
            larger model than the weights are, an index names files other than those beside it, or weights have a type
            that none can have.
    """
    is_folder = Path(name).is_dir()
    content = read_json_object(name, CONFIG_NAME, must_exist=not is_folder, **hub_options)
    if content is None:
        if not is_folder:
            raise OSError(f"it has no {CONFIG_NAME}.")
        return Checkpoint(None, True)  # the loader of the weights reports the error
    where = repr(str(name))
    check_config_content(content, where)
    check_config_values(content, config_class, where)
    commit = content["_commit_hash"]
    hub_options = {**hub_options, "revision": commit or hub_options.get("revision"), "force_download": False}
    try:
        # transformers follows it, if PEFT is installed, to the weights of another checkpoint
        adapter = read_json_object(name, ADAPTER_CONFIG_NAME, **hub_options) if is_peft_available() else None
        hub_options["_raise_exceptions_for_connection_errors"] = False
        index = read_json_object(name, SAFE_WEIGHTS_INDEX_NAME, **hub_options)
        shards = [] if index is None else check_index(index, f"the {SAFE_WEIGHTS_INDEX_NAME} of {str(name)!r}")
        hub_options["_raise_exceptions_for_missing_entries"] = False
        weights = cached_file(os.fspath(name), SAFE_WEIGHTS_NAME, **hub_options)
        found = [weights] if weights else [cached_file(os.fspath(name), shard, **hub_options) for shard in shards]
    except (OSError, HFValidationError):
        return Checkpoint(commit, True)  # the loader of the weights reports the error
    if adapter is not None:
        raise ValueError(f"{where} has an {ADAPTER_CONFIG_NAME}: it is a PEFT adapter. Merge it into its model first.")
    files = tuple(file for file in found if file is not None)
    if len(files) < len(found):
        return Checkpoint(commit, True)  # as above
    if files:
        with building(where):
            described = num_parameters(config_class.from_dict(content).to_dict())
        shapes: list[list[int]] = [shape for file in files for shape in read_shapes(file, name).values()]
        check_size(described, sum(map(math.prod, shapes)), name)
    return Checkpoint(commit, bool(files), files)


def check_index(index: Mapping[str, Any], where: str, suffix: str = ".safetensors") -> list[str]:
    """Return the names of the files that an index of weights names, sorted.

    Args:
        index: as read.
        where: the index, for error messages.
        suffix: of the files.

    Raises:
        ValueError: if it is not an index of weights, or a file is not beside it.
    """
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, Mapping) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ValueError(f"{where} is damaged: not an index of weights. Download its files again.")
    files = sorted(set(weight_map.values()))
    if len(files) > MOST_SHARDS:
        raise ValueError(f"{where} names {len(files):,} files. Expected at most {MOST_SHARDS:,}.")
    for file in files:
        if Path(file).name != file or not file.endswith(suffix):
            raise ValueError(f"{where} names {shortened(file)}. Expected {suffix.removeprefix('.')} files beside it.")
    return files


def read_shapes(path: str | os.PathLike, name: object) -> dict[str, list[int]]:
    """Return the shapes of the weights in a safetensors file, from its header.

    Args:
        path: the file.
        name: of the model, for error messages.

    Raises:
        SafetensorError: if the header is damaged, or the file is cut.
        ValueError: if the type of a weight is not a floating-point number of 16 bits or more.
    """
    with safe_open(path, "pt") as file:
        slices = {key: file.get_slice(key) for key in [*file.keys()]}
    for key, part in slices.items():
        _check_type(key, part.get_dtype(), name)
    return {key: part.get_shape() for key, part in slices.items()}


def _check_type(key: str, dtype: str, name: object) -> None:
    is_index = dtype[0] in "IU" and key.endswith(INTEGERS)
    if dtype not in FLOATS and not is_index:
        raise ValueError(
            f"the weights of {name} have a wrong type: {key} is {shortened(dtype)}. Expected floating-point numbers: "
            f"{', '.join(FLOATS)}. Use another checkpoint."
        )


def check_size(described: float, found: float, name: object) -> None:
    """Raise ValueError if a configuration describes far more parameters than there are weights."""
    if described > 4 * found + FREE_PARAMETERS:  # estimates are rough
        raise ValueError(
            f"the config.json of {name} describes {described:.1e} parameters, but its weights have {found:.1e}. "
            "Download both again."
        )


def check_weights(weights: Mapping[str, torch.Tensor], name: object) -> None:
    """Raise ValueError unless all weights are finite numbers; `read_shapes` has checked their types."""
    for key, tensor in weights.items():
        if tensor.is_floating_point() and tensor.numel():
            lowest, highest = tensor.detach().aminmax()  # NaN if one is NaN; no copy
            if not (torch.isfinite(lowest) and torch.isfinite(highest)):
                raise ValueError(
                    f"the weights of {name} are damaged: {key} has values that are not finite numbers (NaN or "
                    "infinity). Use another checkpoint."
                )


def check_finite(values: np.ndarray, what: str = "probabilities") -> np.ndarray:
    """Return what a model computed for a chain, (residues, size), as it is.

    Args:
        values: to check.
        what: their name in the message, in the plural.

    Raises:
        ValueError: if one is not a finite number.
    """
    wrong = ~np.isfinite(values).all(axis=-1)
    if wrong.any():
        raise ValueError(
            f"the model's {what} are NaN for {np.count_nonzero(wrong)} of the {len(wrong)} residues of a chain, "
            f"the first at position {np.argmax(wrong) + 1}. Its weights are damaged, or its precision is too low: use "
            "another checkpoint, or fp32."
        )
    return values


def pickle_hint(name: str | os.PathLike) -> str:
    """Return what to do about a folder without safetensors; names the pickle in it, if there is one."""
    folder = Path(name)
    found = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES) if folder.is_dir() else []
    seen = f"It holds {found[0]}. A pickle can run any code when it is read, so it is not read. " if found else ""
    return (
        f"{seen}Weights are read as safetensors only; convert others once, where you trust them: load them with "
        "transformers and save_pretrained."
    )
