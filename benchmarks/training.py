"""Time a training step of each regime, with and without the frozen-prefix cache, side by side in one run.

CPU time of one process (`time.process_time`, best of several steps: collation, forward, backward, AdamW), one thread;
batches of 4 chains of 510 residues, linear head. The cache is read from the disk within the time; filling it is not in
it, and costs what the frozen blocks cost in one epoch without. ESM-2 8M has its real weights where
LIFT_SS_DATA_DIR is set, the other shapes random ones. LoRA in all blocks goes through peft, where it is installed.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import logging
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EsmConfig, EsmForTokenClassification

from lift_ss_hf.arguments import RecipeTrainingArguments
from lift_ss_hf.backbones import get_family
from lift_ss_hf.cached_chains import CachedChains, with_cached_prefixes
from lift_ss_hf.collator import ChainCollator
from lift_ss_hf.command_line import run
from lift_ss_hf.configuration import EsmSecondaryStructureConfig
from lift_ss_hf.modeling import EsmForSecondaryStructure

RESIDUES, ROWS = 510, 4
# blocks, width, heads: of ESM-2's checkpoints (Lin et al. 2023)
SHAPES = {"8M": (6, 320, 20), "35M": (12, 480, 20), "150M": (30, 640, 20)}
REAL_8M = Path(os.environ.get("LIFT_SS_DATA_DIR", "")) / "backbones" / "esm2_t6_8M"


class RandomChains:
    """Chains of random residues and states."""

    def __init__(self, number: int):
        rng = np.random.default_rng(0)
        self.lengths = [RESIDUES + 2] * number
        self.items = []
        for _ in range(number):
            ids = np.concatenate([[0], rng.integers(4, 24, RESIDUES), [2]])
            labels = np.concatenate([[-100], rng.integers(0, 9, RESIDUES), [-100]])
            self.items.append({"input_ids": ids, "labels": labels})

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.items[index]


def backbone_of(shape: str) -> tuple[Any, str]:
    """A backbone, and what its weights are."""
    if shape == "8M" and REAL_8M.is_dir():
        return get_family("esm").load(str(REAL_8M)), "real"
    blocks, width, heads = SHAPES[shape]
    config = EsmConfig(
        vocab_size=33,
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        position_embedding_type="rotary",
        token_dropout=True,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=1026,
        pad_token_id=1,
        mask_token_id=32,
    )
    return get_family("esm").build(config), "random"


def with_regime(backbone: Any, **options: Any) -> EsmForSecondaryStructure:
    """A model over a copy of the backbone."""
    base = copy.deepcopy(backbone)
    config = EsmSecondaryStructureConfig(
        backbone_config=copy.deepcopy(base.config), head="linear", loss="cross_entropy", **options
    )
    return EsmForSecondaryStructure(config, base)


def with_peft(backbone: Any) -> Any:
    """Stock transformers and peft: LoRA on query and value of all blocks."""
    import peft

    config = copy.deepcopy(backbone.config)
    config.num_labels = 9
    stock = EsmForTokenClassification(config)
    stock.esm.load_state_dict(backbone.state_dict(), strict=False)
    lora = peft.LoraConfig(r=8, target_modules=["query", "value"], modules_to_save=["classifier"])
    return peft.get_peft_model(stock, lora)


def saved_bytes(model: Any, batch: dict[str, Any]) -> int:
    """What a forward pass keeps for the backward pass, each storage once, weights not counted [bytes]."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # itself it would hold the graph that holds it, for ever

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**batch).loss
    del loss
    return sum(kept.values())


def measure(model: Any, chains: Any, steps: int) -> tuple[float, int]:
    """Best CPU time of a step [s], and what it keeps for the backward pass [bytes]."""
    model.train()
    collate = ChainCollator(1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    kept = saved_bytes(model, collate([chains[i] for i in range(ROWS)]))
    seconds = []
    for step in range(steps):
        begin = time.process_time()
        batch = collate([chains[(step * ROWS + i) % len(chains)] for i in range(ROWS)])
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - begin)
    return min(seconds), kept


