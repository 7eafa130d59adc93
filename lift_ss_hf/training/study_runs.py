"""The runs of a study: their folders, what they cost, and how those that are missing are run."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..models.atomic import require_folder
from .corpora import describe_corpora, load_training_corpora
from .cost import Operations, count_operations, measure_speed, run_operations
from .duration import duration
from .points import (
    SAME_CHAINS,
    Job,
    check_num_processes,
    check_same_settings,
    chosen_values,
    is_finished,
    parse_points,
    plan_jobs,
    read_metrics,
    record_settings,
    run_jobs,
    shared_settings,
    some_threads,
)
from .recipes import RecipeError
from .study import Levels, Study
from .study_records import RUNS_TABLE, Published, RunRecord, corpora_digest, validation_accuracy

logger = logging.getLogger(__name__)

STUDY_FILE = "study.json"
# Of all runs: states, so that any two of them can be compared later; and not a study's hundreds of figures
ALWAYS = {"keep_states": True, "test_figures": False}


@dataclass(frozen=True)
class Run:
    """One training run of a study: a point with a learning rate and a seed."""

    levels: Levels
    learning_rate: float
    seed: int


class StudyFolder:
    """The runs of a study in their folder.

    Args:
        study: the study.
        out: the folder of all runs.
        published: tables of an earlier report, whose runs need no folder.

    Raises:
        ValueError: if `out` is not a folder.
        RecipeError: if the folder or the tables belong to a study with other settings, or settings are invalid.
    """

    def __init__(self, study: Study, out: str | Path, published: Published | None = None):
        require_folder(out)
        self.study, self.out, self.published = study, Path(out), published
        if (path := self.out / STUDY_FILE).is_file():
            check_same_settings(_holder(self.out), json.loads(path.read_text("utf-8")), self.settings)
        if published is not None:
            check_same_settings(_holder(published.folder), published.settings, self.settings)
        self.points = study.points()
        groups = study.groups()
        first = {group: study.rates(group)[0] for group in groups}
        needed = [Run(levels, first[study.tuned_group(levels)], study.seeds[0]) for levels in [*self.points, *groups]]
        # learning rate and seed change nothing in the cached states, so one plan for each point is enough
        jobs = plan_jobs([self._run_settings(run) for run in needed], [self.folder(run) for run in needed])
        self._planned = {run.levels: job.settings for run, job in zip(needed, jobs, strict=True)}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of all runs, by which a study is known."""
        return shared_settings(self.study.base)

    def record(self) -> None:
        """Write down the settings of all runs, so that the folder is not used for others.

        Raises:
            RecipeError: if another command has written down others since this one was started.
        """
        record_settings(self.out / STUDY_FILE, _holder(self.out), self.settings)

    def _run_settings(self, run: Run) -> dict[str, Any]:
        return {**self.study.base, **self.study.settings(run.levels, run.learning_rate, run.seed), **ALWAYS}

    def folder(self, run: Run) -> Path:
        """Return the directory of a run."""
        return self.out / self.study.folder(run.levels, run.learning_rate, run.seed)

    def job(self, run: Run) -> Job:
        """Return a run as a job, with the prefix cache that its point shares."""
        return Job({**self._planned[run.levels], **self._run_settings(run)}, self.folder(run))

    def is_known(self, run: Run) -> bool:
        """Return True if the accuracies of a run are known, from its folder or the published tables."""
        return is_finished(self.folder(run)) or self.published_record(run) is not None

    def is_comparable(self, run: Run) -> bool:
        """Return True if those of single chains are known, too, so that it can be compared with any other run."""
        record = self.published_record(run)
        return is_finished(self.folder(run)) or (record is not None and record.correct is not None)

    def published_record(self, run: Run) -> RunRecord | None:
        """Return what the published tables say of a run, if they have it."""
        return None if self.published is None else self.published.runs.get(self.folder(run).name)

    def missing(self, rates: Mapping[Levels, float]) -> list[Run]:
        """Return the runs that are still to be run, those that choose learning rates first.

        Args:
            rates: the learning rate of each group.
        """
        tuning = [run for run in self.tuning() if not self.is_known(run)]
        return list(dict.fromkeys([*tuning, *(run for run in self.compared(rates) if not self.is_comparable(run))]))

    def chains_key(self, run: Run) -> str:
        """Return what the chains of a run follow from; runs with the same key have the same chains."""
        return chosen_values(self._run_settings(run), SAME_CHAINS)

    def validation_accuracy(self, run: Run) -> float:
        """Return the validation accuracy of a finished run [fraction].

        Raises:
            RecipeError: if it had no validation chains.
        """
        folder, record = self.folder(run), self.published_record(run)
        if record is None or is_finished(folder):
            return validation_accuracy(folder, read_metrics(folder))
        return record.validation_accuracy

    def tuning(self) -> list[Run]:
        """Return the runs that choose the learning rates."""
        groups = self.study.groups()
        return [Run(group, rate, self.study.seeds[0]) for group in groups for rate in self.study.rates(group)]

    def compared(self, rates: Mapping[Levels, float]) -> list[Run]:
        """Return the runs of all points whose learning rate is known, part by part, each once.

        Args:
            rates: the learning rate of each group; see `choose_rates`.
        """
        groups = {point: self.study.tuned_group(point) for point in self.points}
        known = [(point, rates[group]) for point, group in groups.items() if group in rates]
        return [Run(point, rate, seed) for point, rate in known for seed in self.study.seeds]

    def choose_rates(self) -> dict[Levels, float]:
        """Return the learning rate with the best validation accuracy of each group; of equal ones the lowest.

        Groups with unfinished runs are left out.

        Raises:
            RecipeError: if a run had no validation chains.
        """
        chosen = {}
        for group in self.study.groups():
            runs = {rate: Run(group, rate, self.study.seeds[0]) for rate in sorted(self.study.rates(group))}
            if all(map(self.is_known, runs.values())):
                found = {rate: self.validation_accuracy(run) for rate, run in runs.items()}
                chosen[group] = max(found, key=lambda rate: found[rate])
        return chosen

    def expected_rates(self) -> dict[Levels, float]:
        """Return the learning rate of each group: the first of its rates as long as none is chosen."""
        return {group: self.study.rates(group)[0] for group in self.study.groups()} | self.choose_rates()


