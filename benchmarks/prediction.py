"""Time prediction on real chains: the usual ways and ours, side by side in one run.

Residues per second of CPU time (`time.process_time`, one thread; the median and the range of several rounds, in each
of which every way takes its turn), from sequences to states: tokenizing is within the time, loading and a first pass
are not. Shapes are real, heads linear, weights random but the same for all ways, whose states are compared with those
of the stock model; the chains are those of a file, of TEST2016 where LIFT_SS_DATA_DIR is set, or of the bundled sample.
Other engines and implementations (`prediction_peers.py`) run where they are installed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from origin import origin
from prediction_peers import ENGINES, ESM_ONLY, Stock, Way, is_installed
from torch import nn
from training import esm_config
from transformers import EsmConfig, EsmModel, EsmTokenizer, T5Config, T5EncoderModel

from lift_ss_hf.batches.collator import ChainCollator, budget_batches
from lift_ss_hf.cli.run import run
from lift_ss_hf.corpora import load_corpus
from lift_ss_hf.corpora.sources import MissingSourceError
from lift_ss_hf.models.backbones import locate
from lift_ss_hf.models.esm import EsmForSecondaryStructure, EsmSecondaryStructureConfig
from lift_ss_hf.models.t5 import T5ForSecondaryStructure, T5SecondaryStructureConfig
from lift_ss_hf.models.tokenization import ResidueTokenizer
from lift_ss_hf.prediction.cpu_kernels import Fp32Linear, prepack, quantise
from lift_ss_hf.prediction.inputs import Inputs
from lift_ss_hf.prediction.predictor import MAX_TOKENS, Predictor, plan_rows
from lift_ss_hf.prediction.records import Query, clean_record

ROWS = 8  # batch size of the usual loop
NUM_STATES = 9
PROT_T5_BLOCKS = 1  # of ProtT5-XL's 24 equal blocks: 50 M parameters
LONGEST = 1022  # residues: the longest that ESM-2 was trained on
SHAPES = ("8M", "35M", "150M", "prot_t5")
USUAL, BEST_STOCK, PRODUCTS = "stock, file order", "stock, one at a time", "matrix products alone, fp32"
PEERS = ("onnxruntime", "openvino", "nncf", "fair-esm", "esm-cpp")


class TableTokenizer:
    """One token per residue and `</s>` at the end, in place of ProtT5's own tokenizer, which costs little."""

    pad_token_id = 0

    def encode_sequence(self, sequence: str) -> np.ndarray:
        """Return (residues + 1,) int64."""
        return np.append(np.frombuffer(sequence.encode(), np.uint8).astype(np.int64) - ord("A") + 3, 1)


def in_file_order(stock: Stock, encode: Callable[[Sequence[str]], Any]) -> Way:
    """The usual loop: a tokenizer that pads, and batches of eight in file order."""

    def way(sequences: Sequence[str]) -> list[np.ndarray]:
        labels = []
        for start in range(0, len(sequences), ROWS):
            chunk = sequences[start : start + ROWS]
            logits = stock.logits(**encode(chunk))
            labels += [stock.labels(row, len(s)) for row, s in zip(logits, chunk, strict=True)]
        return labels

    return way


def sorted_by_length(stock: Stock) -> Way:
    """The stock model on batches of similar length, with the same token budget as our rows."""
    collate = ChainCollator(stock.tokenizer.pad_token_id)

    def way(sequences: Sequence[str]) -> list[np.ndarray]:
        chains = [stock.tokenizer.encode_sequence(sequence) for sequence in sequences]
        labels: dict[int, np.ndarray] = {}
        for indices in budget_batches([len(chain) for chain in chains], MAX_TOKENS):
            logits = stock.logits(**collate([{"input_ids": chains[i]} for i in indices]))
            labels |= {i: stock.labels(row, len(sequences[i])) for i, row in zip(indices, logits, strict=True)}
        return [labels[i] for i in range(len(chains))]

    return way


