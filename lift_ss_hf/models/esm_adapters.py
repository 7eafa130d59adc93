"""ESM blocks with the places that the `adapters` library fills.

adapters 1.3.0 has no ESM (adapters#589), and its interface for foreign models has neither prefix tuning nor what is
built on it (MAM, UniPELT). These are the library's own building blocks, put where its BERT and T5 have them. Drop
when adapters ships ESM.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from adapters.methods.bottleneck import BottleneckLayer
from adapters.methods.lora import LoRALinear
from adapters.methods.prefix_tuning import PrefixTuningLayer
from adapters.model_mixin import EmbeddingAdaptersMixin, ModelBaseAdaptersMixin
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.esm.modeling_esm import (
    EsmLayer,
    EsmModel,
    EsmOutput,
    EsmSelfAttention,
    EsmSelfOutput,
    eager_attention_forward,
)


class EsmSelfAttentionWithAdapters(EsmSelfAttention):
    """Self-attention with LoRA on queries, keys and values, and prefix keys before those of the tokens."""

    def init_adapters(self, model_config, adapters_config) -> None:
        """Wrap the projections and add the place for prefixes."""
        for name, key in (("query", "q"), ("key", "k"), ("value", "v")):
            wrapped = LoRALinear.wrap(getattr(self, name), "selfattn", model_config, adapters_config, attn_key=key)
            setattr(self, name, wrapped)
        self.prefix_tuning = PrefixTuningLayer("self_prefix", model_config, adapters_config)

    def forward(self, hidden_states, attention_mask=None, head_mask=None, **kwargs):
        """As in EsmSelfAttention; prefixes have no position, so they join after the rotation."""
        shape = (*hidden_states.shape[:-1], -1, self.attention_head_size)
        query = self.query(hidden_states).view(shape).transpose(1, 2) * self.attention_head_size**-0.5
        key = self.key(hidden_states).view(shape).transpose(1, 2)
        value = self.value(hidden_states).view(shape).transpose(1, 2)
        if self.position_embedding_type == "rotary":
            query, key = self.rotary_embeddings(query, key)
        key, value, attention_mask = self.prefix_tuning(key, value, hidden_states, attention_mask)
        implementation = self.config._attn_implementation
        attend = eager_attention_forward if implementation == "eager" else ALL_ATTENTION_FUNCTIONS[implementation]
        output, weights = attend(
            self,
            query.to(value.dtype),
            key.to(value.dtype),
            value,
            attention_mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=self.scaling,
            head_mask=head_mask,
        )
        return output.reshape(*hidden_states.shape[:-1], -1), weights


class _EsmResidualOutput(BottleneckLayer):
    """The end of a half block: projection, adapter, residual."""

    place = ""

    def init_adapters(self, model_config, adapters_config) -> None:
        self.location_key = self.place
        super().init_adapters(model_config, adapters_config)

    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        hidden_states = self.dropout(self.dense(hidden_states))
        # ESM norms before each half, as T5 does, so no norm belongs to the adapter
        return self.bottleneck_layer_forward(hidden_states, input_tensor, None)


class EsmSelfOutputWithAdapters(_EsmResidualOutput, EsmSelfOutput):
    """End of the attention half, with a bottleneck after attention."""

    place = "mh_adapter"


class EsmOutputWithAdapters(_EsmResidualOutput, EsmOutput):
    """End of the feed-forward half, with a bottleneck after it."""

    place = "output_adapter"


class EsmLayerWithAdapters(EsmLayer):
    """A block with LoRA on its feed-forward projections."""

    def init_adapters(self, model_config, adapters_config) -> None:
        """Wrap both projections."""
        for owner, location in ((self.intermediate, "intermediate"), (self.output, "output")):
            owner.dense = LoRALinear.wrap(owner.dense, location, model_config, adapters_config)


class EsmModelWithAdapters(EmbeddingAdaptersMixin, ModelBaseAdaptersMixin, EsmModel):
    """The encoder, known to the adapters library."""

    support_prompt_tuning = False

    def iter_layers(self) -> Iterator[tuple[int, nn.Module]]:
        """Number and module of each block."""
        yield from enumerate(self.encoder.layer)


_WITH_ADAPTERS = {
    EsmSelfAttention: EsmSelfAttentionWithAdapters,
    EsmSelfOutput: EsmSelfOutputWithAdapters,
    EsmOutput: EsmOutputWithAdapters,
    EsmLayer: EsmLayerWithAdapters,
    EsmModel: EsmModelWithAdapters,
}


def init_esm_adapters(model: Any) -> None:
    """Give an ESM encoder, in place, the methods and the places for adapters. Weights and their names stay."""
    for module in model.modules():
        module.__class__ = _WITH_ADAPTERS.get(type(module), type(module))
    model.init_adapters(model.config, None)
