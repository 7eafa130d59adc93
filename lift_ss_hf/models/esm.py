"""ESM backbones: ESM-1b and ESM-2 of every size. `<cls>` residues `<eos>`, norms before each half of a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import EsmConfig, PretrainedConfig
from transformers.models.esm import modeling_esm
from transformers.models.esm.modeling_esm import (
    EsmIntermediate,
    EsmLayer,
    EsmModel,
    EsmOutput,
    EsmSelfAttention,
    EsmSelfOutput,
    apply_rotary_pos_emb,
)

from .adapted_blocks import AttentionEnd, AttentionWithAdapters, EncoderWithAdapters, FeedForwardEnd, LayerWithAdapters
from .backbones import BackboneFamily
from .configuration import SecondaryStructureConfig
from .modeling import SecondaryStructureModel
from .rows import Row, project

# transformers 4.57 has one in each block, transformers 5 one in the model
RotaryEmbedding = getattr(modeling_esm, "EsmRotaryEmbedding", None) or modeling_esm.RotaryEmbedding  # type: ignore[attr-defined]


class OnePassIntermediate(EsmIntermediate):
    """The wide half of the feed-forward part, with gelu in one pass over memory.

    transformers 4.57 spells gelu out as `x * 0.5 * (1 + erf(x / sqrt(2)))`: five passes over the widest tensor of a
    block, seven more backwards, and four such tensors kept for them. torch's own gelu is the same function in one pass
    each way, with only its input kept. Over ESM-2 8M both are within 5e-6 of fp64; in bfloat16 torch's is the closer
    one, since it rounds once. Drop when transformers calls torch's.
    """

    activation: nn.Module

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map (batch, tokens, hidden) to (batch, tokens, intermediate)."""
        return self.activation(self.dense(hidden_states))


def use_one_pass_gelu(model: Any) -> None:
    """Let an ESM encoder compute gelu in one pass, in place. Weights and their names stay."""
    for module in model.modules():
        if type(module) is EsmIntermediate:
            module.__class__ = OnePassIntermediate
            module.activation = nn.GELU()


class EsmSelfAttentionWithAdapters(AttentionWithAdapters, EsmSelfAttention):
    """Self-attention with adapters; prefixes have no position, so they are added after the rotation."""

    def forward(self, hidden_states, attention_mask=None, position_embeddings=None, **_):
        """As in `EsmSelfAttention`."""
        query, key, value = self.project(hidden_states, self.attention_head_size)
        query = query * self.attention_head_size**-0.5
        if self.position_embedding_type == "rotary":
            if position_embeddings is None:  # transformers 4.57
                query, key = self.rotary_embeddings(query, key)
            else:
                query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        mask = attention_mask
        return self.attend(hidden_states, query, key, value, mask, scale=self.scaling, dropout=self.dropout)


class EsmSelfOutputWithAdapters(AttentionEnd, EsmSelfOutput):
    """End of the attention half, with a bottleneck after attention."""


class EsmOutputWithAdapters(FeedForwardEnd, EsmOutput):
    """End of the feed-forward half, with a bottleneck after it."""


class EsmLayerWithAdapters(LayerWithAdapters, EsmLayer):
    """A block with LoRA on its feed-forward projections."""


class EsmModelWithAdapters(EncoderWithAdapters, EsmModel):
    """The encoder, known to the adapters library."""


