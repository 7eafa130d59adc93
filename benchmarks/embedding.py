"""Measure the memory of `lift-ss embed` over many sequences, relative to few.

Each run is a process of its own, whose peak memory the system reports. The input is the beginning of a FASTA file, or
random sequences. Standard library only: a child's peak starts at the memory of the process that starts it.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import random
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from measuring import LIFT_SS, run_alone
from origin import origin

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
MEGABYTE = 1 << 20
LOG = Path(tempfile.gettempdir(), "lift_ss_embedding.log")  # stays if a run fails


def random_records(longest: int) -> Iterator[str]:
    """Yield random FASTA records without end, with lengths like those of a proteome, but none above `longest`."""
    rng = random.Random(0)
    for number in itertools.count(1):
        length = min(longest, 30 + round(rng.lognormvariate(5.7, 0.7)))
        yield f">random{number}\n{''.join(rng.choices(RESIDUES, k=length))}\n"


def file_records(path: str) -> Iterator[str]:
    """Yield the records of a FASTA file."""
    with gzip.open(path, "rt") if path.endswith(".gz") else Path(path).open() as lines:
        record: list[str] = []
        for line in lines:
            if line.startswith(">") and record:
                yield "".join(record)
                record = []
            record.append(line)
        yield "".join(record)


def measure(parsed: argparse.Namespace, folder: Path) -> None:
    """Run over few and many sequences; print a row for each."""
    options = [*("--model", parsed.model, "--layer", parsed.layer, "--pooling", parsed.pooling, "--skip-bad")]
    options += ["--format", parsed.format, "--quiet", "-o"]
    few = 0.0
    for number in parsed.numbers:
        source, out = folder / f"{number}.fasta", folder / f"out{number}"
        records = random_records(parsed.longest) if parsed.sequences is None else file_records(parsed.sequences)
        source.write_text("".join(itertools.islice(records, number)))
        used = run_alone([*LIFT_SS, "embed", str(source), *options, str(out)], LOG)
        few = few or used["peak_mib"]
        size = sum(path.stat().st_size for path in out.glob("embeddings.*")) / MEGABYTE
        numbers = f"{size:,.0f} | {used['cpu_seconds']:,.0f} | {used['peak_mib']:,.0f} | {used['peak_mib'] / few:.2f}"
        print(f"| {number:,} | {numbers} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", metavar="FILE", help="FASTA, plain or .gz (default: random sequences)")
    parser.add_argument("--longest", type=int, default=5000, help="random sequence, in residues (default: 5000)")
    parser.add_argument("--numbers", type=int, nargs="+", default=[200, 20000], help="of sequences, the smallest first")
    parser.add_argument("--model", default="bundled", help="model or backbone on this machine (default: bundled)")
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
