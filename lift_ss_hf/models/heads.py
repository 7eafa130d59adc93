"""From a backbone's hidden states to states: block mixers, heads, and the two kinds of classifier.

A head is `head(hidden, residue_mask) -> HeadOutput`. Convolutions see residues only: values at special and padding
tokens are zeroed before each of them, so neither padding nor neighbours in the batch change a chain.
Source of the inception head and the centroids: Yang et al. 2023, bioRxiv 2023.03.22.530066; of dilated convolutions:
Yu & Koltun 2016, arXiv:1511.07122.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .configuration import SecondaryStructureConfig
from .states import get_alphabet

NORM_EPSILON = 1e-6  # LIFT_SS
FILTERS, KERNEL = 96, 9  # last convolution of the inception head, LIFT_SS
DILATED_KERNEL = 5
DILATIONS = (1, 2, 4, 8)  # a round of them reaches over 30 residues on either side


class BlockMean(nn.Module):
    """A learned weighted mean of the embeddings and the outputs of all blocks (Peters et al. 2018, ELMo)."""

    def __init__(self, num_outputs: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_outputs))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Average num_outputs x (batch, tokens, hidden) to (batch, tokens, hidden)."""
        shares = self.weights.softmax(0)
        return self.scale * torch.stack([share * out for share, out in zip(shares, outputs, strict=True)]).sum(0)


