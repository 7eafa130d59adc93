import json

import pytest
import torch
from scripts import load_module
from small_runs import ROOT
from tiny_models import FAMILIES, batch_of_chains, save_tiny_backbone

from lift_ss_hf.models.adapter_methods import ADAPTERS, FORMAT_1, adapter_config, prefix_length
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
    ("name", "num_parameters"),  # of the upper 8 blocks of ProtT5
    [
        ("bottleneck", 286_848),
        ("bottleneck_both", 573_696),
        ("compacter", 41_408),
        ("lora", 81_920),
        ("lora_ff", 278_528),
        ("ia3", 196_608),
    ],
)
def test_each_preset_is_as_large_as_lift_ss_on_prot_t5(prot_t5_block, name, num_parameters):
    model = SecondaryStructureModel.from_backbone(prot_t5_block, adapter=name, head="linear", leave_out=[])
    shared = sum(p.numel() for name, p in adapter_parameters(model).items() if "shared_parameters" in name)
    assert 8 * (sum(p.numel() for p in adapter_parameters(model).values()) - shared) + shared == num_parameters


@pytest.fixture(scope="module")
def prot_t5_block(tmp_path_factory):
    sizes = {"d_model": 1024, "d_kv": 128, "num_heads": 32, "d_ff": 16384, "num_layers": 1}
    return save_tiny_backbone(tmp_path_factory.mktemp("prot_t5"), "t5", **sizes)


BOTTLENECK = {
    "mh_adapter": False, "output_adapter": True, "is_parallel": False, "original_ln_before": False,
    "original_ln_after": True, "ln_before": True, "ln_after": False, "adapter_residual_before_ln": False,
    "non_linearity": "relu", "reduction_factor": 64, "scaling": 1.0, "init_weights": "bert", "use_gating": False,
    "dropout": 0.0, "phm_layer": False, "stochastic_depth": 0.0, "leave_out": [*range(16)],
}  # fmt: skip
PARALLEL = {**BOTTLENECK, "is_parallel": True}
PHM = {
    "phm_layer": True, "phm_dim": 4, "shared_phm_rule": True, "factorized_phm_rule": False, "learn_phm": True,
    "factorized_phm_W": True, "shared_W_phm": False, "phm_c_init": "normal", "phm_init_range": 0.0001,
    "hypercomplex_nonlinearity": "glorot-uniform", "phm_rank": 1, "phm_bias": True,
}  # fmt: skip
LORA = {
    "selfattn_lora": True, "intermediate_lora": False, "output_lora": False, "attn_matrices": ["q", "v"], "r": 1,
    "alpha": 1, "dropout": 0.0, "init_weights": "lora", "composition_mode": "add", "use_gating": False,
    "leave_out": [*range(16)],
}  # fmt: skip
IA3 = {
    "selfattn_lora": True, "intermediate_lora": True, "output_lora": False, "attn_matrices": ["k", "v"], "r": 1,
    "alpha": 1, "dropout": 0.0, "init_weights": "ia3", "composition_mode": "scale", "use_gating": False,
    "leave_out": [*range(16)],
}  # fmt: skip
PREFIX = {"flat": True, "prefix_length": 16, "dropout": 0.0, "use_gating": False, "leave_out": [*range(16)]}
GATED = {"use_gating": True}
# The reference (github.com/fengtuan/LIFT_SS at da0319f, train_LIFT_SS_DML.py) on adapter-transformers 3.2.1: what its
# command line sets, and the defaults of the library. In its words residual_before_ln has no effect here: it needs
# original_ln_before.
LIFT_SS = {
    "bottleneck": [BOTTLENECK],
    "bottleneck_attention": [{**BOTTLENECK, "mh_adapter": True, "output_adapter": False}],
    "bottleneck_both": [{**BOTTLENECK, "mh_adapter": True}],
    "parallel_bottleneck": [PARALLEL],
    "compacter": [{**BOTTLENECK, **PHM}],
    "parallel_compacter": [{**PARALLEL, **PHM}],
    "lora": [LORA],
    "lora_ff": [{**LORA, "selfattn_lora": False, "intermediate_lora": True, "output_lora": True}],
    "ia3": [IA3],
    "prefix_tuning": [PREFIX],
    "mam": [PREFIX, {**PARALLEL, **PHM}],
    "unipelt": [LORA | GATED, PREFIX | GATED, {**PARALLEL, **PHM, **GATED}],
}


