"""T5 backbones: the encoders of ProtT5 and Ankh. Residues `</s>`, a bias by distance, norms before each half block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import T5Config, T5EncoderModel
from transformers.models.t5.modeling_t5 import T5DenseActDense

from .backbones import BackboneFamily
from .configuration import SecondaryStructureConfig
from .modeling import SecondaryStructureModel
from .rows import Row, project


class T5Row(Row):
    """T5's blocks on a row: scores get a bias by head and distance, which block 0 holds for all blocks."""

    def __init__(self, backbone: Any, lengths: Sequence[int]):
        super().__init__(backbone, lengths)
        self.longest = max(self.lengths)
        attention = backbone.encoder.block[0].layer[0].SelfAttention
        here = torch.tensor([self.longest - 1], device=attention.relative_attention_bias.weight.device)
        table = attention.compute_bias(1, 2 * self.longest - 1, cache_position=here)  # of one residue to all others
        # (heads, distances), from longest - 1 down to 1 - longest; contiguous, or the kernel copies every bias
        self.table = table[0, :, 0].flip(-1).contiguous()

    def run_block(self, block: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Run one block, as `T5Block` does on a batch."""
        half = block.layer[0]
        attention = half.SelfAttention
        qkv = project(half.layer_norm(hidden), (attention.q, attention.k, attention.v), attention.n_heads)
        attended = attention.o(self.attend(qkv))
        if hasattr(half, "bottleneck_layer_forward"):  # of the adapters library
            hidden = half.bottleneck_layer_forward(attended, hidden, None)
        else:
            hidden = hidden + attended
        return block.layer[1](hidden)

    def attend(self, qkv: torch.Tensor) -> torch.Tensor:
        """As in any row, with the bias and without scaling; keys and values go in from the last to the first."""
        attended = []
        for chain in qkv.split(self.lengths):
            query = chain[:, 0].transpose(0, 1)  # (heads, length, head size)
            key, value = chain[:, 1:].flip(0).permute(1, 2, 0, 3)
            bias = self.bias(len(chain), qkv.dtype)
            output = F.scaled_dot_product_attention(query[None], key[None], value[None], bias[None], scale=1.0)
            attended.append(output[0].transpose(0, 1).flatten(1))
        return torch.cat(attended)[None]

    def bias(self, length: int, dtype: torch.dtype) -> torch.Tensor:
        """Return the bias of a chain's scores, (heads, queries, keys), keys from the last to the first.

        In that order it depends on the sum of query and key, so its rows are windows of the table, one step apart: a
        view without memory of its own. For titin's 34,350 residues and 32 heads a copy would take 151 GB.
        """
        distances = slice(self.longest - length, self.longest + length - 1)
        return self.table[:, distances].to(dtype).unfold(-1, length, 1)


class T5Family(BackboneFamily):
    """ProtT5 and Ankh encoders."""

    model_type = "t5"
    model_class = T5EncoderModel
    build_options: ClassVar[dict[str, Any]] = {}
    block_class = "T5Block"
    num_leading = 0
    tokenizer_classes = ("T5Tokenizer",)
    replaced_residues = "BJOUZ"  # LIFT_SS
    has_quadratic_attention = True
    feed_forward = {T5DenseActDense: ("wi", "act")}  # noqa: RUF012
    citation = "Elnaggar et al. 2022, IEEE TPAMI 44:7112 (ProtTrans)"

    def embeddings(self, backbone: Any) -> nn.Module:
        """Return the token embeddings."""
        return backbone.encoder.embed_tokens

    def blocks(self, backbone: Any) -> nn.ModuleList:
        """Return the transformer blocks, from the bottom."""
        return backbone.encoder.block

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
    ) -> tuple[torch.Tensor, ...]:
        """Return the mask, the position bias with the mask added, and the same with room for prefix keys.

        The bias belongs to the distance between residues, so prefix keys get none, unless `prefix_shift` counts them as
        tokens before the chain. adapters 1.3.0 by itself does, and has no bias at all above a block that was left out.
        """
        mask = backbone.get_extended_attention_mask(attention_mask, attention_mask.shape[:2])
        length = attention_mask.shape[-1]
        compute_bias = backbone.encoder.block[0].layer[0].SelfAttention.compute_bias
        bias = compute_bias(length, length) + mask
        if prefix_shift:
            return mask, bias, compute_bias(length, prefix_length + length) + F.pad(mask, (prefix_length, 0))
        return mask, bias, F.pad(bias, (prefix_length, 0)) if prefix_length else bias

    def run_block(
        self, block: nn.Module, hidden: torch.Tensor, inputs: tuple[torch.Tensor, ...], has_prefix: bool
    ) -> torch.Tensor:
        """Run one block: (batch, tokens, hidden) to (batch, tokens, hidden)."""
        mask, bias, prefixed_bias = inputs
        return block(hidden, mask, prefixed_bias if has_prefix else bias)[0]

    def run_block_with_attention(
        self, block: nn.Module, hidden: torch.Tensor, inputs: tuple[torch.Tensor, ...], has_prefix: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run one block; also return its attention, (batch, heads, tokens, keys)."""
        mask, bias, prefixed_bias = inputs
        hidden, *_, attention = block(hidden, mask, prefixed_bias if has_prefix else bias, output_attentions=True)
        return hidden, attention

    def finish(self, backbone: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Turn the last block's output, (batch, tokens, hidden), into the backbone's output."""
        return backbone.encoder.dropout(super().finish(backbone, hidden))

    def make_row(self, backbone: Any, lengths: Sequence[int]) -> Row | None:
        """Return T5's blocks on a row."""
        return T5Row(backbone, lengths)


class T5SecondaryStructureConfig(SecondaryStructureConfig):
    """Configuration of a model over the encoder of ProtT5 or Ankh."""

    model_type = "t5_secondary_structure"
    backbone_config_class = T5Config
    sub_configs = {"backbone_config": T5Config}  # noqa: RUF012  transformers' own form


class T5ForSecondaryStructure(SecondaryStructureModel):
    """Predict secondary structure over the encoder of ProtT5 or Ankh."""

    family = T5Family()
    _supports_sdpa = False
    config_class = T5SecondaryStructureConfig  # type: ignore[assignment]
    _tied_weights_keys = ["backbone.encoder.embed_tokens.weight"]  # type: ignore[assignment]  # noqa: RUF012
