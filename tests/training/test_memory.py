"""The estimate agrees with real models: with what autograd keeps, and the memory peak of a training step."""

import gc
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from corpus_files import write_three_line
from forked_runs import run_forked
from small_runs import RECIPE, ROOT
from tiny_models import FAMILIES, save_tiny_backbone
from torch.profiler import ProfilerActivity, profile

from lift_ss_hf.corpora.chains import Chain
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.training.arguments import CorpusArguments, ModelArguments, RecipeTrainingArguments
from lift_ss_hf.training.job import model_options
from lift_ss_hf.training.memory import Estimate, estimate, saved_activations, step_peak
from lift_ss_hf.training.recipes import parse_recipe

LENGTH, ROWS = 100, 4
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbones")
    return {family: save_tiny_backbone(folder / family, family) for family in FAMILIES}


def training(tmp_path, **options):
    return RecipeTrainingArguments(
        output_dir=str(tmp_path), max_tokens_per_batch=ROWS * LENGTH, report_to="none", **options
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("settings", "checkpointing"),
    [
        ({"adapter": "bottleneck", "top_blocks": 2}, False),
        ({"adapter": "bottleneck", "top_blocks": 4}, True),
        ({"adapter": "unipelt"}, False),
        ({"adapter": "ia3"}, False),
        ({"adapter": "none", "freeze": "none", "balance": "inverse"}, False),
        ({"adapter": "none"}, False),
    ],
)
def test_it_counts_what_a_real_model_keeps(backbones, family, settings, checkpointing, tmp_path):
    arguments = ModelArguments(backbone=backbones[family], **settings)
    found = estimate(arguments, training(tmp_path, gradient_checkpointing=checkpointing), LENGTH)
    real = SecondaryStructureModel.from_backbone(
        arguments.backbone, **model_options(arguments), **({"class_counts": [1] * 9} if arguments.balance else {})
    )
    if checkpointing:
        real.gradient_checkpointing_enable()
    assert found.parameters == real.parameter_summary()
    assert found.weights == sum(4 * parameter.numel() for parameter in real.parameters())
    assert found.gradients == 4 * found.parameters["total"]["trained"]
    # the fused attention of a real CPU keeps slightly more
    assert saved_activations(real, torch.ones(ROWS, LENGTH, dtype=torch.int64)) == pytest.approx(
        found.activations, rel=0.05
    )


def test_checkpointing_and_fewer_blocks_keep_less(backbones, tmp_path):
    def activations(top_blocks, **options):
        arguments = ModelArguments(backbone=backbones["esm"], top_blocks=top_blocks)
        return estimate(arguments, training(tmp_path, **options), LENGTH).activations

    assert activations(1) < activations(2) < activations(4)
    assert activations(4, gradient_checkpointing=True) < activations(4)
    assert activations(4, bf16=True) < activations(4)


