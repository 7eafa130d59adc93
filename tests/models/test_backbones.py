import json
import re

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, TRANSFORMERS_4, batch_of_chains, save_tiny_backbone, tiny_backbone
from transformers import EsmConfig, EsmForMaskedLM, GPT2Config

from lift_ss_hf.models import esm, families
from lift_ss_hf.models.backbones import fingerprint, get_family, portable_name, read_backbone_config
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.tokenization import ResidueTokenizer


def stock_output(backbone, batch):
    with torch.no_grad():
        return backbone(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["eager", None])
def test_block_by_block_equals_the_forward_of_transformers(family, attention, tmp_path):
    name = save_tiny_backbone(tmp_path, family)
    model = SecondaryStructureModel.from_backbone(name, adapter=None, head="linear", attn_implementation=attention)
    if attention is None:  # the default is the fast one, where there is one: T5 has one from transformers 5 on
        is_slow = family == "t5" and TRANSFORMERS_4
        assert model.backbone.config._attn_implementation == ("eager" if is_slow else "sdpa")
    batch = batch_of_chains(family, [12, 5, 20])
    kept = batch["attention_mask"] > 0
    expected = stock_output(tiny_backbone(family), batch)
    torch.testing.assert_close(model.hidden_states(batch["input_ids"], batch["attention_mask"])[kept], expected[kept])


def test_weights_are_loaded_without_bars_and_reports(tmp_path, capfd, caplog):
    # as the checkpoints of ESM-2: with a head for masked residues, and without a pooler
    save_tiny_backbone(tmp_path, "esm")
    EsmForMaskedLM(tiny_backbone("esm").config).save_pretrained(tmp_path)
    capfd.readouterr()
    caplog.clear()
    SecondaryStructureModel.from_backbone(tmp_path, adapter=None, head="linear")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_the_commit_of_a_backbone_is_recorded(tmp_path):
    """As huggingface_hub keeps what it has downloaded."""
    repository, commit = tmp_path / "models--org--name", "c0ffee" + 34 * "0"
    save_tiny_backbone(repository / "snapshots" / commit, "esm")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    config = SecondaryStructureModel.plan("org/name", cache_dir=tmp_path, local_files_only=True)
    assert (config.backbone_name, config.backbone_revision) == ("org/name", commit)
    model = SecondaryStructureModel.from_backbone("org/name", head="linear", cache_dir=tmp_path, local_files_only=True)
    assert model.config.backbone_revision == commit


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_same_with_eager_attention_and_with_sdpa(family, tmp_path):
    if family == "t5" and TRANSFORMERS_4:
        pytest.skip("T5 of transformers 4.57 has eager attention only")
    name = save_tiny_backbone(tmp_path, family)
    gradients = []
    for attention in ("eager", "sdpa"):
        torch.manual_seed(0)
        model = SecondaryStructureModel.from_backbone(name, adapter="mam", head="linear", attn_implementation=attention)
        assert all(
            model.family.attention(block).config._attn_implementation == attention
            for block in model.family.blocks(model.backbone)
        )
        model(**batch_of_chains(family, [12, 5])).loss.backward()
        gradients.append({key: value.grad for key, value in model.named_parameters() if value.requires_grad})
    torch.testing.assert_close(*gradients)


def test_esm_keeps_one_wide_tensor_a_block_for_the_backward_pass(tmp_path):
    # gelu as transformers 4.57 spells it keeps four, and costs a third of a step
    name = save_tiny_backbone(tmp_path, "esm")
    model = SecondaryStructureModel.from_backbone(name, adapter=None, freeze=None, head="linear")
    wide = set()

    def keep(tensor):
        if tensor.dim() == 3 and tensor.shape[-1] == 48 and not isinstance(tensor, torch.nn.Parameter):
            wide.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(**batch_of_chains("esm", [12, 5]))
    assert len(wide) <= 2 * 4  # before and after gelu, in each of 4 blocks


def test_padding_does_not_change_a_chain_with_mask_tokens(tmp_path):
    # EsmModel of transformers 4.57 counts padding as residues there
    model = SecondaryStructureModel.from_backbone(save_tiny_backbone(tmp_path, "esm"), adapter=None, head="linear")
    batch = batch_of_chains("esm", [12, 20])
    batch["input_ids"][0, 3:6] = 32
    alone = model.hidden_states(batch["input_ids"][:1, :14])
    torch.testing.assert_close(model.hidden_states(batch["input_ids"])[0, :14], alone[0])


@pytest.mark.parametrize(
    ("family", "adapter"),
    [
        (family, adapter)
        for family in FAMILIES
        for adapter in ("prefix_tuning", "lora", "bottleneck", "bottleneck_both", "parallel_bottleneck", "compacter")
        if (family, adapter) != ("t5", "prefix_tuning")  # there adapters 1.3.0 shifts the position bias, see below
    ],
)
def test_the_stock_forward_of_the_backbone_runs_the_adapter_too(family, adapter, tmp_path):
    torch.manual_seed(0)
    name = save_tiny_backbone(tmp_path, family)
    model = SecondaryStructureModel.from_backbone(name, adapter=adapter, head="linear", leave_out=[])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    batch = batch_of_chains(family, [12, 5])
    kept = batch["attention_mask"] > 0
    expected = stock_output(model.backbone, batch)
    torch.testing.assert_close(model.hidden_states(batch["input_ids"], batch["attention_mask"])[kept], expected[kept])


