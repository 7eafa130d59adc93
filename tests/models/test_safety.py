"""What a hostile model would have us do is refused in one line, before anything is read, run or allocated."""

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from hub_server import running_hub
from safetensors.torch import load_file, save_file
from tiny_models import TRANSFORMERS_4, save_tiny_backbone
from transformers import PretrainedConfig

from lift_ss_hf.models import safety
from lift_ss_hf.models.artefact import find_backbone
from lift_ss_hf.models.backbones import get_family
from lift_ss_hf.models.esm import EsmForSecondaryStructure
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.pipeline import SecondaryStructurePipeline
from lift_ss_hf.models.tokenization import ResidueTokenizer
from lift_ss_hf.prediction.predictor import Predictor
from lift_ss_hf.training.checkpoint_files import find_damage

PRUNES = pytest.mark.skipif(not TRANSFORMERS_4, reason="transformers 5 knows no pruned heads")


@pytest.fixture
def saved(tmp_path):
    """A saved model that holds its backbone, and beside it the backbone alone."""
    model = EsmForSecondaryStructure.from_backbone(
        save_tiny_backbone(tmp_path / "backbone", "esm"), top_blocks=2, head_channels=16
    )
    model.save_pretrained(tmp_path / "model", include_backbone=True)
    ResidueTokenizer.from_pretrained(tmp_path / "backbone").save_pretrained(tmp_path / "model")
    return tmp_path


def edit(folder, part=None, **changes):
    content = json.loads((folder / "config.json").read_text())
    (content if part is None else content[part]).update(changes)
    (folder / "config.json").write_text(json.dumps(content))


class Hostile:
    def __reduce__(self):
        return (print, ("CODE OF A PICKLE WAS RUN",))


def test_a_pickle_is_refused_by_name_and_never_read(saved, capsys):
    for folder in (saved / "model", saved / "backbone"):
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match=r"pytorch_model\.bin\. A pickle.*as safetensors only; convert"):
        SecondaryStructureModel.from_pretrained(saved / "model")
    with pytest.raises(ValueError, match=r"only pytorch_model\.bin \(.*\): a pickle.*lift-ss convert-backbone /"):
        SecondaryStructureModel.from_backbone(saved / "backbone")
    assert "CODE" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (None, {"architectures": ["T5ForSecondaryStructure"]}, r"architectures .*Expected \['EsmForSecondary"),
        (None, {"model_type": "llama"}, "holds a model of type 'llama'"),
        (None, {"head_channels": 10**12}, "head_channels 1000000000000. Expected at most"),
        (None, {"head_channels": 1 << 18}, "head_channels 262144. Expected at most"),
        (None, {"head_depth": 10**9}, "head_depth"),
        (None, {"adapter_options": {"reduction_factor": float("nan")}}, "reduction_factor nan. Expected a finite"),
        (None, {"adapter_options": {"reduction_factor": 1e-9}}, "reduction_factor"),
        (None, {"calibration_temperature": float("inf")}, "Expected a finite number"),
        ("backbone_config", {"hidden_size": 10**9}, "hidden_size 1000000000. Expected at most"),
        ("backbone_config", {"num_hidden_layers": 1000, "hidden_size": 1 << 18}, "describes .* parameters"),
        ("backbone_config", {"_attn_implementation": "somebody/kernel"}, "could load code or files from elsewhere"),
        ("backbone_config", {"transformers_weights": "../../x.safetensors"}, "could load code or files"),
        ("backbone_config", {"quantization_config": {"quant_method": "x"}}, "quantised weights"),
    ],
)
def test_a_hostile_configuration_is_refused(saved, part, changes, message):
    edit(saved / "model", part, **changes)
    with pytest.raises(ValueError, match=message) as refused:
        SecondaryStructureModel.from_pretrained(saved / "model")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("part", [None, "backbone_config"])
@pytest.mark.parametrize("name", safety.STEERING)
def test_what_would_put_other_layers_in_is_refused(saved, part, name):
    edit(saved / "model", part, **{name: "somebody/kernel"})
    with pytest.raises(ValueError, match=f"has {name} 'somebody/kernel', which could load code or files from elsewher"):
        SecondaryStructureModel.from_pretrained(saved / "model")


def test_all_names_that_choose_an_implementation_are_known():
    """Of transformers' configurations, those of values that a file may set."""
    names = set(vars(PretrainedConfig)) | set(vars(PretrainedConfig()))
    assert {name for name in names if re.search("(attn|experts)_implementation", name)} <= {
        *safety.STEERING,
        "_attn_implementation_autoset",  # true or false
    }


