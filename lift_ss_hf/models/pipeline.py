"""The `protein-secondary-structure` pipeline: residues in, states and confidences out.

predictor = pipeline(model="org/name", trust_remote_code=True)
predictor("MKTAYIAK", states="q3")   # {"sequence": ..., "states": "CHHHHHHC", "confidence": [0.61, ...]}
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import Pipeline

from .safety import check_finite
from .sequences import clean_sequence
from .states import fold_index, get_alphabet, reduce_probabilities, temper_probabilities
from .tokenization import ResidueTokenizer


class SecondaryStructurePipeline(Pipeline):
    """Predict the states of one sequence or of many; the model cuts long ones into windows.

    Call it with a sequence, or a list of sequences, and the `states` to report: `q9`, `q8`, `q3` or `q3_lift_ss`; by
    default the model's own. `batch_size` sequences are run together; padding does not change the result.

    Returns for each sequence a dictionary: `sequence` (the residues in upper case, length L), `states` (L letters) and
    `confidence` (L calibrated probabilities of the reported states [fraction]).

    Raises:
        ValueError: if a character is not a residue, or the model's states cannot be reduced to those asked for.
        TypeError: if the input is not a string or a list of strings.
    """

    model: Any
    tokenizer: Any
    _load_tokenizer: Any = True
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False

    def __init__(self, model: Any, tokenizer: Any, **options: Any):
        super().__init__(model=model, tokenizer=tokenizer, **options)
        # not isinstance: where a model runs its own code there may be two classes of this name
        if not hasattr(self.tokenizer, "encode_sequence"):
            self.tokenizer = ResidueTokenizer.from_stock(self.tokenizer, model.family)

    def _sanitize_parameters(self, states: str | None = None) -> tuple[dict[str, Any], ...]:  # type: ignore[override]
        if states is None:
            return {}, {}, {}
        fold_index(self.model.config.states, states)  # raises if the states cannot be reduced to these
        return {}, {}, {"states": states}

    def preprocess(self, sequence: str) -> dict[str, Any]:  # type: ignore[override]
        """Turn a sequence into a batch of one."""
        if not isinstance(sequence, str):
            raise TypeError(f"expected a sequence (str) or a list of them, found {type(sequence).__name__}.")
        clean = clean_sequence(sequence)
        tokens = torch.from_numpy(self.tokenizer.encode_sequence(clean))[None]
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "sequence": str(clean)}

    def _forward(self, inputs: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        tokens, mask = inputs["input_ids"], inputs["attention_mask"]
        logits = self.model(input_ids=tokens, attention_mask=mask, return_dict=True).logits
        return {
            "probabilities": logits.float().softmax(-1),
            "residue_mask": self.model.residue_mask(mask),
            "sequence": inputs["sequence"],
        }

    def postprocess(  # type: ignore[override]  # its only option
        self, model_outputs: dict[str, Any], states: str | None = None
    ) -> dict[str, Any]:
        """Sum the probabilities over each group of states, take the largest, then calibrate."""
        own = self.model.config.states
        alphabet = get_alphabet(states or own)
        probabilities = model_outputs["probabilities"].reshape(-1, len(get_alphabet(own)))
        residues = probabilities[model_outputs["residue_mask"].flatten()].cpu().numpy()
        reduced = reduce_probabilities(check_finite(residues), alphabet, own)
        calibrated = temper_probabilities(reduced, self.model.config.calibration_temperature)
        sequence = model_outputs["sequence"]
        return {
            "sequence": sequence if isinstance(sequence, str) else sequence[0],
            "states": alphabet.decode(reduced.argmax(-1)),
            "confidence": np.minimum(calibrated.max(-1), 1.0).tolist(),
        }