def ours(model: Any, tokenizer: Any) -> Way:
    """`Predictor`, through which everything in this package predicts."""
    predictor = Predictor(model, tokenizer)

    def way(sequences: Sequence[str]) -> list[np.ndarray]:
        labels = {i: probabilities.argmax(1) for i, probabilities in predictor.predict(sequences)}
        return [labels[i] for i in range(len(sequences))]

    return way


def prot_t5_config(blocks: int) -> T5Config:
    """Return a configuration with a few blocks of ProtT5-XL's width."""
    return T5Config(
        vocab_size=128, d_model=1024, num_layers=blocks, num_heads=32, d_kv=128, d_ff=16384, use_cache=False
    )


def our_model(config: EsmConfig | T5Config) -> Any:
    """Return a frozen backbone with random weights and a linear head."""
    options: dict[str, Any] = {"adapter": None, "freeze": "all", "head": "linear", "loss": "cross_entropy"}
    if isinstance(config, T5Config):
        return T5ForSecondaryStructure(T5SecondaryStructureConfig(config, **options))
    return EsmForSecondaryStructure(EsmSecondaryStructureConfig(config, **options))


def with_weights_of(stock: Stock) -> Any:
    """Return our model with the weights of the stock one."""
    model = our_model(stock.backbone.config)
    model.backbone.load_state_dict(stock.backbone.state_dict(), strict=False)  # without the pooler, the contact head
    model.head.encoder.load_state_dict(stock.classifier.state_dict())
    return model.eval()


def esm_stock(shape: str) -> tuple[Stock, Way]:
    """Return the stock model of an ESM-2 shape, and the usual loop."""
    backbone = EsmModel(esm_config(shape), add_pooling_layer=False).eval()
    classifier = nn.Linear(backbone.config.hidden_size, NUM_STATES)
    stock = Stock(backbone, classifier, ResidueTokenizer.from_pretrained(locate("bundled")), num_leading=1)
    tokenizer = EsmTokenizer.from_pretrained(locate("bundled"))
    return stock, in_file_order(stock, lambda s: tokenizer(list(s), padding=True, return_tensors="pt"))


def t5_stock() -> tuple[Stock, Way]:
    """Return the stock encoder with ProtT5's blocks, and the usual loop."""
    backbone = T5EncoderModel(prot_t5_config(PROT_T5_BLOCKS)).eval()
    tokenizer = TableTokenizer()
    stock = Stock(backbone, nn.Linear(backbone.config.d_model, NUM_STATES), tokenizer, num_leading=0)
    collate = ChainCollator(tokenizer.pad_token_id)
    return stock, in_file_order(stock, lambda s: collate([{"input_ids": tokenizer.encode_sequence(q)} for q in s]))


def ways_of(shape: str) -> dict[str, Way | None]:
    """Return all ways for a shape, the first two the references; None for those that are not installed."""
    stock, usual = t5_stock() if shape == "prot_t5" else esm_stock(shape)
    exact, rounded = with_weights_of(stock), with_weights_of(stock)
    products = products_alone(exact, stock.tokenizer)
    prepack(exact)
    quantise(rounded)
    ways: dict[str, Way | None] = {
        USUAL: usual,
        BEST_STOCK: stock.one_at_a_time(lambda ids: stock.logits(torch.from_numpy(ids))),
        "stock, sorted": sorted_by_length(stock),
    }
    for name, (modules, make) in (ENGINES if shape == "prot_t5" else ESM_ONLY | ENGINES).items():
        ways[name] = make(stock) if is_installed(*modules) else None
    ways["packed rows"] = ours(exact, stock.tokenizer)
    ways["packed rows, int8"] = ours(rounded, stock.tokenizer)
    ways[PRODUCTS] = products
    return ways


