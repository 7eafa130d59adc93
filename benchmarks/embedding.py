"""Measure the memory of `lift-ss embed` over many sequences, relative to few; and kill and resume a run.

Each run is a process of its own, whose peak memory the system reports. The input is the beginning of a FASTA file, or
random sequences. Standard library only: a child's peak starts at the memory of the process that starts it.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
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


def records(path: str | None) -> Iterator[str]:
    """Yield FASTA records, of a file or random ones with lengths like those of a proteome."""
    if path is None:
        rng = random.Random(0)
        for number in itertools.count(1):
            length = min(5000, 30 + round(rng.lognormvariate(5.7, 0.7)))
            yield f">random{number}\n{''.join(rng.choices(RESIDUES, k=length))}\n"
    with gzip.open(str(path), "rt") if str(path).endswith(".gz") else Path(str(path)).open() as lines:
        record: list[str] = []
        for line in lines:
            if line.startswith(">") and record:
                yield "".join(record)
                record = []
            record.append(line)
        yield "".join(record)


def run(arguments: Sequence[str], kill_after: int | None = None) -> Finished:
    """Run `lift-ss embed`, to its end or until it has written some parts.

    Args:
        arguments: of the command; the last one is the output directory.
        kill_after: number of parts; the run is killed once they are there.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*COMMAND, *arguments], env=environment)
    while kill_after is not None and process.poll() is None:
        if len(list(Path(arguments[-1], "parts").glob("[0-9]*"))) >= kill_after:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, -signal.SIGKILL if kill_after is not None else 0):
        raise SystemExit(f"lift-ss embed ended with status {process.returncode}.")
    return Finished(usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


def digest(folder: Path) -> str:
    """Return the SHA-256 of a run's results, read in pieces."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("embeddings.*")):
        with path.open("rb") as file:
            while piece := file.read(MEGABYTE):
                found.update(piece)
    return found.hexdigest()


def measure(parsed: argparse.Namespace, folder: Path) -> None:
    """Run over few and many sequences, and once more over many, killed and resumed; print a row for each."""
    options = [*("--model", parsed.model, "--layer", parsed.layer, "--pooling", parsed.pooling, "--skip-bad")]
    options += ["--format", parsed.format, "--quiet", "-o"]
    few: Finished | None = None
    for number in parsed.numbers:
        source, out = folder / f"{number}.fasta", folder / f"out{number}"
        source.write_text("".join(itertools.islice(records(parsed.sequences), number)))
        done = run([str(source), *options, str(out)])
        few = few or done
        size = sum(path.stat().st_size for path in out.glob("embeddings.*")) / MEGABYTE
        row = (
            f"| {number:,} | {size:,.0f} | {done.seconds:,.0f} | {done.memory:,.0f} | {done.memory / few.memory:.2f} |"
        )
        print(row, flush=True)
    killed = folder / "killed"
    for parts in parsed.kill_after:
        run([str(source), "--resume", *options, str(killed)], kill_after=parts)
    done = run([str(source), "--resume", *options, str(killed)])
    same = "the same bytes" if digest(killed) == digest(out) else "OTHER BYTES"
    print(f"\nkilled after {parsed.kill_after} parts and resumed: {same}, {done.memory:,.0f} MiB in the last process")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", metavar="FILE", help="FASTA, plain or .gz (default: random sequences)")
    parser.add_argument("--numbers", type=int, nargs="+", default=[200, 20000], help="of sequences, the smallest first")
    parser.add_argument("--kill_after", type=int, nargs="*", default=[2, 5], help="parts written before each kill")
    parser.add_argument("--model", default="bundled", help="model or backbone (default: bundled)")
    parser.add_argument("--layer", default="last", help="as of lift-ss embed (default: last)")
    parser.add_argument("--pooling", default="none", help="as of lift-ss embed (default: none)")
    parser.add_argument("--format", default="safetensors", help="as of lift-ss embed (default: safetensors)")
    parser.add_argument("--scratch", metavar="DIR", help="for the results: 1 kB per residue with the bundled model")
    parsed = parser.parse_args()
    print(f"{' '.join(sys.argv)}; {origin('torch ' + version('torch'), '1 thread')}\n")
    print("| sequences | result [MiB] | CPU [s] | peak memory [MiB] | of the first |")
    print("| ---: | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory(dir=parsed.scratch) as folder:
        measure(parsed, Path(folder))


if __name__ == "__main__":
    main()
