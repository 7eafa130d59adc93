"""Packed rows and prepacked weights: a chain is predicted as if alone, for every adapter, head and precision."""

import numpy as np
import pytest
import torch
from tiny_models import BACKBONES, FAMILIES, save_tiny_backbone

from lift_ss_hf.models import rows
from lift_ss_hf.models.adapter_methods import ADAPTERS
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.t5 import T5Row
from lift_ss_hf.models.tokenization import ResidueTokenizer
from lift_ss_hf.prediction.cpu_kernels import Fp32Linear, Int8Linear, PrepackedLinear, prepack, quantise
from lift_ss_hf.prediction.ensemble import Ensemble
from lift_ss_hf.prediction.loading import MAX_QUADRATIC_RESIDUES, load_predictor
from lift_ss_hf.prediction.packing import can_be_packed
from lift_ss_hf.prediction.predictor import Predictor, model_digest, plan_rows

SEQUENCES = ["MKVLAAGIVGLLLAQWERTY", "M", "GGGGSSSSPPPPTTTTNNNNQQQQHHHHXUZB" * 9, "ACD", "MKVWWW" * 15]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbones")
    for family in BACKBONES:
        save_tiny_backbone(folder / family, family)
    save_tiny_backbone(folder / "esm1b", "esm", position_embedding_type="absolute", emb_layer_norm_before=True)
    save_tiny_backbone(folder / "gated", "t5", feed_forward_proj="gated-gelu", d_kv=16)  # as Ankh; wider than d_model
    save_tiny_backbone(
        folder / "distances", "bert", position_embedding_type="relative_key", attn_implementation="eager"
    )
    return folder


