"""Weights of the backbone that a user unfreezes by hand: they train, and are in what is saved and loaded."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import FAMILIES, batch_of_chains, save_tiny_backbone
from transformers import Trainer, TrainingArguments

from lift_ss_hf.models.modeling import SecondaryStructureModel

# What is unfrozen: the name of a part to the modules, of a backbone's family
PARTS = {
    "embeddings": lambda model: [model.family.embeddings(model.backbone)],
    "lowest block": lambda model: [model.family.blocks(model.backbone)[0]],
    "lowest adapted block": lambda model: [model.family.blocks(model.backbone)[2]],
    "everything": lambda model: [model.backbone],
}
REGIMES = {
    "adapter": {"top_blocks": 2},
    "adapter of a block's output": {"adapter": "output_bottleneck", "top_blocks": 2},
    "features": {"adapter": None},
    "upper half": {"adapter": None, "freeze": 2},
}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbones")
    return {family: save_tiny_backbone(folder / family, family) for family in FAMILIES}


def new_model(name, **options):
    torch.manual_seed(0)
    return SecondaryStructureModel.from_backbone(name, **{"head": "linear", **options})


def unfreeze(model, part):
    for module in PARTS[part](model):
        module.requires_grad_(True)


def train_a_step(model, family, batch=None):
    """Change all weights that have a gradient; return their names."""
    model(**(batch or batch_of_chains(family, [9, 5]))).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    model.zero_grad()
    return trained


def logits(model, family):
    with torch.no_grad():
        return model.eval()(**batch_of_chains(family, [9, 5])).logits


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_unfrozen_weights_train_and_come_back(backbones, family, regime, part, tmp_path):
    model = new_model(backbones[family], **REGIMES[regime]).train()
    unfreeze(model, part)
    asked = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert train_a_step(model, family) == asked
    expected = logits(model, family)
    model.save_pretrained(tmp_path)
    reloaded = SecondaryStructureModel.from_pretrained(tmp_path)
    assert torch.equal(logits(reloaded, family), expected)
    assert {name for name, parameter in reloaded.named_parameters() if parameter.requires_grad} == asked
    assert train_a_step(reloaded.train(), family) == asked  # it can be trained further
    expected = logits(reloaded, family)
    reloaded.save_pretrained(tmp_path)
    assert torch.equal(logits(SecondaryStructureModel.from_pretrained(tmp_path), family), expected)


@pytest.mark.parametrize("adapter", ["bottleneck", None])
def test_only_what_was_unfrozen_is_saved_in_addition(backbones, adapter, tmp_path):
    model = new_model(backbones["esm"], adapter=adapter)
    model.save_pretrained(tmp_path / "plain")
    assert not set(load_file(tmp_path / "plain" / "model.safetensors")) & model.backbone_names
    block = model.family.blocks(model.backbone)[1].requires_grad_(True)
    model.save_pretrained(tmp_path / "one_block")
    saved = set(load_file(tmp_path / "one_block" / "model.safetensors")) & model.backbone_names
    assert saved == {f"backbone.encoder.layer.1.{name}" for name, _ in block.named_parameters()}
    assert json.loads((tmp_path / "one_block" / "config.json").read_text())["unfrozen"] == sorted(saved)
    assert model.config.unfrozen == []  # configurations may be shared; the file has its own


def test_weights_that_were_frozen_again_are_saved(backbones, tmp_path):
    model = new_model(backbones["esm"])
    model.backbone.requires_grad_(True)
    train_a_step(model.train(), "esm")
    model.requires_grad_(False)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(SecondaryStructureModel.from_pretrained(tmp_path), "esm"), logits(model, "esm"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_checkpoints_of_the_trainer_have_them(backbones, family, tmp_path):
    def trainer(model, steps):
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=steps,
            save_steps=2,
            learning_rate=3e-2,
            lr_scheduler_type="constant",
            per_device_train_batch_size=2,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        batch = batch_of_chains(family, [9, 5])
        return Trainer(model, arguments, train_dataset=[{k: v[row] for k, v in batch.items()} for row in (0, 1)])

    model = new_model(backbones[family])
    unfreeze(model, "everything")
    whole = trainer(model, 4)
    whole.train()
    saved = SecondaryStructureModel.from_pretrained(tmp_path / "checkpoint-4")
    assert torch.equal(logits(saved, family), logits(model, family))
    again = new_model(backbones[family])
    unfreeze(again, "everything")
    trainer(again, 4).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert torch.equal(logits(again, family), logits(model, family))


def test_a_checkpoint_loaded_into_a_frozen_model_is_saved_whole(backbones, tmp_path):
    model = new_model(backbones["esm"])
    unfreeze(model, "lowest block")
    train_a_step(model.train(), "esm")
    model.save_pretrained(tmp_path / "first")
    other = new_model(backbones["esm"])
    other.save_pretrained(tmp_path / "plain")
    other.load_state_dict(load_file(tmp_path / "first" / "model.safetensors"))
    other.save_pretrained(tmp_path / "second")
    assert torch.equal(
        logits(SecondaryStructureModel.from_pretrained(tmp_path / "second"), "esm"), logits(model, "esm")
    )
    with pytest.raises(RuntimeError, match=r"missing weights: \['backbone\.encoder\.layer\.0\."):
        model.load_state_dict(load_file(tmp_path / "plain" / "model.safetensors"))


def test_dropout_is_on_from_the_lowest_unfrozen_block(backbones):
    model = new_model(backbones["t5"], adapter="output_bottleneck", top_blocks=1)
    blocks = model.family.blocks(model.backbone)
    blocks[1].requires_grad_(True)
    assert (model.lowest_trained_block, model.num_frozen_blocks) == (1, 1)
    model.train()
    assert [block.training for block in blocks] == [False, True, True, True]
    assert not model.family.embeddings(model.backbone).training
    model.requires_grad_(False).train()
    assert [block.training for block in blocks] == [False, False, False, False]  # the adapter needs the last's output
    assert model.num_frozen_blocks == 4


def test_cached_states_of_an_unfrozen_block_are_refused(backbones):
    model, batch = new_model(backbones["esm"], adapter="output_bottleneck"), batch_of_chains("esm", [9, 5])
    cached = model.run_frozen_blocks(batch["input_ids"], batch["attention_mask"])
    inputs = {"attention_mask": batch["attention_mask"], "labels": batch["labels"], "cached_states": cached}
    model.train()(**inputs)
    model.family.blocks(model.backbone)[1].requires_grad_(True)
    with pytest.raises(
        ValueError, match=r"cached_states are of 3 blocks, but block 1 is being trained\. Pass input_ids"
    ):
        model(**inputs)


def test_unfrozen_in_a_configuration_must_name_frozen_weights(backbones):
    name = "backbone.encoder.layer.0.output.dense.bias"
    model = new_model(backbones["esm"], unfrozen=[name])
    assert model.get_parameter(name).requires_grad
    for wrong in ("backbone.encoder.layer.9.output.dense.bias", "head.classifier.centroids"):
        with pytest.raises(ValueError, match=f"unfrozen names {wrong}, which is not a frozen weight of the backbone"):
            new_model(backbones["esm"], unfrozen=[wrong])
    with pytest.raises(ValueError, match=r"unfrozen is 'all'\. Expected names of weights"):
        new_model(backbones["esm"], unfrozen="all")


# ---- PEFT -----------------------------------------------------------------------------------------------------------


class LowRank(torch.nn.Module):
    """A linear layer with a trained change, as PEFT puts it in the place of the layer."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.lora_a = torch.nn.Linear(base_layer.in_features, 2, bias=False)
        self.lora_b = torch.nn.Linear(2, base_layer.out_features, bias=False)

    @property
    def weight(self):
        return self.base_layer.weight

    def forward(self, values):
        return self.base_layer(values) + self.lora_b(self.lora_a(values))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_peft_puts_into_frozen_blocks_train(backbones, family, checkpointing):
    model = new_model(backbones[family], adapter=None)
    names = {"esm": "attention.self.query", "bert": "attention.self.query", "t5": "layer.0.SelfAttention.q"}
    names["esmc"] = "self_attn.q_proj"
    for block in model.family.blocks(model.backbone):
        parent, _, child = names[family].rpartition(".")
        owner = block.get_submodule(parent)
        setattr(owner, child, LowRank(getattr(owner, child)))
    model._hf_peft_config_loaded = True
    if checkpointing:
        model.gradient_checkpointing_enable()
        assert model.is_gradient_checkpointing
    model.train()(**batch_of_chains(family, [9, 5])).loss.backward()
    gradients = [p.grad for name, p in model.named_parameters() if "lora_" in name]
    assert len(gradients) == 8 and all(gradient is not None for gradient in gradients)
    if checkpointing:
        model.gradient_checkpointing_disable()
        assert not model.is_gradient_checkpointing