def test_only_two_modules_read_pickles():
    """A run's checkpoints are the user's own. `conversion` demands torch 2.10: before, weights_only had holes."""
    package = Path(safety.__file__).parents[1]
    reads = re.compile(r"torch\.load\(|\bpickle\.\w|weights_only=False")
    found = {path.name for path in package.rglob("*.py") if reads.search(path.read_text("utf-8"))}
    assert found == {"checkpoint_files.py", "conversion.py"}


@pytest.mark.parametrize("changes", [{"_attn_implementation": "a/b"}, {"transformers_weights": "../x.safetensors"}])
def test_a_hostile_backbone_is_refused_where_it_is_named_and_where_it_is_fetched(saved, changes):
    edit(saved / "backbone", **changes)
    with pytest.raises(ValueError, match="could load code or files from elsewhere"):
        SecondaryStructureModel.from_backbone(saved / "backbone")
    model = EsmForSecondaryStructure.from_backbone(
        save_tiny_backbone(saved / "other", "esm"), top_blocks=2, head_channels=16
    )
    model.save_pretrained(saved / "small")
    edit(saved / "other", **changes)
    with pytest.raises(ValueError, match="could load code or files from elsewhere"):
        SecondaryStructureModel.from_pretrained(saved / "small")


@pytest.mark.parametrize("name", ["../../outside.safetensors", "/etc/passwd", "weights.bin", "a/b.safetensors"])
def test_an_index_that_leads_elsewhere_is_refused(saved, name):
    (saved / "backbone" / "model.safetensors").rename(saved / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": name}}
    (saved / "backbone" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="Expected safetensors files beside it"):
        SecondaryStructureModel.from_backbone(saved / "backbone")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not a JSON object"),
        ("{}", "not an index of weights"),
        ('{"weight_map": [3]}', "not an index of weights"),
        ('{"weight_map": {"a": {"b": "model.safetensors"}}}', "not an index of weights"),
        ('{"weight_map": ' + '{"a": ' * 900 + "{}" + "}" * 901, "is nested more than 32 levels deep"),
        ('{"weight_map": ' + "[" * 100_000, "is nested more than 32 levels deep"),
        (json.dumps({"weight_map": {"a": "x" * (1 << 20)}}), "has more than 1,000,000 bytes"),
        (json.dumps({"weight_map": {str(n): f"{n}.safetensors" for n in range(1001)}}), "names 1,001 files. Expected"),
    ],
    ids=range(8),
)
@pytest.mark.parametrize("has_shards", [False, True])
def test_an_index_of_another_shape_is_refused(saved, monkeypatch, text, message, has_shards):
    monkeypatch.setattr("lift_ss_hf.models.safety.MOST_BYTES", 1_000_000)
    if has_shards:  # else the index is not read, and is refused all the same
        (saved / "backbone" / "model.safetensors").rename(saved / "backbone" / "1.safetensors")
    (saved / "backbone" / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        SecondaryStructureModel.from_backbone(saved / "backbone")
    assert len(str(refused.value)) < 300


def test_a_peft_adapter_that_leads_to_another_backbone_is_refused(saved, monkeypatch):
    other = save_tiny_backbone(saved / "other", "esm", seed=1)
    (saved / "backbone" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": other}))
    monkeypatch.setattr("lift_ss_hf.models.safety.is_peft_available", lambda: True)
    with pytest.raises(ValueError, match=r"has an adapter_config\.json: it is a PEFT adapter"):
        SecondaryStructureModel.from_backbone(saved / "backbone")


@pytest.mark.parametrize("path", ["/etc", "../../home", "a/../../b"])
def test_what_comes_from_the_hub_names_no_path_of_this_machine(path):
    with pytest.raises(ValueError, match=r"of org/name has its backbone at .*Pass backbone="):
        find_backbone(path, None, "org/name")


@pytest.mark.process
def test_what_comes_from_the_hub_is_checked_like_a_folder(saved, monkeypatch, tmp_path):
    with running_hub() as hub:
        files = {path.name: path.read_bytes() for path in (saved / "model").iterdir()}
        config = json.loads(files["config.json"])
        config |= {"includes_backbone": False, "backbone_name": str(saved / "backbone")}
        hub.repos["org/name"] = {"main": [("1" * 40, files | {"config.json": json.dumps(config).encode()})]}
        code = (
            "from lift_ss_hf import SecondaryStructureModel as M\n"
            "try: M.from_pretrained('org/name')\nexcept ValueError as e: print(e)"
        )
        from clean_process import in_clean_process

        done = in_clean_process(hub, tmp_path / "clean", "-c", code)
        assert "a path on another machine. Pass backbone=" in done.stdout, done.stderr


def test_the_weights_of_a_model_are_read_without_pickle(saved, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a pickle was read")

    monkeypatch.setattr(torch, "load", refused)
    monkeypatch.setattr(pickle, "load", refused)
    SecondaryStructureModel.from_pretrained(saved / "model")
    SecondaryStructureModel.from_backbone(saved / "backbone", top_blocks=1, head_channels=16)


def test_a_checkpoint_with_a_pickle_is_not_resumed(tmp_path):
    (tmp_path / "trainer_state.json").write_text('{"global_step": 1}')
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile()))
    assert "pytorch_model.bin is a pickle" in (find_damage(tmp_path) or "")


def test_a_subclass_of_one_s_own_saves_what_loads_again(saved):
    class Mine(EsmForSecondaryStructure):
        pass

    Mine.from_pretrained(saved / "model").save_pretrained(saved / "mine")
    assert type(EsmForSecondaryStructure.from_pretrained(saved / "mine")) is EsmForSecondaryStructure


# ---- tokenizer files -------------------------------------------------------------------------------------------------


def edit_tokenizer(folder, **changes):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("part", ["model", "backbone"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer_class": "Evil"}, "tokenizer_class 'Evil'. Expected one of: EsmTokenizer, .*ResidueTokenizer"),
        ({"tokenizer_class": 3}, "tokenizer_class 3. Expected one of"),
        ({"tokenizer_class": "EsmTokenizer", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}, "names code"),
        ({"tokenizer_class": "EsmTokenizer", "auto_map": ["evil.Evil", None]}, "names code"),
        ({"vocab_file": "/etc/passwd"}, "could read a file from elsewhere"),
        ({"tokenizer_file": "../tokenizer.json", "tokenizer_class": "ResidueTokenizer"}, "a file from elsewhere"),
        ({"fast_tokenizer_files": ["../tokenizer.1.0.json"]}, "could read a file from elsewhere"),
        ({"gguf_file": "/tmp/x.gguf"}, "could read a file from elsewhere"),
        ({"init_inputs": ["/etc/passwd"]}, "could read a file from elsewhere"),
        ({"added_tokens_decoder": {"1000000000": {"content": "<x>"}}}, "has a token with id 1000000000. Expected ids"),
        ({"added_tokens_decoder": True}, "Expected numbers of tokens"),
        ({"pad_token": 7}, "'pad_token' 7. Expected a string"),
    ],
)
def test_a_hostile_tokenizer_is_refused(saved, monkeypatch, part, changes, message):
    (saved / part / "evil.py").write_text("raise SystemExit('code of the folder was run')")
    (saved / "backbone" / "tokenizer.json").write_text((saved / "model" / "tokenizer.json").read_text())
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    edit_tokenizer(saved / part, **changes)
    with pytest.raises(ValueError, match=message) as refused:
        ResidueTokenizer.from_pretrained(saved / part)
    assert len(str(refused.value).splitlines()) == 1


def test_no_code_of_a_folder_runs_for_an_auto_map_in_its_config(saved, monkeypatch):
    (saved / "backbone" / "evil.py").write_text("raise SystemExit('code of the folder was run')")
    (saved / "backbone" / "tokenizer_config.json").unlink()
    edit(saved / "backbone", auto_map={"AutoTokenizer": ["evil.Evil", None]}, tokenizer_class="Evil")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ValueError, match=r"has auto_map .*names code for the tokenizer\. It is not run"):
        ResidueTokenizer.from_pretrained(saved / "backbone", trust_remote_code=True)


