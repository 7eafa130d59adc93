import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import BACKBONES, batch_of_chains, save_tiny_backbone, tiny_backbone
from torch.utils.data import Dataset
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer, Trainer, TrainingArguments

from lift_ss_hf.hub.registration import register
from lift_ss_hf.models.adapter_methods import ADAPTERS
from lift_ss_hf.models.esm import EsmForSecondaryStructure
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.tokenization import ResidueTokenizer

MERGEABLE = sorted(name for name, method in ADAPTERS.items() if method.mergeable)


def new_model(name, **options):
    torch.manual_seed(0)
    model = SecondaryStructureModel.from_backbone(name, **{"head_channels": 16, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def saved(tmp_path):
    """Folder of a saved model, beside its backbone in `backbone`."""
    model = new_model(save_tiny_backbone(tmp_path / "backbone", "esm"))
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def logits(model, family="esm"):
    with torch.no_grad():
        return model.eval()(**batch_of_chains(family, [9, 5])).logits


def read_json(folder):
    return json.loads((folder / "config.json").read_text())


def edit_json(folder, **changes):
    (folder / "config.json").write_text(json.dumps({**read_json(folder), **changes}))


# ---- what is written ---------------------------------------------------------------------------------------------


def test_the_artefact_is_small_and_whole(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    names = set(load_file(saved / "model.safetensors"))
    assert all(".adapters.secondary_structure." in name or name.startswith("head.") for name in names)
    assert {name.split(".")[3] for name in names if name.startswith("backbone")} == {"2", "3"}  # blocks with adapters
    mode = stat.S_IMODE((saved / "model.safetensors").stat().st_mode)
    assert mode & 0o044 or os.umask(os.umask(0)) & 0o044  # readable by others, if the user lets them


def test_the_configuration_says_all_and_no_path_of_transformers(saved):
    config = read_json(saved)
    assert config["model_type"] == "esm_secondary_structure"
    assert config["architectures"] == ["EsmForSecondaryStructure"]
    assert config["backbone_config"]["num_hidden_layers"] == 4
    assert config["backbone_fingerprint"].startswith("sha256-bf16:")
    assert config["leave_out"] == [0, 1]  # the lower two thirds, rounded down
    assert config["id2label"]["8"] == "P"
    assert config["head_depth"] == 2  # defaults too: a later version may have others
    del config["backbone_name"]  # as it was given
    assert str(saved.parent) not in json.dumps(config)


def test_nothing_is_left_of_a_write_that_failed(saved, monkeypatch):
    before = (saved / "model.safetensors").read_bytes()
    model = EsmForSecondaryStructure.from_pretrained(saved)

    def disk_full(*args, **kwargs):
        Path(args[1]).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lift_ss_hf.models.artefact.save_file", disk_full)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(saved)
    assert (saved / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_ways_to_save_that_are_refused(saved, tmp_path):
    model = EsmForSecondaryStructure.from_pretrained(saved)
    with pytest.raises(ValueError, match="safetensors only"):
        model.save_pretrained(tmp_path / "x", safe_serialization=False)
    with pytest.raises(ValueError, match=r"To upload, call the model's push_to_hub\(repo_id\)"):
        model.save_pretrained(tmp_path / "x", push_to_hub=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file exists and is not a directory\. Give another"):
        model.save_pretrained(tmp_path / "file")
    model.save_pretrained(tmp_path / "not_main", is_main_process=False)
    assert not (tmp_path / "not_main").exists()


# ---- loading -----------------------------------------------------------------------------------------------------


def test_loading_says_what_is_wrong_with_the_backbone(saved, tmp_path):
    tiny_backbone("esm", seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="is not the one this model was trained on: its fingerprint is sha256"):
        EsmForSecondaryStructure.from_pretrained(saved, backbone=tmp_path / "other")
    with pytest.raises(ValueError, match="is not the one this model was trained on"):
        EsmForSecondaryStructure.from_pretrained(saved, backbone=tiny_backbone("esm", seed=1))
    expected = logits(EsmForSecondaryStructure.from_pretrained(saved))
    (tmp_path / "backbone").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"cannot fetch the backbone .*backbone': no such folder.* pass backbone="):
        EsmForSecondaryStructure.from_pretrained(saved)
    moved = EsmForSecondaryStructure.from_pretrained(saved, backbone=tmp_path / "moved")
    assert torch.equal(logits(moved), expected)
    in_memory = EsmForSecondaryStructure.from_pretrained(saved, backbone=tiny_backbone("esm"))
    assert torch.equal(logits(in_memory), expected)


def test_a_relative_backbone_is_found_from_the_artefact(tmp_path, monkeypatch):
    save_tiny_backbone(tmp_path / "bundle" / "backbone", "esm")
    monkeypatch.chdir(tmp_path / "bundle")
    model = new_model("backbone")
    model.save_pretrained("../bundle")
    assert read_json(tmp_path / "bundle")["backbone_name"] == "backbone"
    monkeypatch.chdir(tmp_path)
    assert torch.equal(logits(EsmForSecondaryStructure.from_pretrained("bundle")), logits(model))


def test_missing_damaged_and_foreign_files(saved, tmp_path):
    weights = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(weights[:100])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        EsmForSecondaryStructure.from_pretrained(saved)
    (saved / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"there is no model\.safetensors in"):
        EsmForSecondaryStructure.from_pretrained(saved)
    with pytest.raises(ValueError, match=r"holds a model of type 'esm'.*use from_backbone"):
        EsmForSecondaryStructure.from_pretrained(tmp_path / "backbone")
    with pytest.raises(ValueError, match=r"cannot read the configuration of .*nothing_here"):
        EsmForSecondaryStructure.from_pretrained(tmp_path / "nothing_here")


def test_weights_that_do_not_fit_the_configuration(saved):
    edit_json(saved, leave_out=[0, 1, 2])
    with pytest.raises(ValueError, match=r"the configuration does not know \d+ weights, the first is backbone"):
        EsmForSecondaryStructure.from_pretrained(saved)
    edit_json(saved, leave_out=[0])
    with pytest.raises(ValueError, match=r"the file lacks \d+ weights, the first is backbone\.encoder\.layer\.1"):
        EsmForSecondaryStructure.from_pretrained(saved)
    edit_json(saved, leave_out=[0, 1], head_channels=32)
    with pytest.raises(
        ValueError, match=r"do not fit its configuration: head\.enc.* has shape \(8, 32, 1\), expected \(16, 32, 1\)"
    ):
        EsmForSecondaryStructure.from_pretrained(saved)


def test_a_backbone_for_a_copy_that_has_its_own_is_refused(saved, tmp_path):
    EsmForSecondaryStructure.from_pretrained(saved).save_pretrained(tmp_path / "alone", include_backbone=True)
    with pytest.raises(ValueError, match=r"alone includes its backbone\. Leave out backbone="):
        EsmForSecondaryStructure.from_pretrained(tmp_path / "alone", backbone=tmp_path / "backbone")


def test_a_newer_format_is_refused(saved):
    edit_json(saved, format_version=3)
    with pytest.raises(ValueError, match=r"format version 3, but this package reads up to 2\. Upgrade"):
        EsmForSecondaryStructure.from_pretrained(saved)


def test_the_wrong_class_is_told_the_right_one(saved):
    from lift_ss_hf.models.t5 import T5ForSecondaryStructure

    with pytest.raises(ValueError, match="use EsmForSecondaryStructure, not T5ForSecondaryStructure"):
        T5ForSecondaryStructure.from_pretrained(saved)
    assert type(SecondaryStructureModel.from_pretrained(saved)) is EsmForSecondaryStructure


@pytest.mark.parametrize(
    "options",
    [
        {"adapter": None, "freeze": None},
        {"adapter": None, "freeze": 2},
        {"adapter": None, "block_mix": "mean", "loss": "cross_entropy"},
        {"adapter": None, "block_mix": "concat", "head": "linear"},
    ],
)
@pytest.mark.parametrize("family", BACKBONES)
def test_the_other_regimes_reload(family, options, tmp_path):
    model = new_model(save_tiny_backbone(tmp_path / "backbone", family), **options)
    model.save_pretrained(tmp_path / "model")
    reloaded = SecondaryStructureModel.from_pretrained(tmp_path / "model")
    assert torch.equal(logits(reloaded, family), logits(model, family))
    changed = set(load_file(tmp_path / "model" / "model.safetensors")) & model.backbone_names
    blocks = {int(part) for name in changed for part in name.split(".") if part.isdigit() and int(part) < 4}
    if "freeze" in options:
        first = options["freeze"] or 0
        assert set(range(first, 4)) <= blocks | {0, 1}  # T5 numbers the halves of a block too
        assert any("embed" in name or "shared" in name for name in changed) == (first == 0)
    else:
        assert not changed


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_loading_in_half_precision_keeps_what_was_trained(saved, dtype):
    model = EsmForSecondaryStructure.from_pretrained(saved, dtype=dtype)
    expected = EsmForSecondaryStructure.from_pretrained(saved)
    for (name, found), wanted in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert found.dtype == (torch.float32 if found.requires_grad else getattr(torch, str(dtype).split(".")[-1]))
        if found.requires_grad:
            assert torch.equal(found, wanted), name
    model.save_pretrained(saved)
    assert torch.equal(logits(EsmForSecondaryStructure.from_pretrained(saved)), logits(expected))


def test_an_unknown_dtype_is_refused(saved):
    with pytest.raises(ValueError, match=r"unknown dtype 'bf16'\. Choose one of: bfloat16, float16, float32"):
        EsmForSecondaryStructure.from_pretrained(saved, dtype="bf16")


# ---- with the backbone, merged -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize("adapter", ["bottleneck", "prefix_tuning", "lora", None])
def test_a_copy_that_stands_alone(family, adapter, tmp_path):
    model = new_model(save_tiny_backbone(tmp_path / "backbone", family), adapter=adapter)
    expected = logits(model, family)
    model.save_pretrained(tmp_path / "model", include_backbone=True)
    shutil.rmtree(tmp_path / "backbone")
    reloaded = SecondaryStructureModel.from_pretrained(tmp_path / "model", attn_implementation="eager")
    torch.testing.assert_close(logits(reloaded, family), expected, atol=1e-4, rtol=0)
    reloaded.save_pretrained(tmp_path / "again")  # stands alone again
    again = SecondaryStructureModel.from_pretrained(tmp_path / "again")
    assert torch.equal(logits(again, family), expected)


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize("adapter", MERGEABLE)
def test_merging_changes_no_logits_and_leaves_no_adapter(family, adapter, tmp_path):
    model = new_model(save_tiny_backbone(tmp_path / "backbone", family), adapter=adapter)
    expected = logits(model, family)
    model.merge_adapter()
    assert model.parameter_summary()["adapter"] == {"trained": 0, "frozen": 0}
    torch.testing.assert_close(logits(model, family), expected, atol=2e-4, rtol=0)
    with pytest.raises(ValueError, match="Save with include_backbone=True"):
        model.save_pretrained(tmp_path / "model", include_backbone=False)
    model.save_pretrained(tmp_path / "model")
    assert read_json(tmp_path / "model")["adapter"] is None
    reloaded = SecondaryStructureModel.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(logits(reloaded, family), logits(model, family), atol=1e-4, rtol=0)


def test_empty_tensors_are_refused_with_where_they_come_from(saved):
    weights = load_file(saved / "model.safetensors")
    name = sorted(weights)[0]
    save_file({**weights, name: torch.empty(0)}, saved / "model.safetensors")
    with pytest.raises(ValueError, match=rf"{name} has shape \(0,\), expected .* ZeRO-3 leaves it so unless zero3"):
        EsmForSecondaryStructure.from_pretrained(saved)


def test_options_while_loading_change_the_configuration_or_are_refused(saved):
    model = EsmForSecondaryStructure.from_pretrained(saved, max_residues=30)
    assert model.max_residues == 30
    assert EsmForSecondaryStructure.from_pretrained(saved, config=str(saved)).config.max_residues is None
    with pytest.raises(TypeError, match=r"unknown option 'max_residue'\. Choose from: .*max_residues"):
        EsmForSecondaryStructure.from_pretrained(saved, max_residue=30)
    with pytest.raises(TypeError, match=r"max_residues and config were both given"):
        EsmForSecondaryStructure.from_pretrained(saved, config=model.config, max_residues=30)


@pytest.mark.parametrize("includes_backbone", [False, True])
def test_values_of_the_backbone_can_be_changed_while_loading(saved, tmp_path, includes_backbone):
    expected = EsmForSecondaryStructure.from_pretrained(saved)
    expected.save_pretrained(tmp_path / "copy", include_backbone=includes_backbone)
    changed = EsmForSecondaryStructure.from_pretrained(tmp_path / "copy", backbone_config={"hidden_dropout_prob": 0.25})
    dropouts = {module.p for name, module in changed.backbone.named_modules() if name.endswith("output.dropout")}
    assert dropouts == {changed.config.backbone_config.hidden_dropout_prob} == {0.25}
    assert changed.config.num_blocks == 4
    assert torch.equal(logits(changed), logits(expected))
    with pytest.raises(TypeError, match="backbone_config and a backbone that is built were both given"):
        EsmForSecondaryStructure.from_pretrained(saved, backbone=tiny_backbone("esm"), backbone_config={})


def test_nothing_is_loaded_on_the_meta_device(saved, tmp_path):
    with torch.device("meta"):
        for load, name in ((EsmForSecondaryStructure.from_pretrained, saved), (new_model, tmp_path / "backbone")):
            with pytest.raises(RuntimeError, match=r"You are using `from_\w+` with a meta device.*call its class"):
                load(name)
        empty = EsmForSecondaryStructure(EsmForSecondaryStructure.read_config(saved))
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}


def test_options_of_transformers_for_devices(saved):
    expected = logits(EsmForSecondaryStructure.from_pretrained(saved))
    for device_map in ("cpu", torch.device("cpu"), {"": "cpu"}):
        model = EsmForSecondaryStructure.from_pretrained(saved, device_map=device_map, low_cpu_mem_usage=True)
        assert torch.equal(logits(model), expected)
    for device_map, shown in (("auto", "'auto'"), ({"head": "cpu"}, r"\{'head': 'cpu'\}")):
        with pytest.raises(ValueError, match=rf"device_map is {shown}, but a model is loaded on one device"):
            EsmForSecondaryStructure.from_pretrained(saved, device_map=device_map)


def test_a_model_without_a_name_cannot_be_loaded():
    with pytest.raises(TypeError, match=r"from_pretrained needs the Hub id or folder of a model\. For a model without"):
        EsmForSecondaryStructure.from_pretrained(None)


def test_the_attention_that_was_asked_for_is_in_the_configuration(saved):
    for name in ("eager", "sdpa"):
        model = EsmForSecondaryStructure.from_pretrained(saved, attn_implementation=name)
        assert model.config._attn_implementation == model.backbone.config._attn_implementation == name


def test_only_changes_of_weights_can_be_merged(saved):
    with pytest.raises(ValueError, match=rf"adapter 'bottleneck' cannot be merged. Only {', '.join(MERGEABLE)} can"):
        EsmForSecondaryStructure.from_pretrained(saved).merge_adapter()


# ---- Auto classes, remote code -----------------------------------------------------------------------------------


def test_auto_classes_load_it_once_registered(saved):
    register()
    register()  # twice is as good as once
    model = AutoModelForTokenClassification.from_pretrained(saved)
    assert type(model) is EsmForSecondaryStructure
    assert torch.equal(logits(model), logits(EsmForSecondaryStructure.from_pretrained(saved)))
    assert AutoConfig.from_pretrained(saved).adapter == "bottleneck"
    moved = saved.parent / "moved"
    (saved.parent / "backbone").rename(moved)
    model = AutoModelForTokenClassification.from_pretrained(saved, backbone=moved, dtype=torch.bfloat16)
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16


REMOTE = """
import sys
sys.path = [path for path in sys.path if path not in ("", ROOT)]
class Blocked:  # an editable installation would find the package
    def find_spec(self, name, *args):
        if name.split(".")[0] == "lift_ss_hf":
            raise ModuleNotFoundError("No module named 'lift_ss_hf'")
sys.meta_path.insert(0, Blocked())
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForTokenClassification
def load_and_save(folder):
    model = AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    with torch.no_grad():
        logits = model(**load_file(folder + "/batch.safetensors")).logits
    model.save_pretrained(folder + "/again")
    again = AutoModelForTokenClassification.from_pretrained(folder + "/again", trust_remote_code=True)
    with torch.no_grad():
        assert torch.equal(again(**load_file(folder + "/batch.safetensors")).logits, logits)
    save_file({"logits": logits}, folder + "/logits.safetensors")
for folder in FOLDERS:
    load_and_save(folder)
"""


def test_a_second_copy_of_a_class_loads_as_the_first(tmp_path):
    # transformers may load a model's remote code, and so its classes, twice
    second = type("EsmForSecondaryStructure", (SecondaryStructureModel,), {**vars(EsmForSecondaryStructure)})
    save_tiny_backbone(tmp_path / "backbone", "esm")
    SecondaryStructureModel.from_backbone(tmp_path / "backbone", head="linear").save_pretrained(tmp_path / "model")
    assert type(second.from_pretrained(tmp_path / "model")) is second


@pytest.mark.process
def test_remote_code_without_the_package(tmp_path):
    models = {}
    for family in BACKBONES:
        model = new_model(save_tiny_backbone(tmp_path / "backbones" / family, family), adapter="unipelt")
        folder = tmp_path / family
        model.save_pretrained(folder, include_code=True)
        assert (folder / "modeling.py").is_file()
        save_file(batch_of_chains(family, [9, 5]), folder / "batch.safetensors")
        models[family] = model
    root, folders = str(Path(__file__).parents[2]), [str(tmp_path / family) for family in BACKBONES]
    script = textwrap.dedent(REMOTE).replace("ROOT", repr(root)).replace("FOLDERS", repr(folders))
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment.pop("PYTHONPATH", None)
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment)
    for family, model in models.items():
        folder = tmp_path / family
        assert torch.equal(load_file(folder / "logits.safetensors")["logits"], logits(model, family))
        model.save_pretrained(folder)  # without code again: no reference to it is left behind
        assert "auto_map" not in read_json(folder)


# ---- Trainer -----------------------------------------------------------------------------------------------------


class Chains(Dataset):
    def __init__(self, number, seed):
        self.batches = [batch_of_chains("esm", [12], seed=seed + i) for i in range(number)]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return {key: value[0] for key, value in self.batches[index].items()}


def train(folder, backbone, resume=None, adapter="bottleneck", **changes):
    torch.manual_seed(0)
    model = SecondaryStructureModel.from_backbone(backbone, adapter=adapter, head="linear", top_blocks=2)
    settings = {"num_train_epochs": 3, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "seed": 0}
    settings |= {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    settings |= {"gradient_accumulation_steps": 2, "report_to": [], "use_cpu": True, "disable_tqdm": True}
    arguments = TrainingArguments(str(folder), **{**settings, **changes})
    trainer = Trainer(model, arguments, train_dataset=Chains(8, 0), eval_dataset=Chains(4, 100))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("adapter", ["bottleneck", "mam"])
def test_the_stock_trainer_trains_keeps_the_best_and_resumes_equal(adapter, tmp_path, caplog):
    backbone = save_tiny_backbone(tmp_path / "backbone", "esm", hidden_dropout_prob=0.1)
    whole = train(tmp_path / "whole", backbone, adapter=adapter)
    losses = [entry["eval_loss"] for entry in whole.state.log_history if "eval_loss" in entry]
    assert whole.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6)  # the best epoch's weights
    assert (tmp_path / "whole" / "checkpoint-2" / "model.safetensors").stat().st_size < 60_000
    steps = sorted(path.name for path in (tmp_path / "whole").glob("checkpoint-*"))
    assert steps == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "part" / "checkpoint-2")
    resumed = train(tmp_path / "part", backbone, str(tmp_path / "part" / "checkpoint-2"), adapter)
    assert not [record for record in caplog.records if "missing keys" in record.message]
    for (name, found), expected in zip(resumed.model.named_parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(found, expected), name
    whole.save_model(str(tmp_path / "final"))
    final = SecondaryStructureModel.from_pretrained(tmp_path / "final")
    assert torch.equal(logits(final), logits(whole.model))


def test_trainer_passes_the_number_of_labelled_residues(tmp_path):
    trainer = train(tmp_path / "run", save_tiny_backbone(tmp_path / "backbone", "esm"), num_train_epochs=1)
    assert trainer.model_accepts_loss_kwargs
    seen = []
    forward = trainer.model.forward
    trainer.model.forward = lambda **inputs: seen.append(int(inputs["num_items_in_batch"])) or forward(**inputs)
    batches = [{k: v[None] for k, v in chain.items()} for chain in Chains(2, 0)]
    count = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    trainer.training_step(trainer.model, batches[0], count)
    assert seen == [sum(int((batch["labels"] != -100).sum()) for batch in batches)]


# ---- the real one ------------------------------------------------------------------------------------------------


def test_the_real_esm2_8m_loads_and_its_artefact_is_small(shared_esm2, tmp_path):
    model = SecondaryStructureModel.from_backbone(shared_esm2, head="linear", top_blocks=3)
    tokenizer = ResidueTokenizer.from_pretrained(shared_esm2)
    ubiquitin = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
    input_ids = torch.from_numpy(tokenizer.encode_sequence(ubiquitin))[None]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size < 3_000_000
    reloaded = SecondaryStructureModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(reloaded(input_ids).logits, model(input_ids).logits)
    stock = AutoTokenizer.from_pretrained(tmp_path)
    assert stock(ubiquitin)["input_ids"] == input_ids[0].tolist()
    assert model.parameter_summary()["total"]["frozen"] > 7_000_000


def test_over_the_bundled_backbone_no_path_of_this_machine_is_written(tmp_path):
    model = SecondaryStructureModel.from_backbone("bundled", head="linear").eval()
    model.save_pretrained(tmp_path)
    assert read_json(tmp_path)["backbone_name"] == "bundled"
    assert str(Path(__file__).parents[2]) not in (tmp_path / "config.json").read_text()
    ids = torch.from_numpy(ResidueTokenizer.from_pretrained(tmp_path).encode_sequence("MKVLAAGIVG"))[None]
    with torch.no_grad():
        again = SecondaryStructureModel.from_pretrained(tmp_path)
        assert torch.equal(again(ids).logits, model(ids).logits)
