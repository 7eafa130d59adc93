import copy
import itertools

import pytest
import torch
from tiny_models import (
    DROPOUT,
    FAMILIES,
    TRANSFORMERS_4,
    batch_of_chains,
    save_tiny_backbone,
    stock_tokenizer,
    tiny_backbone,
)
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer, TrainingArguments, pipeline

from lift_ss_hf.models.backbones import ATTENTION
from lift_ss_hf.models.families import MODEL_CLASSES as CLASSES
from lift_ss_hf.models.modeling import SecondaryStructureModel


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbones")
    return {family: save_tiny_backbone(folder / family, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def esm_1b(tmp_path_factory):
    return save_tiny_backbone(tmp_path_factory.mktemp("esm1b"), "esm", position_embedding_type="absolute")


def new_model(name, perturb=False, **options):
    torch.manual_seed(0)
    model = SecondaryStructureModel.from_backbone(name, **{"head_channels": 16, **options})
    if perturb:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_class_finds_the_class_of_the_family(backbones, family):
    assert type(new_model(backbones[family])) is CLASSES[family]
    assert type(CLASSES[family].from_backbone(backbones[family])) is CLASSES[family]
    other = CLASSES["bert" if family != "bert" else "esm"]
    with pytest.raises(ValueError, match=f"use {CLASSES[family].__name__}, not {other.__name__}"):
        other.from_backbone(backbones[family])


# ---- regimes ----------------------------------------------------------------------------------------------------


class MatMuls(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += any(word in str(func) for word in ("mm", "linear", "attention"))
        return func(*args, **(kwargs or {}))


def backward_products(model, batch) -> int:
    loss = model(**batch).loss
    with MatMuls() as products:
        loss.backward()
    model.zero_grad()
    return products.count


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_backward_stops_at_the_lowest_trained_block(backbones, family, checkpointing):
    batch = batch_of_chains(family, [9, 5])
    products = []
    for top_blocks in (1, 2, 3, 4):
        model = new_model(backbones[family], top_blocks=top_blocks, head="linear").train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            model.enable_input_require_grads()  # as many do for checkpointing; it must not reach the blocks
        below: list[torch.Tensor] = []

        def keep(_, args, out, below=below):
            below.append(out[0] if isinstance(out, tuple) else out)

        for block in model.family.blocks(model.backbone)[: model.lowest_trained_block]:
            block.register_forward_hook(keep)
        model(**batch).loss.backward()
        assert len(below) == 4 - top_blocks
        assert all(out.grad_fn is None and not out.requires_grad for out in below)
        products.append(backward_products(model, batch))
    steps = [b - a for a, b in itertools.pairwise(products)]
    assert steps[0] == steps[1] == steps[2] > 0  # each further block costs the same; the rest costs nothing


@pytest.mark.parametrize(
    ("family", "adapter", "adapter_options", "blocks_run"),
    [
        ("esm", "output_bottleneck", {}, 1),
        ("t5", "compacter", {"original_ln_before": True}, 1),
        ("bert", "output_bottleneck", {}, 2),  # a norm of the backbone's own comes after the adapter
        ("esm", "output_bottleneck", {"residual_before_ln": False}, 2),
        ("esm", "bottleneck", {}, 2),  # reads the block before its residual is added
        ("esm", "bottleneck_attention", {}, 2),
        ("t5", "lora", {}, 2),
    ],
)
def test_from_a_prefix_only_what_training_changes_is_run(backbones, family, adapter, adapter_options, blocks_run):
    model = new_model(
        backbones[family], perturb=True, adapter=adapter, adapter_options=adapter_options, top_blocks=2, head="linear"
    )
    batch = batch_of_chains(family, [9, 5])
    kept = batch["attention_mask"] > 0
    whole = model.hidden_states(batch["input_ids"], batch["attention_mask"])
    frozen = model.run_frozen_blocks(batch["input_ids"], batch["attention_mask"])
    ran = []
    for block in model.family.blocks(model.backbone):
        block.register_forward_hook(lambda block, *_: ran.append(block))
    torch.testing.assert_close(model.run_trained_blocks(frozen, batch["attention_mask"])[kept], whole[kept])
    assert len(ran) == blocks_run
    with torch.no_grad():  # and the prefix depends on nothing that training changes
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    again = model.run_frozen_blocks(batch["input_ids"], batch["attention_mask"])
    assert torch.equal(again[-1], frozen[-1])


def test_the_dropout_of_an_adapter_that_acts_on_a_frozen_block_is_trained_with(backbones):
    model = new_model(backbones["t5"], adapter="output_bottleneck", adapter_options={"dropout": 0.5}, top_blocks=1)
    block = model.train().family.blocks(model.backbone)[-1]
    on = {name for name, module in block.named_modules() if isinstance(module, torch.nn.Dropout) and module.training}
    assert on and all("adapters" in name for name in on)
    model.eval()
    assert not any(module.training for module in block.modules())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "options",
    [
        {"adapter": "bottleneck"},
        {"adapter": "mam"},
        {"adapter": "unipelt"},
        {"adapter": None, "freeze": 1},
        {"adapter": None, "freeze": None},
    ],
)
def test_gradient_checkpointing_gives_the_same_gradients(backbones, family, options):
    plain = new_model(backbones[family], perturb=True, head_dropout=0.0, **options)
    checkpointed = copy.deepcopy(plain)
    checkpointed.gradient_checkpointing_enable()
    assert checkpointed.is_gradient_checkpointing
    batch = batch_of_chains(family, [9, 5])
    for model in (plain, checkpointed):
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0  # T5's attention
        model(**batch).loss.backward()
    for (name, expected), found in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        if expected.requires_grad:
            assert torch.allclose(found.grad, expected.grad, atol=1e-6), name


@pytest.mark.parametrize(
    ("given", "where"),
    [({}, [True] * 4), ({"every_n_layers": 2}, [True, False] * 2), ({"offload": True}, [True] * 4)],
)
def test_the_trainers_options_of_checkpointing_reach_the_blocks(backbones, given, where, tmp_path):
    if TRANSFORMERS_4 and given:
        pytest.skip("options of transformers 5")
    plain = new_model(backbones["esm"], perturb=True, head_dropout=0.0, adapter="bottleneck", leave_out=[])
    model = copy.deepcopy(plain)
    batches = [{name: values[0] for name, values in batch_of_chains("esm", [9]).items()}] * 2
    arguments = TrainingArguments(
        **{"output_dir": str(tmp_path), "max_steps": 1, "report_to": "none", "use_cpu": True, "save_strategy": "no"},
        **{"gradient_checkpointing" if TRANSFORMERS_4 else "activation_checkpointing": True},
        **({"activation_checkpointing_kwargs": given} if given else {}),
    )
    Trainer(model, arguments, train_dataset=batches).train()
    assert [block.gradient_checkpointing for block in model.family.blocks(model.backbone)] == where
    batch = batch_of_chains("esm", [9, 5])
    for each in (plain, model):
        each.load_state_dict(plain.state_dict())
        each.zero_grad()
        each.train()
        each(**batch).loss.backward()
    for expected, found in zip(plain.parameters(), model.parameters(), strict=True):
        if expected.requires_grad:
            torch.testing.assert_close(found.grad, expected.grad, atol=1e-6, rtol=1e-5)


def test_reentrant_checkpointing_is_refused(backbones):
    with pytest.raises(ValueError, match="use_reentrant=True does not work with adapters"):
        new_model(backbones["esm"]).gradient_checkpointing_enable({"use_reentrant": True})


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_blocks_have_no_dropout_while_the_model_trains(tmp_path, family):
    dropout = {DROPOUT[family]: 0.5}
    model = new_model(save_tiny_backbone(tmp_path, family, **dropout)).train()
    batch = batch_of_chains(family, [9, 5])
    inputs = batch["input_ids"], batch["attention_mask"]
    frozen = [model.run_frozen_blocks(*inputs)[0] for _ in range(2)]
    assert torch.equal(*frozen)
    assert not torch.equal(model.hidden_states(*inputs), model.hidden_states(*inputs))  # above there is
    model.eval()
    assert torch.equal(frozen[0], model.run_frozen_blocks(*inputs)[0])
    assert torch.equal(model.hidden_states(*inputs), model.hidden_states(*inputs))


@pytest.mark.parametrize("family", FAMILIES)
def test_all_blocks_have_dropout_as_in_the_reference_if_asked_for(tmp_path, family):
    dropout = {DROPOUT[family]: 0.5}
    model = new_model(save_tiny_backbone(tmp_path, family, **dropout), backbone_dropout="reference").train()
    off = [name for name, module in model.named_modules() if not module.training]
    assert off == []
    batch = batch_of_chains(family, [9, 5])
    inputs = batch["input_ids"], batch["attention_mask"]
    assert not torch.equal(*(model.run_frozen_blocks(*inputs)[0] for _ in range(2)))
    model.eval()
    assert torch.equal(*(model.run_frozen_blocks(*inputs)[0] for _ in range(2)))


@pytest.mark.parametrize("family", FAMILIES)
def test_feature_extraction_trains_the_head_alone(tmp_path, family):
    dropout = {DROPOUT[family]: 0.5}
    model = new_model(save_tiny_backbone(tmp_path, family, **dropout), adapter=None).train()
    batch = batch_of_chains(family, [9, 5])
    first, second = (model.hidden_states(batch["input_ids"], batch["attention_mask"]) for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    model(**batch).loss.backward()
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None} == {"head"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_mix_learns_which_blocks_matter(backbones, family):
    model = new_model(backbones[family], adapter=None, block_mix="mean", perturb=True)
    batch = batch_of_chains(family, [9, 5])
    model(**batch).loss.backward()
    assert model.block_mix.weights.shape == (5,)
    assert (model.block_mix.weights.grad != 0).all()
    plain = new_model(backbones[family], adapter=None)
    with torch.no_grad():
        model.block_mix.weights.copy_(torch.tensor([-1e4, -1e4, -1e4, -1e4, 0]))
        model.block_mix.scale.fill_(1)
    inputs = batch["input_ids"], batch["attention_mask"]
    torch.testing.assert_close(model.hidden_states(*inputs), plain.hidden_states(*inputs))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["lift_ss", "dilated", "linear"])
def test_all_blocks_side_by_side_are_seen_by_the_head(backbones, family, head):
    model = new_model(backbones[family], adapter=None, block_mix="concat", head=head, perturb=True)
    batch = batch_of_chains(family, [9, 5])
    inputs = batch["input_ids"], batch["attention_mask"]
    hidden = model.hidden_states(*inputs)
    size = model.config.hidden_size
    assert hidden.shape[-1] == model.config.head_input_size == 5 * size
    last = new_model(backbones[family], adapter=None).hidden_states(*inputs)
    torch.testing.assert_close(hidden[..., -size:], torch.nn.functional.layer_norm(last, (size,)))
    parts = hidden[0, 1:8].unflatten(-1, (5, size))
    torch.testing.assert_close(parts.mean(-1), torch.zeros(7, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(parts.std(-1, unbiased=False), torch.ones(7, 5), atol=1e-2, rtol=0)
    assert all(not torch.allclose(parts[:, i], parts[:, i + 1]) for i in range(4))
    model(**batch).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("freeze", [None, 0, 1, 3, 4])
def test_full_fine_tuning_trains_all_above_the_frozen_blocks(backbones, family, freeze):
    model = new_model(backbones[family], adapter=None, freeze=freeze).train()
    model(**batch_of_chains(family, [9, 5])).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    blocks = {int(part) for name in trained for part in name.split(".")[:4] if part.isdigit() and "head" not in name}
    assert blocks == set(range(freeze or 0, 4))
    summary = model.parameter_summary()
    assert (summary["embeddings"]["trained"] > 0) == (not freeze)
    assert (summary["blocks"]["frozen"] > 0) == bool(freeze)
    if freeze is None:
        assert summary["total"]["frozen"] == 0  # nothing unused is left for distributed training to trip over


# ---- chains too long --------------------------------------------------------------------------------------------


def test_five_thousand_residues_on_esm_1b(esm_1b):
    model = new_model(esm_1b, perturb=True)
    batch = batch_of_chains("esm", [5000, 40])
    assert model.max_residues == 1022
    output = model(**batch)
    assert output.logits.shape == (2, 5002, 9)
    output.loss.backward()  # labels of all 5000 residues count
    count = (batch["labels"] != -100).sum()
    expected = torch.nn.functional.cross_entropy(output.logits.view(-1, 9), batch["labels"].view(-1))
    assert count > 4000
    torch.testing.assert_close(output.loss, expected)
    short = model(batch["input_ids"][1:, :42])
    torch.testing.assert_close(output.logits[1, 1:41], short.logits[0, 1:41], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter", ["bottleneck", "unipelt", None])
def test_each_residue_comes_from_the_window_it_is_farthest_inside_of(backbones, family, adapter):
    whole = new_model(backbones[family], perturb=True, adapter=adapter)
    cut = new_model(backbones[family], perturb=True, adapter=adapter, max_residues=20, window_overlap=8)
    leading = 0 if family == "t5" else 1
    batch = batch_of_chains(family, [32, 7])
    hidden = cut.hidden_states(batch["input_ids"], batch["attention_mask"])
    ids = batch["input_ids"][0]
    for start, stop, kept in ((0, 20, slice(0, 16)), (12, 32, slice(16, 32))):
        window = torch.cat([ids[:leading], ids[leading + start : leading + stop], ids[-1:]])
        alone = whole.hidden_states(window[None])[0, leading:]
        torch.testing.assert_close(hidden[0, leading:][kept], alone[kept.start - start : kept.stop - start])
    short = whole.hidden_states(batch["input_ids"][1:, : 8 + leading])
    torch.testing.assert_close(hidden[1, : 8 + leading], short[0])
    cut.train()(**batch).loss.backward()
    assert all(p.grad is not None for p in cut.parameters() if p.requires_grad)


def test_a_rotary_backbone_runs_a_long_chain_whole(backbones):
    model = new_model(backbones["esm"])
    assert model.max_residues is None
    assert model(**batch_of_chains("esm", [2000])).logits.shape == (1, 2002, 9)


# ---- forward ----------------------------------------------------------------------------------------------------


def test_a_balanced_loss_looks_at_rare_states_and_comes_back_from_a_file(backbones, tmp_path):
    counts = [100, 1, *[50] * 7]
    plain, balanced = (
        new_model(backbones["esm"], balance=balance, class_counts=counts) for balance in (None, "inverse")
    )
    batch = batch_of_chains("esm", [20])
    is_rare = batch["labels"] == 1
    rare = {**batch, "labels": batch["labels"].where(is_rare, -100)}
    assert is_rare.any()
    assert (balanced(**rare).loss / plain(**rare).loss).item() > 10
    balanced.save_pretrained(tmp_path)
    again = SecondaryStructureModel.from_pretrained(tmp_path)
    torch.testing.assert_close(again(**batch).loss, balanced(**batch).loss)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter", ["bottleneck", "prefix_tuning", "unipelt"])
def test_a_row_of_padding_only_changes_nothing(backbones, family, adapter):
    """Processes that share a batch may be left with one."""
    model = new_model(backbones[family], perturb=True, adapter=adapter, leave_out=[])
    batch = batch_of_chains(family, [12, 5])
    empty = {"input_ids": model.config.backbone_config.pad_token_id, "attention_mask": 0, "labels": -100}
    larger = {name: torch.cat([part, torch.full_like(part[:1], empty[name])]) for name, part in batch.items()}
    results = []
    for inputs in (batch, larger):
        model.zero_grad()
        output = model(**inputs)
        output.loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((output.logits[:2].detach(), output.loss.detach(), gradients))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loss", ["centroid", "ldam", "cross_entropy"])
def test_a_batch_without_labels_contributes_nothing(backbones, family, loss):
    model = new_model(backbones[family], loss=loss, class_counts=[5] * 9)
    batch = batch_of_chains(family, [9, 5])
    batch["labels"][:] = -100
    output = model(**batch)
    assert output.loss == 0
    output.loss.backward()
    assert all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)
    assert any(p.grad is not None for p in model.parameters())  # so that distributed training goes on


def test_accumulated_gradients_weigh_by_residues(backbones):
    batch = batch_of_chains("esm", [40, 3], seed=1)
    count = (batch["labels"] != -100).sum()
    gradients = []
    for parts in ([slice(0, 2)], [slice(0, 1), slice(1, 2)]):
        model = new_model(backbones["esm"], perturb=True)
        for part in parts:
            model(**{key: value[part] for key, value in batch.items()}, num_items_in_batch=count).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("family", ["esm", "t5"])  # BERT's positions count from the left edge of the batch
def test_left_padding_is_as_good_as_right_padding(backbones, family):
    model = new_model(backbones[family], perturb=True, max_residues=12)
    batch = batch_of_chains(family, [30, 9])
    shift = int((batch["attention_mask"][1] == 0).sum())
    left = {key: torch.stack([value[0], value[1].roll(shift)]) for key, value in batch.items()}
    right_logits = model(**batch, return_similarities=True).similarities[1].roll(shift, 0)
    mask = model.residue_mask(left["attention_mask"])[1]
    found = model(**left, return_similarities=True).similarities[1]
    torch.testing.assert_close(found[mask], right_logits[mask], atol=1e-5, rtol=0)


def test_a_prefix_that_was_kept_gives_the_same_logits(backbones):
    for options in (
        {},
        {"max_residues": 12},
        {"adapter": "prefix_tuning"},
        {"block_mix": "mean"},
        {"block_mix": "concat"},
    ):
        model = new_model(backbones["esm"], perturb=True, **options)
        batch = batch_of_chains("esm", [30, 9])
        frozen = model.run_frozen_blocks(batch["input_ids"], batch["attention_mask"])
        kept = model(attention_mask=batch["attention_mask"], cached_states=frozen)
        assert torch.equal(kept.logits, model(**batch).logits)
    with pytest.raises(ValueError, match="forward needs input_ids"):
        model(cached_states=frozen)


def test_outputs_that_were_asked_for(backbones):
    model, batch = new_model(backbones["esm"]), batch_of_chains("esm", [9, 5])
    assert list(model(**batch)) == ["loss", "logits"]
    assert list(model(batch["input_ids"])) == ["logits"]  # the mask comes from the padding
    torch.testing.assert_close(model(batch["input_ids"]).logits, model(**batch).logits)
    full = model(**batch, return_similarities=True, return_embeddings=True, return_hidden_state=True)
    assert full.similarities.shape == (2, 11, 9)
    assert full.embeddings.shape == full.last_hidden_state.shape == (2, 11, 32)
    head = model.head(full.last_hidden_state, model.residue_mask(batch["attention_mask"]))
    assert torch.equal(head.logits, full.logits)
    loss, logits = model(**batch, return_dict=False)
    assert torch.equal(logits, full.logits)
    assert loss == full.loss


@pytest.mark.parametrize("options", [{}, {"freeze": None}, {"block_mix": "mean"}])
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_transformers(backbones, family, options):
    model, batch = new_model(backbones[family], adapter=None, **options), batch_of_chains(family, [9, 5])
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        found = model(**inputs, output_hidden_states=True).hidden_states
        backbone = model.family.model_class.from_pretrained(backbones[family]).eval()
        expected = backbone(**inputs, output_hidden_states=True).hidden_states
    kept = batch["attention_mask"] > 0
    assert len(found) == len(expected) == 5
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one[kept], other[kept], atol=2e-5, rtol=0)


@pytest.mark.parametrize("adapter", ["bottleneck", "lora", "prefix_tuning", None])
@pytest.mark.parametrize(
    ("family", "implementation"), [("t5", "eager"), *itertools.product(sorted({*FAMILIES} - {"t5"}), ATTENTION)]
)
def test_attentions_are_those_of_transformers(backbones, family, adapter, implementation):
    model = new_model(backbones[family], adapter=adapter, top_blocks=adapter and 2, attn_implementation=implementation)
    batch = batch_of_chains(family, [9, 5])
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        output = model(**inputs, output_attentions=True)
        torch.testing.assert_close(output.logits, model(**inputs).logits, atol=1e-5, rtol=1e-5)
    width = batch["input_ids"].shape[1]
    extra = 16 if adapter == "prefix_tuning" else 0
    shapes = [tuple(attention.shape) for attention in output.attentions]
    assert shapes == [(2, 4, width, width)] * 2 + [(2, 4, width, width + extra)] * 2
    for attention in output.attentions:
        torch.testing.assert_close(attention.sum(-1), torch.ones(2, 4, width))
        assert (attention[1, ..., attention.shape[-1] - 4 :] < 1e-6).all()  # padding
    if adapter is None:
        expected = model.family.model_class.from_pretrained(backbones[family], attn_implementation="eager").eval()
        with torch.no_grad():
            attentions = expected(**inputs, output_attentions=True).attentions
        for one, other in zip(output.attentions, attentions, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_configuration_asks_for_is_returned(backbones, family):
    model, batch = new_model(backbones[family], attn_implementation="eager"), batch_of_chains(family, [9, 5])
    model.config.output_hidden_states = model.config.output_attentions = True
    output = model(**batch)
    assert list(output) == ["loss", "logits", "hidden_states", "attentions"]
    assert list(model(**batch, output_hidden_states=False, output_attentions=False)) == ["loss", "logits"]
    model.config.return_dict = False
    loss, logits, hidden_states, attentions = model(**batch)
    assert torch.equal(logits, output.logits) and loss == output.loss
    assert (len(hidden_states), len(attentions)) == (5, 4)
    assert model(**batch, return_dict=True).loss == loss


def test_hidden_states_of_windows_are_stitched(backbones):
    model, batch = new_model(backbones["esm"], max_residues=20, window_overlap=8), batch_of_chains("esm", [32, 7])
    output = model(**batch, output_hidden_states=True, return_hidden_state=True)
    assert [tuple(hidden.shape) for hidden in output.hidden_states] == [(2, 34, 32)] * 5
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    with pytest.raises(ValueError, match=r"output_attentions: a chain of more than 20 residues runs in windows.*Leave"):
        model(**batch, output_attentions=True)


@pytest.mark.parametrize("limits", [{}, {"max_residues": 20, "window_overlap": 8}], ids=["whole", "windows"])
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_of_so_many_blocks_are_those_of_forward(backbones, family, limits):
    model, batch = new_model(backbones[family], perturb=True, **limits), batch_of_chains(family, [32, 7])
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        for number, expected in enumerate(model(**inputs, output_hidden_states=True).hidden_states):
            assert torch.equal(model.hidden_states(**inputs, num_blocks=number), expected)
        assert torch.equal(model.hidden_states(**inputs), expected)


def test_cached_states_lack_the_blocks_below(backbones):
    model, batch = new_model(backbones["esm"]), batch_of_chains("esm", [9, 5])
    cached = model.run_frozen_blocks(batch["input_ids"], batch["attention_mask"])
    with pytest.raises(ValueError, match=r"cached_states lack the hidden states and attentions.*Pass input_ids"):
        model(attention_mask=batch["attention_mask"], cached_states=cached, output_hidden_states=True)


def test_attentions_under_gradient_checkpointing(backbones):
    batch, gradients = batch_of_chains("esm", [9, 5]), []
    for checkpointing in (False, True):
        model = new_model(backbones["esm"], perturb=True, head_dropout=0.0, attn_implementation="eager").train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        output = model(**batch, output_attentions=True)
        (output.loss + output.attentions[-1][:, 0].square().sum()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*gradients)
    model = new_model(backbones["esm"]).train()
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match=r"output_attentions with gradient checkpointing.*attn_implementation=.eager"):
        model(**batch, output_attentions=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_token_types_of_a_stock_tokenizer_are_taken(backbones, family):
    model, batch = new_model(backbones[family]), batch_of_chains(family, [9, 5])
    types = torch.zeros_like(batch["input_ids"])
    assert torch.equal(model(**batch, token_type_ids=types).logits, model(**batch).logits)
    types[0, 3] = 1
    with pytest.raises(ValueError, match=r"token_type_ids has other values than 0, but a protein sequence has no pair"):
        model(**batch, token_type_ids=types)
    with pytest.raises(
        ValueError, match=r"inputs_embeds is given, but long chains are cut by their tokens\. Pass input_ids"
    ):
        model(inputs_embeds=torch.zeros(2, 9, 32))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stock_pipeline_of_token_classification(backbones, family, tmp_path):
    tokenizer, sequence = stock_tokenizer(family, tmp_path), "MKTAY" if family.startswith("esm") else "M K T A Y"
    assert ("token_type_ids" in tokenizer(sequence)) == (family == "bert")
    model = new_model(backbones[family])
    residues = pipeline("token-classification", model=model, tokenizer=tokenizer)(sequence)
    with torch.no_grad():
        logits = model(**tokenizer(sequence, return_tensors="pt")).logits[0]
    expected = logits[model.family.num_leading :][:5].argmax(-1)
    assert [residue["entity"] for residue in residues] == [model.config.id2label[int(label)] for label in expected]


# ---- changes that a saved model could not hold ---------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_are_not_pruned(backbones, family):
    model = new_model(backbones[family])
    expected = (
        r"attention heads cannot be removed .* Prune the backbone by itself, save it, and start with from_backbone"
    )
    with pytest.raises(ValueError, match=expected):
        model.prune_heads({0: [1]})
    model.config.pruned_heads = {0: [1]}
    with pytest.raises(ValueError, match=expected):
        type(model)(model.config)


@pytest.mark.parametrize("family", ["esm", "bert"])  # T5EncoderModel of transformers 4.57 cannot be pruned
def test_a_pruned_backbone_is_a_backbone(family, tmp_path):
    backbone = tiny_backbone(family)
    if not hasattr(backbone, "prune_heads"):
        pytest.skip("transformers 5 prunes no heads")
    backbone.prune_heads({0: [1, 2]})
    backbone.save_pretrained(tmp_path / "backbone")
    model, batch = new_model(tmp_path / "backbone", perturb=True), batch_of_chains(family, [9, 5])
    model.save_pretrained(tmp_path / "model")
    again = SecondaryStructureModel.from_pretrained(tmp_path / "model")
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    with pytest.raises(
        ValueError, match=r"adapter 'mam' has prefixes for all heads, but the backbone has pruned heads"
    ):
        new_model(tmp_path / "backbone", adapter="mam")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_vocabulary_is_not_resized(backbones, family, tmp_path):
    model = new_model(backbones[family])
    embeddings = model.get_input_embeddings()
    assert model.resize_token_embeddings() is model.resize_token_embeddings(embeddings.num_embeddings) is embeddings
    size = embeddings.num_embeddings
    with pytest.raises(
        ValueError, match=rf"the {size} token embeddings of the backbone cannot be resized .* Resize the"
    ):
        model.resize_token_embeddings(size + 3)
    with pytest.raises(ValueError, match="cannot be resized"):
        model.resize_token_embeddings(size, pad_to_multiple_of=64)
    assert model.get_input_embeddings() is embeddings
    model.backbone.resize_token_embeddings(size + 3)  # past the model
    with pytest.raises(
        ValueError, match=rf"has shape \({size + 3}, 32\), but \({size}, 32\) in the checkpoint that the"
    ):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_probabilities_follow_the_temperature(backbones):
    model = new_model(backbones["esm"], calibration_temperature=2.0)
    logits = torch.randn(1, 4, 9)
    torch.testing.assert_close(model.probabilities(logits), (logits / 2).softmax(-1))


def test_boolean_masks_are_taken(backbones):
    model, batch = new_model(backbones["esm"], adapter="noreft"), batch_of_chains("esm", [9, 5])
    expected = model(**batch).logits
    assert torch.equal(model(batch["input_ids"], batch["attention_mask"].bool()).logits, expected)


# ---- precision --------------------------------------------------------------------------------------------------


def relative_difference(found, expected):
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_agrees_with_fp32(backbones, family):
    model = new_model(backbones[family], perturb=True)
    batch = batch_of_chains(family, [300, 50])
    inputs = batch["input_ids"], batch["attention_mask"]
    kept = batch["attention_mask"] > 0
    with torch.no_grad():
        expected = model.hidden_states(*inputs)[kept]
        loaded = new_model(backbones[family], perturb=True, dtype="bfloat16")
        assert relative_difference(loaded.hidden_states(*inputs)[kept], expected) < 0.03
        with torch.autocast("cpu", torch.bfloat16):
            assert relative_difference(model.hidden_states(*inputs)[kept], expected) < 0.03
        assert relative_difference(model.bfloat16().hidden_states(*inputs)[kept], expected) < 0.05
        assert model(*inputs).logits.dtype == torch.float32


def test_float16_is_refused_over_t5_however_it_is_asked_for(backbones):
    """`fp16=True` of the stock Trainer comes as autocast, its `fp16_full_eval=True` as a cast."""
    batch, refused = batch_of_chains("t5", [9, 5]), r"^t5 backbones overflow in float16.*Use bfloat16, or float32\.$"
    model = new_model(backbones["t5"])
    with torch.autocast("cpu", torch.float16), pytest.raises(ValueError, match=refused):
        model(**batch)
    with pytest.raises(ValueError, match=refused):
        model.half()(**batch)
    with torch.autocast("cpu", torch.float16):
        assert torch.isfinite(new_model(backbones["esm"])(**batch_of_chains("esm", [9, 5])).logits).all()


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.startswith("esm")])
def test_a_cast_keeps_the_rotary_frequencies(backbones, family):
    model = new_model(backbones[family])
    frequencies = {n: b.clone() for n, b in model.named_buffers() if "inv_freq" in n}
    assert frequencies
    for cast in (model.bfloat16, model.half, lambda: model.to(torch.bfloat16)):
        cast()
        for name, buffer in model.named_buffers():
            if name in frequencies:
                torch.testing.assert_close(buffer, frequencies[name])
                assert buffer.dtype == torch.float32


def test_a_backbone_in_half_precision_trains_weights_in_fp32(backbones):
    model = new_model(backbones["t5"], dtype=torch.bfloat16).train()
    output = model(**batch_of_chains("t5", [9, 5]))
    output.loss.backward()
    assert output.logits.dtype == torch.float32
    for parameter in model.parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16)
        assert (parameter.grad is not None) == parameter.requires_grad


# ---- what transformers' own tests ask of a model: a few that run everywhere, see test_transformers_common.py -------


@pytest.mark.parametrize("family", FAMILIES)
def test_common_determinism_and_tuple_equivalence(backbones, family):
    model, batch = new_model(backbones[family]), batch_of_chains(family, [9, 5])
    first = model(**batch)
    assert torch.equal(first.logits, model(**batch).logits)
    for found, expected in zip(model(**batch, return_dict=False), first.to_tuple(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_common_forward_signature_and_embeddings(backbones, family):
    import inspect

    model = new_model(backbones[family])
    assert list(inspect.signature(model.forward).parameters)[:3] == ["input_ids", "attention_mask", "labels"]
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, torch.nn.Embedding)
    model.set_input_embeddings(torch.nn.Embedding(30, 32))
    assert model.get_input_embeddings() is not embeddings


@pytest.mark.parametrize("family", FAMILIES)
def test_common_deepcopy_and_state_dict_round_trip(backbones, family):
    model, batch = new_model(backbones[family], perturb=True), batch_of_chains(family, [9, 5])
    copied = copy.deepcopy(model)
    assert torch.equal(copied(**batch).logits, model(**batch).logits)
    other = type(model)(model.config).eval()  # random backbone
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_common_problem_of_a_missing_weight_is_not_silent(backbones, family):
    model = new_model(backbones[family])
    state = model.state_dict()
    del state["head.classifier.centroids"]
    with pytest.raises(RuntimeError, match=r"missing weights: \['head\.classifier\.centroids'\]"):
        model.load_state_dict(state)