class BlockConcatenation(nn.Module):
    """The embeddings and the outputs of all blocks side by side, each normalised since residual streams grow.

    A small backbone is narrow: the information of lower blocks is overwritten further up. Side by side nothing is lost,
    at little extra cost, since all but the head's first layer keeps its width.
    """

    def __init__(self, num_outputs: int):
        super().__init__()

    def forward(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Join num_outputs x (batch, tokens, hidden) to (batch, tokens, num_outputs x hidden)."""
        return torch.cat([F.layer_norm(output, output.shape[-1:]) for output in outputs], dim=-1)


BLOCK_MIXERS: dict[str, type[nn.Module]] = {"concat": BlockConcatenation, "mean": BlockMean}


def make_block_mixer(config: SecondaryStructureConfig) -> nn.Module | None:
    """Return what combines all blocks' outputs for the head; None if the head sees the last block's only."""
    return BLOCK_MIXERS[config.block_mix](config.num_blocks + 1) if config.block_mix else None


class HeadOutput(NamedTuple):
    """Output of a head.

    Attributes:
        logits: (batch, tokens, states) fp32; their softmax is the probabilities.
        similarities: (batch, tokens, states) fp32 cosines with the centroids; None without centroids.
        embeddings: (batch, tokens, size) what the classifier saw.
    """

    logits: torch.Tensor
    similarities: torch.Tensor | None
    embeddings: torch.Tensor


class ChannelNorm(nn.Module):
    """Divide by the root mean square over channels; a learned scale, no shift."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Map (batch, channels, tokens) to the same, computed in fp32."""
        precise = values.float()
        scale = torch.rsqrt(precise.square().mean(1, keepdim=True) + NORM_EPSILON)
        return (precise * scale * self.weight[:, None]).to(values.dtype)


class ConvUnit(nn.Module):
    """Convolution, hardswish, norm, dropout; plus the input where shapes match."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dilation: int = 1, dropout: float = 0.0):
        super().__init__()
        padding = kernel // 2 * dilation
        self.convolution = nn.Conv1d(in_channels, out_channels, kernel, padding=padding, dilation=dilation)
        self.norm = ChannelNorm(out_channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Map (batch, in_channels, tokens) to (batch, out_channels, tokens)."""
        if self.convolution.kernel_size[0] > 1:
            values = values * mask
        output = self.dropout(self.norm(F.hardswish(self.convolution(values))))
        return output + values if output.shape == values.shape else output


class SplitBlock(nn.Module):
    """A pointwise unit, half of whose output passes through a convolution over three residues."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float):
        super().__init__()
        self.pointwise = ConvUnit(in_channels, out_channels, 1)
        self.local = ConvUnit(out_channels // 2, out_channels // 2, 3)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Map (batch, in_channels, tokens) to (batch, out_channels, tokens)."""
        kept, passed = self.pointwise(values, mask).chunk(2, dim=1)
        return self.dropout(torch.cat([kept, self.local(self.dropout(passed), mask)], dim=1))


class Inception(nn.Module):
    """A short path of one block beside a long path of two."""

    def __init__(self, in_channels: int, channels: int, dropout: float):
        super().__init__()
        half = channels // 2
        self.short = SplitBlock(in_channels, half, dropout)
        self.long_first = SplitBlock(in_channels, half, dropout)
        self.long_second = SplitBlock(half, half, dropout)

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Map (batch, in_channels, tokens) to (batch, channels, tokens)."""
        long = self.long_second(self.long_first(values, mask), mask)
        return torch.cat([self.short(values, mask), long], dim=1)


class InceptionEncoder(nn.Module):
    """The LIFT_SS head up to its embedding; 4,698,208 parameters over ProtT5."""

    reach = KERNEL // 2  # residues that its widest convolution sees on either side

    def __init__(self, in_channels: int, channels: int, depth: int, size: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        widths = [in_channels, *[channels] * depth]
        self.inceptions = nn.ModuleList(Inception(a, b, dropout) for a, b in itertools.pairwise(widths))
        self.convolution = nn.Conv1d(channels, FILTERS, KERNEL, padding=KERNEL // 2)
        self.projection = nn.Linear(FILTERS, size, bias=False)

    def forward(self, hidden: torch.Tensor, residue_mask: torch.Tensor) -> torch.Tensor:
        """Map (batch, tokens, hidden) to (batch, tokens, size)."""
        values = self.dropout(hidden).transpose(1, 2)  # (batch, hidden, tokens)
        mask = residue_mask[:, None].to(values.dtype)  # (batch, 1, tokens)
        for inception in self.inceptions:
            values = inception(values, mask)
        values = F.relu(self.convolution(values * mask))
        return self.projection(values.transpose(1, 2))


class DilatedEncoder(nn.Module):
    """Residual dilated convolutions: a wide receptive field for small backbones.

    A depth of 2 sees 60 residues on either side, where the inception head of that depth sees 8.
    """

    reach = DILATED_KERNEL // 2 * max(DILATIONS)

    def __init__(self, in_channels: int, channels: int, depth: int, size: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.entrance = nn.Linear(in_channels, channels)
        self.units = nn.ModuleList(
            ConvUnit(channels, channels, DILATED_KERNEL, dilation, dropout)
            for _ in range(depth)
            for dilation in DILATIONS
        )
        self.projection = nn.Linear(channels, size, bias=False)

    def forward(self, hidden: torch.Tensor, residue_mask: torch.Tensor) -> torch.Tensor:
        """Map (batch, tokens, hidden) to (batch, tokens, size)."""
        values = self.entrance(self.dropout(hidden)).transpose(1, 2)  # (batch, channels, tokens)
        mask = residue_mask[:, None].to(values.dtype)  # (batch, 1, tokens)
        for unit in self.units:
            values = unit(values, mask)
        return self.projection(values.transpose(1, 2))


class LinearEncoder(nn.Linear):
    """One linear map of each residue by itself."""

    reach = 0

    def forward(self, hidden: torch.Tensor, residue_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Map (batch, tokens, hidden) to (batch, tokens, size)."""
        return super().forward(hidden)


CONVOLUTIONAL_ENCODERS = {"lift_ss": InceptionEncoder, "dilated": DilatedEncoder}  # by the configuration's `head`


def unit_vectors(values: torch.Tensor) -> torch.Tensor:
    """Centre the last axis on its mean and scale it to length one, in fp32."""
    precise = values.float()
    return F.normalize(precise - precise.mean(-1, keepdim=True), dim=-1)


class CentroidClassifier(nn.Module):
    """One centroid per state; the logits are scaled cosines."""

    def __init__(self, size: int, num_states: int, scale: float, init: str = "normal"):
        super().__init__()
        centroids = torch.randn(num_states, size)
        self.centroids = nn.Parameter(F.normalize(centroids, dim=0) if init == "reference" else centroids)
        self.scale = scale

    def forward(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (batch, tokens, size) to logits and similarities, each (batch, tokens, states)."""
        with torch.autocast(embeddings.device.type, enabled=False):  # cosines in bf16 would tie
            similarities = unit_vectors(embeddings) @ unit_vectors(self.centroids).T
        return self.scale * similarities, similarities


class StateHead(nn.Module):
    """An encoder of hidden states, followed by a classifier."""

    def __init__(self, config: SecondaryStructureConfig):
        super().__init__()
        num_states = len(get_alphabet(config.states))
        is_direct = config.head == "linear" and not config.uses_centroids
        size = num_states if is_direct else config.embedding_size
        if config.head == "linear":
            self.encoder: nn.Module = LinearEncoder(config.head_input_size, size, bias=is_direct)
        else:
            encoder = CONVOLUTIONAL_ENCODERS[config.head]
            self.encoder = encoder(
                config.head_input_size, config.head_channels, config.head_depth, size, config.head_dropout
            )
        if config.uses_centroids:
            self.classifier: nn.Module = CentroidClassifier(size, num_states, config.loss_scale, config.centroid_init)
        elif is_direct:
            self.classifier = nn.Identity()
        else:
            self.classifier = nn.Sequential(nn.ReLU(), nn.Linear(size, num_states, bias=False))

    def forward(self, hidden: torch.Tensor, residue_mask: torch.Tensor) -> HeadOutput:
        """Classify every token.

        Args:
            hidden: (batch, tokens, head_input_size) of the backbone.
            residue_mask: (batch, tokens) bool, True where a token stands for a residue.
        """
        embeddings = self.encoder(hidden, residue_mask)
        output = self.classifier(embeddings)
        logits, similarities = output if isinstance(output, tuple) else (output, None)
        return HeadOutput(logits.float(), similarities, embeddings)
