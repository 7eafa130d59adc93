"""Time an epoch of each regime, with and without the frozen-prefix cache, side by side in one run.

CPU time of one process and one thread (`time.process_time`, best of several epochs: collation, forward, backward,
AdamW), over real chains, linear head; without the Trainer around it. Each row is measured in a process of its own,
whose largest resident memory is shown: Python, libraries and weights counted. Batches are of 2,048 tokens, chains of
similar length together; the rows of the default Trainer have its batches instead: 8 chains in file order, padded to
the longest. The cached rows read the states from the disk within the time; filling the cache has its own row. ESM-2 8M
has its real weights where LIFT_SS_DATA_DIR is set, the other shapes random ones. LoRA in all blocks goes through
transformers' own ESM and peft, where that is installed.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import logging
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from origin import origin
from transformers import EsmConfig, EsmForTokenClassification

from lift_ss_hf.batches.cached_chains import PrefixCacheSettings, with_cached_states
from lift_ss_hf.batches.collator import ChainCollator, TokenBudgetBatches
from lift_ss_hf.batches.labelled_chains import LabelledChains
from lift_ss_hf.batches.prefix_store import DATA_FILE
from lift_ss_hf.cli.run import run
from lift_ss_hf.corpora import load_corpus
from lift_ss_hf.models.backbones import BUNDLED, get_family
from lift_ss_hf.models.esm import EsmForSecondaryStructure, EsmSecondaryStructureConfig
from lift_ss_hf.models.tokenization import ResidueTokenizer

MAX_TOKENS = 2048  # batch size, the recipes' default
DEFAULT_ROWS = 8  # batch size in chains, the default of transformers.TrainingArguments
CHAINS = {"8M": 64, "35M": 24, "150M": 12}  # chains in an epoch, evenly spread over the corpus
# blocks, width, heads of ESM-2's checkpoints (Lin et al. 2023)
SHAPES = {"8M": (6, 320, 20), "35M": (12, 480, 20), "150M": (30, 640, 20), "650M": (33, 1280, 20)}
REAL_8M = Path(os.environ.get("LIFT_SS_DATA_DIR") or ".").parent / "backbones" / "esm2_t6_8M"  # beside the corpora


def esm_config(shape: str, **more: Any) -> EsmConfig:
    """Return the configuration of an ESM-2 checkpoint of that shape."""
    blocks, width, heads = SHAPES[shape]
    return EsmConfig(
        vocab_size=33,
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        position_embedding_type="rotary",
        layer_norm_eps=1e-5,
        token_dropout=True,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=1026,
        pad_token_id=1,
        mask_token_id=32,
        **more,
    )


def backbone_of(shape: str) -> tuple[Any, str]:
    """Return a backbone and the origin of its weights."""
    if shape == "8M" and REAL_8M.is_dir():
        return get_family("esm").load(str(REAL_8M)), "real"
    return get_family("esm").build(esm_config(shape)), "random"


def with_regime(backbone: Any, **options: Any) -> EsmForSecondaryStructure:
    """Return a model on a copy of the backbone."""
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


def checkpointed(model: EsmForSecondaryStructure) -> EsmForSecondaryStructure:
    """The same, with gradient checkpointing."""
    model.gradient_checkpointing_enable()
    return model


def chains_of(corpus: str, number: int) -> LabelledChains:
    """Return chains of a corpus's validation split, evenly spread."""
    rows = load_corpus(corpus, "validation")
    number = min(number, len(rows))
    rows = rows.select([i * len(rows) // number for i in range(number)])
    return LabelledChains(rows, ResidueTokenizer.from_pretrained(BUNDLED), "q9")


def cached(model: Any, chains: LabelledChains, folder: Path) -> Any:
    """Return the chains with their hidden states on disk."""
    return with_cached_states(model, [chains], 1, PrefixCacheSettings(folder, quiet=True))[0]


def seconds_of_epoch(model: Any, batches: Any, epochs: int) -> float:
    """Return the best CPU time of an epoch [s]."""
    model.train()
    collate = ChainCollator(1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    seconds = []
    for _ in range(epochs):
        begin = time.process_time()
        for number in range(len(batches)):
            model(**collate([batches[number]])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        seconds.append(time.process_time() - begin)
    return min(seconds)


class Bench:
    """Measures the regimes of a shape and prints a row of the table for each."""

    def __init__(self, shape: str, corpus: str, epochs: int, folder: Path):
        self.shape, self.epochs, self.folder = shape, epochs, folder
        self.backbone, self.weights = backbone_of(shape)
        self.chains = chains_of(corpus, CHAINS[shape])
        self.full = 0.0

    def row(self, name: str, build: Callable[[], Any], batching: str = "budget", uncached: float = 0.0) -> float:
        """Measure a regime in a separate process, print it, and return its CPU time [s].

        Args:
            name: of the regime.
            build: makes the model.
            batching: budget, default (the stock Trainer's), cached, or filling (the cache, no training).
            uncached: CPU time of the same without the cache [s].
        """
        prefixes = self.folder / name.split(",")[0]
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(
            target=self._measure, args=(build, batching, prefixes, there)
        )
        process.start()
        there.close()
        seconds, peak = here.recv()
        process.join()
        self.full = self.full or seconds
        disk = sum(path.stat().st_size for path in prefixes.glob(f"*/*/{DATA_FILE}"))
        cells = (
            f"{seconds:.3f}",
            f"{seconds / self.full:.3f}",
            f"{seconds / uncached:.3f}" if uncached else "–",
            f"{peak / 1e6:,.0f}",
            f"{disk / 1e6:.1f}" if batching in ("cached", "filling") else "–",
        )
        print(f"| {self.shape} ({self.weights}) | {name} | {' | '.join(cells)} |", flush=True)
        return seconds

    def _measure(self, build: Callable[[], Any], batching: str, prefixes: Path, result: Any) -> None:
        model, chains = build(), self.chains
        begin = time.process_time()
        chains = cached(model, chains, prefixes) if batching in ("cached", "filling") else chains
        seconds = time.process_time() - begin
        if batching == "default":
            items = [chains[i] for i in range(len(chains))]
            batches = [items[i : i + DEFAULT_ROWS] for i in range(0, len(items), DEFAULT_ROWS)]
            seconds = seconds_of_epoch(model, batches, self.epochs)
        elif batching != "filling":
            seconds = seconds_of_epoch(model, TokenBudgetBatches(chains, chains.lengths, MAX_TOKENS), self.epochs)
        result.send((seconds, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))

    def regime(self, **options: Any) -> Callable[[], EsmForSecondaryStructure]:
        """Return a function that makes one of our models."""
        return lambda: with_regime(self.backbone, **options)

    def with_peft(self) -> Any:
        """LoRA through peft."""
        return with_peft(self.backbone)

    def print_rows(self) -> None:
        """Measure all regimes, and what the cache saves."""
        blocks = self.backbone.config.num_hidden_layers
        top = round(blocks / 4)
        upper = self.regime(adapter="bottleneck", leave_out=list(range(blocks - top)))
        on_output = self.regime(adapter="output_bottleneck", leave_out=list(range(blocks - top)))
        head_only = self.regime(adapter=None)
        has_peft = importlib.util.find_spec("peft") is not None
        self.row("full fine-tuning", self.regime(adapter=None, freeze=None))
        if has_peft:
            self.row("LoRA in all blocks (peft)", self.with_peft)
        everywhere = self.row("adapters in all blocks", self.regime(adapter="bottleneck", leave_out=[]))
        live = self.row(f"adapters in the top {top}", upper)
        self.row(f"adapters in the top {top}, checkpointing", lambda: checkpointed(upper()), uncached=live)
        self.row(f"adapters in the top {top}, filling the cache", upper, "filling", live)
        quick = self.row(f"adapters in the top {top}, cached", upper, "cached", live)
        name = f"output bottlenecks in the top {top}"
        cheap = self.row(name, on_output)
        self.row(f"{name}, filling the cache", on_output, "filling", cheap)
        self.row(f"{name}, cached", on_output, "cached", cheap)
        alone = self.row("head only", head_only)
        self.row("head only, filling the cache", head_only, "filling", alone)
        self.row("head only, cached", head_only, "cached", alone)
        others = {"adapters in all blocks": everywhere}
        others["the default Trainer"] = self.row(f"adapters in the top {top}, default Trainer", upper, "default")
        if has_peft:
            others["LoRA in all blocks (peft), default Trainer"] = self.row(
                "LoRA in all blocks (peft), default Trainer", self.with_peft, "default"
            )
        times = ", ".join(f"{seconds / quick:.1f} times as fast as {name}" for name, seconds in others.items())
        tokens = sum(self.chains.lengths)
        self.summary = (
            f"- {self.shape}: {len(self.chains)} chains, {tokens:,} tokens with special ones. "
            f"Adapters in the top {top}, cached: {times}."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=list(CHAINS), default=list(CHAINS), help="ESM-2 shapes")
    parser.add_argument("--corpus", default="sample", help="its validation chains are used")
    parser.add_argument("--epochs", type=int, default=2, help="number of epochs; the best is shown")
    parsed = parser.parse_args(arguments)
    logging.getLogger("lift_ss_hf").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    measured = origin(f"torch {torch.__version__}", f"{torch.get_num_threads()} thread")
    print(f"Chains of {parsed.corpus}, best of {parsed.epochs} epochs; {measured}\n")
    print("| shape | regime | CPU time [s] | of full | of uncached | peak memory [MB] | disk [MB] |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    summaries = []
    for shape in parsed.shapes:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(shape, parsed.corpus, parsed.epochs, Path(folder))
            bench.print_rows()
            summaries.append(bench.summary)
    print("\n" + "\n".join(summaries))
    return 0


if __name__ == "__main__":
    run(main)
