"""T5 backbones: the encoders of ProtT5, ProstT5 and Ankh.

Residues `</s>`, a bias by distance, norms before each half block. Before the residues ProstT5 expects `<AA2fold>`, and
Ankh 3 `[NLU]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import T5Config, T5EncoderModel
from transformers.models.t5.modeling_t5 import T5Attention, T5DenseActDense, T5LayerFF, T5LayerSelfAttention

from .adapted_blocks import AttentionEnd, AttentionWithAdapters, EncoderWithAdapters, FeedForwardEnd
from .adapters_library import LoRALinear
from .backbones import BackboneFamily
from .configuration import SecondaryStructureConfig
from .modeling import SecondaryStructureModel
from .rows import Row, add_residual, project


def bias_by_distance(attention: Any, distances: torch.Tensor) -> torch.Tensor:
    """Return the bias of the scores of keys at these distances from their query.

    Args:
        attention: the attention of block 0, which has the biases of all blocks.
        distances: (...) int64 [residues].

    Returns:
        (heads, ...)
    """
    buckets = attention._relative_position_bucket(
        distances,
        bidirectional=True,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    return attention.relative_attention_bias(buckets).movedim(-1, 0)


def bias_of_tokens(attention: Any, num_queries: int, num_keys: int) -> torch.Tensor:
    """Return the bias of the scores, (1, heads, queries, keys), of queries and keys that are numbered from 0."""
    device = attention.relative_attention_bias.weight.device
    keys, queries = torch.arange(num_keys, device=device), torch.arange(num_queries, device=device)
    return bias_by_distance(attention, keys - queries[:, None])[None]


class T5AttentionWithAdapters(AttentionWithAdapters, T5Attention):
    """Self-attention with adapters and a bias by distance."""

    projections = ("q", "k", "v")
    prefix_location = "encoder_prefix"

    def forward(self, hidden_states, mask=None, *_, position_bias=None, **__):
        """As in `T5Attention`; a given bias holds the mask."""
        if position_bias is None:  # of block 0, in the stock forward
            num_tokens = hidden_states.shape[1]
            position_bias = bias_of_tokens(self, num_tokens, num_tokens).to(hidden_states.dtype)
            if mask is not None and mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=position_bias.dtype).masked_fill(~mask, -torch.inf)
            position_bias = position_bias if mask is None else position_bias + mask
        qkv = self.project(hidden_states, self.key_value_proj_dim)
        attended, weights = self.attend(hidden_states, *qkv, position_bias, scale=1.0, dropout=self.dropout)
        return self.o(attended), position_bias, weights


class T5SelfAttentionHalfWithAdapters(AttentionEnd, T5LayerSelfAttention):
    """The attention half, with a bottleneck after attention."""

    def forward(self, hidden_states, attention_mask=None, position_bias=None, **_):
        """As in `T5LayerSelfAttention`."""
        attended = self.SelfAttention(self.layer_norm(hidden_states), attention_mask, position_bias=position_bias)
        return self.bottleneck_layer_forward(self.dropout(attended[0]), hidden_states, None), *attended[1:]


class T5FeedForwardHalfWithAdapters(FeedForwardEnd, T5LayerFF):
    """The feed-forward half, with LoRA on its projections and a bottleneck after it."""

    def init_adapters(self, model_config, adapters_config) -> None:
        """Wrap the projections and make room for a bottleneck."""
        super().init_adapters(model_config, adapters_config)
        part = self.DenseReluDense
        for name, location in (("wi_1" if hasattr(part, "wi_1") else "wi", "intermediate"), ("wo", "output")):
            setattr(part, name, LoRALinear.wrap(getattr(part, name), location, model_config, adapters_config))

    def forward(self, hidden_states):
        """As in `T5LayerFF`."""
        output = self.dropout(self.DenseReluDense(self.layer_norm(hidden_states)))
        return self.bottleneck_layer_forward(output, hidden_states, None)


class T5EncoderWithAdapters(EncoderWithAdapters, T5EncoderModel):
    """The encoder, known to the adapters library."""

    def iter_layers(self) -> Iterator[tuple[int, nn.Module]]:
        """Yield number and module of each block."""
        yield from enumerate(self.encoder.block)


class T5Row(Row):
    """T5's blocks on a row: scores get a bias by head and distance, which block 0 holds for all blocks.

    Args:
        backbone: the backbone whose blocks will be run.
        lengths: tokens of each chain.
        shifted_prefix: see `BackboneFamily.make_row`.
    """

    has_bias = True

    def __init__(self, backbone: Any, lengths: Sequence[int], shifted_prefix: int = 0):
        super().__init__(backbone, lengths)
        self.shifted_prefix = shifted_prefix
        self.longest = max(self.lengths)
        attention = backbone.encoder.block[0].layer[0].SelfAttention
        device = attention.relative_attention_bias.weight.device
        distances = torch.arange(self.longest - 1 + shifted_prefix, -self.longest, -1, device=device)
        self.table = bias_by_distance(attention, distances).contiguous()  # or the kernel copies every bias

    def run_block(self, block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Run one block, as `T5Block` does on a batch."""
        half = block.layer[0]
        attention = half.SelfAttention
        normed = half.layer_norm(hidden)
        qkv = project(normed, (attention.q, attention.k, attention.v), attention.n_heads)
        hidden = add_residual(half, attention.o(self.attend(attention, normed, *qkv)), hidden)
        return block.layer[1](hidden)

    def attend_chain(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """As in any row, with the bias and without scaling; keys and values go in from the last to the first."""
        length, num_keys = query.shape[2], key.shape[2]
        bias = self.bias(length, query.dtype, num_keys - length)[None]
        return F.scaled_dot_product_attention(query, key.flip(2), value.flip(2), bias, scale=1.0)

    def bias(self, length: int, dtype: torch.dtype, num_prefix: int = 0) -> torch.Tensor:
        """Return the bias of a chain's scores, (heads, queries, keys), keys from the last to the first.

        In that order it depends on the sum of query and key, so its rows are windows of the table, one step apart: a
        view without memory of its own. For titin's 34,350 residues and 32 heads a copy would take 151 GB. Only a prefix
        that has no bias needs the copy.
        """
        shifted = min(num_prefix, self.shifted_prefix)
        zero = self.longest - 1 + self.shifted_prefix  # where the table has distance 0
        distances = slice(zero - (length - 1) - shifted, zero + length)
        bias = self.table[:, distances].to(dtype).unfold(-1, length + shifted, 1)
        return F.pad(bias, (0, num_prefix - shifted)) if num_prefix > shifted else bias


class T5Family(BackboneFamily):
    """ProtT5, ProstT5 and Ankh encoders."""

    model_type = "t5"
    model_class = T5EncoderModel
    build_options: ClassVar[dict[str, Any]] = {}
    block_class = "T5Block"
    num_leading = 0
    # ProstT5 (github.com/mheinzinger/ProstT5) and Ankh 3 (huggingface.co/ElnaggarLab/ankh3-large), for embeddings of
    # amino acids. ProstT5 reads structures too, after <fold2AA>: 3Di states, in lower case to tell them from residues.
    leading_tokens = ("<AA2fold>", "[NLU]")
    tokenizer_classes = ("T5Tokenizer",)
    replaced_residues = "BJOUZ"  # LIFT_SS
    has_quadratic_attention = True
    overflows_in_float16 = True  # in the feed-forward part; huggingface/transformers#9295
    feed_forward = {T5DenseActDense: ("wi", "act")}  # noqa: RUF012
    with_adapters = {  # noqa: RUF012
        T5Attention: T5AttentionWithAdapters,
        T5LayerSelfAttention: T5SelfAttentionHalfWithAdapters,
        T5LayerFF: T5FeedForwardHalfWithAdapters,
        T5EncoderModel: T5EncoderWithAdapters,
    }
    citation = (
        "Elnaggar et al. 2022, IEEE TPAMI 44:7112 (ProtT5); Heinzinger et al. 2024, NAR Genomics and Bioinformatics "
        "6:lqae150 (ProstT5); Elnaggar et al. 2023, arXiv:2301.06568 (Ankh); Alsamkary et al. 2025, arXiv:2505.20052 "
        "(Ankh 3)"
    )

    def embeddings(self, backbone: Any) -> nn.Module:
        """Return the token embeddings."""
        return backbone.encoder.embed_tokens

    def blocks(self, backbone: Any) -> nn.ModuleList:
        """Return the transformer blocks, from the bottom."""
        return backbone.encoder.block

    def attention(self, block: Any) -> nn.Module:
        """Return the self-attention of a block."""
        return block.layer[0].SelfAttention

    def block_end(self, block: Any) -> Any:
        """Return the feed-forward half."""
        return block.layer[-1]

    def final_norm(self, backbone: Any) -> nn.Module | None:
        """Return the norm after the last block."""
        return backbone.encoder.final_layer_norm

    def embed(self, backbone: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed (batch, tokens) to (batch, tokens, hidden); dropout only while the embeddings are being trained."""
        embedding = backbone.encoder.embed_tokens
        hidden = embedding(input_ids)
        return backbone.encoder.dropout(hidden) if embedding.training else hidden

    def attention_inputs(
        self, backbone: Any, attention_mask: torch.Tensor, prefix_length: int, prefix_shift: bool = False
    ) -> tuple[Any, ...]:
        """Return the position bias with the mask added, for blocks without a prefix and for those with one.

        The bias belongs to the distance between residues, so prefix keys get none, unless `prefix_shift` counts them as
        tokens before the chain. adapters 1.3.0 by itself does, and has no bias at all above a block that was left out.
        """
        (mask,) = super().attention_inputs(backbone, attention_mask, prefix_length)
        attention = backbone.encoder.block[0].layer[0].SelfAttention
        num_tokens = attention_mask.shape[1]
        bias = bias_of_tokens(attention, num_tokens, num_tokens) + mask
        if not prefix_shift:
            return bias, bias
        shifted = bias_of_tokens(attention, num_tokens, prefix_length + num_tokens)
        return bias, shifted + F.pad(mask, (prefix_length, 0))

    def run_block(
        self,
        block: nn.Module,
        hidden: torch.Tensor,
        inputs: tuple[Any, ...],
        has_prefix: bool,
        **options: Any,
    ) -> torch.Tensor:
        """Run one block: (batch, tokens, hidden) to (batch, tokens, hidden)."""
        bias, prefixed_bias = inputs
        return block(hidden, None, prefixed_bias if has_prefix else bias, **options)[0]

    def finish(self, backbone: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Turn the last block's output, (batch, tokens, hidden), into the backbone's output."""
        return backbone.encoder.dropout(super().finish(backbone, hidden))

    def make_row(self, backbone: Any, lengths: Sequence[int], shifted_prefix: int = 0) -> Row | None:
        """Return T5's blocks on a row."""
        return T5Row(backbone, lengths, shifted_prefix)


class T5SecondaryStructureConfig(SecondaryStructureConfig):
    """Configuration of a model over the encoder of ProtT5, ProstT5 or Ankh."""

    model_type = "t5_secondary_structure"
    backbone_config_class = T5Config


class T5ForSecondaryStructure(SecondaryStructureModel):
    """Predict secondary structure over the encoder of ProtT5, ProstT5 or Ankh."""

    family = T5Family()
    _supports_sdpa = T5EncoderModel._supports_sdpa  # from transformers 5 on
    config_class = T5SecondaryStructureConfig
    _tied_weights_keys: Any = (
        {"backbone.encoder.embed_tokens.weight": "backbone.shared.weight"}
        if isinstance(T5EncoderModel._tied_weights_keys, dict)  # from transformers 5 on
        else ["backbone.encoder.embed_tokens.weight"]
    )
