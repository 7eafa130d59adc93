"""Ensembles: several models that predict together and share the backbone's weights in memory.

    ensemble = Ensemble.from_pretrained(["run_0", "run_1", "run_2"])
    output = ensemble(input_ids, attention_mask)       # logits, similarities

As in LIFT_SS, the similarities (cosines with the centroids) are averaged and scaled to logits. If a model has no
centroids, or the scales differ, the logarithms of the probabilities are averaged instead. Both come before
calibration, so that no temperature changes a state.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..models.artefact import fetch_backbone, read_weights
from ..models.backbones import BackboneFamily
from ..models.modeling import SecondaryStructureModel, SecondaryStructureOutput
from ..models.pretrained import as_dtype
from ..models.safety import HUB_OPTIONS


def share_weights(backbone: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a backbone with its own modules and the same weights in memory, for its own adapter."""
    tensors = [*backbone.parameters(), *backbone.buffers()]
    return copy.deepcopy(backbone, memo={id(tensor): tensor for tensor in tensors})


class Ensemble(nn.Module):
    """Models that predict together.

    Args:
        models: at least one; all of one family, with the same states.

    Raises:
        ValueError: if there is no model, or the models differ in family, states or leading token.
    """

    def __init__(self, models: Sequence[SecondaryStructureModel]):
        super().__init__()
        if not models:
            raise ValueError("an ensemble needs at least one model.")
        if len(states := {model.config.states for model in models}) > 1:
            raise ValueError(f"models of an ensemble must have the same states, found {', '.join(sorted(states))}.")
        if len({type(model) for model in models}) > 1:
            raise ValueError(
                "models of an ensemble must be of the same family, found "
                f"{', '.join(sorted({type(model).__name__ for model in models}))}."
            )
        if len(tokens := {model.config.leading_token for model in models}) > 1:
            raise ValueError(
                "models of an ensemble get the same tokens, but their backbones expect different ones before the "
                f"residues: {', '.join(sorted(str(token) for token in tokens))}."
            )
        self.models: Any = nn.ModuleList(models)
        self.config = models[0].config
        self.train(models[0].training)

    @classmethod
    def from_pretrained(
        cls,
        names: Sequence[str | os.PathLike],
        backbone: str | os.PathLike | None = None,
        dtype: torch.dtype | str | None = None,
        **options: Any,
    ) -> Ensemble:
        """Load saved models; the backbone is fetched and checked once.

        Args:
            names: Hub ids or folders of models over the same frozen backbone.
            backbone: Hub id or folder of the backbone; by default the one named in the first model's configuration.
            dtype: of the frozen weights; fp32 by default.
            options: cache_dir, force_download, local_files_only, proxies, token.

        Raises:
            ValueError: if the models were trained on different backbones, or differ in family or states.
            TypeError: if an option is unknown.
        """
        if isinstance(names, (str, os.PathLike)) or not names:
            raise ValueError(f"expected a list of models to load an ensemble, found {names!r}. Give at least one name.")
        known = sorted({*HUB_OPTIONS} - {"subfolder"})  # it names a folder within one repository
        if unknown := sorted(set(options) - set(known)):
            raise TypeError(f"unknown option {unknown[0]!r}. Choose from: {', '.join(known)}.")
        configs = [SecondaryStructureModel.read_config(name, **options) for name in names]
        if holders := [str(name) for name, config in zip(names, configs, strict=True) if config.includes_backbone]:
            raise ValueError(
                f"{', '.join(holders)}: includes its own backbone, which an ensemble cannot share. Load each model "
                "separately and pass the models to Ensemble."
            )
        if len({config.backbone_fingerprint for config in configs}) > 1 or any(
            config.freeze != "all" or config.unfrozen for config in configs
        ):
            raise ValueError(
                "models loaded as an ensemble must share one frozen backbone, but these were trained on different "
                f"backbones, or changed theirs: {', '.join(map(str, names))}. Load each model separately and pass the "
                "models to Ensemble."
            )
        dtype = as_dtype(dtype)
        family = SecondaryStructureModel.class_for(configs[0].backbone_config.model_type).family
        shared = fetch_backbone(configs[0], family, names[0], backbone, dtype=dtype, **options)
        models = []
        for name, config in zip(names, configs, strict=True):
            weights = read_weights(name, **options)
            models.append(SecondaryStructureModel.assemble(config, share_weights(shared), weights, name, dtype))
        return cls(models)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **inputs: Any
    ) -> SecondaryStructureOutput:
        """Predict with every model, and average.

        Args:
            input_ids: (batch, tokens) int64, special tokens included.
            attention_mask: (batch, tokens), 1 = keep; by default every token but padding.
            inputs: other arguments of the models' `forward`.

        Returns:
            `logits` and, if all models have centroids and the same scale, `similarities`.
        """
        first = self.models[0]
        attention_mask = first.attention_mask(input_ids, attention_mask)
        if self._shares_frozen_blocks:
            num_blocks = first.num_frozen_blocks
            frozen = first.run_frozen_blocks(input_ids, attention_mask, num_blocks)
            inputs |= {"cached_states": frozen, "num_cached_blocks": num_blocks}
        inputs |= {"attention_mask": attention_mask, "return_similarities": True, "return_dict": True}
        outputs = [model(input_ids, **inputs) for model in self.models]
        if not self._averages_similarities:
            logits = torch.stack([output.logits.float() for output in outputs])
            return SecondaryStructureOutput(logits=logits.log_softmax(-1).mean(0))
        similarities = torch.stack([output.similarities for output in outputs]).mean(0)
        return SecondaryStructureOutput(logits=self.config.loss_scale * similarities, similarities=similarities)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Return calibrated probabilities of the states; the last axis sums to 1."""
        return (logits.float() / self.calibration_temperature).softmax(-1)

    @property
    def calibration_temperature(self) -> float:
        """Mean of the models' temperatures."""
        return sum(model.calibration_temperature for model in self.models) / len(self.models)

    def residue_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return (batch, tokens) bool, True where a token stands for a residue."""
        return self.models[0].residue_mask(attention_mask)

    @property
    def max_residues(self) -> int | None:
        """Length of the longest chain that no model cuts into windows [residues]; None if there is no limit."""
        return min((m.max_residues for m in self.models if m.max_residues is not None), default=None)

    @property
    def family(self) -> BackboneFamily:
        """Family of the backbones."""
        return self.models[0].family

    @property
    def device(self) -> torch.device:
        """Device of the models."""
        return self.models[0].device

    @property
    def _averages_similarities(self) -> bool:
        """True if the models' similarities are comparable: all have centroids, and the same scale."""
        configs = [model.config for model in self.models]
        return all(c.uses_centroids for c in configs) and len({c.loss_scale for c in configs}) == 1

    @property
    def _shares_frozen_blocks(self) -> bool:
        """True if one pass through the frozen lower blocks serves all models."""
        if any(model.unfrozen_names or model.trains_embeddings for model in self.models):
            return False
        configs = [model.config for model in self.models]
        reach = {(model.num_frozen_blocks, model.max_residues) for model in self.models}
        same = len(reach) == 1 and len({(c.backbone_fingerprint, c.window_overlap, c.freeze) for c in configs}) == 1
        return same and configs[0].backbone_fingerprint is not None and not any(c.block_mix for c in configs)