@pytest.mark.parametrize(
    "settings", [{"adapter": "none"}, {"adapter": "bottleneck"}, {"adapter": "none", "freeze": "none"}]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_peak_of_a_real_step_is_near(backbones, family, settings, tmp_path):
    arguments = ModelArguments(backbone=backbones[family], **settings)
    found = estimate(arguments, training(tmp_path), LENGTH)
    model = SecondaryStructureModel.from_backbone(arguments.backbone, **model_options(arguments)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    tokens = torch.ones(ROWS, LENGTH, dtype=torch.int64)
    weights = {p.untyped_storage()._cdata: p.untyped_storage().nbytes() for p in model.parameters()}
    for _ in range(2):  # the optimizer states exist from the second step on
        held = peak = sum(state.nbytes for entry in optimizer.state.values() for state in entry.values())
        gc.collect()  # what other tests left would be freed during the step
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            model(tokens, attention_mask=tokens).logits.sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        for event in profiler.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held)
    assert found.step == pytest.approx(sum(weights.values()) + peak, rel=0.1)
    assert found.activations + found.weights < found.step
    assert step_peak(model, tokens) == pytest.approx(found.step, rel=0.1)


def test_zero_shards_by_stage():
    whole = Estimate({}, weights=100, gradients=40, optimizer=80, activations=7)
    totals = [whole.on_each_device(stage, 4)["total"] for stage in range(4)]
    assert totals == [227, 167, 137, 62]
    assert all(whole.on_each_device(stage, 1)["total"] == 227 for stage in range(4))
    assert [memory["total"] for memory in whole.by_launch(4).values()] == totals
    assert list(whole.by_launch(4)) == ["DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3"]
    assert list(whole.by_launch(1)) == ["alone"]


@pytest.mark.process
def test_the_command_prints_a_table_or_an_error_in_one_line(backbones, tmp_path):
    script, recipe = ROOT / "recipes" / "estimate.py", str(ROOT / "recipes" / "esm2_8m" / "pisces.yaml")
    arguments = [recipe, "--backbone", backbones["esm"], "--num_processes", "4"]
    done = run_forked(arguments, tmp_path / "table", script=script)
    assert done.statuses == [0], done.stderr
    assert "| ZeRO-3 |" in done.stdout
    done = run_forked([recipe, "--backbone", "nowhere/at_all"], tmp_path / "error", script=script)
    assert done.statuses == [2]
    assert done.stderr.splitlines()[-1].startswith("error: cannot read the configuration of 'nowhere/at_all'")


NUM_TRAIN, NUM_VALIDATION = 60, 6
LENGTHS = [60 + (97 * number) % 341 for number in range(NUM_TRAIN + NUM_VALIDATION)]  # as varied as in a corpus


def write_chains(folder):
    """Write random chains of 60 to 400 residues, for training and validation."""
    rng = random.Random(0)
    for name, lengths in (("train", LENGTHS[:NUM_TRAIN]), ("validation", LENGTHS[NUM_TRAIN:])):
        chains = [
            Chain(f"{name}{number}", *("".join(rng.choices(letters, k=length)) for letters in (RESIDUES, "HEL")))
            for number, length in enumerate(lengths)
        ]
        write_three_line(chains, folder / f"{name}.txt")


def peak_memory(command, log):
    """Run a command, and return the most resident memory that it took at a time [bytes]."""
    peak = 0
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    while process.poll() is None:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):  # since the program was loaded; absent once it has ended
                peak = 1024 * int(line.split()[1])
        time.sleep(0.05)
    assert process.returncode == 0, log.read_text()
    return peak


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    ("regime", "options"),
    [
        ("frozen, cached", ["--adapter", "none", "--prefix_cache", "run"]),
        ("adapters in the top third", ["--adapter", "bottleneck", "--top_blocks", "2"]),
        ("full", ["--adapter", "none", "--freeze", "none", "--learning_rate", "1e-4"]),
    ],
)
def test_the_resident_memory_of_a_run_is_near(shared_esm2, regime, options, tmp_path):
    write_chains(tmp_path)
    arguments = ["--backbone", str(shared_esm2), "--train", str(tmp_path / "train.txt"), "--tests", "none"]
    arguments += ["--validation", str(tmp_path / "validation.txt"), "--output_dir", str(tmp_path / "run")]
    arguments += ["--loss", "cross_entropy", "--max_tokens_per_batch", "2048", "--num_train_epochs", "2", *options]
    arguments += ["--report_to", "none", "--disable_tqdm", "True"]
    model, _, training = parse_recipe((ModelArguments, CorpusArguments, RecipeTrainingArguments), "", arguments)
    found = estimate(model, training, 400)
    assert (found.cached > 0) == ("cached" in regime)
    peak = peak_memory([sys.executable, str(RECIPE), *arguments], tmp_path / "log.txt")
    print(f"{regime}: {peak / 1e9:.3f} GB, estimated {found.on_cpu / 1e9:.3f} GB")
    assert found.on_cpu == pytest.approx(peak - found.cached * sum(LENGTHS), rel=0.2)
