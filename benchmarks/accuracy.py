"""Score a trained predictor over CASP12-14 and Test2018, in fp32 and in int8, beside reprof where that is installed.

Q3 is over all labelled residues, P (kappa helix) counts as coil. Residues per second are of CPU time, of this process
and those it starts: one thread, from sequences to states, without loading the model; reprof is started for each chain,
its only way. Without LIFT_SS_DATA_DIR it is the bundled sample that is scored.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from origin import origin

from lift_ss_hf.backbones import BUNDLED
from lift_ss_hf.command_line import run
from lift_ss_hf.corpora import load_corpus
from lift_ss_hf.prediction.loading import load_predictor
from lift_ss_hf.states import IGNORE_INDEX, Q3, reduce_probabilities

TEST_SETS = ("casp12", "casp13", "casp14", "test2018") if os.environ.get("LIFT_SS_DATA_DIR") else ("sample",)

Way = Callable[[Sequence[str]], np.ndarray]  # predicts chains; labels of their residues, end to end


def ours(model: str, backbone: str | None, precision: str) -> Way:
    """A predictor of this package; probabilities are summed over the states that Q3 holds as one."""
    predictor = load_predictor(model, backbone, precision)

    def way(sequences: Sequence[str]) -> np.ndarray:
        found = dict(predictor.predict(sequences))
        chains = [reduce_probabilities(found[i], Q3, predictor.states) for i in range(len(sequences))]
        return np.concatenate(chains).argmax(1)

    return way


def reprof(sequences: Sequence[str]) -> np.ndarray:
    """Debian's reprof, which needs the sequence alone; its third column is the state, L for coil."""
    states = []
    with tempfile.TemporaryDirectory() as folder:
        query, result = Path(folder, "query.fasta"), Path(folder, "query.reprof")
        for sequence in sequences:
            query.write_text(f">query\n{sequence}\n", "ascii")
            subprocess.run(["reprof", "-i", query, "-o", result], check=True, capture_output=True)
            rows = [line.split("\t") for line in result.read_text("ascii").splitlines() if line[0].isdigit()]
            states += [row[2].replace("L", "C") for row in rows]
    return Q3.encode("".join(states))


def cpu_seconds() -> float:
    """Of this process and of those it waited for."""
    return sum(os.times()[:4])


def print_test_set(name: str, ways: dict[str, Way]) -> None:
    """Measure, and print a row for each way."""
    corpus = load_corpus(name, "test")
    sequences = corpus["sequence"][:]
    labels = np.concatenate([Q3.encode(states) for states in corpus["states"]])
    known = labels != IGNORE_INDEX
    first = None
    for title, way in ways.items():
        begin = cpu_seconds()
        found = way(sequences)
        speed = len(found) / (cpu_seconds() - begin)
        first = found if first is None else first
        q3, differ = 100 * (found == labels)[known].mean(), 100 * (found != first).mean()
        print(f"| {name} | {known.sum():,} | {title} | {q3:.2f} | {differ:.2f} | {speed:,.0f} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=BUNDLED, help="folder or Hub id (default: the bundled one)")
    parser.add_argument("--backbone", metavar="NAME", help="where its backbone is, if not where it says")
    parser.add_argument("--corpora", nargs="+", default=TEST_SETS, help=f"(default: {' '.join(TEST_SETS)})")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    ways = {precision: ours(parsed.model, parsed.backbone, precision) for precision in ("fp32", "int8")}
    if shutil.which("reprof"):
        ways["reprof"] = reprof
    print(f"{parsed.model}; {origin(f'torch {torch.__version__}', f'{torch.get_num_threads()} thread')}\n")
    print("| test set | residues | predictor | Q3 [%] | states unlike fp32's [%] | residues per CPU second |")
    print("| --- | ---: | --- | ---: | ---: | ---: |", flush=True)
    for name in parsed.corpora:
        print_test_set(name, ways)
    return 0


if __name__ == "__main__":
    run(main)