def model_over(backbone, **options):
    """Return a model whose adapter has an effect: weights that start at zero are random."""
    torch.manual_seed(0)
    options = {"head_channels": 16, **options}
    model = SecondaryStructureModel.from_backbone(backbone, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and name not in model.backbone_names:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model, ResidueTokenizer.from_pretrained(backbone)


def alone(model, tokenizer, sequence):
    """Return a chain's probabilities before calibration by the model's own forward, without neighbours."""
    tokens = torch.from_numpy(tokenizer.encode_sequence(sequence))[None]
    with torch.inference_mode():
        return model(tokens).logits.softmax(-1)[0, tokenizer.residue_slice()].numpy()


def assert_predicts(expected, model, tokenizer, max_tokens=400):
    predictor = Predictor(model, tokenizer, max_tokens)
    found = dict(predictor.predict(SEQUENCES))
    assert sorted(found) == list(range(len(SEQUENCES)))
    for index, sequence in enumerate(SEQUENCES):
        assert found[index].shape == (len(sequence), 9)
        assert np.allclose(found[index], expected[index], atol=1e-5)
    return predictor


def assert_as_alone(model, tokenizer):
    expected = {index: alone(model, tokenizer, sequence) for index, sequence in enumerate(SEQUENCES)}
    return assert_predicts(expected, model, tokenizer)


VARIANTS = {family: (family, family) for family in FAMILIES} | {"esm": ("esm", "esm1b"), "t5": ("t5", "gated")}
UNPACKABLE = {"noreft"}
# Each adapter that can be packed in each family, in one of its variants in turn; the others, which are predicted in
# batches by the model's own forward, in one family each.
ADAPTER_CASES = [
    (VARIANTS[family][(f + a) % 2], adapter)
    for a, adapter in enumerate([None, *sorted(ADAPTERS)])
    for f, family in enumerate(FAMILIES)
    if adapter not in UNPACKABLE or f == a % len(FAMILIES)
]


def test_the_cases_have_every_adapter_and_variant():
    packable = [case for case in ADAPTER_CASES if case[1] not in UNPACKABLE]
    assert {adapter for _, adapter in ADAPTER_CASES} == {None, *ADAPTERS}
    assert {name for name, _ in packable} == {name for family in FAMILIES for name in VARIANTS[family]}
    assert len(packable) == len(FAMILIES) * (1 + len(ADAPTERS) - len(UNPACKABLE))


@pytest.mark.parametrize(("name", "adapter"), ADAPTER_CASES)
def test_each_adapter_predicts_a_chain_as_if_alone_in_rows_and_with_laid_out_matrices(backbones, name, adapter):
    options = {"adapter": adapter} | ({} if adapter is None else {"top_blocks": 2})
    model, tokenizer = model_over(backbones / name, **options)
    expected = {index: alone(model, tokenizer, sequence) for index, sequence in enumerate(SEQUENCES)}
    predictor = assert_predicts(expected, model, tokenizer)
    assert (predictor.packed is None) == (adapter in UNPACKABLE)
    prepack(model)
    assert sum(isinstance(m, Fp32Linear) for m in model.modules()) >= 2 * 6  # the blocks below the adapters
    assert_predicts(expected, model, tokenizer)


@pytest.mark.parametrize("options", [{"adapter": None}, {"adapter": "unipelt", "top_blocks": 2}, {"max_residues": 40}])
def test_a_leading_token_is_in_every_row_and_window_and_no_residue(backbones, options):
    model, tokenizer = model_over(backbones / "prostt5", **options)
    assert (model.num_leading, tokenizer.num_leading) == (1, 1)
    assert assert_as_alone(model, tokenizer).packed is not None


@pytest.mark.parametrize(
    ("name", "adapter", "options"),
    [
        ("esm", "lora", {"use_gating": True}),
        ("t5", "bottleneck", {"use_gating": True}),
        ("bert", "ia3", {"use_gating": True}),
        ("esm1b", "unipelt", {"shared_gating": False}),
        ("bert", "prefix_tuning", {"flat": False}),
    ],
)
def test_gates_and_prefixes_are_those_of_each_chain(backbones, name, adapter, options):
    model, tokenizer = model_over(backbones / name, adapter=adapter, adapter_options=options, top_blocks=2)
    assert assert_as_alone(model, tokenizer).packed is not None


@pytest.mark.parametrize("adapter", ["mam", "unipelt"])
def test_a_prefix_shifts_the_distances_of_t5_in_rows_too(backbones, adapter):
    model, tokenizer = model_over(backbones / "gated", adapter=adapter, prefix_shift=True, top_blocks=2)
    assert assert_as_alone(model, tokenizer).packed is not None


def reference_of_varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k):
    """Compute what torch.nn.attention.varlen documents, without a GPU."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert (max_q, max_k) == (cu_seq_q.diff().max(), cu_seq_k.diff().max())
    parts = (query, cu_seq_q), (key, cu_seq_k), (value, cu_seq_k)
    chains = zip(*(states.split(ends.diff().tolist()) for states, ends in parts), strict=True)
    attended = [
        torch.nn.functional.scaled_dot_product_attention(*(states.transpose(0, 1) for states in chain)).transpose(0, 1)
        for chain in chains
    ]
    return torch.cat(attended)


@pytest.mark.parametrize(
    ("family", "adapter"), [("esm", "bottleneck"), ("esm1b", "unipelt"), ("bert", "bottleneck"), ("t5", "bottleneck")]
)
def test_one_kernel_attends_all_chains_where_there_is_one(backbones, family, adapter, monkeypatch):
    calls = []
    monkeypatch.setattr(rows, "varlen_attn", lambda *states: calls.append(1) or reference_of_varlen_attn(*states))
    monkeypatch.setattr(rows, "has_varlen_kernel", lambda query: True)  # on the CPU it never does
    assert_as_alone(*model_over(backbones / family, adapter=adapter, top_blocks=2))
    assert bool(calls) == (family != "t5")  # the kernel has no bias


@pytest.mark.parametrize(
    "options",
    [
        {"head": "linear", "loss": "cross_entropy", "block_mix": "mean"},
        {"head": "dilated", "block_mix": "concat"},
        {"head_depth": 4, "loss": "cross_entropy"},
        {"max_residues": 48, "block_mix": "mean"},
    ],
    ids=str,
)
def test_heads_mixes_and_windows_are_packed_too(backbones, options):
    model, tokenizer = model_over(backbones / "esm", top_blocks=2, **options)
    assert assert_as_alone(model, tokenizer).packed is not None


@pytest.mark.parametrize("name", ["esm1b", "gated"])
def test_variants_of_a_family_are_packed_in_windows_too(backbones, name):
    model, tokenizer = model_over(backbones / name, top_blocks=2, max_residues=200)
    assert assert_as_alone(model, tokenizer).packed is not None


def test_unsupported_positions_are_predicted_in_batches(backbones):
    model, tokenizer = model_over(backbones / "distances", top_blocks=2)
    assert assert_as_alone(model, tokenizer).packed is None


def test_the_bias_of_t5_is_that_of_each_distance_and_takes_no_memory(backbones):
    model, _ = model_over(backbones / "t5", adapter=None)
    row = T5Row(model.backbone, [3, 700])
    for length in (3, 700):
        stock = model.family.blocks(model.backbone)[0].layer[0].SelfAttention.compute_bias(length, length)[0]
        bias = row.bias(length, torch.float32)
        assert torch.equal(bias.flip(-1), stock)  # the keys come in from the last
        assert bias.stride()[1:] == (1, 1)  # else sdpa makes a copy
        assert bias.untyped_storage().nbytes() == 4 * stock.shape[0] * (2 * 700 - 1)


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"adapter": "lora"}, None),
        ({"adapter": "noreft"}, MAX_QUADRATIC_RESIDUES),
        ({"adapter": "prefix_tuning"}, MAX_QUADRATIC_RESIDUES),
        ({"adapter": "prefix_tuning", "prefix_shift": True}, None),
    ],
)
def test_t5_is_cut_only_where_memory_would_grow_with_the_square(backbones, tmp_path, options, limit):
    model_over(backbones / "t5", top_blocks=2, **options)[0].save_pretrained(tmp_path)
    predictor = load_predictor(str(tmp_path))
    assert predictor.model.max_residues == limit
    ((_, found),) = predictor.predict(["MKVLW" * 500])
    assert found.shape == (2500, 9)


def test_ensembles_are_not_packed(backbones):
    models = [model_over(backbones / "esm", top_blocks=top)[0] for top in (1, 2)]
    assert can_be_packed(models[0])
    assert not can_be_packed(Ensemble(models))


@pytest.mark.parametrize(
    ("family", "adapter"),
    [("esm", None), ("esm", "lora"), ("t5", "bottleneck"), ("t5", "ia3"), ("bert", "lora"), ("bert", "bottleneck")],
)
def test_half_precision_backbones_are_packed_as_they_are_run(backbones, family, adapter):
    torch.manual_seed(0)
    options = {"adapter": adapter, "head": "linear", "dtype": torch.bfloat16}
    model = SecondaryStructureModel.from_backbone(backbones / family, **options)
    tokenizer = ResidueTokenizer.from_pretrained(backbones / family)
    predictor = Predictor(model, tokenizer)
    assert predictor.packed is not None
    for index, found in predictor.predict(SEQUENCES):
        assert np.abs(found - alone(model, tokenizer, SEQUENCES[index])).mean() < 0.005  # bf16 rounds to 3 digits


def test_neighbours_change_nothing(backbones):
    model, tokenizer = model_over(backbones / "esm", top_blocks=2)
    ours, *_ = (found for index, found in Predictor(model, tokenizer).predict(["ACDEF", "W" * 300]) if index == 0)
    theirs, *_ = (found for index, found in Predictor(model, tokenizer).predict(["ACDEF", "MKVA" * 9]) if index == 0)
    assert np.allclose(ours, theirs, atol=1e-6)


def test_rows_keep_to_their_budget():
    assert list(plan_rows([3, 4, 9, 1, 1], 7)) == [[0, 1], [2], [3, 4]]
    assert list(plan_rows([], 7)) == []


def test_prepacking_keeps_the_digest(backbones, tmp_path):
    model_over(backbones / "esm", top_blocks=1)[0].save_pretrained(tmp_path)
    expected = model_digest(SecondaryStructureModel.from_pretrained(tmp_path))
    for precision in ("fp32", "int8"):
        assert load_predictor(str(tmp_path), precision=precision).digest == expected


@pytest.mark.parametrize(
    ("name", "fused", "precision"),
    [("esm", "gelu", "fp32"), ("bert", "gelu", "int8"), ("t5", "relu", "int8"), ("gated", "none", "fp32")],
)
def test_activations_are_computed_within_the_product(backbones, tmp_path, name, fused, precision):
    model_over(backbones / name, top_blocks=2)[0].save_pretrained(tmp_path)
    model = load_predictor(str(tmp_path), precision=precision).model
    maps = [m for m in model.modules() if isinstance(m, PrepackedLinear)]
    assert {linear.activation for linear in maps} == {"none", fused}


@pytest.mark.parametrize("name", [*FAMILIES, "gated"])
def test_int8_is_near_and_leaves_what_was_trained(backbones, name):
    model, tokenizer = model_over(backbones / name, top_blocks=2, head="linear")
    exact = dict(Predictor(model, tokenizer).predict(SEQUENCES))
    quantise(model)
    rounded = dict(Predictor(model, tokenizer).predict(SEQUENCES))
    difference = np.concatenate([np.abs(exact[i] - rounded[i]).ravel() for i in exact])
    assert 0 < difference.mean() < 0.02
    kept = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert all(linear.weight.requires_grad for linear in kept)  # adapters and head
    assert sum(isinstance(m, Int8Linear) for m in model.modules()) == 4 * (
        7 if name in ("gated", "esmc") else 6
    )  # q, k, v, o; feed-forward


def test_lora_keeps_its_maps_in_fp32(backbones):
    model, _ = model_over(backbones / "esm", adapter="lora", top_blocks=1)
    quantise(model)
    assert sum(isinstance(m, Int8Linear) for m in model.modules()) == 4 * 6 - 2  # query and value of the top block


def test_int8_over_half_precision_is_refused(backbones):
    model = SecondaryStructureModel.from_backbone(backbones / "esm", top_blocks=1, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="int8 runs on a CPU, over a backbone in fp32"):
        quantise(model)


def test_a_budget_must_be_positive(backbones):
    model, tokenizer = model_over(backbones / "esm", top_blocks=1)
    with pytest.raises(ValueError, match="max_tokens is 0"):
        Predictor(model, tokenizer, 0)
