"""A saved model, made ready to predict on the device that is there."""

from __future__ import annotations

import os
from typing import Any

import torch

from ..models.backbones import locate
from ..models.modeling import SecondaryStructureModel
from ..models.tokenization import ResidueTokenizer
from .cpu_kernels import pack, quantise
from .packing import can_be_packed
from .predictor import MAX_TOKENS, Predictor, identity

PRECISIONS = ("fp32", "bf16", "int8")
# T5 of transformers 4.57 holds the scores of all pairs of residues: 0.5 GB for 32 heads at this length [residues].
# Rows on a CPU do not; the kernels of a GPU want the bias of all pairs, if not the scores.
LONGEST_T5_CHAIN = 2048
GPU_MAX_TOKENS = 1 << 14  # not measured


def default_device() -> torch.device:
    """The process's GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


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
        backbone: where its backbone is, if not where the model says.
        precision: `fp32`, `bf16` or `int8`; fp32 on a CPU and bf16 on a GPU by default.
        max_tokens: of a row or batch [tokens].
        device: to run on; the process's GPU, or else the CPU, by default.

    Raises:
        ValueError: if the model cannot be loaded, or cannot be run so.
    """
    device = device or default_device()
    precision = precision or default_precision(device)
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}. Choose one of: {', '.join(sorted(PRECISIONS))}.")
    where = locate(name, "predictor")
    dtype = torch.bfloat16 if precision == "bf16" else None
    model = SecondaryStructureModel.from_pretrained(where, backbone=backbone, dtype=dtype).to(device)
    if holds_all_pairs(model) and model.config.max_residues is None:
        model.config.max_residues = LONGEST_T5_CHAIN
        model.config.check()
    known_as = None
    if device.type == "cpu" and precision != "bf16":
        known_as = identity(model)  # the matrices that are laid out are no parameters any more
    if precision == "int8":
        quantise(model)
    elif precision == "fp32":
        pack(model)
    tokenizer = ResidueTokenizer.from_pretrained(where, backbone=backbone)
    if max_tokens is None:
        max_tokens = MAX_TOKENS if device.type == "cpu" else GPU_MAX_TOKENS
    return Predictor(model, tokenizer, max_tokens, known_as)


def holds_all_pairs(model: Any) -> bool:
    """Whether memory grows with the square of a chain's length."""
    return model.family.model_type == "t5" and not (can_be_packed(model) and model.device.type == "cpu")


def default_precision(device: torch.device) -> str:
    """fp32 on a CPU, where bf16 is slower; bf16 on a GPU."""
    return "fp32" if device.type == "cpu" else "bf16"
