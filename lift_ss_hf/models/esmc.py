"""ESM C backbones (ESM Cambrian), which transformers has from 5.16 on. `<cls>` residues `<eos>`, rotary positions.

A block differs from ESM-2's in three ways: queries and keys are normalised, the feed-forward part is gated, and the
output of each half is scaled down before it is added to its input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.models.esmc.configuration_esmc import EsmcConfig
from transformers.models.esmc.modeling_esmc import (
    EsmcAttention,
    EsmcLayer,
    EsmcMLP,
    EsmcModel,
    apply_rotary_pos_emb,
)

from .adapted_blocks import AttentionEnd, AttentionWithAdapters, EncoderWithAdapters, FeedForwardEnd
from .adapters_library import LoRALinear
from .backbones import BackboneFamily
from .configuration import SecondaryStructureConfig
from .esm import rotary_tables, rotate_
from .modeling import SecondaryStructureModel
from .rows import Row, add_residual, project


class EsmcAttentionWithAdapters(AttentionWithAdapters, AttentionEnd, EsmcAttention):
    """Self-attention with adapters, and a bottleneck after it; prefixes are neither normalised nor rotated."""

    projections = ("q_proj", "k_proj", "v_proj")

    def init_adapters(self, model_config, adapters_config) -> None:
        """Wrap the projections, and make room for prefixes and a bottleneck."""
        AttentionWithAdapters.init_adapters(self, model_config, adapters_config)
        AttentionEnd.init_adapters(self, model_config, adapters_config)

    def forward(self, hidden_states, attention_mask=None, position_embeddings=None, **_):
        """As in `EsmcAttention`."""
        query, key = self.q_norm(self.q_proj(hidden_states)), self.k_norm(self.k_proj(hidden_states))
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (states.view(shape).transpose(1, 2) for states in (query, key, self.v_proj(hidden_states)))
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        options = {"scale": self.scaling, "dropout": self.attention_dropout}
        attended, weights = self.attend(hidden_states, query, key, value, attention_mask, **options)
        return self.o_proj(attended), weights


class EsmcMLPWithAdapters(FeedForwardEnd, EsmcMLP):
    """The feed-forward part, with LoRA on its projections; the block puts its output through the bottleneck."""

    def init_adapters(self, model_config, adapters_config) -> None:
        """Wrap the projections and make room for a bottleneck."""
        super().init_adapters(model_config, adapters_config)
        for name, location in (("up_proj", "intermediate"), ("down_proj", "output")):
            setattr(self, name, LoRALinear.wrap(getattr(self, name), location, model_config, adapters_config))

    def forward(self, hidden_states):
        """As in `EsmcMLP`."""
        return EsmcMLP.forward(self, hidden_states)


class EsmcLayerWithAdapters(EsmcLayer):
    """A block whose halves end in bottlenecks."""

    def forward(self, hidden_states, attention_mask=None, position_embeddings=None, **_):
        """As in `EsmcLayer`."""
        attended = self.self_attn(self.input_layernorm(hidden_states), attention_mask, position_embeddings)[0]
        hidden_states = add_residual(self.self_attn, attended / self.scaling_factor, hidden_states)
        output = self.mlp(self.post_attention_layernorm(hidden_states))
        return add_residual(self.mlp, output / self.scaling_factor, hidden_states)


class EsmcModelWithAdapters(EncoderWithAdapters, EsmcModel):
    """The encoder, known to the adapters library."""

    def iter_layers(self) -> Iterator[tuple[int, nn.Module]]:
        """Yield number and module of each block."""
        yield from enumerate(self.layers)


class EsmcRow(Row):
    """ESM C's blocks on a row."""

    def __init__(self, backbone: Any, lengths: Sequence[int]):
        super().__init__(backbone, lengths)
        self.tables = rotary_tables(backbone.rotary_emb.inv_freq, self.lengths)

    def run_block(self, block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Run one block, as `EsmcLayer` does on a batch."""
        attention = block.self_attn
        normed = block.input_layernorm(hidden)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        query, key, value = project(normed, projections, hidden.shape[-1] // attention.head_dim)
        query = attention.q_norm(query.flatten(1)).view_as(query)
        key = attention.k_norm(key.flatten(1)).view_as(key)
        rotate_(query, self.tables)
        rotate_(key, self.tables)
        attended = attention.o_proj(self.attend(attention, normed, query, key, value))
        hidden = add_residual(attention, attended / block.scaling_factor, hidden)
        output = block.mlp(block.post_attention_layernorm(hidden))
        return add_residual(block.mlp, output / block.scaling_factor, hidden)


class EsmcFamily(BackboneFamily):
    """ESM C of every size."""

    model_type = "esmc"
    model_class = EsmcModel
    build_options: ClassVar[dict[str, Any]] = {}
    block_class = "EsmcLayer"
    tokenizer_classes = ("EsmcTokenizer",)
    with_adapters = {  # noqa: RUF012
        EsmcAttention: EsmcAttentionWithAdapters,
        EsmcMLP: EsmcMLPWithAdapters,
        EsmcLayer: EsmcLayerWithAdapters,
        EsmcModel: EsmcModelWithAdapters,
    }
    citation = (
        "ESM Team 2024, ESM Cambrian, EvolutionaryScale (evolutionaryscale.ai/blog/esm-cambrian); Candido et al. 2026, "
        "biohub.ai/papers/esm_protein.pdf"
    )

    def check(self, config: PretrainedConfig) -> None:
        """Raise ValueError unless the configuration is one of the released encoders' kind."""
        kind = (config.rope_parameters or {}).get("rope_type", "default")
        if kind != "default":
            raise ValueError(f"the backbone has rotary positions of type {kind!r}. Expected 'default', as ESM C's are.")
        if config.head_dim * config.num_attention_heads != config.hidden_size:
            raise ValueError(
                f"the backbone's configuration has {config.num_attention_heads} heads of size {config.head_dim}, but "
                f"hidden_size {config.hidden_size}. Expected their product."
            )
        super().check(config)

    def restore_precision(self, backbone: Any, always: bool = False) -> None:
        """Compute the frequencies of rotary positions again, in place, if half precision has rounded them."""
        rotary = backbone.rotary_emb
        if always or rotary.inv_freq.dtype != torch.float32:
            frequencies, _ = rotary.compute_default_rope_parameters(rotary.config)
            rotary.inv_freq = frequencies.to(rotary.inv_freq.device)
            rotary.original_inv_freq = rotary.inv_freq.clone()

    def embeddings(self, backbone: Any) -> nn.Module:
        """Return the token embeddings."""
        return backbone.embed_tokens

    def blocks(self, backbone: Any) -> nn.ModuleList:
        """Return the transformer blocks, from the bottom."""
        return backbone.layers

    def attention(self, block: Any) -> nn.Module:
        """Return the self-attention of a block."""
        return block.self_attn

    def block_end(self, block: Any) -> Any:
        """Return the feed-forward part."""
        return block.mlp

    def final_norm(self, backbone: Any) -> nn.Module | None:
        """Return the norm after the last block."""
        return backbone.norm

    def embed(self, backbone: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed (batch, tokens) to (batch, tokens, hidden)."""
        return backbone.embed_tokens(input_ids)

    def attention_inputs(
        self, backbone: Any, attention_mask: torch.Tensor, prefix_length: int, prefix_shift: bool = False
    ) -> tuple[Any, ...]:
        """Return the mask and the rotations of the positions, in fp32."""
        (mask,) = super().attention_inputs(backbone, attention_mask, prefix_length, prefix_shift)
        positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)[None]
        return mask, backbone.rotary_emb(mask.float(), positions)

    def make_row(self, backbone: Any, lengths: Sequence[int], shifted_prefix: int = 0) -> Row | None:
        """Return ESM C's blocks on a row."""
        return EsmcRow(backbone, lengths)


class EsmcSecondaryStructureConfig(SecondaryStructureConfig):
    """Configuration of a model over ESM C."""

    model_type = "esmc_secondary_structure"
    backbone_config_class = EsmcConfig


class EsmcForSecondaryStructure(SecondaryStructureModel):
    """Predict secondary structure over ESM C of every size."""

    family = EsmcFamily()
    config_class = EsmcSecondaryStructureConfig
