"""The results of a study: a row for each run and test set, and the comparisons of its claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.corpora import states_file
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
from ..metrics.segments import CORRECT, LABELLED
from ..metrics.significance import chain_sums
from .points import is_finished, read_metrics
from .recipes import RecipeError
from .study import Claim, Comparison, Levels, Part
from .study_runs import COMPARED_AT, Run, StudyFolder, validation_accuracy

SCORES = ("q9", "q8", "q3")
ALL_TESTS = "all"


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
        RecipeError: if two runs were not scored on the same chains.
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
        self.compared = [run for run in folder.compared(rates) if is_finished(folder.folder(run))]
        tuning = [run for run in folder.tuning() if is_finished(folder.folder(run))]
        self.runs = list(dict.fromkeys([*tuning, *self.compared]))

    @cached_property
    def _chains(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the distinct chains among those of all tests in a row, and their scored residues."""
        folder = self.folder.folder(self.runs[0])
        sequences = []
        for name in read_metrics(folder)["corpora"]:
            sequences += states_file(folder, name).read_text("utf-8").splitlines()[1::3]
        first: dict[str, int] = {}
        for number, sequence in enumerate(sequences):
            first.setdefault(sequence, number)
        distinct = np.array(list(first.values()))
        return distinct, _sums(folder)[distinct, LABELLED]

    @cached_property
    def _correct(self) -> dict[Run, np.ndarray]:
        """(chains,) correct residues of the distinct test chains, by run."""
        distinct, labelled = self._chains
        correct = {}
        for run in self.runs:
            sums = _sums(self.folder.folder(run))
            if len(sums) <= distinct[-1] or not np.array_equal(sums[distinct, LABELLED], labelled):
                raise RecipeError(
                    f"{self.folder.folder(run)}: was not scored on the chains of {self.folder.folder(self.runs[0])}. "
                    "Remove the run's directory, and run the study again."
                )
            correct[run] = sums[distinct, CORRECT]
        return correct

    @property
    def num_planned(self) -> int:
        """Number of runs of the whole study."""
        return len({*self.folder.tuning(), *self.folder.compared(self.rates)})

    @property
    def num_tested(self) -> tuple[int, int]:
        """Number of distinct test chains, and of their scored residues."""
        distinct, labelled = self._chains
        return len(distinct), int(labelled.sum())

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
        distinct, labelled = self._chains
        rows = []
        for run in self.runs:
            folder = self.folder.folder(run)
            metrics = read_metrics(folder)
            own = {
                **dict(run.levels),
                "learning_rate": run.learning_rate,
                "seed": run.seed,
                "compared": "yes" if run in compared else "no",
                "trained_parameters": self.trained_parameters[run.levels],
                "validation_q3": validation_accuracy(folder, metrics),
            }
            for name, result in metrics["corpora"].items():
                scores = result["scores"]
                num_residues = sum(scores[COMPARED_AT]["chain_num_residues"])
                row = {**own, "test": name, "chains": result["num_chains"], "residues": num_residues}
                row |= {alphabet: scores.get(alphabet, {}).get(alphabet) for alphabet in SCORES}
                rows.append(row | {"sov99_q3": scores[COMPARED_AT]["sov99"]})
            row = {**own, "test": ALL_TESTS, "chains": len(distinct), "residues": int(labelled.sum())}
            row |= {**dict.fromkeys(SCORES), "q3": self._correct[run].sum() / labelled.sum(), "sov99_q3": None}
            rows.append(row)
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
        worse, better = map(self._correct_of, both)
        group_of = self.folder.study.spread_group
        around = (self._deviations[group_of(both[0])], self._deviations[group_of(both[1])])
        return bootstrap_difference(
            worse, better, self._chains[1], threshold, deviations=around, resamples=self.resamples
        )

    def _correct_of(self, levels: Levels) -> np.ndarray:
        """Return the (runs, chains) correct residues of a point."""
        return np.array([self._correct[run] for run in self._runs_of(levels)])

    @cached_property
    def _deviations(self) -> dict[str, np.ndarray]:
        """(runs,) how far runs are from the mean of their point, of all points that share their spread."""
        groups: dict[str, list[np.ndarray]] = {}
        for levels in dict.fromkeys(run.levels for run in self.compared):
            groups.setdefault(self.folder.study.spread_group(levels), []).append(self._correct_of(levels))
        return {group: seed_deviations(points, self._chains[1]) for group, points in groups.items()}

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
        return tuple(float(self._correct[run].sum() / self._chains[1].sum()) for run in self._runs_of(levels))

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
                run = self.folder.folder(Run(group, rate, self.folder.study.seeds[0]))
                row = {
                    "levels": dict(group),
                    "learning_rate": rate,
                    "accuracy": validation_accuracy(run, read_metrics(run)),
                }
                row |= {"is_chosen": rate == self.rates[group], "is_last": rate in (rates[0], rates[-1])}
                rows.append(row)
        return rows

    def comparison_rows(self) -> list[dict[str, Any]]:
        """Return a row for each comparison of each claim, with the verdict."""
        return [
            row for part in self.folder.study.parts for claim in part.claims for row in self.test_claim(part, claim)
        ]

    def test_claim(self, part: Part, claim: Claim) -> list[dict[str, Any]]:
        """Return a row for each comparison of a claim.

        What was not run counts in Holm's correction, with a p-value of 1, so that a claim does not get weaker evidence
        by what is run later.
        """
        found = [self.difference(comparison, claim.threshold) for comparison in claim.comparisons]
        adjusted = holm([1.0 if difference is None else difference.p_value for difference in found])
        rows = []
        for comparison, difference, p_value in zip(claim.comparisons, found, adjusted, strict=True):
            row: dict[str, Any] = {"part": part.name, "claim": claim.text}
            row |= {"better": dict(comparison.better), "than": dict(comparison.than)}
            row |= {"q3_better": self.accuracy(comparison.better), "q3_than": self.accuracy(comparison.than)}
            row |= {"threshold": claim.threshold}
            row |= difference_columns(difference)
            if difference is None:
                row |= {"p_value": None, "p_holm": None, "verdict": UNDECIDED}
            else:
                row |= {"p_value": difference.p_value, "p_holm": p_value}
                row["verdict"] = verdict(difference.value, claim.threshold, p_value)
            rows.append(row)
        whole = combined_verdict([str(row["verdict"]) for row in rows])
        return [row | {"verdict_of_claim": whole} for row in rows]


def _sums(folder: Path) -> np.ndarray:
    """Return the (chains, 5) sums of all tests of a run, one after another."""
    corpora: Mapping[str, Any] = read_metrics(folder)["corpora"]
    return np.concatenate([chain_sums(result["scores"][COMPARED_AT], COMPARED_AT) for result in corpora.values()])
