"""Other ways to predict, each at its best, for `prediction.py`: engines for CPUs, and other implementations of ESM-2.

All have the weights and the linear head of the stock model, one thread, and the same chains; what they predict is
compared with the stock model's states. An engine gets one chain at a time, its length free: batches of similar length,
padded, are slower with OpenVINO and ONNX Runtime alike. Each is imported where it is used, since none is required.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lift_ss_hf.corpora import load_corpus

FAIR_ESM_TOKENS = 4096  # batch size of fair-esm's own extract.py
CALIBRATION_CHAINS = 32  # of the bundled sample, to choose the scales of int8
OPENVINO_OPTIONS = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}

Way = Callable[[Sequence[str]], list[np.ndarray]]  # predicts chains; labels of each chain's residues, (residues,)


@dataclass
class Stock:
    """The model of transformers that all ways of a shape share the weights of.

    Attributes:
        backbone: the encoder.
        classifier: the linear head.
        tokenizer: has `encode_sequence` and `pad_token_id`.
        num_leading: special tokens before the residues.
    """

    backbone: Any
    classifier: nn.Linear
    tokenizer: Any
    num_leading: int

    def logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Map (batch, tokens) to (batch, tokens, states)."""
        return self.classifier(self.backbone(input_ids, attention_mask=attention_mask).last_hidden_state)

    def labels(self, logits: Any, length: int) -> np.ndarray:
        """Return the most probable labels of a chain's residues, from (tokens, states)."""
        return np.asarray(logits)[self.num_leading : self.num_leading + length].argmax(-1)

    def one_at_a_time(self, run: Callable[[np.ndarray], Any]) -> Way:
        """Return a way that gives chains, (1, tokens) int64, to what returns (1, tokens, states)."""

        def way(sequences: Sequence[str]) -> list[np.ndarray]:
            chains = (self.tokenizer.encode_sequence(sequence)[None] for sequence in sequences)
            return [self.labels(run(ids)[0], len(s)) for ids, s in zip(chains, sequences, strict=True)]

        return way


def is_installed(*modules: str) -> bool:
    """Return True if all modules can be imported."""
    return all(importlib.util.find_spec(module) for module in modules)


class OneChain(nn.Module):
    """The stock model on a chain without padding, for engines to convert."""

    def __init__(self, stock: Stock):
        super().__init__()
        self.stock, self.backbone, self.classifier = stock, stock.backbone, stock.classifier

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Map (1, tokens) int64 to (1, tokens, states)."""
        return self.stock.logits(input_ids)


def calibration_chains(stock: Stock) -> list[np.ndarray]:
    """Return tokens of chains of the bundled sample, each (1, tokens) int64."""
    sequences = load_corpus("sample", "train")["sequence"][:CALIBRATION_CHAINS]
    return [stock.tokenizer.encode_sequence(sequence)[None] for sequence in sequences]


# ---- OpenVINO --------------------------------------------------------------------------------------------------------


def openvino_model(stock: Stock) -> Any:
    """Convert the stock model."""
    import openvino

    example = torch.from_numpy(calibration_chains(stock)[0])
    inputs = [("input_ids", openvino.PartialShape([1, -1]), openvino.Type.i64)]
    return openvino.convert_model(OneChain(stock), example_input={"input_ids": example}, input=inputs)


def openvino_way(stock: Stock, model: Any, precision: str = "f32") -> Way:
    """Compile a converted model; what is not quantised is computed in fp32, unless asked for otherwise."""
    import openvino

    options = OPENVINO_OPTIONS | {"INFERENCE_PRECISION_HINT": precision}
    request = openvino.compile_model(model, "CPU", options).create_infer_request()
    return stock.one_at_a_time(lambda ids: request.infer([ids], share_inputs=True)[0])


def openvino_fp32(stock: Stock) -> Way:
    """OpenVINO, exact."""
    return openvino_way(stock, openvino_model(stock))


def openvino_bf16(stock: Stock) -> Way:
    """OpenVINO in bfloat16, its default on a processor that has it."""
    return openvino_way(stock, openvino_model(stock), "bf16")


def openvino_int8_weights(stock: Stock) -> Way:
    """OpenVINO over weights compressed to int8; it quantises activations on the fly if that is faster."""
    import nncf

    return openvino_way(stock, nncf.compress_weights(openvino_model(stock), mode=nncf.CompressWeightsMode.INT8_SYM))


def openvino_int8_static(stock: Stock) -> Way:
    """OpenVINO with weights, activations and attention in int8, whose scales nncf chose beforehand."""
    import nncf

    chains = nncf.Dataset([{"input_ids": ids} for ids in calibration_chains(stock)])
    model = nncf.quantize(
        openvino_model(stock), chains, model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION_CHAINS
    )
    return openvino_way(stock, model)


# ---- ONNX Runtime ----------------------------------------------------------------------------------------------------


def onnx_way(stock: Stock, quantise: bool) -> Way:
    """ONNX Runtime over the exported stock model."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        exact, rounded = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        torch.onnx.export(
            OneChain(stock),
            (torch.from_numpy(calibration_chains(stock)[0]),),
            exact,
            dynamo=False,  # torch.export fixes the length, through the masks of transformers
            input_names=["input_ids"],
            output_names=["logits"],
            dynamic_axes={"input_ids": {1: "tokens"}, "logits": {1: "tokens"}},
        )
        if quantise:
            quantize_dynamic(exact, rounded, weight_type=QuantType.QInt8)
        path = rounded if quantise else exact
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return stock.one_at_a_time(lambda ids: session.run(None, {"input_ids": ids})[0])


def onnx_fp32(stock: Stock) -> Way:
    """ONNX Runtime, exact."""
    return onnx_way(stock, quantise=False)


