"""The points of a sweep or a study: training runs, each in a process of its own, resumable and shared by processes.

Points can share a prefix cache (`--prefix_cache`). The hidden states that enter the lowest trained block differ
between depths. Cached for each depth, they save the most time. Cached for the lowest depth only, they serve every
point, which then runs the frozen blocks above that depth in each epoch. So each depth has its own cache if all of them
fit into `prefix_cache_gb`, and all share one if not.

Several commands, on one machine or on several with a common file system, can run the points of one folder: whoever
runs a point holds the lock of a file beside its folder, and the others go on to the next one.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..batches.cached_chains import cached_states_bytes
from ..models.atomic import claimed_file, locked_file
from ..models.modeling import SecondaryStructureModel
from ..prediction.running import end_with_parent
from ..reports.provenance import TOKENS, write_json
from .arguments import CorpusArguments, ModelArguments, RecipeTrainingArguments
from .checkpoints import last_checkpoint
from .corpora import load_training_corpora
from .job import run_training
from .memory import fake_weights, planned_model
from .outcome import METRICS_FILE, finished_results
from .recipes import RecipeError, parse_settings

logger = logging.getLogger(__name__)

Point = tuple[ModelArguments, CorpusArguments, RecipeTrainingArguments]

CLAIM, TIME_FILE = ".claim", "time.json"
WAIT_SECONDS = 20.0  # between two looks at a point that another command runs

# Settings that may differ between machines: where files are, and how much is kept and shown; and the user's tokens
OF_THE_MACHINE = ("source", "prefix_cache", "prefix_cache_gb", "save_total_limit", "report_to", "disable_tqdm", *TOKENS)
# Models that agree in these, and in depth, compute the same hidden states of a chain.
SAME_STATES = ("backbone", "backbone_revision", "backbone_dtype", "block_mix", "max_residues")
SAME_CHAINS = (
    *("train", "validation", "tests", "validation_fraction", "test_fraction", "split_seed"),  # folds share their chains
    *("train_fraction", "max_train_residues", "source"),
)


@dataclass(frozen=True)
class Job:
    """A point to run.

    Attributes:
        settings: all that differs from the arguments' defaults, as in a recipe.
        folder: the directory of the run.
    """

    settings: Mapping[str, Any]
    folder: Path


def point_name(point: Mapping[str, Any]) -> str:
    """Return the name of a point's folder.

    Example:
        >>> point_name({"adapter": "lora", "top_blocks": 3, "fold": "2/5"})
        'adapter=lora,top_blocks=3,fold=2_5'
    """
    return ",".join(f"{key}={value}" for key, value in point.items()).replace("/", "_")


def plan_jobs(settings: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> list[Job]:
    """Check the settings of all points, and decide how they share a prefix cache.

    Args:
        settings: of each point, as in a recipe.
        folders: the directory of each point.

    Raises:
        RecipeError: if settings are invalid.
        ValueError: if a model that uses the cache cannot be built, or its corpora cannot be loaded.
    """
    shared = shared_blocks(parse_points(settings, folders))
    jobs = []
    for point, folder, blocks in zip(settings, folders, shared, strict=True):
        sharing = {} if blocks is None else {"prefix_cache_blocks": blocks}
        jobs.append(Job({**point, **sharing}, folder))
    return jobs


def parse_points(settings: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> list[Point]:
    """Return the arguments of points that are not run in this process; see `parse_point`."""
    parsed = []
    for point, folder in zip(settings, folders, strict=True):
        variables = dict(os.environ)
        parsed.append(parse_point(point, folder))
        # transformers leaves the point's precision there, which the next points would take for the launcher's
        os.environ.clear()
        os.environ.update(variables)
    return parsed


def parse_point(settings: Mapping[str, Any], folder: Path) -> Point:
    """Return the arguments of a point that is run in a folder.

    Raises:
        RecipeError: if the settings are invalid.
    """
    classes = (ModelArguments, CorpusArguments, RecipeTrainingArguments)
    model, corpora, training = parse_settings(classes, {**settings, "output_dir": str(folder)})
    return model, corpora, training


def shared_settings(base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by which the points of a folder belong together, as they are read back from JSON."""
    settings = {name: value for name, value in base.items() if name not in OF_THE_MACHINE}
    return json.loads(json.dumps(settings, default=str))


