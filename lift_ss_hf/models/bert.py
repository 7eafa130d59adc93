"""BERT backbones: ProtBert. `[CLS]` residues `[SEP]`, learned positions, norms after each half of a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BertConfig, BertModel, PretrainedConfig
from transformers.models.bert.modeling_bert import BertIntermediate, BertSdpaSelfAttention

from .backbones import NEEDS_EAGER, BackboneFamily
from .configuration import SecondaryStructureConfig
from .modeling import SecondaryStructureModel
from .rows import Row, project


class BertRow(Row):
    """BERT's blocks on a row; positions are in the embeddings."""

    def run_block(self, block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Run one block, as `BertLayer` does on a batch."""
        attention = block.attention.self
        qkv = project(hidden, (attention.query, attention.key, attention.value), attention.num_attention_heads)
        hidden = block.attention.output(self.attend(qkv), hidden)
        return block.output(block.intermediate(hidden), hidden)


class BertFamily(BackboneFamily):
    """ProtBert."""

    model_type = "bert"
    model_class = BertModel
    block_class = "BertLayer"
    tokenizer_classes = ("BertTokenizer",)
    replaced_residues = "BJOUZ"  # its authors' advice
    feed_forward = {BertIntermediate: ("dense", "intermediate_act_fn")}  # noqa: RUF012
    citation = "Elnaggar et al. 2022, IEEE TPAMI 44:7112 (ProtTrans)"

    def max_residues(self, config: PretrainedConfig) -> int | None:
        """Return the number of positions, less `[CLS]` and `[SEP]`."""
        return config.max_position_embeddings - 2

    def run_block_with_attention(
        self, block: Any, hidden: torch.Tensor, inputs: tuple[torch.Tensor, ...], has_prefix: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run one block; also return its attention, (batch, heads, tokens, keys)."""
        if has_prefix and isinstance(block.attention.self, BertSdpaSelfAttention):
            # adapters 1.3.0 falls back to the stock attention, without the prefix
            raise ValueError(NEEDS_EAGER.format("prefixes"))
        return super().run_block_with_attention(block, hidden, inputs, has_prefix)

    def make_row(self, backbone: Any, lengths: Sequence[int]) -> Row | None:
        """Return BERT's blocks on a row; relative positions are not supported."""
        is_absolute = getattr(backbone.config, "position_embedding_type", "absolute") == "absolute"
        return BertRow(backbone, lengths) if is_absolute else None


class BertSecondaryStructureConfig(SecondaryStructureConfig):
    """Configuration of a model over ProtBert."""

    model_type = "bert_secondary_structure"
    backbone_config_class = BertConfig
    sub_configs = {"backbone_config": BertConfig}  # noqa: RUF012  transformers' own form


class BertForSecondaryStructure(SecondaryStructureModel):
    """Predict secondary structure over ProtBert."""

    family = BertFamily()
    config_class = BertSecondaryStructureConfig  # type: ignore[assignment]
