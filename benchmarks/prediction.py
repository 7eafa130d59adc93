"""Time prediction on real chains: the usual ways and ours, side by side in one run.

Residues per second of CPU time (`time.process_time`, one thread, the best of several rounds, in each of which every
way takes its turn), from sequences to states: tokenizing is within the time, loading is not. Shapes are real, weights
random, heads linear; the chains are those of a file, of Test2016 where LIFT_SS_DATA_DIR is set, or of the bundled
sample. The loop of fair-esm runs where that is installed.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from origin import origin
from torch import nn
from training import SHAPES as ESM_SHAPES
from training import esm_config
from transformers import EsmConfig, EsmForTokenClassification, EsmTokenizer, T5Config, T5EncoderModel

from lift_ss_hf.batches.collator import ChainCollator, budget_batches
from lift_ss_hf.cli.run import run
from lift_ss_hf.corpora import load_corpus
from lift_ss_hf.corpora.sources import MissingSourceError
from lift_ss_hf.models.backbones import locate
from lift_ss_hf.models.esm import EsmForSecondaryStructure, EsmSecondaryStructureConfig
from lift_ss_hf.models.t5 import T5ForSecondaryStructure, T5SecondaryStructureConfig
from lift_ss_hf.models.tokenization import ResidueTokenizer
from lift_ss_hf.prediction.cpu_kernels import prepack, quantise
from lift_ss_hf.prediction.inputs import Inputs
from lift_ss_hf.prediction.predictor import MAX_TOKENS, Predictor
from lift_ss_hf.prediction.records import Query, clean_record

ROWS = 8  # batch size of the usual loop
FAIR_ESM_TOKENS = 4096  # batch size of fair-esm's own extract.py
NUM_STATES = 9
PROT_T5_BLOCKS = 1  # of ProtT5-XL's 24 equal blocks: 50 M parameters
LONGEST = 1022  # residues: the longest that ESM-2 was trained on
SHAPES = ("8M", "35M", "150M", "prot_t5")

Way = Callable[[Sequence[str]], int]  # predicts chains; returns the number of residues


class TableTokenizer:
    """One token per residue and `</s>` at the end, in place of ProtT5's own tokenizer, which costs little."""

    pad_token_id = 0

    def encode_sequence(self, sequence: str) -> np.ndarray:
        """Return (residues + 1,) int64."""
        return np.append(np.frombuffer(sequence.encode(), np.uint8).astype(np.int64) - ord("A") + 3, 1)


class StockT5(nn.Module):
    """The encoder of transformers and a linear head."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.encoder = T5EncoderModel(config)
        self.classifier = nn.Linear(config.d_model, NUM_STATES)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Map (batch, tokens) to (batch, tokens, states)."""
        return self.classifier(self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state)


def in_file_order(model: Any, encode: Callable[[Sequence[str]], Any]) -> Way:
    """The usual loop: a tokenizer that pads, and batches of eight in file order."""

    def way(sequences: Sequence[str]) -> int:
        done = 0
        for start in range(0, len(sequences), ROWS):
            batch = encode(sequences[start : start + ROWS])
            done += keep(model(**batch), batch["attention_mask"])
        return done

    return way


def sorted_by_length(model: Any, tokenizer: Any) -> Way:
    """The stock model on batches of similar length, with the same token budget as our rows."""
    collate = ChainCollator(tokenizer.pad_token_id)

    def way(sequences: Sequence[str]) -> int:
        chains = [tokenizer.encode_sequence(sequence) for sequence in sequences]
        done = 0
        for indices in budget_batches([len(chain) for chain in chains], MAX_TOKENS):
            batch = collate([{"input_ids": chains[i]} for i in indices])
            done += keep(model(**batch), batch["attention_mask"])
        return done

    return way


def keep(output: Any, attention_mask: torch.Tensor) -> int:
    """Take the states of all but the padding, as any user would, and return their number."""
    logits = getattr(output, "logits", output)
    return len(logits.argmax(-1)[attention_mask > 0])


def ours(model: Any, tokenizer: Any) -> Way:
    """`Predictor`, through which everything in this package predicts."""
    predictor = Predictor(model, tokenizer)

    def way(sequences: Sequence[str]) -> int:
        return sum(len(probabilities.argmax(1)) for _, probabilities in predictor.predict(sequences))

    return way


def fair_esm(blocks: int, width: int, heads: int) -> Way:
    """fair-esm's extract.py: its batch converter, its batches of similar length, its own model; no head."""
    import esm

    model = esm.ESM2(blocks, width, heads).eval()
    convert = model.alphabet.get_batch_converter()

    def way(sequences: Sequence[str]) -> int:
        data = esm.FastaBatchedDataset([str(i) for i in range(len(sequences))], list(sequences))
        done = 0
        for indices in data.get_batch_indices(FAIR_ESM_TOKENS, extra_toks_per_seq=1):
            _, _, tokens = convert([data[i] for i in indices])
            done += len(model(tokens, repr_layers=[blocks])["representations"][blocks][tokens != 1])
        return done

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


