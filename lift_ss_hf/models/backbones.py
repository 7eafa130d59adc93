"""The protein language models under a secondary structure model: loading, and running them block by block.

Blocks are run one by one here, and not through the forward of transformers, so that frozen blocks below the lowest
trained one cost no gradient work and can be left to a cache. A test holds both ways equal.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import adapters
import torch
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from torch import nn
from transformers import BertModel, EsmModel, PretrainedConfig, PreTrainedModel, T5EncoderModel
from transformers.integrations import deepspeed as transformers_deepspeed
from transformers.modeling_utils import no_init_weights
from transformers.models.esm.modeling_esm import RotaryEmbedding

from .esm_adapters import init_esm_adapters
from .esm_blocks import use_one_pass_gelu
from .safety import check_checkpoint, check_config_content, pickle_hint

BUNDLED = "bundled"  # name of the backbone, and of the model over it, that come with the package
ATTENTION = ("eager", "sdpa")  # others take other masks than those made here


class BackboneError(ValueError):
    """A backbone that is not there, or cannot be loaded."""


class PickleError(BackboneError):
    """A backbone without weights as safetensors."""


class BackboneFamily:
    """How one architecture is loaded and run. Has no state; the backbone is always passed in.

    Attributes:
        model_type: of the backbone's configuration.
        num_leading, num_trailing: special tokens before and after the residues of a chain.
    """

    model_type: str
    model_class: type[PreTrainedModel]
    num_leading = 1
    num_trailing = 1
    build_options: ClassVar[dict[str, Any]] = {"add_pooling_layer": False}

    def check(self, config: PretrainedConfig) -> None:
        """Raise ValueError unless the configuration is an encoder's."""
        if getattr(config, "is_decoder", False):
            raise ValueError(
                "the backbone's configuration says is_decoder: a decoder sees one side of a residue only. "
                "Use an encoder checkpoint."
            )

    def build(self, config: PretrainedConfig, initialise: bool = True) -> PreTrainedModel:
        """A backbone with random weights, or uninitialised ones that are about to be loaded."""
        self.check(config)
        if initialise:
            return self.trim(self.model_class(config, **self.build_options))
        with no_init_weights():
            return self.trim(self.model_class(config, **self.build_options))

    def load(self, name: str, dtype: torch.dtype | None = None, **options: Any) -> PreTrainedModel:
        """A backbone with the weights of a checkpoint.

        Args:
            name: Hub id or folder.
            dtype: of the weights in memory; None means fp32.
            options: for `from_pretrained` of transformers (revision, cache_dir, token, attn_implementation, ...).

        Raises:
            BackboneError: if the checkpoint is not there, is damaged, or lacks weights of the encoder.
            ValueError: for options that do not exist, and files that are not safe to read.
        """
        attention = options.get("attn_implementation")
        if attention not in (None, *ATTENTION):
            raise ValueError(f"unknown attn_implementation {attention!r}. Choose one of: {', '.join(ATTENTION)}.")
        # Through fp32 to fp16, so that the fingerprint, taken in bf16, sees weights that were rounded once.
        loading_dtype = torch.float32 if dtype in (None, torch.float16) else dtype
        fixed = {"dtype": loading_dtype, "output_loading_info": True, "use_safetensors": True, **self.build_options}
        hub = {key: value for key, value in options.items() if key != "attn_implementation" and value is not None}
        try:
            check_checkpoint(locate(name), **hub)
            with whole_weights():
                backbone, report = self.model_class.from_pretrained(locate(name), **fixed, **options)
        except (OSError, HFValidationError) as error:
            told = f"cannot fetch the backbone {str(name)!r}: {in_one_line(error)}"
            if "safetensors" in str(error):
                raise PickleError(f"{told} {pickle_hint(name)}") from error
            raise BackboneError(told) from error
        except (SafetensorError, RuntimeError, TypeError) as error:
            raise BackboneError(
                f"the backbone {str(name)!r} is damaged: {in_one_line(error)}. Fetch its files again."
            ) from error
        missing = sorted(key for key in report["missing_keys"] if not key.startswith("contact_head"))
        if missing:
            raise BackboneError(
                f"the checkpoint {name} lacks {len(missing)} weights of its encoder, the first is {missing[0]}. "
                "Use a complete checkpoint of an encoder."
            )
        restore_rotary_precision(backbone, always=True)
        return self.trim(backbone)

    def trim(self, backbone: Any) -> Any:
        """Take out, in place, what no hidden state of a residue needs: unused weights stop distributed training."""
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None
        return backbone

    def max_residues(self, config: PretrainedConfig) -> int | None:
        """Longest chain that the positions reach [residues]; None means no limit."""
        return None

    def init_adapters(self, backbone: Any) -> None:
        """Make the backbone ready for adapters, in place."""
        adapters.init(backbone)

    def embeddings(self, backbone: Any) -> nn.Module:
        """The module below the first block."""
        return backbone.embeddings

    def blocks(self, backbone: Any) -> nn.ModuleList:
        """The transformer blocks, from the bottom."""
        return backbone.encoder.layer

    def embed(self, backbone: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(batch, tokens) to (batch, tokens, hidden): what goes into the first block."""
        return backbone.embeddings(input_ids=input_ids)

    def attention_inputs(
        self, backbone: Any, attention_mask: torch.Tensor, prefix_length: int
    ) -> tuple[torch.Tensor, ...]:
        """What each block needs besides its input; computed once for all blocks.

        Args:
            backbone: the backbone.
            attention_mask: (batch, tokens) int64, 1 = keep, or (batch, tokens, tokens) where the backbone takes it.
            prefix_length: keys that an adapter puts before those of the tokens.
        """
        return (backbone.get_extended_attention_mask(attention_mask, attention_mask.shape[:2]),)

    def run_block(
        self, block: nn.Module, hidden: torch.Tensor, inputs: tuple[torch.Tensor, ...], has_prefix: bool
    ) -> torch.Tensor:
        """(batch, tokens, hidden) to (batch, tokens, hidden) through one block."""
        output = block(hidden, *inputs)
        return output[0] if isinstance(output, tuple) else output

    def block_end(self, block: Any) -> Any:
        """The module that a block ends with, if a bottleneck in it acts on the block's output alone."""
        return None

    def final_norm(self, backbone: Any) -> nn.Module | None:
        """The norm after the last block, where the architecture has one."""
        return None

    def finish(self, backbone: Any, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, hidden) after the last block to the backbone's output."""
        norm = self.final_norm(backbone)
        return hidden if norm is None else norm(hidden)


class EsmFamily(BackboneFamily):
    """ESM-1b and ESM-2: `<cls>` residues `<eos>`."""

    model_type = "esm"
    model_class = EsmModel

    def check(self, config: PretrainedConfig) -> None:
        """Raise ValueError unless the configuration is an encoder's."""
        super().check(config)
        if getattr(config, "is_folding_model", False):
            raise ValueError("the backbone is ESMFold, a folding model. Use the ESM-2 checkpoint it was built on.")

    def trim(self, backbone: Any) -> Any:
        """Take out, in place, the pooler, the contact head, and needless passes over memory."""
        if hasattr(backbone, "contact_head"):
            del backbone.contact_head
        use_one_pass_gelu(backbone)
        return super().trim(backbone)

    def max_residues(self, config: PretrainedConfig) -> int | None:
        """1022 for ESM-1b: 1026 positions less two for padding's number, `<cls>` and `<eos>`; none if rotary."""
        if config.position_embedding_type == "rotary":
            return None
        return config.max_position_embeddings - (int(config.pad_token_id or 0) + 1) - 2

    def init_adapters(self, backbone: Any) -> None:
        """Make the backbone ready for adapters, in place."""
        init_esm_adapters(backbone)

    def embed(self, backbone: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(batch, tokens) to (batch, tokens, hidden).

        The mask goes along, which EsmModel of transformers 4.57 forgets: without it padding counts as residues when
        embeddings are scaled for `<mask>` tokens. A row of padding only counts as one of residues, for by that scale
        it would become NaN, and with it the gradient of the whole batch.
        """
        attention_mask = attention_mask.where(attention_mask.any(1, keepdim=True), 1)
        return backbone.embeddings(input_ids=input_ids, attention_mask=attention_mask)

    def block_end(self, block: Any) -> Any:
        """The end of the feed-forward half."""
        return block.output

    def final_norm(self, backbone: Any) -> nn.Module | None:
        """The norm after the last block."""
        return backbone.encoder.emb_layer_norm_after


class BertFamily(BackboneFamily):
    """ProtBert: `[CLS]` residues `[SEP]`."""

    model_type = "bert"
    model_class = BertModel

    def max_residues(self, config: PretrainedConfig) -> int | None:
        """As many as there are positions, less `[CLS]` and `[SEP]`."""
        return config.max_position_embeddings - 2


class T5Family(BackboneFamily):
    """ProtT5 and Ankh encoders: residues `</s>`."""

    model_type = "t5"
    model_class = T5EncoderModel
    num_leading = 0
    build_options: ClassVar[dict[str, Any]] = {}

    def embeddings(self, backbone: Any) -> nn.Module:
        """The token embeddings."""
        return backbone.encoder.embed_tokens

    def blocks(self, backbone: Any) -> nn.ModuleList:
        """The transformer blocks, from the bottom."""
        return backbone.encoder.block

    def embed(self, backbone: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(batch, tokens) to (batch, tokens, hidden); dropout only where the embeddings are being trained."""
        embedding = backbone.encoder.embed_tokens
        hidden = embedding(input_ids)
        return backbone.encoder.dropout(hidden) if embedding.training else hidden

    def attention_inputs(
        self, backbone: Any, attention_mask: torch.Tensor, prefix_length: int
    ) -> tuple[torch.Tensor, ...]:
        """The mask, the position bias with the mask in it, and the same with room for prefix keys.

        The bias belongs to the distance between residues, so the prefix gets none. adapters 1.3.0 left to itself
        shifts the distances by the length of the prefix, and has no bias at all above a block that was left out.
        """
        mask = backbone.get_extended_attention_mask(attention_mask, attention_mask.shape[:2])
        length = attention_mask.shape[-1]
        bias = backbone.encoder.block[0].layer[0].SelfAttention.compute_bias(length, length) + mask
        return mask, bias, nn.functional.pad(bias, (prefix_length, 0)) if prefix_length else bias

    def run_block(
        self, block: nn.Module, hidden: torch.Tensor, inputs: tuple[torch.Tensor, ...], has_prefix: bool
    ) -> torch.Tensor:
        """(batch, tokens, hidden) to (batch, tokens, hidden) through one block."""
        mask, bias, prefixed_bias = inputs
        return block(hidden, mask, prefixed_bias if has_prefix else bias)[0]

    def block_end(self, block: Any) -> Any:
        """The feed-forward half."""
        return block.layer[-1]

    def final_norm(self, backbone: Any) -> nn.Module | None:
        """The norm after the last block."""
        return backbone.encoder.final_layer_norm

    def finish(self, backbone: Any, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, hidden) after the last block to the backbone's output."""
        return backbone.encoder.dropout(super().finish(backbone, hidden))


FAMILIES: dict[str, BackboneFamily] = {family.model_type: family for family in (EsmFamily(), BertFamily(), T5Family())}


def get_family(model_type: str) -> BackboneFamily:
    """The family of a backbone.

    Raises:
        ValueError: if it is none of ours.
    """
    if model_type not in FAMILIES:
        raise ValueError(
            f"a backbone of model type {model_type!r} is none that can be used here. "
            f"Choose an encoder of type: {', '.join(sorted(FAMILIES))}."
        )
    return FAMILIES[model_type]


def in_one_line(error: BaseException) -> str:
    """What an error of a library says, as far as one line goes."""
    if isinstance(error, HFValidationError):
        return "no such folder, and no Hub id either."
    lines = [line.strip() for line in str(error).strip().split("\n")]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def read_config_file(name: str | os.PathLike, **options: Any) -> dict[str, Any]:
    """The content of the `config.json` of a model or a backbone.

    Args:
        name: Hub id or folder.
        options: revision, cache_dir, token, ...

    Raises:
        ValueError: if there is none, it does not say what kind of model it is of, or it is not safe to use.
    """
    try:
        content, _ = PretrainedConfig.get_config_dict(locate(name), **options)
    except (OSError, HFValidationError) as error:
        raise ValueError(f"cannot read the configuration of {str(name)!r}: {in_one_line(error)}") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"the config.json of {str(name)!r} is no JSON object. Fetch or write it again.") from error
    if not isinstance(content.get("model_type"), str):
        inside = Path(name) / "model"  # of a run's directory
        meant = repr(str(inside)) if (inside / "config.json").is_file() else "the folder or Hub id of a model"
        raise ValueError(f"{str(name)!r} has no config.json with a model_type. Give {meant}.")
    check_config_content(content, repr(str(name)))
    return content


def read_backbone_config(name_or_path: str | os.PathLike, **options: Any) -> PretrainedConfig:
    """The configuration of a checkpoint that can be a backbone.

    Raises:
        ValueError: if there is no such checkpoint, or it is no encoder of a known family.
    """
    content = read_config_file(name_or_path, **options)
    family = get_family(content["model_type"])
    try:
        config_class: Any = family.model_class.config_class
        config = config_class.from_dict(content, _commit_hash=None)
    except TypeError as error:
        raise ValueError(f"the config.json of {str(name_or_path)!r} has a value of a wrong type: {error}.") from error
    for name in ("hidden_size", "num_hidden_layers", "vocab_size"):
        value = getattr(config, name, None)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"the config.json of {str(name_or_path)!r} has {name} {value!r}. Expected a whole number.")
    family.check(config)
    return config


