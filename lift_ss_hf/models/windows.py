"""Windows over chains that are longer than a backbone can read, and stitching their hidden states together.

Every residue's hidden state comes from exactly one window: the one in which it is farthest from an edge. A chain's
own ends do not count as edges.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch

DEFAULT_OVERLAP = 256  # residues; about 128 of context on either side of a cut


class Window(NamedTuple):
    """A stretch of a chain that is run by itself, and the part of its output that is kept; 0-based, ends exclusive."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def plan_windows(length: int, max_residues: int | None, overlap: int | None = None) -> list[Window]:
    """Cut a chain into overlapping windows; each residue is kept from the window in which it is farthest from an edge.

    Windows have equal lengths and are spread evenly, so they may overlap by more than `overlap`. Between two neighbours
    the cut is in the middle of their overlap.

    Args:
        length: residues of the chain.
        max_residues: residues of the longest window; None means no limit.
        overlap: residues that neighbours share at least; None means a quarter of a window, at most 256.

    Raises:
        ValueError: if windows would not advance with such an overlap.

    Example:
        >>> [tuple(window) for window in plan_windows(10, max_residues=6, overlap=2)]
        [(0, 6, 0, 5), (4, 10, 5, 10)]
    """
    if max_residues is None or length <= max_residues:
        return [Window(0, length, 0, length)]
    if overlap is None:
        overlap = min(DEFAULT_OVERLAP, max_residues // 4)
    if not 0 <= overlap < max_residues:
        raise ValueError(
            f"windows of {max_residues} residues cannot overlap by {overlap}. "
            f"Choose a window_overlap from 0 to {max_residues - 1}."
        )
    count = -(-(length - overlap) // (max_residues - overlap))  # rounded up
    starts = [round(i * (length - max_residues) / (count - 1)) for i in range(count)]
    cuts = [0, *((a + max_residues + b) // 2 for a, b in itertools.pairwise(starts)), length]
    return [Window(start, start + max_residues, *cuts[i : i + 2]) for i, start in enumerate(starts)]


class WindowBatch(NamedTuple):
    """A batch of chains cut into windows.

    Attributes:
        token_index: (windows, window tokens) int64, the index of each token in the flattened batch.
        attention_mask: (windows, window tokens) int64, 1 = keep.
        row, column: (batch, tokens) int64, the window of each token's hidden state and its index there.
    """

    token_index: torch.Tensor
    attention_mask: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor

    def stitch(self, hidden: torch.Tensor) -> torch.Tensor:
        """Stitch (windows, window tokens, hidden) to (batch, tokens, hidden)."""
        return hidden[self.row, self.column]


def cut_batch(
    attention_mask: torch.Tensor, num_leading: int, num_trailing: int, max_residues: int, overlap: int | None
) -> WindowBatch:
    """Cut the chains of a batch into windows, each with the chain's special tokens at its ends.

    Args:
        attention_mask: (batch, tokens) int64, 1 = keep; padding on either side.
        num_leading: special tokens before the residues of each chain.
        num_trailing: special tokens after them.
        max_residues: of the longest window.
        overlap: as in `plan_windows`.
    """
    batch, tokens = attention_mask.shape
    firsts, lengths = attention_mask.argmax(1).tolist(), attention_mask.sum(1).tolist()
    row, column = torch.zeros(2, batch, tokens, dtype=torch.long)
    sources: list[torch.Tensor] = []
    for chain, (first, length) in enumerate(zip(firsts, lengths, strict=True)):
        residues = length - num_leading - num_trailing
        for window in plan_windows(residues, max_residues, overlap):
            inside = torch.arange(window.start, window.stop) + num_leading
            ends = torch.arange(num_leading + residues, length)
            source = torch.cat([torch.arange(num_leading), inside, ends])
            # the special tokens are kept from the first and the last window
            low = 0 if window.start == 0 else num_leading + window.keep_start
            high = length if window.stop == residues else num_leading + window.keep_stop
            row[chain, first + low : first + high] = len(sources)
            column[chain, first + low : first + high] = torch.arange(low, high) - window.start
            sources.append(source + chain * tokens + first)
    token_index = torch.nn.utils.rnn.pad_sequence(sources, batch_first=True)
    widths = torch.tensor([len(source) for source in sources])
    mask = (torch.arange(token_index.shape[1]) < widths[:, None]).long()
    device = attention_mask.device
    return WindowBatch(token_index.to(device), mask.to(device), row.to(device), column.to(device))