def print_rows(shape: str, steps: int, folder: Path) -> None:
    """Measure a shape, and print its rows of the table as they come."""
    backbone, weights = backbone_of(shape)
    blocks = backbone.config.num_hidden_layers
    top = round(blocks / 4)
    chains = RandomChains(ROWS * 2)
    upper = {"adapter": "bottleneck", "leave_out": list(range(blocks - top))}
    regimes: dict[str, tuple[Callable[[], Any], bool]] = {
        "full fine-tuning": (lambda: with_regime(backbone, adapter=None, freeze=None), False),
        "LoRA in all blocks (peft)": (lambda: with_peft(backbone), False),
        "adapters in all blocks": (lambda: with_regime(backbone, adapter="bottleneck", leave_out=[]), False),
        f"adapters in the top {top}": (lambda: with_regime(backbone, **upper), False),
        f"adapters in the top {top}, checkpointing": (lambda: checkpointed(with_regime(backbone, **upper)), False),
        f"adapters in the top {top}, cached": (lambda: with_regime(backbone, **upper), True),
        "head only": (lambda: with_regime(backbone, adapter=None), False),
        "head only, cached": (lambda: with_regime(backbone, adapter=None), True),
    }
    full = uncached = 0.0
    for name, (build, is_cached) in regimes.items():
        if "peft" in name and importlib.util.find_spec("peft") is None:
            print(f"| {shape} ({weights}) | {name} | peft is not installed | – | – | – | – |")
            continue
        model = build()
        data = cached(model, chains, folder) if is_cached else chains
        seconds, kept = measure(model, data, steps)
        full = full or seconds
        of_uncached = f"{seconds / uncached:.3f}" if is_cached or "checkpointing" in name else "–"
        uncached = uncached if is_cached or "checkpointing" in name else seconds
        disk = f"{2 * backbone.config.hidden_size:,}" if is_cached else "–"
        cells = (f"{seconds:.3f}", f"{seconds / full:.3f}", of_uncached, f"{kept / 1e6:,.0f}", disk)
        print(f"| {shape} ({weights}) | {name} | {' | '.join(cells)} |", flush=True)


def checkpointed(model: EsmForSecondaryStructure) -> EsmForSecondaryStructure:
    """The same, with gradient checkpointing."""
    model.gradient_checkpointing_enable()
    return model


def cached(model: Any, chains: Any, folder: Path) -> CachedChains:
    """The chains with their states on the disk."""
    training = RecipeTrainingArguments(
        output_dir=str(folder / "run"), prefix_cache=str(folder / "prefixes"), report_to="none", disable_tqdm=True
    )
    (found,) = with_cached_prefixes(model, [chains], 1, training)
    assert isinstance(found, CachedChains)
    return found


def provenance() -> str:
    """Commit, versions and hardware, in one line."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=10"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    cpu_info = Path("/proc/cpuinfo")  # Linux only; platform.processor() is empty there
    lines = cpu_info.read_text().splitlines() if cpu_info.is_file() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return (
        f"commit {commit.stdout.strip() or 'unknown'}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{models[0] if models else platform.processor()}, {torch.get_num_threads()} thread"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES), help="of ESM-2")
    parser.add_argument("--steps", type=int, default=3, help="the best of so many steps is shown")
    parsed = parser.parse_args(arguments)
    logging.getLogger("lift_ss_hf").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    print(f"{ROWS} x {RESIDUES} residues a batch, best of {parsed.steps} steps; {provenance()}\n")
    print("| shape | regime | CPU a step [s] | of full | of uncached | kept for backward [MB] | disk [bytes a token] |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for shape in parsed.shapes:
        with tempfile.TemporaryDirectory() as folder:
            print_rows(shape, parsed.steps, Path(folder))
    return 0


if __name__ == "__main__":
    run(main)