@contextlib.contextmanager
def whole_weights() -> Iterator[None]:
    """Load weights whole also under DeepSpeed ZeRO-3, where transformers would split them among the processes.

    Fingerprints are of whole weights, and adapters 1.3.0 builds onto them; DeepSpeed splits them before the training.
    """
    zero3 = transformers_deepspeed._hf_deepspeed_config_weak_ref
    transformers_deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        transformers_deepspeed._hf_deepspeed_config_weak_ref = zero3


def restore_rotary_precision(backbone: nn.Module, always: bool = False) -> None:
    """Compute the frequencies of rotary positions again where half precision has rounded them.

    Rounded to bfloat16 they are wrong by 26 % of the output at 1,000 residues.

    Args:
        backbone: with rotary positions or not.
        always: also where they are fp32, for they may come from a file in half precision.
    """
    for module in backbone.modules():
        if isinstance(module, RotaryEmbedding) and (always or module.inv_freq.dtype != torch.float32):
            size = 2 * len(module.inv_freq)
            exponents = torch.arange(0, size, 2, dtype=torch.float32, device=module.inv_freq.device) / size
            module.inv_freq = 1.0 / 10000**exponents
            module._seq_len_cached = None  # the tables of cosines and sines follow


def fingerprint(backbone: Any) -> str:
    """Identify a backbone by its weights.

    SHA-256 over names, shapes and values of all parameters, sorted by name, values rounded to bfloat16: so it is the
    same in whatever dtype the weights are stored or loaded (fp32, or bf16, or fp16 loaded through fp32), file layout
    and buffers do not count, and any training changes it. Take it before adapters are added. About a second for 1 GB
    of bf16 weights.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(backbone.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        values = parameter.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(values.view(torch.int16).numpy().data)
    return f"sha256-bf16:{digest.hexdigest()}"


def locate(name: str | os.PathLike, what: str = "backbone") -> str:
    """Where the files are: for `bundled` the folder in the package, else the name itself.

    Args:
        name: Hub id or folder, or `bundled`.
        what: `backbone`, or `predictor`, the model trained over it.

    Raises:
        ValueError: if the package is not installed, as it may be where a model runs its own code.
    """
    if name != BUNDLED:
        return os.fspath(name)
    spec = importlib.util.find_spec("lift_ss_hf")
    if spec is None or spec.origin is None:
        raise ValueError(f"the {what} {BUNDLED!r} comes with the package lift_ss_hf. Install it, or name another.")
    return str(Path(spec.origin).with_name("assets") / what)


def portable_name(name: str | os.PathLike) -> tuple[str, str | None]:
    """The Hub id and commit of a folder in the Hub's cache, `bundled`; any other name as it was given.

    A folder elsewhere is recorded as given: pass a relative one if the artefact shall travel with it.
    """
    if name == BUNDLED:
        return BUNDLED, None
    parts = Path(name).parts
    if len(parts) >= 3 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        return parts[-3].removeprefix("models--").replace("--", "/"), parts[-1]
    return os.fspath(name), None