def esm_ways(shape: str) -> Iterator[tuple[str, Way | None]]:
    """Yield all ways for an ESM-2 shape."""
    config = esm_config(shape, num_labels=NUM_STATES)
    tokenizer = ResidueTokenizer.from_pretrained(locate("bundled"))
    stock_tokenizer = EsmTokenizer.from_pretrained(locate("bundled"))
    stock = EsmForTokenClassification(config).eval()
    yield (
        "stock, file order",
        in_file_order(stock, lambda s: stock_tokenizer(list(s), padding=True, return_tensors="pt")),
    )
    yield "stock, sorted", sorted_by_length(stock, tokenizer)
    del stock
    has_peer = importlib.util.find_spec("esm") is not None
    yield "fair-esm, sorted", fair_esm(*ESM_SHAPES[shape]) if has_peer else None
    yield from our_ways(our_model(config), tokenizer)


def t5_ways() -> Iterator[tuple[str, Way | None]]:
    """Yield all ways for a T5 with ProtT5's blocks."""
    config = prot_t5_config(PROT_T5_BLOCKS)
    tokenizer = TableTokenizer()
    collate = ChainCollator(tokenizer.pad_token_id)
    stock = StockT5(config).eval()
    yield (
        "stock, file order",
        in_file_order(stock, lambda s: collate([{"input_ids": tokenizer.encode_sequence(q)} for q in s])),
    )
    yield "stock, sorted", sorted_by_length(stock, tokenizer)
    yield from our_ways(our_model(config), tokenizer)


def our_ways(model: Any, tokenizer: Any) -> Iterator[tuple[str, Way]]:
    """Yield packed rows, exact and in int8."""
    rounded = copy.deepcopy(model)
    prepack(model)
    yield "packed rows", ours(model, tokenizer)
    quantise(rounded)
    yield "packed rows, int8", ours(rounded, tokenizer)


@torch.inference_mode()
def print_shape(shape: str, sequences: Sequence[str], rounds: int) -> None:
    """Measure a shape and print its rows of the table."""
    ways = list(t5_ways() if shape == "prot_t5" else esm_ways(shape))
    best = {name: float("inf") for name, way in ways if way is not None}
    for name, way in [*ways] * rounds:
        if way is not None:
            begin = time.process_time()
            way(sequences)
            best[name] = min(best[name], time.process_time() - begin)
    residues = sum(map(len, sequences))
    for name, _ in ways:
        if name not in best:
            print(f"| {shape} | {name} | not installed | – |")
            continue
        ratio = best["stock, file order"] / best[name]
        print(f"| {shape} | {name} | {residues / best[name]:,.0f} | {ratio:.2f} |", flush=True)


def real_chains(number: int, file: str | None = None, longest: int = LONGEST) -> tuple[list[str], str]:
    """Chains in file order, evenly spaced, and where they are from.

    Args:
        number: of chains.
        file: as `lift-ss predict` reads it; else Test2016, or else the bundled sample.
        longest: chain that is taken; the usual loop has no memory for the longest of a proteome [residues].
    """
    if file is not None:
        found = (clean_record(record) for record in Inputs([file]))
        sequences, source = [str(query.sequence) for query in found if isinstance(query, Query)], Path(file).name
    else:
        try:
            corpus, source = load_corpus("test2016", "test"), "Test2016"
        except MissingSourceError:
            corpus, source = load_corpus("sample", "train"), "the bundled sample"
        sequences = corpus["sequence"][:]
    sequences = [sequence for sequence in sequences if len(sequence) <= longest]
    step = max(1, len(sequences) // number)
    return sequences[::step][:number], source


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="ESM-2 shapes, or ProtT5's blocks"
    )
    parser.add_argument("--sequences", metavar="FILE", help="FASTA or table to use instead of Test2016")
    parser.add_argument("--longest", type=int, default=LONGEST, help="skip longer chains of FILE [residues]")
    parser.add_argument("--chains", type=int, default=200, help="number of chains, evenly spaced in the file")
    parser.add_argument("--rounds", type=int, default=2, help="number of rounds; the best is shown")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    measured = origin(f"torch {torch.__version__}", f"{torch.get_num_threads()} thread")
    sequences, source = real_chains(parsed.chains, parsed.sequences, parsed.longest)
    residues = sum(map(len, sequences))
    print(f"{len(sequences)} chains, {residues:,} residues of {source}, best of {parsed.rounds}; {measured}\n")
    print("| shape | way | residues per CPU second | of the usual loop |")
    print("| --- | --- | ---: | ---: |", flush=True)
    for shape in parsed.shapes:
        print_shape(shape, sequences, parsed.rounds)
    return 0


if __name__ == "__main__":
    run(main)
