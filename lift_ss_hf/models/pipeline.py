"""The `protein-secondary-structure` pipeline: residues in, states and confidences out. Travels with a model.

predictor = pipeline(model="org/name", trust_remote_code=True)
predictor("MKTAYIAK", states="q3")   # {"sequence": ..., "states": "CHHHHHHC", "confidence": [0.61, ...]}
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import Pipeline

from .states import fold_index, get_alphabet, reduce_probabilities
from .tokenization import ResidueTokenizer

TASK = "protein-secondary-structure"


class SecondaryStructurePipeline(Pipeline):
    """Predict the states of one chain or of many; chains too long for the backbone are windowed by the model.

    Call it with a sequence, or a list of sequences, and `states` to reduce to: `q9`, `q8`, `q3` or `q3_lift_ss`; by
    default the model's own. `batch_size` chains are run together; padding does not change them.

    Returns for each chain `sequence` (the residues as the backbone read them, length L), `states` (L letters) and
    `confidence`: L calibrated probabilities of the states given [fraction].

    Raises:
        ValueError: for what is no residue, or states that the model's do not fold into.
        TypeError: for what is no string.
    """

    model: Any
    _load_tokenizer: Any = True
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False

    def __init__(self, model: Any, tokenizer: Any, **options: Any):
        super().__init__(model=model, tokenizer=tokenizer, **options)
        self.residues = ResidueTokenizer(tokenizer, model.config.backbone_config.model_type)

    def _sanitize_parameters(self, states: str | None = None) -> tuple[dict[str, Any], ...]:  # type: ignore[override]
        if states is None:
            return {}, {}, {}
        fold_index(self.model.config.states, states)  # says what does not fold
        return {}, {}, {"states": states}

    def preprocess(self, sequence: str) -> dict[str, Any]:  # type: ignore[override]
        """Residues to a batch of one."""
        if not isinstance(sequence, str):
            raise TypeError(f"expected a sequence (str) or a list of them, found {type(sequence).__name__}.")
        tokens = torch.from_numpy(self.residues.encode(sequence))[None]
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "sequence": sequence.strip().upper()}

    def _forward(self, inputs: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        tokens, mask = inputs["input_ids"], inputs["attention_mask"]
        probabilities = self.model.probabilities(self.model(input_ids=tokens, attention_mask=mask).logits)
        return {
            "probabilities": probabilities,
            "residue_mask": self.model.residue_mask(mask),
            "sequence": inputs["sequence"],
        }

    def postprocess(  # type: ignore[override]  # its only option
        self, model_outputs: dict[str, Any], states: str | None = None
    ) -> dict[str, Any]:
        """Probabilities summed over each group of states, then the largest."""
        own = self.model.config.states
        alphabet = get_alphabet(states or own)
        probabilities = model_outputs["probabilities"].reshape(-1, len(get_alphabet(own)))
        residues = probabilities[model_outputs["residue_mask"].flatten()].float().numpy()
        reduced = reduce_probabilities(residues, alphabet, own)
        sequence = model_outputs["sequence"]
        return {
            "sequence": sequence if isinstance(sequence, str) else sequence[0],
            "states": alphabet.decode(reduced.argmax(-1)),
            "confidence": np.minimum(reduced.max(-1), 1.0).tolist(),
        }