@pytest.mark.parametrize("name", LIFT_SS)
def test_every_option_of_a_preset_is_that_of_lift_ss(name):
    config = adapter_config(name, {}, range(16), 1024, 24)
    parts = config.configs if name in ("mam", "unipelt") else [config]
    found = [
        {option: getattr(part, option) for option in wanted} for part, wanted in zip(parts, LIFT_SS[name], strict=True)
    ]
    assert found == LIFT_SS[name]


@pytest.mark.parametrize("name", LIFT_SS)
def test_hidden_states_are_those_of_the_reference(reference_adapters, name, tmp_path):
    """Recorded in an environment with the reference's own adapters, on the same weights."""
    record = json.loads(reference_adapters.RECORD.read_text())[name]
    reference_adapters.save_backbone(tmp_path)
    model = reference_adapters.our_model(name, tmp_path)
    hidden, _ = reference_adapters.our_hidden_states(model)
    expected = record["reference_hidden_states"]
    assert reference_adapters.recorded(hidden) == pytest.approx(expected, abs=2e-5)
    assert model.parameter_summary()["adapter"]["trained"] == record["reference_parameters"]
    assert record["difference"] < 1e-6


@pytest.fixture(scope="module")
def reference_adapters():
    return load_module(ROOT / "benchmarks" / "reference_adapters.py")


@pytest.mark.parametrize("name", [*FORMAT_1, "lora"])
def test_a_model_of_format_1_keeps_its_function(backbones, name, tmp_path):
    """Its presets were others: hidden states depend on which, and so does what can be cached."""
    torch.manual_seed(0)
    old = SecondaryStructureModel.from_backbone(
        backbones["esm"], adapter=name, adapter_options=FORMAT_1.get(name, {}), head="linear"
    )
    with torch.no_grad():
        for parameter in adapter_parameters(old).values():
            parameter.add_(torch.randn_like(parameter))
    old.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content |= {"adapter_options": {}, "format_version": 1}
    (tmp_path / "config.json").write_text(json.dumps(content))
    found = SecondaryStructureModel.from_pretrained(tmp_path)
    tokens = batch_of_chains("esm", [30])["input_ids"]
    assert torch.equal(found.hidden_states(tokens), old.hidden_states(tokens))
    assert found.num_frozen_blocks == old.num_frozen_blocks
    assert (found.config.format_version, found.config.adapter_options) == (2, dict(FORMAT_1.get(name, {})))


@pytest.mark.parametrize(
    ("name", "options", "num_frozen"),  # of 4 blocks, the lower two without an adapter
    [
        ("bottleneck", {}, 2),
        ("bottleneck", {"original_ln_before": True}, 3),
        ("output_bottleneck", {}, 3),
        ("output_bottleneck", {"reduction_factor": 4}, 3),
        ("output_bottleneck", {"mh_adapter": True}, 2),
        ("output_bottleneck", {"is_parallel": True}, 2),
        ("compacter", {"original_ln_before": True, "reduction_factor": 8}, 3),
        ("parallel_bottleneck", {}, 2),
        ("lora", {}, 2),
        ("mam", {}, 2),
    ],
)
def test_the_lowest_block_with_an_adapter_is_frozen_only_if_the_adapter_reads_its_output(
    backbones, name, options, num_frozen
):
    found = SecondaryStructureModel.from_backbone(
        backbones["esm"], adapter=name, adapter_options=options, head="linear"
    )
    assert found.num_frozen_blocks == num_frozen


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
