"""Time the metric on TEST2016 against a noisy copy of it, and on up to 100,000 chains.

Reports the CPU time of one process (`time.process_time`), the best of several runs. Set OMP_NUM_THREADS=1, although
numpy uses a single thread for everything done here. Without TEST2016 (see LIFT_SS_DATA_DIR), a synthetic set of the
same size is timed, and the table says so.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
from origin import origin

from lift_ss_hf.cli.run import run
from lift_ss_hf.corpora.loading import load_corpus
from lift_ss_hf.corpora.sources import MissingSourceError
from lift_ss_hf.metrics.scored_chains import ScoredChains
from lift_ss_hf.metrics.scoring import score
from lift_ss_hf.metrics.segments import tally

# CPU seconds of LIFT_SS's SOV.pl (SOV_refine.pl of Liu & Wang 2018) on TEST2016 against a noisy copy, measured when
# the metric was planned. It is not run here, since its licence is GPL-2.
PERL_SECONDS = 1.32
REPEATS = 40
GROWTH = (1_000, 10_000, 100_000)  # [chains]


def test2016_or_synthetic(seed: int) -> tuple[list[str], str]:
    """Return the states of TEST2016, or of a synthetic set of its size, and the name of the set."""
    try:
        return list(load_corpus("test2016", "test")["states"]), "TEST2016"
    except MissingSourceError:
        rng = np.random.default_rng(seed)
        lengths = rng.multinomial(287_877 - 1213 * 30, np.full(1213, 1 / 1213)) + 30
        return [synthetic_chain(length, rng) for length in lengths], "synthetic set of the size of TEST2016"


def synthetic_chain(length: int, rng: np.random.Generator) -> str:
    """Return states in runs as long as real ones, about four residues."""
    runs = rng.geometric(1 / 4, size=length)
    return "".join(state * int(run) for state, run in zip(rng.choice(list("LEHSTG"), length), runs, strict=True))[
        :length
    ]


def noisy_copy(states: str, rng: np.random.Generator) -> str:
    """Return the states with 30 % of the residues replaced by one up to two positions away."""
    shift = rng.choice([-2, -1, 0, 1, 2], size=len(states), p=[0.05, 0.1, 0.7, 0.1, 0.05])
    letters = np.frombuffer(states.encode("ascii"), dtype=np.uint8)
    return letters[np.clip(np.arange(len(states)) + shift, 0, len(states) - 1)].tobytes().decode("ascii")


def cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the best CPU time of several runs."""
    seconds = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def both_sovs(references: list[str], predictions: list[str]) -> None:
    """Compute the sums of both SOVs from strings, without the scores."""
    for block in ScoredChains(references, predictions, "q9", None, None).blocks():
        tally(*block, 9)


def timings(references: list[str], predictions: list[str]) -> list[str]:
    """Return the rows of the first table."""
    rows = {
        "SOV'99 and SOV_refine, from strings": lambda: both_sovs(references, predictions),
        "everything at q9, from strings": lambda: score(references=references, predictions=predictions, states="q9"),
        "everything at q3, from strings": lambda: score(references=references, predictions=predictions, states="q3"),
        "everything at q9, per chain, 1000 bootstraps": lambda: score(
            references=references, predictions=predictions, states="q9", per_chain=True, bootstrap=1000
        ),
    }
    lines = []
    for name, work in rows.items():
        seconds = cpu_seconds(work, REPEATS)
        lines.append(f"| {name} | {seconds * 1e3:.1f} | {PERL_SECONDS / seconds:.0f} x |")
    return [*lines, f"| SOV.pl of LIFT_SS (recorded, not run here) | {PERL_SECONDS * 1e3:.0f} | 1 x |"]


def growth(references: list[str], predictions: list[str], sizes: tuple[int, ...]) -> list[str]:
    """Return the rows of the second table: the set repeated to each number of chains."""
    lines = []
    for num_chains in sizes:
        times = -(-num_chains // len(references))
        many = {"references": (references * times)[:num_chains], "predictions": (predictions * times)[:num_chains]}
        residues = sum(map(len, many["references"]))
        seconds = cpu_seconds(lambda many=many: score(**many, states="q9"), 3)  # type: ignore[misc]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        lines.append(
            f"| {num_chains:,} | {residues:,} | {seconds * 1e3:,.1f} | {seconds / residues * 1e9:.1f} | {peak:,.0f} |"
        )
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    parser.add_argument("--max-chains", type=int, default=GROWTH[-1], help="largest set in the second table")
    parsed = parser.parse_args(arguments)
    references, name = test2016_or_synthetic(parsed.seed)
    rng = np.random.default_rng(parsed.seed)
    predictions = [noisy_copy(chain, rng) for chain in references]
    result = score(references=references, predictions=predictions, states="q9")
    print(f"{name}: {len(references):,} chains, {sum(map(len, references)):,} residues, against a noisy copy")
    print(f"(seed {parsed.seed}: q9 {result['q9']:.4f}, sov99 {result['sov99']:.4f}, ", end="")
    measured = origin(f"numpy {np.__version__}", "one core")
    print(f"sov_refine {result['sov_refine']:.4f}); {measured}\n")
    print("| task | CPU [ms] | against SOV.pl |\n| --- | --- | --- |")
    print("\n".join(timings(references, predictions)))
    print("\n| chains | residues | everything at q9, CPU [ms] | [ns / residue] | peak memory of the process [MiB] |")
    print("| --- | --- | --- | --- | --- |")
    print("\n".join(growth(references, predictions, tuple(size for size in GROWTH if size <= parsed.max_chains))))
    return 0


if __name__ == "__main__":
    run(main)
