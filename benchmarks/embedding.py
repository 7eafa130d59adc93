"""Measure the memory of `lift-ss embed` over many sequences, relative to few.

Each run is a process of its own, whose peak memory the system reports. The input is the beginning of a FASTA file, or
random sequences. Standard library only: a child's peak starts at the memory of the process that starts it.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from origin import origin

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
COMMAND = [sys.executable, "-c", "from lift_ss_hf.cli.lift_ss import main; main()", "embed"]
MEGABYTE = 1 << 20


class Finished(NamedTuple):
    """What a run needed: peak memory [MiB] and CPU time [s]."""

    memory: float
    seconds: float


def records(path: str | None, longest: int) -> Iterator[str]:
    """Yield FASTA records, of a file or random ones with lengths like those of a proteome, but none above `longest`."""
    if path is None:
        rng = random.Random(0)
        for number in itertools.count(1):
            length = min(longest, 30 + round(rng.lognormvariate(5.7, 0.7)))
            yield f">random{number}\n{''.join(rng.choices(RESIDUES, k=length))}\n"
    with gzip.open(str(path), "rt") if str(path).endswith(".gz") else Path(str(path)).open() as lines:
        record: list[str] = []
        for line in lines:
            if line.startswith(">") and record:
                yield "".join(record)
                record = []
            record.append(line)
        yield "".join(record)


def run(arguments: Sequence[str]) -> Finished:
    """Run `lift-ss embed` to its end."""
    process = subprocess.Popen([*COMMAND, *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"lift-ss embed ended with status {process.returncode}.")
    return Finished(usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


def measure(parsed: argparse.Namespace, folder: Path) -> None:
    """Run over few and many sequences; print a row for each."""
    options = [*("--model", parsed.model, "--layer", parsed.layer, "--pooling", parsed.pooling, "--skip-bad")]
    options += ["--format", parsed.format, "--quiet", "-o"]
    few: Finished | None = None
    for number in parsed.numbers:
        source, out = folder / f"{number}.fasta", folder / f"out{number}"
        source.write_text("".join(itertools.islice(records(parsed.sequences, parsed.longest), number)))
        done = run([str(source), *options, str(out)])
        few = few or done
        size = sum(path.stat().st_size for path in out.glob("embeddings.*")) / MEGABYTE
        row = (
            f"| {number:,} | {size:,.0f} | {done.seconds:,.0f} | {done.memory:,.0f} | {done.memory / few.memory:.2f} |"
        )
        print(row, flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", metavar="FILE", help="FASTA, plain or .gz (default: random sequences)")
    parser.add_argument("--longest", type=int, default=5000, help="random sequence, in residues (default: 5000)")
    parser.add_argument("--numbers", type=int, nargs="+", default=[200, 20000], help="of sequences, the smallest first")
    parser.add_argument("--model", default="bundled", help="model or backbone (default: bundled)")
    parser.add_argument("--layer", default="last", help="as of lift-ss embed (default: last)")
    parser.add_argument("--pooling", default="none", help="as of lift-ss embed (default: none)")
    parser.add_argument(
        "--format", default="safetensors", help="as of lift-ss embed, several as a,b (default: safetensors)"
    )
    parser.add_argument(
        "--scratch", metavar="DIR", help="for the results: 2 kB per residue and format with the bundled model"
    )
    parsed = parser.parse_args()
    print(f"{' '.join(sys.argv)}; {origin('torch ' + version('torch'), '1 thread')}\n")
    print("| sequences | result [MiB] | CPU [s] | peak memory [MiB] | of the first |")
    print("| ---: | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory(dir=parsed.scratch) as folder:
        measure(parsed, Path(folder))


if __name__ == "__main__":
    main()
