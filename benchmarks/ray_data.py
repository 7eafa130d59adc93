"""Measure prediction with Ray: beside `lift-ss predict`, and how Ray and its checkpoint grow.

`python benchmarks/ray_data.py work` does what one task does, in both ways, in this process and without Ray.
`python benchmarks/ray_data.py whole` runs both programs over the same chains in two processes each.
`python benchmarks/ray_data.py growth` runs the same pipeline over rows of one residue with a model that does nothing,
and resumes the finished run. CPU times are those of all processes that a run starts; other programs share the machine.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from embedding import file_records
from origin import origin
from ray.data.block import BlockAccessor

from lift_ss_hf.models.states import NINE_STATES
from lift_ss_hf.prediction import ray as with_ray
from lift_ss_hf.prediction.formats import ParquetTable
from lift_ss_hf.prediction.inputs import Inputs
from lift_ss_hf.prediction.ray import RayOptions, ResiduePredictor, connected, predict_chains
from lift_ss_hf.prediction.ray_folder import CHAINS_SCHEMA, chains_table
from lift_ss_hf.prediction.ray_sink import ResidueSink
from lift_ss_hf.prediction.records import split_into_parts
from lift_ss_hf.prediction.running import PART_RECORDS, PART_RESIDUES, predict_part

TICKS = os.sysconf("SC_CLK_TCK")
POLL = 0.1  # between two looks at the processes: the most that is not counted of each [s]
ROWS_PER_FILE = 1 << 20
PROCESSES = 2


class Used(NamedTuple):
    """What a run and all processes that it started used.

    Attributes:
        cpu: time [s].
        wall: time [s].
        peak: largest resident memory of one process [MiB].
    """

    cpu: float
    wall: float
    peak: float


def run(target: Any, *args: Any) -> Used:
    """Run a function in a process of its own, and return what that and its descendants used.

    Raises:
        RuntimeError: if it fails.
    """
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    process.start()
    used = _watch(process)
    if process.exitcode:
        raise RuntimeError(f"the process ended with {process.exitcode}")
    return used


def _watch(process: multiprocessing.process.BaseProcess) -> Used:
    started, cpu, peak, known = time.monotonic(), {}, 0.0, {process.pid}
    while process.is_alive():
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) in known or int(folder.name) in known:  # its parent may be gone by the next look
                known.add(int(folder.name))
                cpu[folder.name] = (int(fields[11]) + int(fields[12])) / TICKS
                peak = max(peak, int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20))
        time.sleep(POLL)
    return Used(sum(cpu.values()), time.monotonic() - started, peak)


# ---- work ------------------------------------------------------------------------------------------------------------


def measure_work(parsed: argparse.Namespace, folder: Path) -> None:
    """Print residues per CPU second of predicting and writing the same chains as `lift-ss predict` and as an actor."""
    records = itertools.islice(file_records(parsed.sequences), parsed.chains)
    (folder / "chains.fasta").write_text("".join(records))
    inputs = Inputs([str(folder / "chains.fasta")])
    parts = list(split_into_parts(inputs, PART_RESIDUES, PART_RECORDS, skip_bad=True))
    queries = [query for part in parts for query in part.queries]
    chains = chains_table(queries)
    actor = ResiduePredictor(parsed.model, device="cpu")
    states, form = actor.alphabet, ParquetTable(actor.alphabet)

    def as_command() -> None:
        paths = [folder / str(part.number) for part in parts]
        for part, path in zip(parts, paths, strict=True):
            form.write_part(path, predict_part(actor.predictor, part, states)[0])
        form.join(paths, folder / "joined.parquet")

    def as_actor() -> None:
        predicted = BlockAccessor.for_block(pa.concat_tables(actor(chains)))
        with (folder / "actor.parquet").open("wb") as file:
            ResidueSink(str(folder), states).write_block_to_file(predicted, file)

    speeds: dict[str, list[float]] = {"lift-ss predict": [], "an actor": []}
    num_residues = sum(part.num_residues for part in parts)
    for _ in range(parsed.rounds):
        for name, work in zip(speeds, (as_command, as_actor), strict=True):
            started = time.process_time()
            work()
            speeds[name].append(num_residues / (time.process_time() - started))
    print("| way | residues per CPU second, median (range) |\n| --- | ---: |")
    for name, found in speeds.items():
        print(f"| {name} | {statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f}) |")
    print(f"\n{len(queries)} chains, {num_residues:,} residues, {parsed.rounds} rounds in turn")


# ---- whole runs ------------------------------------------------------------------------------------------------------


def run_program(*arguments: str) -> Used:
    """Run a Python program, and return what it used."""
    return run(os.execv, sys.executable, [sys.executable, *arguments])


def measure_whole(parsed: argparse.Namespace, folder: Path) -> None:
    """Print what whole runs take in both ways, and check that they give the same rows."""
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so; as the other program's processes
    root = Path(__file__).parent.parent
    launch = ["-m", "accelerate.commands.launch", "--quiet", "--num_processes", str(PROCESSES)]
    launch += ["--config_file", str(root / "accelerate_configs" / "cpu_ddp.yaml"), str(root / "recipes" / "predict.py")]
    print("| chains | residues | way | run [s] | CPU time [s] | residues per second |")
    print("| ---: | ---: | --- | ---: | ---: | ---: |", flush=True)
    for chains in parsed.chains:
        path = folder / f"{chains}.fasta"
        path.write_text("".join(itertools.islice(file_records(parsed.sequences), chains)))
        tables = []
        for way in ("lift-ss predict", "predict_ray.py"):
            out = folder / f"{chains} {way}"
            options = ["--model", parsed.model, "--quiet"]
            if way == "lift-ss predict":
                used = run_program(*launch, str(path), "-o", str(out), "--format", "parquet", *options)
                found = out / "predictions.parquet"
            else:
                recipe = str(root / "recipes" / "predict_ray.py")
                used = run_program(recipe, str(path), str(out), "--num_actors", str(PROCESSES), *options)
                found = out / "predictions"
            table = pq.read_table(found, columns=["record", "name", "position", "residue", "state"])
            tables.append(table.sort_by([("record", "ascending"), ("position", "ascending")]))
            residues = len(table)
            row = (
                f"{chains:,} | {residues:,} | {way} | {used.wall:,.0f} | {used.cpu:,.0f} | {residues / used.wall:,.0f}"
            )
            print(f"| {row} |", flush=True)
        first, second = (table.drop_columns("state") for table in tables)
        assert first.equals(second), "the residues differ"
        differ = len(first) - pc.sum(pc.equal(*(table["state"] for table in tables))).as_py()
        print(f"\n{len(first):,} residues in both, {differ} with another state\n", flush=True)


# ---- growth ----------------------------------------------------------------------------------------------------------


class Nothing:
    """A predictor that computes nothing: each chain has one residue, which is coil."""

    def __init__(self, **arguments: Any):
        pass

    def __call__(self, chains: pa.Table) -> Iterator[pa.Table]:
        """Yield the chains as `ResiduePredictor` does."""
        number = len(chains)
        chains = chains.append_column("states", pa.array(["L"] * number))
        ones = pa.ListArray.from_arrays(np.arange(number + 1, dtype=np.int32), np.ones(number, np.float32))
        for name in ("confidence", *(f"p_{letter}" for letter in NINE_STATES)):
            chains = chains.append_column(name, ones)
        yield chains


def write_rows(number: int, folder: Path) -> None:
    """Write chains of one residue."""
    folder.mkdir(parents=True)
    for start in range(0, number, ROWS_PER_FILE):
        records = range(start + 1, min(start + ROWS_PER_FILE, number) + 1)
        columns = [records, [f"c{record}" for record in records], ["M"] * len(records)]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, CHAINS_SCHEMA, strict=True)]
        pq.write_table(pa.Table.from_arrays(arrays, schema=CHAINS_SCHEMA), folder / f"{start:012d}.parquet")


def run_nothing(folder: SimpleNamespace, rows_per_task: int) -> Used:
    """Run the pipeline in a process of its own, and return what it used; rows that are done are not done again."""

    def work() -> None:
        with_ray.ResiduePredictor = Nothing  # type: ignore[misc, assignment]
        options = RayOptions(num_actors=PROCESSES, chains_per_task=rows_per_task, quiet=True)
        with connected(options) as num_actors:
            predict_chains(folder, {"states": "q9"}, options, num_actors)

    return run(work)


def measure_growth(parsed: argparse.Namespace, folder: Path) -> None:
    """Print a row for each number of rows."""
    print(
        "| rows | in a task | tasks | run [CPU s] | run [s] | checkpoint [MB] | resumed [CPU s] | peak memory [MiB] |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for number in parsed.rows:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            out = SimpleNamespace(**{kind: Path(name, kind) for kind in ("chains", "checkpoint", "predictions")})
            write_rows(number, out.chains)
            first = run_nothing(out, parsed.rows_per_task)
            files = list(out.checkpoint.iterdir())
            checkpoint = sum(path.stat().st_size for path in files) / 1e6
            resumed = run_nothing(out, parsed.rows_per_task)
            num_rows = sum(pq.read_metadata(path).num_rows for path in out.predictions.iterdir())
        assert num_rows == number, f"{num_rows} rows of {number}"
        peak = max(first.peak, resumed.peak)
        counts = f"{number:,} | {parsed.rows_per_task:,} | {len(files):,}"
        used = f"{first.cpu:,.0f} | {first.wall:,.0f} | {checkpoint:,.2f} | {resumed.cpu:,.0f} | {peak:,.0f}"
        print(f"| {counts} | {used} |", flush=True)


def main() -> None:
    """Print the table that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    work = commands.add_parser("work", help="predict and write in both ways in this process")
    work.add_argument("--sequences", required=True, metavar="FILE", help="FASTA, plain or .gz; its first chains")
    work.add_argument("--chains", type=int, default=100, help="number of chains (default: 100)")
    work.add_argument("--rounds", type=int, default=3, help="of each way, in turn (default: 3)")
    work.add_argument("--model", default="bundled", help="Hub id or folder (default: the bundled model)")
    work.set_defaults(measure=measure_work)
    whole = commands.add_parser("whole", help="run both programs")
    whole.add_argument("--sequences", required=True, metavar="FILE", help="FASTA, plain or .gz; its first chains")
    whole.add_argument("--chains", type=int, nargs="+", default=[500, 3000], help="number of chains")
    whole.add_argument("--model", default="bundled", help="Hub id or folder (default: the bundled model)")
    whole.set_defaults(measure=measure_whole)
    growth = commands.add_parser("growth", help="run a model that does nothing")
    growth.add_argument("--rows", type=int, nargs="+", default=[10**4, 10**5, 10**6], help="numbers of rows")
    growth.add_argument("--rows_per_task", type=int, default=256, help="rows of a task (default: 256)")
    growth.set_defaults(measure=measure_growth)
    parsed = parser.parse_args()
    print(f"{' '.join(sys.argv)}; {origin('ray ' + ray.__version__, '1 thread per process')}\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        parsed.measure(parsed, Path(folder))


if __name__ == "__main__":
    main()
