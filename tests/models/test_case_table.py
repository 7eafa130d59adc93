"""Every pair of backbone family, adapter, head and loss trains what it should and reloads in another process."""

import functools
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import BACKBONES, batch_of_chains, save_tiny_backbone

from lift_ss_hf.models.adapter_methods import ADAPTERS
from lift_ss_hf.models.configuration import HEADS, LOSSES
from lift_ss_hf.models.modeling import SecondaryStructureModel

ALL_ADAPTERS = [*sorted(ADAPTERS), None]
FACTORS = (BACKBONES, ALL_ADAPTERS, HEADS, LOSSES)
# Pairs instead of the whole product: for each family and adapter one head and one loss, so that any two values of any
# two factors meet in a case. A fault of one family's adapter, or of one head with one loss, shows in a pair.
CASES = [
    (family, adapter, HEADS[(f + a) % len(HEADS)], LOSSES[(f - a) % len(LOSSES)])
    for f, family in enumerate(BACKBONES)
    for a, adapter in enumerate(ALL_ADAPTERS)
]
COUNTS = [900, 20, 500, 80, 5, 800, 200, 250, 40]

RELOAD = """
import json, sys, torch
from safetensors.torch import load_file, save_file
from lift_ss_hf.models.modeling import SecondaryStructureModel
torch.set_num_threads(1)
folder = sys.argv[1]
logits = {}
for case in json.load(open(f"{folder}/cases.json")):
    torch.manual_seed(99)  # adapters and heads that were not loaded would have other weights
    model = SecondaryStructureModel.from_pretrained(f"{folder}/{case}")
    with torch.no_grad():
        logits[case] = model(**load_file(f"{folder}/{case.split('-')[0]}.safetensors")).logits
save_file(logits, f"{folder}/logits.safetensors")
"""


def case_name(case: tuple) -> str:
    return "-".join(str(part) for part in case)


def test_every_pair_of_values_occurs():
    for i, j in itertools.combinations(range(len(FACTORS)), 2):
        assert {(case[i], case[j]) for case in CASES} == set(itertools.product(FACTORS[i], FACTORS[j]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    for family in BACKBONES:
        save_tiny_backbone(folder / family, family)
    return folder


@functools.cache
def build_model(folder: Path, family: str, adapter: str | None, head: str, loss: str) -> SecondaryStructureModel:
    torch.manual_seed(0)
    model = SecondaryStructureModel.from_backbone(
        folder / family, adapter=adapter, head=head, loss=loss, head_channels=16, class_counts=COUNTS
    )
    with torch.no_grad():  # some adapters start as no change at all
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_only_adapter_and_head_are_trained(case, folder):
    model = build_model(folder, *case).train()
    output = model(**batch_of_chains(case[0], [9, 5]))
    assert output.logits.dtype == torch.float32
    assert torch.isfinite(output.loss)
    output.loss.backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    intended = {name for name, _ in model.named_parameters() if name not in model.backbone_names}
    assert with_gradient == intended
    adapter = [p.grad.abs().sum() for n, p in model.named_parameters() if n in intended and n.startswith("backbone.")]
    assert (sum(adapter) > 0) == (case[1] is not None)
    summary = model.parameter_summary()
    assert summary["total"]["trained"] == sum(p.numel() for n, p in model.named_parameters() if n in intended)
    assert (summary["adapter"]["trained"] > 0) == (case[1] is not None)
    assert summary["blocks"]["trained"] == summary["embeddings"]["trained"] == summary["head"]["frozen"] == 0
    model.zero_grad()


@pytest.fixture(scope="module")
def reloaded(folder) -> dict[str, torch.Tensor]:
    """Logits of every case, from a process that knows nothing but the saved folders."""
    for case in CASES:
        build_model(folder, *case).save_pretrained(folder / case_name(case))
    (folder / "cases.json").write_text(json.dumps(list(map(case_name, CASES))))
    for family in BACKBONES:
        save_file(batch_of_chains(family, [9, 5]), folder / f"{family}.safetensors")
    subprocess.run([sys.executable, "-c", RELOAD, str(folder)], check=True)
    return load_file(folder / "logits.safetensors")


@pytest.mark.process
@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_a_clean_process_reloads_equal_logits(case, folder, reloaded):
    with torch.no_grad():
        expected = build_model(folder, *case).eval()(**batch_of_chains(case[0], [9, 5])).logits
    assert torch.equal(reloaded[case_name(case)], expected)
    file = folder / case_name(case) / "model.safetensors"
    assert not set(load_file(file)) & build_model(folder, *case).backbone_names


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_neither_padding_nor_neighbours_change_a_chain(case, folder):
    model = build_model(folder, *case).eval()
    lengths = [4, 17, 30, 1]
    batch = batch_of_chains(case[0], lengths)
    with torch.no_grad():
        together = model(**batch, return_similarities=True)
        for row, length in enumerate(lengths):
            tokens = int(batch["attention_mask"][row].sum())
            alone = model(batch["input_ids"][row : row + 1, :tokens], return_similarities=True)
            kept = model.residue_mask(batch["attention_mask"])[row, :tokens]
            assert kept.sum() == length
            name = "logits" if together.similarities is None else "similarities"  # logits are 18 times as large
            difference = (alone[name][0] - together[name][row, :tokens])[kept]
            assert difference.abs().max() < 1e-5