# ---- the cost ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyCost:
    """What a study costs.

    Attributes:
        operations: of each run [floating-point operations].
        models: of the model of each point.
        rates: the learning rate of each group, the first of its rates where none is chosen yet.
        speed: of this machine, or of another one [operations per second].
    """

    operations: Mapping[Run, float]
    models: Mapping[Levels, Operations]
    rates: Mapping[Levels, float]
    speed: float

    def seconds(self, runs: Iterable[Run]) -> float:
        """Return the time that runs take one after another [s]."""
        return sum(self.operations[run] for run in runs) / self.speed


def _holder(folder: Path) -> str:
    return f"{folder}: holds a study with"


def estimate_study(folder: StudyFolder, speed: float | None = None, num_processes: int = 1) -> StudyCost:
    """Count the operations of all runs, and measure how fast this machine is.

    Args:
        folder: the study.
        speed: operations per second of another machine; None measures this one's with a few training steps.
        num_processes: how many runs at a time; the speed is that of one of them, with its share of the cores.

    Raises:
        ValueError: if the speed is not above 0, a model cannot be built, or a corpus cannot be loaded.
    """
    check_num_processes(num_processes)
    if speed is not None and not speed > 0:
        raise ValueError(f"a speed of {speed:g} operations a second. Expected more than 0.")
    study = folder.study
    rates = folder.expected_rates()
    runs = list(dict.fromkeys([*folder.tuning(), *folder.compared(rates)]))
    one = {run.levels: run for run in runs}  # of each point: the others have the same cost
    arguments = parse_points([folder.job(run).settings for run in one.values()], list(map(folder.folder, one.values())))
    parsed = dict(zip(one, arguments, strict=True))
    corpora = load_training_corpora(replace(next(iter(parsed.values()))[1], train_fraction=1.0))
    models = {levels: count_operations(model) for levels, (model, _, _) in parsed.items()}
    by_levels = {
        levels: run_operations(models[levels], corpora, corpus, training)
        for levels, (_, corpus, training) in parsed.items()
    }
    if speed is None:
        timed = study.levels({}) if study.levels({}) in parsed else next(iter(parsed))
        model, _, training = parsed[timed]
        with some_threads(num_processes):
            speed = measure_speed(model, training, models[timed])
    return StudyCost({run: by_levels[run.levels] for run in runs}, models, rates, speed)


