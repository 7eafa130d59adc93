"""The loss: cross entropy over labelled residues, optionally with margins or weights for rare states.

Cross entropy over scaled cosines is the normalised softmax of LIFT_SS (Yang et al. 2023, bioRxiv 2023.03.22.530066);
margins are LDAM (Cao et al. 2019, arXiv:1906.07413).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .states import IGNORE_INDEX

LARGEST_MARGIN = 1.0  # of the rarest state, LIFT_SS


def margins(class_counts: Sequence[int]) -> torch.Tensor:
    """Return LDAM's margins: proportional to n^(-1/4), and 1 for the rarest state.

    A state that does not occur (P in an eight-state corpus) is treated as if it occurred once.

    Returns:
        (states,) fp32.
    """
    raw = torch.tensor(class_counts, dtype=torch.float32).clamp(min=1) ** -0.25
    return raw * (LARGEST_MARGIN / raw.max())


def state_weights(class_counts: Sequence[int], power: float) -> torch.Tensor:
    """Return weights that count rare states more: n^-power, scaled so that their mean over labelled residues is 1.

    With power 1 all states weigh the same in total; 0.5 is half way, on a logarithmic scale. A state that does not
    occur has weight 1.

    Returns:
        (states,) fp32.
    """
    counts = torch.tensor(class_counts, dtype=torch.float32)
    raw = counts.clamp(min=1) ** -power
    weights = raw * counts.sum() / (raw * counts).sum().clamp(min=1e-12)
    return weights.where(counts > 0, 1.0)


def residue_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    margin: torch.Tensor | None = None,
    num_items_in_batch: torch.Tensor | int | None = None,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the cross entropy averaged over the labelled residues.

    Args:
        logits: (batch, tokens, states).
        labels: (batch, tokens) int64, IGNORE_INDEX where there is nothing to learn.
        margin: (states,) subtracted from the target's logit.
        num_items_in_batch: labelled residues of the whole accumulated batch, as counted by Trainer; the sum is divided
            by it, so that every residue weighs the same. None: those of this batch.
        weight: (states,) weight of a residue in each state.

    Returns:
        () fp32; 0, never NaN, if no residue is labelled.

    Raises:
        ValueError: if labels have another shape or (on a CPU; a GPU has its own assertion) are not states.

    Example:
        >>> logits = torch.zeros(1, 3, 9)
        >>> round(residue_loss(logits, torch.tensor([[IGNORE_INDEX, 0, 5]])).item(), 4)  # log(9)
        2.1972
    """
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)}, expected {tuple(logits.shape[:-1])}: (batch, tokens)."
        )
    num_states = logits.shape[-1]
    if labels.device.type == "cpu":
        wrong = labels[(labels != IGNORE_INDEX) & ((labels < 0) | (labels >= num_states))]
        if len(wrong):
            raise ValueError(
                f"label {int(wrong[0])} is not a state. Expected 0 to {num_states - 1}, or {IGNORE_INDEX} to ignore it."
            )
    logits, labels = logits.flatten(0, 1).float(), labels.flatten()
    is_labelled = labels != IGNORE_INDEX
    if margin is not None:
        target = F.one_hot(labels.where(is_labelled, 0), logits.shape[-1]).to(logits.dtype)
        logits = logits - target * margin.to(logits)
    total = F.cross_entropy(logits, labels, weight, ignore_index=IGNORE_INDEX, reduction="sum")
    if num_items_in_batch is None:
        num_items_in_batch = is_labelled.sum()
    count = torch.as_tensor(num_items_in_batch, device=total.device)
    return total / count.clamp(min=1)
