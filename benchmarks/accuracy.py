"""Score a trained predictor on CASP12-14 and TEST2018, in fp32 and int8, beside reprof if it is installed.

Q3 is over all labelled residues, P (kappa helix) counts as coil. Residues per second are of CPU time, of this process
and those it starts: one thread, from sequences to states, without loading the model; reprof is started for each chain,
its only way. Without LIFT_SS_DATA_DIR the bundled sample is scored.
"""

from __future__ import annotations

import argparse
import operator
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from origin import origin

from lift_ss_hf.cli.run import run
from lift_ss_hf.corpora import load_corpus
from lift_ss_hf.evaluation.predictions import predict
from lift_ss_hf.metrics.scoring import score
from lift_ss_hf.models.backbones import BUNDLED
from lift_ss_hf.models.states import Q3
from lift_ss_hf.prediction.loading import load_predictor

TEST_SETS = ("casp12", "casp13", "casp14", "test2018") if os.environ.get("LIFT_SS_DATA_DIR") else ("sample",)

Way = Callable[[Sequence[str]], list[str]]  # predicts chains; the Q3 states of each


def ours(model: str, backbone: str | None, precision: str) -> Way:
    """A predictor of this package."""
    predictor = load_predictor(model, backbone, precision)

    def way(sequences: Sequence[str]) -> list[str]:
        predictions = predict(predictor.model, predictor.tokenizer, sequences, quiet=True)
        return [Q3.decode(labels) for labels in predictions.labels("q3")]

    return way


def reprof(sequences: Sequence[str]) -> list[str]:
    """Debian's reprof, on the sequence alone; its third column is the state, L for coil."""
    states = []
    with tempfile.TemporaryDirectory() as folder:
        query, result = Path(folder, "query.fasta"), Path(folder, "query.reprof")
        for sequence in sequences:
            query.write_text(f">query\n{sequence}\n", "ascii")
            subprocess.run(["reprof", "-i", query, "-o", result], check=True, capture_output=True)
            rows = [line.split("\t") for line in result.read_text("ascii").splitlines() if line[0].isdigit()]
            states.append("".join(row[2] for row in rows).replace("L", "C"))
    return states


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those it waited for [s]."""
    return sum(os.times()[:4])


def print_test_set(name: str, ways: dict[str, Way]) -> None:
    """Measure each way and print a row."""
    corpus = load_corpus(name, "test")
    first = ""
    for title, way in ways.items():
        begin = cpu_seconds()
        found = way(corpus["sequence"][:])
        seconds = cpu_seconds() - begin
        result = score(references=corpus["states"][:], predictions=found, states="q3")
        states = "".join(found)
        first = first or states
        differ = sum(map(operator.ne, states, first)) / len(states)
        numbers = f"{100 * result['q3']:.2f} | {100 * differ:.2f} | {len(states) / seconds:,.0f}"
        print(f"| {name} | {result['num_residues']:,} | {title} | {numbers} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=BUNDLED, help="folder or Hub id (default: the bundled one)")
    parser.add_argument("--backbone", metavar="NAME", help="where its backbone is, if not where its configuration says")
    parser.add_argument("--corpora", nargs="+", default=TEST_SETS, help=f"(default: {' '.join(TEST_SETS)})")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    ways = {precision: ours(parsed.model, parsed.backbone, precision) for precision in ("fp32", "int8")}
    if shutil.which("reprof"):
        ways["reprof"] = reprof
    print(f"{parsed.model}; {origin(f'torch {torch.__version__}', f'{torch.get_num_threads()} thread')}\n")
    print("| test set | residues | predictor | Q3 [%] | states that differ from fp32 [%] | residues per CPU second |")
    print("| --- | ---: | --- | ---: | ---: | ---: |", flush=True)
    for name in parsed.corpora:
        print_test_set(name, ways)
    return 0


if __name__ == "__main__":
    run(main)