def describe_cost(folder: StudyFolder, cost: StudyCost, num_processes: int) -> str:
    """Return the number of runs and how long they take, in a few lines."""
    left = folder.missing(cost.rates)
    tuning = folder.tuning()
    seconds = cost.seconds(left)
    lines = [
        f"{len(cost.operations)} runs ({len(tuning)} of them to choose learning rates), "
        f"{len(cost.operations) - len(left)} finished.",
        f"{sum(cost.operations[run] for run in left):.3g} floating-point operations are left, at "
        f"{cost.speed:.3g} a second: about {duration(seconds)} of computing, {duration(seconds / num_processes)} with "
        f"{num_processes} at a time.",
    ]
    counted = {run for run in tuning if run in left}
    if counted:
        lines.append(f"  learning rates: {len(counted)} runs, {duration(cost.seconds(counted))}")
    for part in folder.study.parts:  # a run that several parts need counts in the first
        own = {run for run in left if run.levels in part.references} - counted
        lines.append(f"  {part.name}: {len(own)} runs, {duration(cost.seconds(own))}")
        counted |= own
    return "\n".join(lines)


# ---- running -------------------------------------------------------------------------------------------------------


def run_study(folder: StudyFolder, num_processes: int = 1, hours: float | None = None) -> dict[Levels, float] | None:
    """Run what is missing of a study. Finished runs stay, killed ones are resumed.

    Further commands with the same folder take runs that nobody runs yet. While one of them still tries learning rates,
    the others run the points whose learning rate is known.

    Args:
        folder: the study.
        num_processes: how many runs at a time.
        hours: start no run after this time; the study can be resumed later. None: run all.

    Returns:
        The chosen learning rates; None if the time was over before all could be chosen.

    Raises:
        RecipeError: if the published runs had other chains, or a run had no validation chains.
        ValueError: if a run fails; those after it are not started.
        ChildProcessError: if the process of a run was killed.
    """
    _check_corpora(folder)
    deadline = math.inf if hours is None else time.monotonic() + 3600 * hours
    folder.record()
    rates: dict[Levels, float] = {}
    for wait in (False, True):
        _finish(folder, folder.tuning(), folder.is_known, num_processes, deadline, wait)
        for group, rate in folder.choose_rates().items():
            if group not in rates:
                logger.info("learning rate %g for %s", rate, ", ".join(level for _, level in group))
            rates[group] = rate
        _finish(folder, folder.compared(rates), folder.is_comparable, num_processes, deadline, wait)
    return rates if len(rates) == len(folder.study.groups()) else None


def _check_corpora(folder: StudyFolder) -> None:
    """Raise RecipeError if the published runs had other chains than the corpora have now."""
    if folder.published is None:
        return
    for run in folder.compared(folder.expected_rates()):
        record = folder.published_record(run)
        if record is not None and record.corpora:
            ((_, corpus, _),) = parse_points([folder.job(run).settings], [folder.folder(run)])
            if corpora_digest(describe_corpora(load_training_corpora(corpus))) != record.corpora:
                raise RecipeError(
                    f"{RUNS_TABLE}: {folder.folder(run).name} had other chains than the corpora have now. Compare the "
                    "corpora with those that it was run with, or leave --published out."
                )
            return


def _finish(
    folder: StudyFolder,
    runs: Sequence[Run],
    is_done: Callable[[Run], bool],
    num_processes: int,
    deadline: float,
    wait: bool,
) -> None:
    """Run what is missing, say how far it is, and remove the checkpoints of finished runs."""
    jobs = [folder.job(run) for run in runs if is_finished(folder.folder(run)) or not is_done(run)]
    num_published = len(runs) - len(jobs)
    for number, job in enumerate(run_jobs(jobs, num_processes, deadline, wait), start=num_published + 1):
        for checkpoint in job.folder.glob("checkpoint-*"):  # of full fine-tuning, three times the backbone's size
            shutil.rmtree(checkpoint, ignore_errors=True)  # another command may be removing it too
        logger.info("%d of %d runs are finished", number, len(runs))