def check_same_settings(holder: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise RecipeError if the settings of all points, `now`, are not those with which a folder was started.

    Args:
        holder: start of the message.
        before: settings that were written down, perhaps with some that may differ.
        now: from `shared_settings`.

    Example:
        >>> check_same_settings("out: holds a study with", {"seed": 1}, {})
        Traceback (most recent call last):
        lift_ss_hf.training.recipes.RecipeError: out: holds a study with seed 1, now it is not set. Give another folder,
        or the settings that it was started with.
    """
    for name in sorted({*before, *now}.difference(OF_THE_MACHINE)):
        if (name in before, before.get(name)) != (name in now, now.get(name)):  # null is not the default
            was, is_now = (repr(part[name]) if name in part else "not set" for part in (before, now))
            raise RecipeError(
                f"{holder} {name} {was}, now it is {is_now}. Give another folder, or the settings that it was started "
                "with."
            )


def record_settings(path: Path, holder: str, settings: Mapping[str, Any]) -> None:
    """Write down the settings of all points, so that their folder is not used for others: no point's name has them.

    Args:
        path: the file.
        holder: as for `check_same_settings`.
        settings: from `shared_settings`.

    Raises:
        RecipeError: if another command has written down others.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}{CLAIM}")
    with locked_file(lock):  # other commands may be starting in the same folder
        if path.is_file():
            check_same_settings(holder, json.loads(path.read_text("utf-8")), settings)
        else:
            write_json(path, settings)
        lock.unlink()


def check_num_processes(number: int) -> None:
    """Raise ValueError unless there is at least one."""
    if number < 1:
        raise ValueError(f"{number} processes. Expected at least 1 run at a time.")


def run_jobs(
    jobs: Sequence[Job], num_processes: int = 1, deadline: float = math.inf, wait: bool = True
) -> Iterator[Job]:
    """Run points, and yield them in their order once they are finished. Killed ones are resumed.

    Args:
        jobs: the points. Finished ones are not run again.
        num_processes: how many points to run at a time.
        deadline: the value of `time.monotonic()` from which on no point is started; those not run are not yielded.
        wait: at the end, wait for points that another command runs; otherwise they are not yielded.

    Raises:
        ValueError: if `num_processes` is below 1, or a point fails; those after it are not started.
        ChildProcessError: if the process of a point was killed.
    """
    check_num_processes(num_processes)
    names = {id(job): f"point {number} of {len(jobs)}: {job.folder.name}" for number, job in enumerate(jobs, start=1)}

    num_threads = _threads_of_each(num_processes)
    wait_until = deadline if wait else -math.inf

    failed = threading.Event()

    def run(job: Job) -> Job:
        if not is_finished(job.folder) and time.monotonic() < deadline and not failed.is_set():
            logger.info(names[id(job)])
            try:
                _run_in_process(job, num_threads)
            except BaseException:
                failed.set()
                raise
        return job

    if num_processes == 1:
        yield from _waited(map(run, jobs), num_threads, wait_until)
        return
    with ThreadPoolExecutor(num_processes) as threads:
        yield from _waited(threads.map(run, jobs), num_threads, wait_until)


def _threads_of_each(num_processes: int) -> int | None:
    """Return the number of torch's threads in each process; None, torch's own choice, for one or if OMP says it."""
    if num_processes == 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, (os.cpu_count() or 1) // num_processes)


@contextmanager
def some_threads(num_processes: int) -> Iterator[None]:
    """Compute with as many threads as each of several runs has."""
    before = torch.get_num_threads()
    torch.set_num_threads(_threads_of_each(num_processes) or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _waited(seen: Iterable[Job], num_threads: int | None, deadline: float) -> Iterator[Job]:
    """Yield points in their order once they are finished; wait at the end for those that another command runs."""
    waiting: list[Job] = []
    for job in seen:
        waiting.append(job)
        while waiting and is_finished(waiting[0].folder):
            yield waiting.pop(0)
    for job in waiting:
        while not is_finished(job.folder) and time.monotonic() < deadline:
            logger.info("waiting for another command, which runs %s", job.folder.name)
            if not _run_in_process(job, num_threads):  # it runs here if the other command was stopped
                time.sleep(WAIT_SECONDS)
        if is_finished(job.folder):
            yield job


def _run_in_process(job: Job, num_threads: int | None) -> bool:
    """Run a point in a process of its own; return False at once if another command is running it.

    transformers and accelerate have process-wide state, such as the precision, that must not pass from one point to
    the next.

    Raises:
        ChildProcessError: if the process was killed.
    """
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    with claimed_file(_claim_of(job.folder)) as is_ours:
        if not is_ours:
            return False  # found out here: a process takes seconds to start
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=end_with_parent) as process:
        try:
            return process.submit(_claim_and_run, job.settings, job.folder, num_threads).result()
        except BrokenProcessPool:
            raise ChildProcessError(
                f"{job.folder}: the process of this run was killed, by the system if the memory was full. Finished "
                "runs stay; give the same command again to resume."
            ) from None


def _claim_of(folder: Path) -> Path:
    """Return the file whose lock is held by whoever runs a point; beside its folder, which a run may empty."""
    return folder.with_name(f".{folder.name}{CLAIM}")


