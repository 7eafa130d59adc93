"""Backbones as they lie on the real Hub, at tiny sizes: which files a repository has, and where its weights are."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hub_server import Hub
from safetensors.torch import save as save_safetensors
from tiny_models import prot_t5_tokenizer, tiny_backbone, write_spiece
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from lift_ss_hf.models.pickles import ROBOT

NAME = "org/prot_t5"
WORKING = ("both", "pickle", "pickle_shards", "renamed", "robot", "safetensors_shards", "tokenizer_json")
FAILING = {
    "gated": f"'{NAME}': the repository is gated. Accept its terms",
    "gone": f"'{NAME}': no such folder, and no such repository on the Hub",
}


def pickled(content: object) -> bytes:
    """Return what torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def prot_t5_weights(dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    """Return the weights of a tiny encoder, the embeddings under both of their names, and of a bit of a decoder."""
    weights = {key: tensor.to(dtype) for key, tensor in tiny_backbone("t5").state_dict().items()}
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"]
    return weights | {"decoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(32, 32, dtype=dtype)}


def prot_t5_files(folder: Path, has_tokenizer_json: bool = False) -> dict[str, bytes]:
    """Return the files of ProtT5's repositories, without weights."""
    folder.mkdir()
    config = {**tiny_backbone("t5").config.to_diff_dict(), "torch_dtype": "float16"}
    config.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["T5EncoderModel"], "model_type": "t5"}))
    if has_tokenizer_json:
        prot_t5_tokenizer().save_pretrained(folder)
    else:
        write_spiece(folder / "spiece.model")
        tokens = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "extra_ids": 0, **tokens}))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def shards(weights: Mapping[str, torch.Tensor], pattern: str, index: str, write: Any) -> dict[str, bytes]:
    """Return weights in two files, and their index."""
    names = sorted(weights)
    parts = [names[::2], names[1::2]]
    files = {pattern.format(number): write({name: weights[name] for name in part}) for number, part in enumerate(parts)}
    weight_map = {name: pattern.format(number) for number, part in enumerate(parts) for name in part}
    return files | {index: json.dumps({"metadata": {}, "weight_map": weight_map}).encode()}


def prot_t5_weights_once() -> dict[str, torch.Tensor]:
    """As `prot_t5_weights`, without the second name of the tied embeddings."""
    return {key: tensor for key, tensor in prot_t5_weights().items() if key != "encoder.embed_tokens.weight"}


def add_layout(hub: Hub, layout: str, folder: Path, name: str = NAME) -> str:
    """Add a backbone to a Hub; return the commit of its main branch, empty if there is none.

    Args:
        hub: the Hub.
        layout: of `WORKING` or `FAILING`.
        folder: a new folder for the files.
        name: of the repository.
    """
    files, weights = prot_t5_files(folder, layout == "tokenizer_json"), prot_t5_weights()
    a_pickle = {WEIGHTS_NAME: pickled(weights)}
    untied = prot_t5_weights_once()
    a_safe_file = {SAFE_WEIGHTS_NAME: save_safetensors(untied, {"format": "pt"})}
    if layout == "gone":
        return ""
    if layout == "gated":
        hub.gated.add(name)
    if layout == "renamed":
        hub.renamed[name] = "org/another_name"
        name = hub.renamed[name]
    if layout == "pickle_shards":
        return hub.add(name, files | shards(weights, "pytorch_model-{}.bin", WEIGHTS_INDEX_NAME, pickled))
    if layout == "safetensors_shards":
        write = lambda part: save_safetensors(part, {"format": "pt"})  # noqa: E731
        return hub.add(name, files | shards(untied, "model-{}.safetensors", SAFE_WEIGHTS_INDEX_NAME, write))
    if layout in ("pickle", "robot"):
        commit = hub.add(name, files | a_pickle)
        if layout == "robot":
            hub.offer(name, files | a_pickle | a_safe_file, ROBOT)
        return commit
    return hub.add(name, files | a_safe_file | (a_pickle if layout == "both" else {}))