class EsmRow(Row):
    """ESM's blocks on a row: queries and keys are rotated by their position (ESM-2); ESM-1b has learned positions."""

    def __init__(self, backbone: Any, lengths: Sequence[int]):
        super().__init__(backbone, lengths)
        rotary = rotary_embeddings(backbone)
        self.tables = None if rotary is None else rotary_tables(rotary.inv_freq, self.lengths)

    def run_block(self, block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Run one block, as `EsmLayer` does on a batch."""
        attention = block.attention.self
        normed = block.attention.LayerNorm(hidden)
        qkv = project(normed, (attention.query, attention.key, attention.value), attention.num_attention_heads)
        if self.tables is not None:
            rotate_(qkv[0], self.tables)
            rotate_(qkv[1], self.tables)
        hidden = block.attention.output(self.attend(attention, normed, *qkv), hidden)
        return block.output(block.intermediate(block.LayerNorm(hidden)), hidden)


def rotary_embeddings(backbone: Any) -> Any:
    """Return the module with the frequencies of rotary positions; None for learned positions."""
    in_model = getattr(backbone, "rotary_embeddings", None)  # transformers 5
    return in_model or getattr(backbone.encoder.layer[0].attention.self, "rotary_embeddings", None)


def rotary_tables(frequencies: torch.Tensor, lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines of a row's positions, which start again with every chain.

    Args:
        frequencies: (head size / 2,) fp32, of the rotation of each pair of channels.
        lengths: tokens of each chain.

    Returns:
        cosines and sines, each (tokens, 1, head size / 2).
    """
    positions = torch.cat([torch.arange(length, device=frequencies.device) for length in lengths])
    angles = torch.outer(positions.to(frequencies.dtype), frequencies)[:, None]
    return angles.cos(), angles.sin()


def rotate_(values: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Rotate (tokens, ..., head size) by their positions, in place (Su et al. 2021, RoFormer)."""
    cosines, sines = tables
    low, high = values.chunk(2, dim=-1)
    turned = low * cosines - high * sines
    high.copy_(high * cosines + low * sines)
    low.copy_(turned)


class EsmFamily(BackboneFamily):
    """ESM-1b and ESM-2."""

    model_type = "esm"
    model_class = EsmModel
    block_class = "EsmLayer"
    tokenizer_classes = ("EsmTokenizer",)
    feed_forward = {OnePassIntermediate: ("dense", "activation")}  # noqa: RUF012
    computed = ("rotary_embeddings.inv_freq",)
    with_adapters = {  # noqa: RUF012
        EsmSelfAttention: EsmSelfAttentionWithAdapters,
        EsmSelfOutput: EsmSelfOutputWithAdapters,
        EsmOutput: EsmOutputWithAdapters,
        EsmLayer: EsmLayerWithAdapters,
        EsmModel: EsmModelWithAdapters,
    }
    citation = "Lin et al. 2023, Science 379:1123 (ESM-2); Rives et al. 2021, PNAS 118:e2016239118 (ESM-1b)"

    def check(self, config: PretrainedConfig) -> None:
        """Raise ValueError unless the configuration is an encoder's."""
        if getattr(config, "is_folding_model", False):
            raise ValueError("the backbone is ESMFold, a folding model. Use the ESM-2 checkpoint it was built on.")
        super().check(config)

    def trim(self, backbone: Any) -> Any:
        """Remove, in place, the pooler, the contact head, and needless passes over memory."""
        if hasattr(backbone, "contact_head"):
            del backbone.contact_head
        use_one_pass_gelu(backbone)
        return super().trim(backbone)

    def restore_precision(self, backbone: Any, always: bool = False) -> None:
        """Compute the frequencies of rotary positions again, in place, if half precision has rounded them.

        Rounded to bfloat16 they change the output by 26 % at 1,000 residues.
        """
        for module in backbone.modules():
            if isinstance(module, RotaryEmbedding) and (always or module.inv_freq.dtype != torch.float32):
                size = 2 * len(module.inv_freq)
                exponents = torch.arange(0, size, 2, dtype=torch.float32, device=module.inv_freq.device) / size
                module.inv_freq = 1.0 / 10000**exponents
                module._seq_len_cached = None  # the tables of cosines and sines follow

    def max_residues(self, config: PretrainedConfig) -> int | None:
        """Return 1022 for ESM-1b: 1026 positions less two for padding, `<cls>` and `<eos>`; no limit if rotary."""
        if config.position_embedding_type == "rotary":
            return None
        return config.max_position_embeddings - (int(config.pad_token_id or 0) + 1) - 2

    def block_end(self, block: Any) -> Any:
        """Return the end of the feed-forward half."""
        return block.output

    def final_norm(self, backbone: Any) -> nn.Module | None:
        """Return the norm after the last block."""
        return backbone.encoder.emb_layer_norm_after

    def embed(self, backbone: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed (batch, tokens) to (batch, tokens, hidden).

        Passes the mask, which EsmModel of transformers 4.57 omits: without it padding counts as residues when
        embeddings are scaled for `<mask>` tokens. A row of padding only counts as a row of residues: scaled, it would
        become NaN, and with it the gradient of the whole batch.
        """
        attention_mask = attention_mask.where(attention_mask.any(1, keepdim=True), 1)
        return backbone.embeddings(input_ids=input_ids, attention_mask=attention_mask)

    def attention_inputs(
        self, backbone: Any, attention_mask: torch.Tensor, prefix_length: int, prefix_shift: bool = False
    ) -> tuple[Any, ...]:
        """Return the mask, and on transformers 5 no other encoder's states and the rotations of the positions."""
        (mask,) = super().attention_inputs(backbone, attention_mask, prefix_length, prefix_shift)
        if getattr(backbone, "rotary_embeddings", None) is None:
            return (mask,)
        positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)[None]
        return mask, None, None, backbone.rotary_embeddings(mask.float(), positions)  # in fp32

    def make_row(self, backbone: Any, lengths: Sequence[int], shifted_prefix: int = 0) -> Row | None:
        """Return ESM's blocks on a row; relative positions are not supported."""
        is_known = backbone.config.position_embedding_type in ("absolute", "rotary")
        return EsmRow(backbone, lengths) if is_known else None


class EsmSecondaryStructureConfig(SecondaryStructureConfig):
    """Configuration of a model over ESM-1b or ESM-2."""

    model_type = "esm_secondary_structure"
    backbone_config_class = EsmConfig


class EsmForSecondaryStructure(SecondaryStructureModel):
    """Predict secondary structure over ESM-1b, ESM-2 of every size, or any checkpoint of model type `esm`."""

    family = EsmFamily()
    config_class = EsmSecondaryStructureConfig