@pytest.mark.parametrize("adapter", [None, "lora_ff", "ia3", "bottleneck", "mam"])
def test_gated_feed_forward_as_in_ankh(adapter, tmp_path):
    name = save_tiny_backbone(tmp_path, "t5", feed_forward_proj="gated-gelu")
    model = SecondaryStructureModel.from_backbone(name, adapter=adapter, head="linear")
    batch = batch_of_chains("t5", [12, 5])
    model(**batch).loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    if adapter is None:
        expected = stock_output(tiny_backbone("t5", feed_forward_proj="gated-gelu"), batch)
        kept = batch["attention_mask"] > 0
        found = model.hidden_states(batch["input_ids"], batch["attention_mask"])
        torch.testing.assert_close(found[kept], expected[kept])


def test_attention_that_takes_other_masks_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown attn_implementation 'flex_attention'\. Choose one of: eager, sdpa"):
        SecondaryStructureModel.from_backbone(save_tiny_backbone(tmp_path, "esm"), attn_implementation="flex_attention")


def test_a_prefix_without_weight_leaves_t5_as_it_was(tmp_path):
    """Prefix keys that nothing attends to must not move the position bias of the residues."""
    name = save_tiny_backbone(tmp_path, "t5")
    model = SecondaryStructureModel.from_backbone(name, adapter="prefix_tuning", head="linear", leave_out=[0, 2])
    batch = batch_of_chains("t5", [12, 5])
    inputs = model.family.attention_inputs

    def without_prefix(backbone, mask, length, shift):
        bias, _ = inputs(backbone, mask, length, shift)
        return bias, F.pad(bias, (length, 0), value=-1e9)

    model.family = type("Blind", (type(model.family),), {"attention_inputs": staticmethod(without_prefix)})()
    kept = batch["attention_mask"] > 0
    expected = stock_output(tiny_backbone("t5"), batch)
    torch.testing.assert_close(model.hidden_states(batch["input_ids"], batch["attention_mask"])[kept], expected[kept])


