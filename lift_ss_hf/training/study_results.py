"""The results of a study: a row for each run and test set, and the comparisons of its claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..metrics.claims import (
    MIN_SEEDS,
    UNDECIDED,
    Difference,
    bootstrap_difference,
    combined_verdict,
    holm,
    seed_deviations,
    verdict,
)
from ..reports.study import csv_cell
from .points import is_finished
from .recipes import RecipeError
from .study import Claim, Comparison, Levels, Part
from .study_records import DistinctChains, RunRecord, distinct_chains, read_run, run_rows
from .study_runs import Run, StudyFolder


@dataclass(frozen=True)
class PointResult:
    """Accuracy of a point on the distinct chains of all tests.

    Attributes:
        accuracies: of each finished run [fraction].
        is_complete: whether all of its runs are finished.
        reference: mean accuracy of the point that it is compared with [fraction]; None for that point itself.
        difference: from that point; None without one, or if runs of either are missing.
    """

    accuracies: tuple[float, ...]
    is_complete: bool
    reference: float | None
    difference: Difference | None

    @property
    def accuracy(self) -> float:
        """Mean accuracy of a point with finished runs [fraction]."""
        return float(np.mean(self.accuracies))


def difference_columns(difference: Difference | None) -> dict[str, float | None]:
    """Return the columns of a difference; None in each if there is none."""
    if difference is None:
        return dict.fromkeys(("difference", "low", "high"))
    return {"difference": difference.value, "low": difference.low, "high": difference.high}


class StudyResults:
    """The finished runs of a study.

    Args:
        folder: the study.
        rates: the chosen learning rates.
        trained_parameters: number of trained parameters of each point.
        resamples: resamples of each bootstrap.

    Raises:
        RecipeError: if two runs were not trained or scored on the same chains.
    """

    def __init__(
        self,
        folder: StudyFolder,
        rates: Mapping[Levels, float],
        trained_parameters: Mapping[Levels, int],
        resamples: int = 10_000,
    ):
        self.folder, self.rates, self.resamples = folder, rates, resamples
        self.trained_parameters = trained_parameters
        self._differences: dict[tuple[Comparison, float], Difference | None] = {}  # parts and claims share some
        self.compared = [run for run in folder.compared(rates) if folder.is_known(run)]
        tuning = [run for run in folder.tuning() if folder.is_known(run)]
        self.runs = list(dict.fromkeys([*tuning, *self.compared]))

    @cached_property
    def records(self) -> dict[Run, RunRecord]:
        """What is kept of each finished run."""
        published = self.folder.published
        chains, indices = self._chains
        records = {}
        for run in self.runs:
            folder = self.folder.folder(run)
            if indices is not None and is_finished(folder):
                records[run] = read_run(folder, chains, indices)
            elif published is not None:
                records[run] = published.runs[folder.name]
        first: dict[str, Run] = {}
        for run, record in records.items():
            if record.corpora:
                other = first.setdefault(self.folder.chains_key(run), run)
                if records[other].corpora != record.corpora:
                    raise RecipeError(
                        f"{self.folder.folder(run)}: its corpora have other chains than those of "
                        f"{self.folder.folder(other)}. Remove the run's directory, and run the study again."
                    )
        return records

    @cached_property
    def _chains(self) -> tuple[DistinctChains, np.ndarray | None]:
        """The distinct test chains, and their indices among those of a run's folder; None if there is no folder."""
        published = self.folder.published
        folders = [folder for run in self.runs if is_finished(folder := self.folder.folder(run))]
        if not folders:
            assert published is not None  # where else would the runs be?
            return published.chains, None
        chains, indices = distinct_chains(folders[0])
        if published is not None and not chains.same_as(published.chains):
            raise RecipeError(
                f"{folders[0]}: was not scored on the chains of the tables in {published.folder}. The corpora differ; "
                "give the tables of the same ones, or leave --published out."
            )
        return chains, indices

    @property
    def chains(self) -> DistinctChains:
        """The distinct chains of all tests."""
        return self._chains[0]

    @property
    def num_planned(self) -> int:
        """Number of runs of the whole study."""
        return len({*self.folder.tuning(), *self.folder.compared(self.rates)})

    def rate(self, levels: Levels) -> float:
        """Return the learning rate of a point."""
        return self.rates[self.folder.study.tuned_group(levels)]

    def _runs_of(self, levels: Levels) -> list[Run]:
        return [run for run in self.compared if run.levels == levels]

    def is_complete(self, levels: Levels) -> bool:
        """Return True if a point was run with all seeds."""
        return len(self._runs_of(levels)) == len(self.folder.study.seeds)

    def result_rows(self) -> list[dict[str, Any]]:
        """Return a row for each run and test set, and one for the distinct chains of all tests, in a fixed order."""
        compared = set(self.compared)
        rows = []
        for run, record in self.records.items():
            own = {
                "run": self.folder.folder(run).name,
                **dict(run.levels),
                "learning_rate": run.learning_rate,
                "seed": run.seed,
                "compared": "yes" if run in compared else "no",
                "trained_parameters": self.trained_parameters[run.levels],
            }
            rows += run_rows(own, record, self.chains)
        return rows

    def difference(self, comparison: Comparison, threshold: float = 0.0) -> Difference | None:
        """Return the difference of two points; None unless both were run with all seeds, two or more."""
        if (key := (comparison, threshold)) not in self._differences:
            self._differences[key] = self._difference(comparison, threshold)
        return self._differences[key]

    def _difference(self, comparison: Comparison, threshold: float) -> Difference | None:
        both = (comparison.than, comparison.better)
        if len(self.folder.study.seeds) < MIN_SEEDS or not all(map(self.is_complete, both)):
            return None
        if not all(map(self._has_chains, both)):
            return self._published_difference(comparison, threshold)
        worse, better = (np.array([self.records[run].correct for run in self._runs_of(levels)]) for levels in both)
        group_of = self.folder.study.spread_group
        around = (self._deviations[group_of(both[0])], self._deviations[group_of(both[1])])
        return bootstrap_difference(
            worse, better, self.chains.labelled, threshold, deviations=around, resamples=self.resamples
        )

    def _has_chains(self, levels: Levels) -> bool:
        """Return True if of all runs of a point the results of single chains are known."""
        return all(self.records[run].correct is not None for run in self._runs_of(levels))

    def _published_difference(self, comparison: Comparison, threshold: float) -> Difference | None:
        """Return what the published table says of points whose chains were not kept."""
        assert self.folder.published is not None  # a run's folder has its chains
        better, than = (
            frozenset(self.folder.folder(run).name for run in self._runs_of(levels))
            for levels in (comparison.better, comparison.than)
        )
        return self.folder.published.comparisons.get((better, than, csv_cell(threshold)))

    @property
    def taken_over(self) -> set[Comparison]:
        """Comparisons asked for so far whose differences are those of the published table."""
        return {
            comparison
            for (comparison, _), difference in self._differences.items()
            if difference is not None
            and not (self._has_chains(comparison.better) and self._has_chains(comparison.than))
        }

    @cached_property
    def _deviations(self) -> dict[str, np.ndarray]:
        """(runs,) how far runs are from the mean of their point, of all points that share their spread."""
        groups: dict[str, list[Sequence[float]]] = {}
        for levels in dict.fromkeys(run.levels for run in self.compared):
            groups.setdefault(self.folder.study.spread_group(levels), []).append(self.accuracies(levels))
        return {group: seed_deviations(points) for group, points in groups.items()}

    @property
    def seed_spreads(self) -> dict[str, tuple[float, int]]:
        """Standard deviation between the seeds of a point [fraction], and of how many runs, by group of points."""
        return {
            group: (float(np.sqrt(np.mean(deviations**2))), len(deviations))
            for group, deviations in self._deviations.items()
            if len(deviations)
        }

    def accuracy(self, levels: Levels) -> float | None:
        """Return the mean accuracy of a point's runs [fraction]; None if there are none."""
        accuracies = self.accuracies(levels)
        return float(np.mean(accuracies)) if accuracies else None

    def accuracies(self, levels: Levels) -> tuple[float, ...]:
        """Return the accuracy of each run of a point [fraction]."""
        return tuple(self.records[run].accuracy for run in self._runs_of(levels))

    def point_results(self, part: Part) -> dict[Levels, PointResult]:
        """Return the accuracies of a part's points, and how they differ from their references."""
        return {
            levels: PointResult(
                self.accuracies(levels),
                self.is_complete(levels),
                None if levels == reference else self.accuracy(reference),
                None if levels == reference else self.difference(Comparison(better=levels, than=reference)),
            )
            for levels, reference in part.references.items()
        }

    def rate_rows(self) -> list[dict[str, Any]]:
        """Return a row for each learning rate that was tried: levels of its group, validation accuracy, whether chosen.

        Chosen rates at the end of those that were tried are marked: a further one may be better.
        """
        rows = []
        for group in self.folder.study.groups():
            rates = sorted(self.folder.study.rates(group))
            for rate in rates:
                run = Run(group, rate, self.folder.study.seeds[0])
                accuracy = self.records[run].validation_accuracy
                row = {"levels": dict(group), "learning_rate": rate, "accuracy": accuracy}
                row |= {"is_chosen": rate == self.rates[group], "is_last": rate in (rates[0], rates[-1])}
                rows.append(row)
        return rows

    def comparison_rows(self) -> list[dict[str, Any]]:
        """Return a row for each comparison of each claim, with the verdict."""
        return [
            row for part in self.folder.study.parts for claim in part.claims for row in self.test_claim(part, claim)
        ]

    def reference_rows(self) -> list[dict[str, Any]]:
        """Return a row for each point and the one that it is compared with in tables and figures, without a verdict."""
        rows = []
        for part in self.folder.study.parts:
            for levels, reference in part.references.items():
                if levels != reference:
                    comparison = Comparison(better=levels, than=reference)
                    difference = self.difference(comparison)
                    row = self._comparison_row(part, "", comparison, 0.0, difference)
                    row |= {"p_value": None if difference is None else difference.p_value}
                    rows.append(row | dict.fromkeys(("p_holm", "verdict", "verdict_of_claim")))
        return rows

    def _comparison_row(
        self, part: Part, claim: str, comparison: Comparison, threshold: float, difference: Difference | None
    ) -> dict[str, Any]:
        """Return the columns of a comparison up to its difference."""
        row: dict[str, Any] = {"part": part.name, "claim": claim}
        row |= {"better": dict(comparison.better), "than": dict(comparison.than)}
        row |= {"q3_better": self.accuracy(comparison.better), "q3_than": self.accuracy(comparison.than)}
        return row | {"threshold": threshold} | difference_columns(difference)

    def test_claim(self, part: Part, claim: Claim) -> list[dict[str, Any]]:
        """Return a row for each comparison of a claim.

        What was not run counts in Holm's correction, with a p-value of 1, so that a claim does not get weaker evidence
        by what is run later.
        """
        found = [self.difference(comparison, claim.threshold) for comparison in claim.comparisons]
        adjusted = holm([1.0 if difference is None else difference.p_value for difference in found])
        rows = []
        for comparison, difference, p_value in zip(claim.comparisons, found, adjusted, strict=True):
            row = self._comparison_row(part, claim.text, comparison, claim.threshold, difference)
            if difference is None:
                row |= {"p_value": None, "p_holm": None, "verdict": UNDECIDED}
            else:
                row |= {"p_value": difference.p_value, "p_holm": p_value}
                row["verdict"] = verdict(difference.value, claim.threshold, p_value)
            rows.append(row)
        whole = combined_verdict([str(row["verdict"]) for row in rows])
        return [row | {"verdict_of_claim": whole} for row in rows]
