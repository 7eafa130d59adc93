"""Load a saved model, or a backbone by itself, on the available device."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ..models.adapter_methods import prefix_length
from ..models.backbones import locate, model_classes, read_config_file
from ..models.modeling import SecondaryStructureModel
from ..models.tokenization import ResidueTokenizer
from ..models.wording import counted
from .cpu_kernels import prepack, quantise
from .packing import can_be_packed
from .predictor import MAX_TOKENS, Predictor, model_digest

PRECISIONS = ("fp32", "bf16", "int8")
# T5 in transformers 4.57 stores the attention scores of all pairs of residues: 0.5 GB for 32 heads at this length
# [residues]. Packed rows on a CPU do not, unless a prefix has no bias; GPU kernels store the bias of all pairs, if not
# the scores.
MAX_QUADRATIC_RESIDUES = 2048
GPU_MAX_TOKENS = 1 << 14  # not measured


def default_device() -> torch.device:
    """Return this process's GPU if there is one, otherwise the CPU.

    Raises:
        ValueError: if there are fewer GPUs than processes on this machine.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, num_gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= num_gpus:
        raise ValueError(
            f"this is process {number + 1} of its machine, but it sees {counted(num_gpus, 'GPU')}. Start no more "
            "processes than GPUs."
        )
    return torch.device("cuda", number)


def load_predictor(
    name: str,
    backbone: str | None = None,
    precision: str | None = None,
    max_tokens: int | None = None,
    device: torch.device | None = None,
) -> Predictor:
    """Load a model for prediction.

    Args:
        name: Hub id or folder of a saved model, or `bundled`.
        backbone: Hub id or folder of the backbone; by default the one named in the model's configuration.
        precision: `fp32`, `bf16` or `int8`; by default fp32 on a CPU and bf16 on a GPU.
        max_tokens: per row or batch [tokens]; by default 2048 on a CPU and 16384 on a GPU.
        device: by default `default_device()`.

    Raises:
        ValueError: if the model cannot be loaded, or the device cannot run it at this precision.

    Example:
        >>> predictor = load_predictor("bundled")
        >>> ((_, probabilities),) = predictor.predict(["MKTAYIAKQRQISFVK"])
        >>> probabilities.shape  # (residues, states)
        (16, 9)
    """
    path = locate(name, "predictor")
    load = partial(SecondaryStructureModel.from_pretrained, path, backbone=backbone)
    tokenizer = partial(ResidueTokenizer.from_pretrained, path, backbone=backbone)
    return _make_predictor(load, tokenizer, precision, max_tokens, device)


def load_for_hidden_states(name: str, backbone: str | None = None, **options: Any) -> Predictor:
    """Load a saved model, or a backbone by itself, to compute hidden states.

    Args:
        name: Hub id or folder of a saved model or of a backbone; `bundled` is the bundled model, not its
            backbone.
        backbone: Hub id or folder of a saved model's backbone; by default the one named in its configuration.
        options: precision, max_tokens and device, as for `load_predictor`.

    Returns:
        A predictor; over a backbone by itself it has no head, and can compute hidden states only.

    Raises:
        ValueError: as for `load_predictor`, or if `backbone` is given for a backbone.
    """
    path = locate(name, "predictor")
    if read_config_file(path)["model_type"] not in model_classes():
        return load_predictor(path, backbone, **options)
    if backbone is not None:
        raise ValueError(f"--backbone names the backbone of a tuned model, but {name} is itself one. Leave it out.")
    load, tokenizer = partial(_without_head, path), partial(ResidueTokenizer.from_pretrained, path)
    return _make_predictor(load, tokenizer, **options)


def _without_head(path: str, dtype: torch.dtype | None) -> Any:
    """Load a backbone without a head: a head would be random, and so would the digest."""
    model = SecondaryStructureModel.from_backbone(path, adapter=None, head="linear", dtype=dtype)
    model.head = torch.nn.Identity()
    return model


def _make_predictor(
    load_model: Callable[..., Any],
    load_tokenizer: Callable[[], Any],
    precision: str | None = None,
    max_tokens: int | None = None,
    device: torch.device | None = None,
) -> Predictor:
    """Load a model and its tokenizer, with the matrices of its blocks laid out for the device."""
    device = device or default_device()
    precision = precision or default_precision(device)
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}. Choose from: {', '.join(sorted(PRECISIONS))}.")
    model = load_model(dtype=torch.bfloat16 if precision == "bf16" else None).to(device)
    if holds_all_pairs(model) and model.config.max_residues is None:
        model.config.max_residues = MAX_QUADRATIC_RESIDUES
        model.config.check()
    digest = None
    if device.type == "cpu" and precision != "bf16":
        digest = model_digest(model)  # taken now: prepacked matrices are no longer parameters of the model
    if precision == "int8":
        quantise(model)
    elif precision == "fp32":
        prepack(model)
    if max_tokens is None:
        max_tokens = MAX_TOKENS if device.type == "cpu" else GPU_MAX_TOKENS
    return Predictor(model, load_tokenizer(), max_tokens, precision, digest)


def holds_all_pairs(model: Any) -> bool:
    """Return True if memory grows with the square of a chain's length."""
    if not model.family.has_quadratic_attention:
        return False
    config = model.config
    has_prefix = prefix_length(config.adapter, config.adapter_options) > 0
    copies_bias = has_prefix and not config.prefix_shift  # see T5Row.bias
    return copies_bias or not (can_be_packed(model) and model.device.type == "cpu")


def default_precision(device: torch.device) -> str:
    """Return bf16 for a GPU, fp32 for a CPU, on which bf16 is slower."""
    return "fp32" if device.type == "cpu" else "bf16"