def products_alone(model: Any, tokenizer: Any) -> Way:
    """The matrix products of the blocks in fp32, over rows of ones: no fp32 way can be faster than these."""
    linears = [layer for layer in model.family.blocks(model.backbone).modules() if isinstance(layer, nn.Linear)]
    layers = [(linear.in_features, Fp32Linear(linear)) for linear in linears]

    def way(sequences: Sequence[str]) -> list[np.ndarray]:
        lengths = [len(tokenizer.encode_sequence(sequence)) for sequence in sequences]
        for row in plan_rows(lengths, MAX_TOKENS):
            inputs = {size: torch.ones(1, sum(lengths[i] for i in row), size) for size, _ in layers}
            for size, layer in layers:
                layer(inputs[size])
        return []

    return way


@torch.inference_mode()
def print_shape(shape: str, sequences: Sequence[str], rounds: int) -> None:
    """Check and measure the ways of a shape, and print its rows of the table."""
    ways = ways_of(shape)
    found = {name: way(sequences) for name, way in ways.items() if way is not None}  # engines compile meanwhile
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for name in list(found) * rounds:
        way = ways[name]
        assert way is not None
        begin = time.process_time()
        way(sequences)
        seconds[name].append(time.process_time() - begin)
    residues = sum(map(len, sequences))
    usual, best_stock, products = (np.median(seconds[name]) for name in (USUAL, BEST_STOCK, PRODUCTS))
    reference = np.concatenate(found[USUAL])
    for name in ways:
        if name not in found:
            print(f"| {shape} | {name} | not installed | – | – | – | – |", flush=True)
            continue
        median = np.median(seconds[name])
        speed = f"{residues / median:,.0f} ({residues / max(seconds[name]):,.0f}–{residues / min(seconds[name]):,.0f})"
        ratios = f"{usual / median:.2f} | {best_stock / median:.2f} | {100 * products / median:.0f}"
        equal = f"{100 * np.mean(np.concatenate(found[name]) == reference):.2f}" if found[name] else "–"
        print(f"| {shape} | {name} | {speed} | {ratios} | {equal} |", flush=True)


def real_chains(number: int, file: str | None = None, longest: int = LONGEST) -> tuple[list[str], str]:
    """Chains in file order, evenly spaced, and where they are from.

    Args:
        number: of chains.
        file: as `lift-ss predict` reads it; else TEST2016, or else the bundled sample.
        longest: chain that is taken; the usual loop has no memory for the longest of a proteome [residues].
    """
    if file is not None:
        found = (clean_record(record) for record in Inputs([file]))
        sequences, source = [str(query.sequence) for query in found if isinstance(query, Query)], Path(file).name
    else:
        try:
            corpus, source = load_corpus("test2016", "test"), "TEST2016"
        except MissingSourceError:
            corpus, source = load_corpus("sample", "train"), "the bundled sample"
        sequences = corpus["sequence"][:]
    sequences = [sequence for sequence in sequences if len(sequence) <= longest]
    step = max(1, len(sequences) // number)
    return sequences[::step][:number], source


def versions() -> list[str]:
    """Return name and version of what is measured."""
    installed = []
    for name in ("torch", "transformers", *PEERS):
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return installed


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="ESM-2 shapes, or ProtT5's blocks"
    )
    parser.add_argument("--sequences", metavar="FILE", help="FASTA or table to use instead of TEST2016")
    parser.add_argument("--longest", type=int, default=LONGEST, help="skip longer chains of FILE [residues]")
    parser.add_argument("--chains", type=int, default=200, help="number of chains, evenly spaced in the file")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds; the median is shown")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    measured = origin(", ".join(versions()), f"{torch.get_num_threads()} thread")
    sequences, source = real_chains(parsed.chains, parsed.sequences, parsed.longest)
    residues = sum(map(len, sequences))
    print(f"{len(sequences)} chains, {residues:,} residues of {source}, median of {parsed.rounds}; {measured}\n")
    print(
        "| shape | way | residues per CPU second (range) | of the usual loop | of stock, one at a time | "
        "of the products' speed [%] | states equal to stock's [%] |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for shape in parsed.shapes:
        print_shape(shape, sequences, parsed.rounds)
    return 0


if __name__ == "__main__":
    run(main)