def onnx_int8(stock: Stock) -> Way:
    """ONNX Runtime with linear layers in int8; it chooses the scales of the activations as it runs."""
    return onnx_way(stock, quantise=True)


# ---- other implementations of ESM-2 ----------------------------------------------------------------------------------


def fair_esm(stock: Stock) -> Way:
    """fair-esm's extract.py: its batch converter, its batches of similar length, its own model."""
    import esm

    config = stock.backbone.config
    blocks = config.num_hidden_layers
    model = esm.ESM2(blocks, config.hidden_size, config.num_attention_heads).eval()
    weights = {fair_esm_name(name): weight for name, weight in stock.backbone.state_dict().items()}
    missing = model.load_state_dict(weights, strict=False).missing_keys
    if unset := [
        name for name in missing if not name.startswith(("lm_head", "contact_head")) and "rot_emb" not in name
    ]:
        raise RuntimeError(f"no weights for fair-esm's {', '.join(unset)}")
    convert = model.alphabet.get_batch_converter()

    def way(sequences: Sequence[str]) -> list[np.ndarray]:
        data = esm.FastaBatchedDataset([str(i) for i in range(len(sequences))], list(sequences))
        labels: dict[int, np.ndarray] = {}
        for indices in data.get_batch_indices(FAIR_ESM_TOKENS, extra_toks_per_seq=1):
            _, _, tokens = convert([data[i] for i in indices])
            logits = stock.classifier(model(tokens, repr_layers=[blocks])["representations"][blocks])
            labels |= {i: stock.labels(row, len(sequences[i])) for i, row in zip(indices, logits, strict=True)}
        return [labels[i] for i in range(len(sequences))]

    return way


def fair_esm_name(name: str) -> str:
    """Return fair-esm's name of a weight of transformers' ESM."""
    for old, new in (
        ("embeddings.word_embeddings", "embed_tokens"),
        ("encoder.emb_layer_norm_after", "emb_layer_norm_after"),
        ("encoder.layer.", "layers."),
        ("attention.self.query", "self_attn.q_proj"),
        ("attention.self.key", "self_attn.k_proj"),
        ("attention.self.value", "self_attn.v_proj"),
        ("attention.output.dense", "self_attn.out_proj"),
        ("attention.LayerNorm", "self_attn_layer_norm"),
        ("intermediate.dense", "fc1"),
        ("output.dense", "fc2"),
        ("LayerNorm", "final_layer_norm"),
    ):
        name = name.replace(old, new)
    return name


def esm_cpp_model(stock: Stock) -> Any:
    """Load the stock weights into esm-cpp; its language model head, which it always runs, is random."""
    os.environ["ESM_NUM_THREADS"] = "1"  # read when the first model is loaded
    import esm_cpp
    from safetensors.torch import save_file
    from transformers import EsmForMaskedLM

    config = stock.backbone.config
    weights = EsmForMaskedLM(config).state_dict()
    weights |= {f"esm.{name}": weight for name, weight in stock.backbone.state_dict().items()}
    half = config.hidden_size // config.num_attention_heads // 2
    for block in range(config.num_hidden_layers):  # stored in each block up to transformers 4
        name = f"esm.encoder.layer.{block}.attention.self.rotary_embeddings.inv_freq"
        weights[name] = 1 / 10000 ** (torch.arange(half) / half)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        save_file({name: weight.detach().clone() for name, weight in weights.items()}, path)
        return esm_cpp.Model.load_from_safetensors(str(path))


def esm_cpp_way(stock: Stock, model: Any) -> Way:
    """esm-cpp, one chain at a time: on one thread its packed batches are no faster, and return no hidden states."""
    weight, bias = (part.detach().numpy() for part in (stock.classifier.weight, stock.classifier.bias))

    def run(ids: np.ndarray) -> np.ndarray:
        return (model.forward_with_hidden_states(ids[0].astype(np.int32))[1][-1] @ weight.T + bias)[None]

    return stock.one_at_a_time(run)


def esm_cpp_fp32(stock: Stock) -> Way:
    """esm-cpp, exact."""
    return esm_cpp_way(stock, esm_cpp_model(stock))


def esm_cpp_int8(stock: Stock) -> Way:
    """esm-cpp with linear layers in int8, smoothed as its `quantize` program does."""
    import esm_cpp

    model, observer = esm_cpp_model(stock), esm_cpp.ActivationObserver()
    for ids in calibration_chains(stock):
        model.forward_with_observer(ids[0].astype(np.int32), np.ones(ids.shape[1], np.int32), observer)
    model.apply_smoothquant(observer.percentile(99.9), 0.5)
    model.quantize_weights()
    return esm_cpp_way(stock, model)


ENGINES: dict[str, tuple[tuple[str, ...], Callable[[Stock], Way]]] = {
    "ONNX Runtime": (("onnxruntime", "onnx"), onnx_fp32),
    "OpenVINO": (("openvino",), openvino_fp32),
    "OpenVINO, bf16": (("openvino",), openvino_bf16),
    "ONNX Runtime, dynamic int8": (("onnxruntime", "onnx"), onnx_int8),
    "OpenVINO, int8 weights": (("openvino", "nncf"), openvino_int8_weights),
    "OpenVINO, static int8": (("openvino", "nncf"), openvino_int8_static),
}
ESM_ONLY: dict[str, tuple[tuple[str, ...], Callable[[Stock], Way]]] = {
    "fair-esm, sorted": (("esm",), fair_esm),
    "esm-cpp": (("esm_cpp",), esm_cpp_fp32),
    "esm-cpp, int8": (("esm_cpp",), esm_cpp_int8),
}
