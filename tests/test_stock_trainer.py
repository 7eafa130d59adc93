"""The way of someone who knows Hugging Face: tokenizer, map, stock collator, stock Trainer, reload."""

import datasets
import pytest
import torch
from tiny_models import BACKBONES, save_tiny_backbone
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
)

from lift_ss_hf import ResidueTokenizer, SecondaryStructureModel, compute_metrics


@pytest.mark.parametrize("family", BACKBONES)
def test_tokenizer_map_collator_trainer_reload(family, tmp_path):
    backbone = save_tiny_backbone(tmp_path / "backbone", family)
    tokenizer = ResidueTokenizer.from_pretrained(backbone)
    model = SecondaryStructureModel.from_backbone(backbone, top_blocks=2, head="linear", loss="cross_entropy")
    corpus = datasets.Dataset.from_dict(
        {
            "id": ["a", "b", "c", "d"],
            "sequence": ["MKTAYIAK", "gshmlee", "ACDEFUHIJK", "MV"],
            "states": ["LLEEEELL", "XXHHHHL", "HHHHHHHHHH", "EE"],
        }
    )
    encoded = corpus.map(tokenizer.encode_batch, batched=True, remove_columns=corpus.column_names)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        num_train_epochs=15,
        learning_rate=3e-2,
        per_device_train_batch_size=2,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=encoded,
        eval_dataset=encoded,
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_metrics=compute_metrics("q9"),
    )
    before = trainer.evaluate()["eval_q9"]
    trainer.train()
    assert trainer.evaluate()["eval_q9"] > max(before, 0.5)
    trainer.save_model(str(tmp_path / "saved"))

    reloaded = AutoModelForTokenClassification.from_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert isinstance(again, ResidueTokenizer)
    batch = again(corpus["sequence"][:], padding=True, return_tensors="pt")
    assert batch["attention_mask"].sum(1).tolist() == [len(ids) for ids in encoded["input_ids"]]
    with torch.no_grad():
        expected = model.eval()(**batch).logits
        assert torch.equal(reloaded.eval()(**batch).logits, expected)


def test_labels_stay_on_their_residues(tmp_path):
    tokenizer = ResidueTokenizer.from_pretrained("bundled")
    rows = tokenizer.encode_batch({"sequence": ["MJJK", "W"], "states": ["HXEL", "T"]}, alphabet="q3")
    batch = DataCollatorForTokenClassification(tokenizer)(
        [{key: values[row] for key, values in rows.items()} for row in range(2)]
    )
    assert batch["input_ids"][0].tolist() == tokenizer("MXXK")["input_ids"]
    assert batch["labels"].tolist() == [[-100, 2, -100, 1, 0, -100], [-100, 0, -100, -100, -100, -100]]
