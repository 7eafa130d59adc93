"""What each supported version of transformers leaves in files: small models, their logits, the names of its arguments.

They are kept in tests/data.

To make them again, run this file in an environment with that version:

    PYTHONPATH=.:tests python tests/other_stacks.py
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import batch_of_chains, save_tiny_backbone
from transformers import TrainingArguments

from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.tokenization import ResidueTokenizer

DATA = Path(__file__).parent / "data"
LOGITS = "logits.safetensors"
ARGUMENTS = "training_arguments.txt"
SIZES = {
    "esm": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    "bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64},
    "t5": {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_kv": 8, "d_ff": 32},
}
# The first are saved with their backbone, the second without.
ARTEFACTS = [(family, adapter) for family in SIZES for adapter in ("bottleneck", "mam")]


def backbone_of(family: str) -> str:
    """Return the folder of the backbone of a family, which all versions read; write it if it is not there."""
    folder = DATA / "tiny_backbones" / family
    return str(folder) if folder.is_dir() else save_tiny_backbone(folder, family, **SIZES[family])


def logits_of(model: SecondaryStructureModel, family: str) -> torch.Tensor:
    """Return the logits of two made-up chains, (2, tokens, states)."""
    batch = batch_of_chains(family, [12, 7])
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def expected_logits(folder: Path) -> torch.Tensor:
    """Return the logits that were computed where the model was saved."""
    return load_file(folder / LOGITS)["logits"]


def training_arguments() -> list[str]:
    """Return the names of all arguments that the installed `TrainingArguments` takes, sorted."""
    return sorted(field.name for field in dataclasses.fields(TrainingArguments) if field.init)


def main() -> None:
    """Write all files with the installed version of transformers."""
    folder = DATA / f"transformers_{transformers.__version__}"
    folder.mkdir(exist_ok=True)
    (folder / ARGUMENTS).write_text("\n".join(training_arguments()) + "\n")
    for family, adapter in ARTEFACTS:
        model_folder = folder / f"{family}_{adapter}"
        backbone = backbone_of(family)
        torch.manual_seed(0)
        model = SecondaryStructureModel.from_backbone(
            backbone, adapter=adapter, top_blocks=1, head="linear", adapter_options={"reduction_factor": 4}
        )
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        model.config.backbone_name = f"tiny_backbones/{family}"  # not a path of this machine
        model.save_pretrained(model_folder, include_backbone=adapter == "bottleneck")
        if adapter == "bottleneck":
            ResidueTokenizer.from_pretrained(backbone).save_pretrained(model_folder)
        save_file({"logits": logits_of(model.eval(), family).contiguous()}, model_folder / LOGITS)


if __name__ == "__main__":
    main()