def test_a_prefix_shifts_distances_only_if_asked_to():
    """Shifted, the keys of a prefix are tokens like others, and residues stand after them."""
    mask = torch.ones(1, 6, dtype=torch.int64)
    inputs = get_family("t5").attention_inputs
    plain, kept = inputs(tiny_backbone("t5"), mask, 2)
    _, shifted = inputs(tiny_backbone("t5"), mask, 2, True)
    assert torch.equal(kept, plain)
    assert torch.equal(shifted[..., :6], plain)
    assert not torch.equal(shifted[..., 2:], plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fingerprint_is_of_the_weights_not_of_their_dtype(family, tmp_path):
    loader = get_family(family)
    name = save_tiny_backbone(tmp_path / "fp32", family)
    half = () if loader.overflows_in_float16 else (torch.float16,)
    found = {fingerprint(loader.load(name, dtype)) for dtype in (None, torch.bfloat16, *half)}
    tiny_backbone(family).bfloat16().save_pretrained(tmp_path / "bf16")
    found |= {fingerprint(loader.load(str(tmp_path / "bf16"), dtype)) for dtype in (None, torch.bfloat16)}
    assert len(found) == 1
    changed = loader.load(name)
    parameter = loader.blocks(changed)[1].state_dict(keep_vars=True).popitem()[1]
    with torch.no_grad():
        parameter.flatten()[0] += 0.01
    assert fingerprint(changed) not in found
    assert fingerprint(tiny_backbone(family, seed=1)) not in found


def test_the_fingerprint_is_the_same_for_a_checkpoint_with_a_language_model_head(tmp_path):
    torch.manual_seed(0)
    language_model = EsmForMaskedLM(tiny_backbone("esm").config)
    language_model.save_pretrained(tmp_path / "with_head")
    language_model.esm.save_pretrained(tmp_path / "without")
    loader = get_family("esm")
    names = [str(tmp_path / "with_head"), str(tmp_path / "without")]
    assert fingerprint(loader.load(names[0])) == fingerprint(loader.load(names[1]))


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    name = save_tiny_backbone(tmp_path, "esm")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.attention.self.query.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights .* encoder\.layer\.1\.attention\.self\.query\.weight"):
        SecondaryStructureModel.from_backbone(name)


def test_what_is_no_encoder_is_refused(tmp_path):
    GPT2Config(n_layer=1).save_pretrained(tmp_path / "gpt2")
    EsmConfig(vocab_size=33, is_decoder=True).save_pretrained(tmp_path / "decoder")
    EsmConfig(vocab_size=33, is_folding_model=True).save_pretrained(tmp_path / "fold")
    with pytest.raises(ValueError, match=r"model type 'gpt2' cannot be used here.* bert, .*esm, .*t5"):
        read_backbone_config(tmp_path / "gpt2")
    with pytest.raises(ValueError, match="is_decoder"):
        read_backbone_config(tmp_path / "decoder")
    with pytest.raises(ValueError, match="ESMFold, a folding model"):
        read_backbone_config(tmp_path / "fold")


def test_limits_of_the_positions():
    esm = get_family("esm")
    esm_1b = tiny_backbone("esm", position_embedding_type="absolute").config
    assert esm.max_residues(esm_1b) == 1022
    assert esm.max_residues(tiny_backbone("esm").config) is None
    assert get_family("t5").max_residues(tiny_backbone("t5").config) is None
    assert get_family("bert").max_residues(tiny_backbone("bert", max_position_embeddings=40).config) == 38


def test_a_folder_of_the_hubs_cache_is_recorded_by_its_id():
    cached = "/home/me/.cache/huggingface/hub/models--facebook--esm2_t6_8M_UR50D/snapshots/c731040f"
    assert portable_name(cached) == ("facebook/esm2_t6_8M_UR50D", "c731040f")
    assert portable_name("Rostlab/prot_t5_xl_uniref50") == ("Rostlab/prot_t5_xl_uniref50", None)
    assert portable_name("../backbones/mine") == ("../backbones/mine", None)


def damage_weights(folder, content):
    (folder / "model.safetensors").write_bytes(content)


def write_config(folder, content):
    (folder / "config.json").write_text(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: damage_weights(folder, b""),
            r"the backbone '.*' is damaged: .*header.* Download its files again",
        ),
        (
            lambda folder: damage_weights(folder, (folder / "model.safetensors").read_bytes()[:5000]),
            r"the backbone '.*' is damaged: ",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), r"cannot fetch the backbone '.*': Error no file"),
        (lambda folder: write_config(folder, "[]"), r"the config\.json of '.*' is not a JSON object"),
        (lambda folder: write_config(folder, "{"), r"the config\.json of '.*' is not a valid JSON file"),
        (lambda folder: write_config(folder, "{}"), r"'.*' has no config\.json with a model_type"),
        (
            lambda folder: write_config(folder, '{"model_type": "new"}'),
            r"a backbone of model type 'new' cannot be",
        ),
        (
            lambda folder: write_config(folder, '{"model_type": "esm", "hidden_size": "x", "vocab_size": 33}'),
            r"has hidden_size 'x'\. Expected a whole number",
        ),
        (
            lambda folder: save_tiny_config(folder, hidden_size=16),
            r"the backbone '.*' is damaged: the size of \d+ weights is not that of its configuration, the first is",
        ),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_line(damage, message, tmp_path):
    name = save_tiny_backbone(tmp_path, "esm")
    damage(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        SecondaryStructureModel.from_backbone(name)
    assert "\n" not in str(error.value)


def save_tiny_config(folder, **changes):
    tiny_backbone("esm", **changes).config.save_pretrained(folder)


def test_a_file_in_half_precision_rounds_no_rotation(tmp_path):
    tiny_backbone("esm").half().save_pretrained(tmp_path / "half")
    model = SecondaryStructureModel.from_backbone(tmp_path / "half", adapter=None, head="linear")
    expected, found = (esm.rotary_embeddings(backbone).inv_freq for backbone in (tiny_backbone("esm"), model.backbone))
    assert torch.equal(found, expected)


def test_a_family_that_the_installed_transformers_lacks_says_which_version_has_it(tmp_path, monkeypatch):
    known = {name: model for name, model in families.MODEL_CLASSES.items() if name != "esmc"}  # as with 4.57
    monkeypatch.setattr(families, "MODEL_CLASSES", known)
    message = rf"'esmc' needs transformers 5\.16 or later, but {re.escape(transformers.__version__)} is installed"
    (tmp_path / "config.json").write_text('{"model_type": "esmc", "vocab_size": 64}')
    for call in (SecondaryStructureModel.from_backbone, ResidueTokenizer.from_pretrained):
        with pytest.raises(ValueError, match=message):
            call(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "esmc_secondary_structure"}')
    with pytest.raises(ValueError, match=message):
        SecondaryStructureModel.from_pretrained(tmp_path)


@pytest.mark.skipif(TRANSFORMERS_4, reason="ESM C needs transformers 5")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "positions of type 'linear'"),
        ({"head_dim": 16}, "has 4 heads of size 16, but hidden_size 32"),
        ({"head_dim": 1 << 20}, "head_dim 1048576. Expected at most"),
    ],
)
def test_what_no_esm_c_has_is_refused(changes, message, tmp_path):
    save_tiny_backbone(tmp_path, "esmc")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        SecondaryStructureModel.from_backbone(tmp_path)
