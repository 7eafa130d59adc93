import pytest
import torch
from tiny_models import FAMILIES, batch_of_chains, save_tiny_backbone

from lift_ss_hf.models.adapter_methods import ADAPTERS, adapter_config, prefix_length
from lift_ss_hf.models.modeling import SecondaryStructureModel


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbones")
    return {family: save_tiny_backbone(folder / family, family) for family in FAMILIES}


def adapter_parameters(model) -> dict[str, torch.nn.Parameter]:
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.startswith("backbone.") and parameter.requires_grad
    }


@pytest.mark.parametrize(
    ("name", "num_parameters"),  # of one ProtT5 block: 1024 wide, bottleneck of 16, feed-forward of 16384
    [
        ("bottleneck", 2 * 1024 + 1024 * 16 + 16 + 16 * 1024 + 1024),
        ("lora", 2 * 2 * 1024),
        ("lora_ff", 2 * (1024 + 16384)),
    ],
)
def test_lift_ss_hyper_parameters_at_the_size_of_prot_t5(name, num_parameters, tmp_path):
    sizes = {"d_model": 1024, "d_kv": 128, "num_heads": 8, "d_ff": 16384, "num_layers": 1}
    backbone = save_tiny_backbone(tmp_path, "t5", **sizes)
    model = SecondaryStructureModel.from_backbone(backbone, adapter=name, head="linear", leave_out=[])
    assert sum(p.numel() for p in adapter_parameters(model).values()) == num_parameters


def test_presets_are_those_of_lift_ss():
    def settings(name):
        return adapter_config(name, {}, range(16), 1024, 24)

    for name in ("bottleneck", "bottleneck_attention", "bottleneck_both", "parallel_bottleneck", "compacter"):
        found = settings(name)
        assert (found.ln_before, found.non_linearity, found.reduction_factor) == (True, "relu", 64)
        assert found.leave_out == list(range(16))
    assert (settings("lora").alpha, settings("lora").r, settings("lora").attn_matrices) == (1, 1, ["q", "v"])
    assert settings("lora_ff").intermediate_lora
    assert not settings("lora_ff").selfattn_lora
    assert (settings("prefix_tuning").flat, settings("prefix_tuning").prefix_length) == (True, 16)
    assert [type(part).__name__ for part in settings("mam").configs] == ["PrefixTuningConfig", "ParBnConfig"]
    assert all(part.use_gating for part in settings("unipelt").configs)
    places = {
        name: (settings(name).mh_adapter, settings(name).output_adapter) for name in ADAPTERS if name[:4] == "bott"
    }
    expected = {"bottleneck": (False, True), "bottleneck_attention": (True, False), "bottleneck_both": (True, True)}
    assert places == expected


@pytest.mark.parametrize(
    ("hidden", "name", "width"),
    [(320, "bottleneck", 5), (320, "compacter", 8), (480, "mam", 8), (1024, "compacter", 16), (32, "bottleneck", 1)],
)
def test_the_bottleneck_is_rounded_up_to_what_the_method_can_have(hidden, name, width):
    config = adapter_config(name, {}, [], hidden, 4)
    config = config if name != "mam" else config.configs[1]
    assert hidden / config.reduction_factor == width


def test_options_reach_every_component_that_has_them():
    config = adapter_config("unipelt", {"prefix_length": 3, "dropout": 0.25, "r": 2}, [0], 64, 4)
    lora, prefix, parallel = config.configs
    assert (prefix.prefix_length, lora.r) == (3, 2)
    assert lora.dropout == prefix.dropout == parallel.dropout == 0.25
    assert prefix_length("unipelt", {"prefix_length": 3}) == 3
    assert prefix_length("mam", {}) == 16
    assert prefix_length("lora", {}) == prefix_length(None, {}) == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_left_out_blocks_have_no_adapter(backbones, family, name):
    """The lower ones because a cache may hold their output, any other because it was asked for."""
    torch.manual_seed(0)
    model = SecondaryStructureModel.from_backbone(backbones[family], adapter=name, head="linear", leave_out=[0, 2])
    bare = SecondaryStructureModel.from_backbone(backbones[family], adapter=None, head="linear")
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.add_(torch.randn_like(parameter))
    outputs: dict = {}
    for which, source in (("with", model), ("without", bare)):
        for number, block in enumerate(source.family.blocks(source.backbone)):

            def keep(_, args, out, key=(which, number)):
                outputs[key] = (args[0], out[0] if isinstance(out, tuple) else out)

            block.register_forward_hook(keep)
    batch = batch_of_chains(family, [9])
    for source in (model, bare):
        source.hidden_states(batch["input_ids"])
    changed = []
    for number, block in enumerate(bare.family.blocks(bare.backbone)):
        hidden, found = outputs["with", number]
        found = outputs.get(("with", number + 1), [found])[0]  # what goes on, an adapter on the block's output included
        mask = bare.family.attention_inputs(bare.backbone, batch["attention_mask"], 0)
        expected = bare.family.run_block(block, hidden, mask, False)
        changed.append(not torch.allclose(found, expected, atol=1e-5))
    assert changed == [False, True, False, True]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["lora", "bottleneck", "parallel_bottleneck", "ia3", "dora"])
def test_an_untrained_adapter_changes_little(backbones, family, name):
    batch = batch_of_chains(family, [30])
    bare = SecondaryStructureModel.from_backbone(backbones[family], adapter=None, head="linear")
    model = SecondaryStructureModel.from_backbone(backbones[family], adapter=name, head="linear", leave_out=[])
    expected = bare.hidden_states(batch["input_ids"])
    difference = (model.hidden_states(batch["input_ids"]) - expected).norm() / expected.norm()
    assert difference < 0.05


def test_ways_to_say_which_blocks(backbones):
    def left_out(**options):
        return SecondaryStructureModel.from_backbone(backbones["esm"], head="linear", **options).config.leave_out

    assert left_out(top_blocks=3) == [0]
    assert left_out(leave_out=[3]) == [3]
    assert left_out() == [0, 1]
    for options, message in [
        ({"top_blocks": 2, "leave_out": [0]}, "leave_out and top_blocks say the same thing in two ways"),
        ({"top_blocks": 0}, r"top_blocks is 0\. Expected 1 to 4"),
        ({"top_blocks": 5}, r"top_blocks is 5\. Expected 1 to 4"),
        ({"top_blocks": 2, "adapter": None}, "top_blocks was given without an adapter"),
    ]:
        with pytest.raises(ValueError, match=message):
            left_out(**options)


def test_a_misspelt_option_is_no_silent_default(backbones):
    with pytest.raises(TypeError, match=r"unknown option 'head_chanels'\. Choose from: .*head_channels"):
        SecondaryStructureModel.from_backbone(backbones["esm"], head_chanels=16)


def test_an_option_that_the_library_falls_over_is_named(backbones):
    for options in ({"init_weights": "wobbly"}, {"r": 2, "composition_mode": "scale"}, {"attn_matrices": 3}):
        with pytest.raises(ValueError, match=r"adapter 'lora' cannot be built with the options \{"):
            SecondaryStructureModel.from_backbone(backbones["esm"], adapter="lora", adapter_options=options)


def test_top_blocks_is_a_whole_number(backbones):
    with pytest.raises(ValueError, match=r"top_blocks is 1\.5\. Expected 1 to 4"):
        SecondaryStructureModel.from_backbone(backbones["esm"], top_blocks=1.5)
