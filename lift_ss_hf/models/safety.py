"""What a file that somebody else wrote may not make us do: run code, read other files, fill the memory.

Checked before anything of it is used. Weights are read as safetensors only.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from transformers import PretrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# Would make transformers fetch kernels (code), read a file by its path, or put other layers in.
STEERING = ("_attn_implementation", "_attn_implementation_internal", "attn_implementation", "transformers_weights")
REFUSED = ("quantization_config",)
# Far above any real encoder, and low enough that what cannot be is told before memory is asked for.
LARGEST = {
    **dict.fromkeys(("hidden_size", "d_model", "vocab_size"), 1 << 20),
    **dict.fromkeys(("intermediate_size", "d_ff", "embedding_size"), 1 << 18),
    **dict.fromkeys(("num_hidden_layers", "num_layers"), 1 << 10),
    **{"head_channels": 1 << 13, "head_depth": 1 << 6},  # LIFT_SS: 1024 and 2
    **dict.fromkeys(("num_attention_heads", "num_heads", "d_kv", "prefix_length", "r", "phm_dim"), 1 << 14),
    **dict.fromkeys(("max_position_embeddings", "relative_attention_num_buckets", "max_residues"), 1 << 26),
}
MOST_PARAMETERS = 2e11  # the largest public encoder of proteins has 1.5e10


def check_config_content(content: Mapping[str, Any], where: str) -> None:
    """Check a `config.json`, with the configurations in it.

    Args:
        content: as read.
        where: what an error calls the model.

    Raises:
        ValueError: for what would run code, read other files or fill the memory; it says which value.
    """
    for name, value in _entries(content):
        told = f"the config.json of {where} has {name} {value!r}"
        if name in STEERING and value not in (None, "eager", "sdpa"):
            raise ValueError(f"{told}, which could load code or files from elsewhere. Take it out.")
        if name in REFUSED and value:
            raise ValueError(f"{told}: quantised weights. Use the checkpoint before quantisation.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{told}. Expected a finite number.")
        if name in LARGEST and isinstance(value, (int, float)) and value > LARGEST[name]:
            raise ValueError(f"{told}. Expected at most {LARGEST[name]:,}.")
    for part in (content, content.get("backbone_config")):
        if isinstance(part, Mapping) and _num_parameters(part) > MOST_PARAMETERS:
            raise ValueError(
                f"the config.json of {where} describes {_num_parameters(part):.0e} parameters. "
                f"Expected at most {MOST_PARAMETERS:.0e}."
            )


def _entries(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All names and values, those of nested tables too."""
    for name, value in content.items():
        yield name, value
        if isinstance(value, Mapping):
            yield from _entries(value)


def _num_parameters(config: Mapping[str, Any]) -> float:
    """Roughly the parameters of an encoder."""

    def number(*names: str) -> float:
        found = [config[name] for name in names if isinstance(config.get(name), (int, float))]
        return float(found[0]) if found else 0.0

    width, wide = number("hidden_size", "d_model"), number("intermediate_size", "d_ff")
    blocks = number("num_hidden_layers", "num_layers")
    return blocks * width * (4 * width + 2 * wide) + width * (number("vocab_size") + number("max_position_embeddings"))


def check_checkpoint(name: str | os.PathLike, **hub_options: Any) -> None:
    """Check the configuration of a checkpoint, and the index of its weights where they are in several files.

    Args:
        name: Hub id or folder.
        hub_options: revision, cache_dir, token, ...

    Raises:
        ValueError: for what `check_config_content` refuses, and an index that names other files than those beside it.
    """
    try:
        content, _ = PretrainedConfig.get_config_dict(os.fspath(name), **hub_options)
        absent_is_fine = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}
        path = cached_file(os.fspath(name), SAFE_WEIGHTS_INDEX_NAME, **absent_is_fine, **hub_options)
    except (OSError, HFValidationError):
        return  # whoever loads the weights says what is wrong with the place
    check_config_content(content, repr(str(name)))
    if path is not None:
        _check_index(path)


def _check_index(path: str) -> None:
    try:
        files = set(json.loads(Path(path).read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is damaged: no index of weights. Fetch its files again.") from None
    for file in sorted(map(str, files)):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise ValueError(f"{path} names {file!r}. Expected safetensors files beside it.")


def pickle_hint(name: str | os.PathLike) -> str:
    """What to do about a place without safetensors: names the pickle, if one is seen there."""
    folder = Path(name)
    found = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES) if folder.is_dir() else []
    seen = f"It holds {found[0]}, a pickle, which can run any code when it is read, and is not. " if found else ""
    return (
        f"{seen}Weights are read as safetensors only; convert others once, where you trust them: load them with "
        "transformers and save_pretrained."
    )
