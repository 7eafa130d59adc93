"""Train EsmForTokenClassification with the stock Trainer: peft's LoRA, or in full.

A program of own_chains.py, which starts it. Chains of similar length are together. The learning rate starts at
1e-3 for LoRA and at 1e-4 in full, and falls to 0 in three epochs of batches of eight chains, of which the one with the
lowest validation loss is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from measuring import finish, read_chains

STATES = "HEC"
LEARNING_RATES = {"lora": 1e-3, "full": 1e-4}
EPOCHS, BATCH = 3, 8


def main(method: str, chains: str, backbone: str, seed: str) -> None:
    """Train, write `usage.json`, and write the states of the test chains to `states.json`.

    Args:
        method: lora or full.
        chains: folder with train.txt, validation.txt and tests.json.
        backbone: folder or Hub id of an ESM backbone.
        seed: seed of the head's weights and of the order of the chains.
    """
    transformers.set_seed(int(seed))
    tokenizer = transformers.AutoTokenizer.from_pretrained(backbone)
    model: Any = transformers.AutoModelForTokenClassification.from_pretrained(backbone, num_labels=len(STATES))
    if method == "lora":
        import peft

        model = peft.get_peft_model(
            model, peft.LoraConfig(task_type="TOKEN_CLS", target_modules=["query", "key", "value"])
        )
    trainer = transformers.Trainer(
        model=model,
        args=_arguments(LEARNING_RATES[method], int(seed)),
        train_dataset=_encoded(tokenizer, read_chains(Path(chains, "train.txt"))),
        eval_dataset=_encoded(tokenizer, read_chains(Path(chains, "validation.txt"))),
        data_collator=transformers.DataCollatorForTokenClassification(tokenizer),
    )
    trainer.train()
    model.eval()
    finish(chains, lambda sequences: [_states(model, tokenizer, sequence) for sequence in sequences])


def _arguments(learning_rate: float, seed: int) -> transformers.TrainingArguments:
    return transformers.TrainingArguments(
        output_dir="trainer",
        learning_rate=learning_rate,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        save_total_limit=1,
        report_to="none",
        seed=seed,
        use_cpu=True,
        disable_tqdm=True,
        **_grouping(),
    )


def _grouping() -> dict[str, Any]:
    """Return the argument that puts chains of similar length together."""
    if "train_sampling_strategy" in transformers.TrainingArguments.__dataclass_fields__:  # from transformers 5 on
        return {"train_sampling_strategy": "group_by_length"}
    return {"group_by_length": True}


def _encoded(tokenizer: Any, chains: Iterable[tuple[str, str, str]]) -> list[dict[str, Any]]:
    rows = []
    for _, sequence, states in chains:
        labels = [-100, *map(STATES.index, states), -100]  # <cls> and <eos> have no state
        rows.append(dict(tokenizer(sequence)) | {"labels": labels})
    return rows


def _states(model: Any, tokenizer: Any, sequence: str) -> str:
    with torch.no_grad():
        logits = model(**tokenizer(sequence, return_tensors="pt")).logits
    return "".join(STATES[label] for label in logits[0, 1:-1].argmax(-1))


if __name__ == "__main__":
    main(*sys.argv[1:])
