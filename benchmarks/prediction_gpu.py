"""Time prediction on a GPU: residues per second of packed rows in bf16, and their share of the GPU's peak.

Whole shapes of ESM-2 and ProtT5-XL with random weights and linear heads over real chains (see `prediction.py`), by the
wall clock after one pass to warm up. The share is 2 operations for each weight of the blocks and each residue, without
those of attention's scores, of the peak given.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from origin import origin
from prediction import TableTokenizer, our_model, prot_t5_config, real_chains
from training import SHAPES, esm_config

from lift_ss_hf.cli.run import run
from lift_ss_hf.models.backbones import locate
from lift_ss_hf.models.tokenization import ResidueTokenizer
from lift_ss_hf.prediction.loading import GPU_MAX_TOKENS
from lift_ss_hf.prediction.predictor import Predictor

H200_PEAK = 989.0  # TFLOP/s in bf16, without sparsity: NVIDIA's data sheet


def residues_per_second(predictor: Predictor, sequences: Sequence[str], rounds: int) -> float:
    """Return the best of several passes."""
    seconds = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        for _, probabilities in predictor.predict(sequences):  # arrays on the CPU: the GPU has finished
            assert len(probabilities)
        seconds.append(time.perf_counter() - begin)
    return sum(map(len, sequences)) / min(seconds[1:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=[*SHAPES, "prot_t5"], default=["650M", "prot_t5"])
    parser.add_argument("--chains", type=int, default=1000, help="number of chains, evenly spaced in the file")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds; the best is shown")
    parser.add_argument("--max_tokens", type=int, default=GPU_MAX_TOKENS, help="size of a row [tokens]")
    parser.add_argument("--peak", type=float, default=H200_PEAK, help="peak of the device in bf16 [TFLOP/s]")
    parser.add_argument("--device", default="cuda", help="cpu to try the script out")
    parsed = parser.parse_args(arguments)
    if parsed.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU found. Run on a machine that has one, or try the script with --device cpu.")
    device = torch.device(parsed.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    sequences, source = real_chains(parsed.chains)
    print(f"{len(sequences)} chains of {source}; {origin(f'torch {torch.__version__}', name)}\n")
    print("| shape | residues per second | of peak [%] |\n| --- | ---: | ---: |", flush=True)
    for shape in parsed.shapes:
        is_t5 = shape == "prot_t5"
        tokenizer = TableTokenizer() if is_t5 else ResidueTokenizer.from_pretrained(locate("bundled"))
        model = our_model(prot_t5_config(blocks=24) if is_t5 else esm_config(shape))
        model = model._set_precision(torch.bfloat16).to(device)
        weights = sum(weight.numel() for block in model.family.blocks(model.backbone) for weight in block.parameters())
        speed = residues_per_second(Predictor(model, tokenizer, parsed.max_tokens), sequences, parsed.rounds)
        print(f"| {shape} | {speed:,.0f} | {100 * speed * 2 * weights / (parsed.peak * 1e12):.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    run(main)