def test_our_own_tokenizer_loads_with_its_auto_map_and_leaves_chat_templates_out(saved):
    expected = ResidueTokenizer.from_pretrained(saved / "model")("MKT")["input_ids"]
    auto_map = {"AutoTokenizer": [None, "tokenization.ResidueTokenizer"]}
    edit_tokenizer(saved / "model", auto_map=auto_map, chat_template={"../../x": "{{ 1 }}"})
    (saved / "model" / "chat_template.jinja").write_text("{{ 1 }}")
    tokenizer = ResidueTokenizer.from_pretrained(saved / "model")
    assert tokenizer("MKT")["input_ids"] == expected
    tokenizer.chat_template = "{{ 1 }}"
    tokenizer.save_pretrained(saved / "again")
    assert not list(saved.glob("again/**/*.jinja"))
    assert "chat_template" not in json.loads((saved / "again" / "tokenizer_config.json").read_text())


def test_tokens_without_an_embedding_are_refused_when_loaded_and_when_model_and_tokenizer_meet(saved):
    path = saved / "model" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["W"] = 40
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has the token 40, but the backbone has 33 embeddings, 0 to 32"):
        ResidueTokenizer.from_pretrained(saved / "model")
    model = EsmForSecondaryStructure.from_backbone(saved / "backbone", head="linear")
    tokenizer = ResidueTokenizer.from_pretrained(saved / "backbone")
    model.config.backbone_config.vocab_size = 20
    with pytest.raises(ValueError, match="embeddings, 0 to 19"):
        Predictor(model, tokenizer)


