"""Transformer blocks with places for adapters, one way for all families, on transformers 4.57 and 5.

The classes are the adapters library's own building blocks (bottlenecks, LoRA, prefixes) put where its BERT and T5 have
them, so that weights have the same names. A family derives from them and from the stock classes of its architecture,
and `put_adapters` exchanges the classes of a stock model's modules. Weights and their names stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .adapters_library import (
    BottleneckLayer,
    EmbeddingAdaptersMixin,
    LoRALinear,
    ModelBaseAdaptersMixin,
    PrefixTuningLayer,
)


class AttentionWithAdapters(nn.Module):
    """Self-attention with LoRA on queries, keys and values, and with prefix keys before those of the tokens.

    Attributes:
        projections: names of the linear maps to queries, keys and values.
        prefix_location: name of its place in the adapters library.
    """

    projections = ("query", "key", "value")
    prefix_location = "self_prefix"
    config: Any

    def init_adapters(self, model_config: Any, adapters_config: Any) -> None:
        """Wrap the projections and add the layer for prefixes."""
        for name, letter in zip(self.projections, "qkv", strict=True):
            wrapped = LoRALinear.wrap(getattr(self, name), "selfattn", model_config, adapters_config, attn_key=letter)
            setattr(self, name, wrapped)
        self.prefix_tuning = PrefixTuningLayer(self.prefix_location, model_config, adapters_config)

    def project(self, hidden: torch.Tensor, head_size: int) -> list[torch.Tensor]:
        """Map (batch, tokens, hidden) to queries, keys and values, each (batch, heads, tokens, head size)."""
        shape = (*hidden.shape[:-1], -1, head_size)
        return [getattr(self, name)(hidden).view(shape).transpose(1, 2) for name in self.projections]

    def attend(
        self,
        hidden: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        *,
        scale: float,
        dropout: float,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend to the prefix and to the tokens.

        Args:
            hidden: (batch, tokens, hidden), of which a gate decides how much the prefix counts.
            query: (batch, heads, tokens, head size).
            key: of the same shape.
            value: of the same shape.
            mask: added to the scores, or bool with True for keys to keep; its last axis is the tokens, or the prefix
                and the tokens. The prefix is always kept: transformers 5 has bool masks, which the library's own layer
                would extend the other way round.
            scale: factor of the scores.
            dropout: of the attention weights, in training [fraction].

        Returns:
            (batch, tokens, heads x head size), and the attention weights where they are computed, with
            `attn_implementation="eager"`.
        """
        key, value, _ = self.prefix_tuning(key, value, hidden, None)
        if mask is not None and (num_prefix := key.shape[2] - mask.shape[-1]) > 0:
            mask = F.pad(mask, (num_prefix, 0), value=float(mask.dtype == torch.bool))
        query, key = query.to(value.dtype), key.to(value.dtype)
        dropout = dropout if self.training else 0.0
        if self.config._attn_implementation == "eager":
            scores = query @ key.mT * scale
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1, torch.float32), dropout)
            attended = weights.to(value.dtype) @ value
        else:
            weights = None
            attended = F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)
        return attended.transpose(1, 2).flatten(2), weights


class EndWithAdapters(BottleneckLayer):
    """The end of a half block: a projection, then an adapter, then the residual, and in BERT a norm.

    Attributes:
        location: its place in the adapters library.
    """

    location = ""

    def init_adapters(self, model_config: Any, adapters_config: Any) -> None:
        """Make room for a bottleneck."""
        self.location_key = self.location
        super().init_adapters(model_config, adapters_config)

    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        """Map (batch, tokens, any) and the half block's input to (batch, tokens, hidden)."""
        hidden_states = self.dropout(self.dense(hidden_states))
        return self.bottleneck_layer_forward(hidden_states, input_tensor, getattr(self, "LayerNorm", None))


class AttentionEnd(EndWithAdapters):
    """The end of an attention half, with a bottleneck after attention."""

    location = "mh_adapter"


class FeedForwardEnd(EndWithAdapters):
    """The end of a feed-forward half, with a bottleneck after it."""

    location = "output_adapter"


class LayerWithAdapters(nn.Module):
    """A block like BERT's, with LoRA on its feed-forward projections."""

    intermediate: Any
    output: Any

    def init_adapters(self, model_config: Any, adapters_config: Any) -> None:
        """Wrap both projections."""
        for owner, location in ((self.intermediate, "intermediate"), (self.output, "output")):
            owner.dense = LoRALinear.wrap(owner.dense, location, model_config, adapters_config)


class EncoderWithAdapters(EmbeddingAdaptersMixin, ModelBaseAdaptersMixin):
    """An encoder, known to the adapters library."""

    support_prompt_tuning = False
    encoder: Any

    def iter_layers(self) -> Iterator[tuple[int, nn.Module]]:
        """Yield number and module of each block."""
        yield from enumerate(self.encoder.layer)


def put_adapters(model: Any, classes: Mapping[type, type]) -> None:
    """Give an encoder, in place, the methods and modules that adapters need.

    Args:
        model: of transformers.
        classes: for each class of its modules that gets adapters, the one with them.
    """
    for module in model.modules():
        module.__class__ = classes.get(type(module), type(module))
        if isinstance(module, AttentionWithAdapters):
            module.config = model.config  # which BERT and T5 of transformers 4.57 do not keep
    model.init_adapters(model.config, None)
