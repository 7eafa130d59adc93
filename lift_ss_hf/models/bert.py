"""BERT backbones: ProtBert. `[CLS]` residues `[SEP]`, learned positions, norms after each half of a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BertConfig, BertModel, PretrainedConfig
from transformers.models.bert import modeling_bert
from transformers.models.bert.modeling_bert import (
    BertIntermediate,
    BertLayer,
    BertOutput,
    BertSelfAttention,
    BertSelfOutput,
)

from .adapted_blocks import AttentionEnd, AttentionWithAdapters, EncoderWithAdapters, FeedForwardEnd, LayerWithAdapters
from .backbones import BackboneFamily
from .configuration import SecondaryStructureConfig
from .modeling import SecondaryStructureModel
from .rows import Row, project


class BertSelfAttentionWithAdapters(AttentionWithAdapters, BertSelfAttention):
    """Self-attention with adapters."""

    def forward(self, hidden_states, attention_mask=None, *_, **__):
        """As in `BertSelfAttention`."""
        qkv = self.project(hidden_states, self.attention_head_size)
        scale, mask = self.attention_head_size**-0.5, attention_mask
        return self.attend(hidden_states, *qkv, mask, scale=scale, dropout=self.dropout.p)


class BertSelfOutputWithAdapters(AttentionEnd, BertSelfOutput):
    """End of the attention half, with a bottleneck after attention."""


class BertOutputWithAdapters(FeedForwardEnd, BertOutput):
    """End of the feed-forward half, with a bottleneck after it."""


class BertLayerWithAdapters(LayerWithAdapters, BertLayer):
    """A block with LoRA on its feed-forward projections."""


class BertModelWithAdapters(EncoderWithAdapters, BertModel):
    """The encoder, known to the adapters library."""


class BertRow(Row):
    """BERT's blocks on a row; positions are in the embeddings."""

    def run_block(self, block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Run one block, as `BertLayer` does on a batch."""
        attention = block.attention.self
        qkv = project(hidden, (attention.query, attention.key, attention.value), attention.num_attention_heads)
        hidden = block.attention.output(self.attend(attention, hidden, *qkv), hidden)
        return block.output(block.intermediate(hidden), hidden)


class BertFamily(BackboneFamily):
    """ProtBert."""

    model_type = "bert"
    model_class = BertModel
    block_class = "BertLayer"
    tokenizer_classes = ("BertTokenizer",)
    replaced_residues = "BJOUZ"  # its authors' advice
    feed_forward = {BertIntermediate: ("dense", "intermediate_act_fn")}  # noqa: RUF012
    with_adapters = {  # noqa: RUF012
        BertSelfAttention: BertSelfAttentionWithAdapters,
        # transformers 4.57 has a class of its own for sdpa
        getattr(modeling_bert, "BertSdpaSelfAttention", BertSelfAttention): BertSelfAttentionWithAdapters,
        BertSelfOutput: BertSelfOutputWithAdapters,
        BertOutput: BertOutputWithAdapters,
        BertLayer: BertLayerWithAdapters,
        BertModel: BertModelWithAdapters,
    }
    citation = "Elnaggar et al. 2022, IEEE TPAMI 44:7112 (ProtTrans)"

    def max_residues(self, config: PretrainedConfig) -> int | None:
        """Return the number of positions, less `[CLS]` and `[SEP]`."""
        return config.max_position_embeddings - 2

    def make_row(self, backbone: Any, lengths: Sequence[int], shifted_prefix: int = 0) -> Row | None:
        """Return BERT's blocks on a row; relative positions are not supported."""
        is_absolute = getattr(backbone.config, "position_embedding_type", "absolute") == "absolute"
        return BertRow(backbone, lengths) if is_absolute else None


class BertSecondaryStructureConfig(SecondaryStructureConfig):
    """Configuration of a model over ProtBert."""

    model_type = "bert_secondary_structure"
    backbone_config_class = BertConfig


class BertForSecondaryStructure(SecondaryStructureModel):
    """Predict secondary structure over ProtBert."""

    family = BertFamily()
    config_class = BertSecondaryStructureConfig