# ---- numbers that are not numbers, sizes, types ----------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("part", "key"), [("model", "head.encoder.projection.weight"), ("backbone", None)])
def test_weights_that_are_not_finite_are_refused(saved, part, key, value):
    change_weight(saved / part, key, lambda weight: torch.full_like(weight, value))
    with pytest.raises(ValueError, match=r"weights of .* are damaged: .* values that are not finite numbers"):
        load(saved / part)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn])
@pytest.mark.parametrize(("part", "key"), [("model", "head.encoder.projection.weight"), ("backbone", None)])
def test_weights_of_a_wrong_type_are_refused(saved, part, key, dtype):
    change_weight(saved / part, key, lambda weight: weight.to(dtype))
    key = key or "encoder.layer.1.output.dense.weight"
    with pytest.raises(ValueError, match=rf"weights of .* have a wrong type: {key} is .*Expected floating") as refused:
        load(saved / part)
    assert len(str(refused.value).splitlines()) == 1


def load(folder):
    if folder.name == "model":
        return SecondaryStructureModel.from_pretrained(folder)
    return SecondaryStructureModel.from_backbone(folder, head="linear")


def change_weight(folder, key, change):
    weights = load_file(folder / "model.safetensors")
    key = key or "encoder.layer.1.output.dense.weight"
    save_file({**weights, key: change(weights[key])}, folder / "model.safetensors", metadata={"format": "pt"})


def test_probabilities_that_are_not_finite_never_leave_a_predictor(saved):
    model = SecondaryStructureModel.from_pretrained(saved / "model")
    tokenizer = ResidueTokenizer.from_pretrained(saved / "model")
    model.head.encoder.projection.weight.data.fill_(float("nan"))
    for packed in (True, False):
        predictor = Predictor(model, tokenizer)
        predictor.packed = predictor.packed if packed else None
        with pytest.raises(ValueError, match="probabilities are NaN for 3 of the 3 residues of a chain, the first at"):
            list(predictor.predict(["MKT"]))
    with pytest.raises(ValueError, match="probabilities are NaN"):
        SecondaryStructurePipeline(model, tokenizer)("MKT")


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (None, {"calibration_temperature": 1e-38}, "calibration_temperature is 1e-38. Expected 0.01 to 100"),
        (None, {"loss_scale": 1e300}, r"loss_scale is 1e\+300. Expected"),
        (None, {"backbone_config": True}, "backbone_config True. Expected the backbone's configuration"),
        pytest.param(None, {"pruned_heads": "x"}, "pruned_heads 'x'. Expected a value like {}", marks=PRUNES),
        (None, {"max_length": 10**40}, "Expected at most 9,223"),
        (None, {"adapter_options": {"reduction_factor": 2e-6}}, "parameters, more than its backbone"),
        (None, {"adapter": "prefix_tuning", "adapter_options": {"flat": False, "bottleneck_size": 10**7}}, "more than"),
        (None, {"head": "dilated", "head_channels": 8192, "head_depth": 64}, "describes .* but its weights have"),
        ("backbone_config", {"layer_norm_eps": -1}, "layer_norm_eps -1. Expected a number from 1e-20 to 1"),
        ("backbone_config", {"num_attention_heads": 0}, "num_attention_heads 0. Expected a whole number of at least 1"),
        ("backbone_config", {"vocab_size": 1 << 20, "hidden_size": 8192}, "describes .* but its weights have"),
        pytest.param("backbone_config", {"pruned_heads": "x"}, "pruned_heads 'x'. Expected", marks=PRUNES),
        ("backbone_config", {"pad_token_id": "x"}, "pad_token_id 'x'. Expected a whole number"),
    ],
)
def test_values_of_a_wrong_type_or_size_are_one_line(saved, part, changes, message):
    edit(saved / "model", part, **changes)
    with pytest.raises(ValueError, match=message) as refused:
        SecondaryStructureModel.from_pretrained(saved / "model")
    assert len(str(refused.value).splitlines()) == 1