def _claim_and_run(settings: Mapping[str, Any], folder: Path, num_threads: int | None) -> bool:
    """Run a point while holding its lock, which is free again as soon as this process has ended."""
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    with claimed_file(_claim_of(folder)) as is_ours:
        if is_ours and not is_finished(folder):
            started = time.monotonic()
            start = {
                "resume_from_checkpoint": "last" if last_checkpoint(folder) else None,
                "overwrite_output_dir": True,  # if a killed run left files but no checkpoint
            }
            run_training(*parse_point({**settings, **start}, folder))
            spent = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time()}
            write_json(folder / TIME_FILE, spent)
    return is_ours


def is_finished(folder: Path) -> bool:
    """Return True if a point was run to its end, and has all its reports."""
    return finished_results(folder) is not None


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the results of a finished point."""
    return json.loads((folder / METRICS_FILE).read_text("utf-8"))


# ---- the prefix cache ----------------------------------------------------------------------------------------------


def shared_blocks(points: Sequence[Point]) -> list[int | None]:
    """Return the `prefix_cache_blocks` of each point of a sweep.

    Args:
        points: the parsed arguments of each point.

    Returns:
        For each point the number of lowest blocks whose cached output it shares with the other points of its backbone;
        None if it has no cache, or one for its own depth.

    Raises:
        ValueError: if a model cannot be built, or a corpus cannot be loaded.
    """
    depths, sizes = _cache_sizes(points)
    separate = sum(sum(by_depth.values()) for by_depth in sizes.values())
    limit = min((training.prefix_cache_gb for _, _, training in points), default=0)
    num_depths = sum(map(len, sizes.values()))
    if separate <= limit * 1e9 or num_depths == len(sizes):
        logger.info("prefix cache: %d depths, %.3f GB in all, each with its own cache", num_depths, separate / 1e9)
        return [None] * len(points)
    together = sum(by_depth[min(by_depth)] for by_depth in sizes.values())
    logger.info(
        "prefix cache: %d depths would take %.3f GB, more than %g GB (--prefix_cache_gb): all share the cache of the "
        "lowest, %.3f GB, and run the frozen blocks above it in each epoch",
        *(num_depths, separate / 1e9, limit, together / 1e9),
    )
    return [None if depth is None else min(sizes[depth[0]]) for depth in depths]


def _cache_sizes(points: Sequence[Point]) -> tuple[list[tuple[str, int] | None], dict[str, dict[int, int]]]:
    """Return (origin, depth) of each point's cache, None without a cache; and the bytes by origin and depth.

    An origin is everything besides the depth that the cached hidden states depend on.
    """
    depths: list[tuple[str, int] | None] = []
    sizes: dict[str, dict[int, int]] = {}
    lengths: dict[str, list[int]] = {}
    plans: dict[str, SecondaryStructureModel] = {}  # most points differ from others in seed or learning rate only
    for model, corpora, training in points:
        depths.append(None)
        if (cache := training.prefix_cache_settings) is None or training.prefix_cache_blocks is not None:
            continue
        kind = json.dumps(dataclasses.asdict(model))
        if kind not in plans:
            with fake_weights():
                plans[kind] = planned_model(model)
        planned = plans[kind]
        depth = planned.num_frozen_blocks
        if depth == 0:
            continue
        chains = f"{chosen_values(dataclasses.asdict(corpora), SAME_CHAINS)} {training.prefix_cache_tests}"
        if chains not in lengths:
            lengths[chains] = _cached_lengths(corpora, training)
        states = chosen_values(dataclasses.asdict(model), SAME_STATES)
        origin = f"{cache.folder} {states} {training.bf16} {training.fp16} {chains}"
        depths[-1] = origin, depth
        sizes.setdefault(origin, {})[depth] = cached_states_bytes(planned, depth, lengths[chains])
    return depths, sizes


def _cached_lengths(corpora: CorpusArguments, training: RecipeTrainingArguments) -> list[int]:
    """Return the lengths of all chains whose hidden states are cached, twice if they are so in two ways [residues]."""
    loaded = load_training_corpora(corpora)
    trained = {*loaded.train["sequence"], *loaded.validation["sequence"]}
    if corpora.fold:
        trained.update(loaded.held_out["test"]["sequence"])  # the runs of the other folds train on it
    scored: set[str] = set()
    if training.scoring_cache is not None:
        scored.update(loaded.validation["sequence"], *(part["sequence"] for part in loaded.tests.values()))
        if corpora.fold:
            scored |= trained  # each is in one fold's test
    ways = [trained, scored] if training.bf16 or training.fp16 else [trained | scored]  # scored without autocast
    return [len(sequence) for way in ways for sequence in way]


def chosen_values(settings: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the values of some settings as one text, None where one is not set."""
    return json.dumps([settings.get(name) for name in names])