def test_a_deeply_nested_file_is_one_line(saved):
    (saved / "model" / "config.json").write_text('{"model_type": "esm", "x": ' + "[" * 900 + "]" * 900 + "}")
    with pytest.raises(ValueError, match="is nested more than 32 levels deep"):
        SecondaryStructureModel.from_pretrained(saved / "model")


T5_SIZES = ("d_model", "d_ff", "d_kv", "num_heads")
FAR_LARGER = [
    ("esm", {"vocab_size": 1 << 20, "hidden_size": 8192}, ()),
    ("esm", {"num_hidden_layers": 1000}, ("hidden_size", "intermediate_size", "num_attention_heads")),
    ("bert", {"max_position_embeddings": 1 << 26}, ()),
    ("t5", {"vocab_size": 1 << 20, "d_model": 8192}, ()),
    ("t5", {"vocab_size": 1 << 20, "hidden_size": 8192}, ()),
    ("t5", {"num_layers": 1000}, T5_SIZES),
    ("t5", {"num_hidden_layers": 1000}, T5_SIZES),
    ("t5", {"d_ff": 1 << 18, "intermediate_size": 1, "num_layers": 1000}, ()),
    ("t5", {"d_kv": 1 << 14, "num_heads": 1 << 14}, ()),
    ("t5", {"relative_attention_num_buckets": 1 << 26, "num_heads": 256}, ()),
]


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(("family", "changes", "left_out"), FAR_LARGER)
def test_a_backbone_far_larger_than_its_weights_is_refused(tmp_path, monkeypatch, family, changes, left_out, sharded):
    """What a configuration leaves out has a default, and counts too."""
    save_tiny_backbone(tmp_path, family)
    if sharded:
        shard(tmp_path, family)
    content = json.loads((tmp_path / "config.json").read_text())
    content = {key: value for key, value in content.items() if key not in left_out} | changes
    (tmp_path / "config.json").write_text(json.dumps(content))
    model_class = get_family(family).model_class
    monkeypatch.setattr(model_class, "__init__", lambda *_, **__: pytest.fail("it is built"))
    with pytest.raises(ValueError, match=r"describes .* parameters, but its weights have"):
        SecondaryStructureModel.from_backbone(tmp_path, head="linear")


def shard(folder, family):
    """Save the backbone in a folder anew, in several files with an index."""
    backbone = get_family(family).model_class.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    backbone.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2


@pytest.mark.parametrize("family", ["esm", "t5"])
def test_weights_in_several_files_load_and_are_all_checked(tmp_path, family):
    save_tiny_backbone(tmp_path, family)
    expected = SecondaryStructureModel.from_backbone(tmp_path, head="linear").config.backbone_fingerprint
    shard(tmp_path, family)
    assert SecondaryStructureModel.from_backbone(tmp_path, head="linear").config.backbone_fingerprint == expected
    last = max(tmp_path.glob("model-*.safetensors"))
    whole = load_file(last)
    key = min(whole)
    save_file({**whole, key: whole[key].to(torch.complex64)}, last, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"have a wrong type: {key} is 'C64'"):
        SecondaryStructureModel.from_backbone(tmp_path, head="linear")
    last.write_bytes(last.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is damaged"):
        SecondaryStructureModel.from_backbone(tmp_path, head="linear")
    last.unlink()
    with pytest.raises(ValueError, match="cannot fetch the backbone"):
        SecondaryStructureModel.from_backbone(tmp_path, head="linear")


def test_the_integers_among_the_buffers_of_old_checkpoints_are_no_error(saved):
    weights = load_file(saved / "backbone" / "model.safetensors")
    positions = {"embeddings.position_ids": torch.arange(1026)[None]}
    save_file({**weights, **positions}, saved / "backbone" / "model.safetensors", metadata={"format": "pt"})
    SecondaryStructureModel.from_backbone(saved / "backbone", head="linear")


def test_the_backbone_of_a_model_is_checked_like_one_that_is_named(saved):
    SecondaryStructureModel.from_backbone(saved / "backbone", head="linear").save_pretrained(saved / "small")
    edit(saved / "backbone", num_attention_heads=0)
    with pytest.raises(ValueError, match=r"num_attention_heads 0\. Expected a whole number of at least 1"):
        SecondaryStructureModel.from_pretrained(saved / "small")
