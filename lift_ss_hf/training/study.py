"""A study: factors and their levels, parts that combine them, and claims decided by statistics fixed beforehand.

A folder of YAML files describes it: `base.yaml`, and a file for each part. Points that several parts need are run
once. Learning rates are chosen on the validation chains alone, before the points that are compared are run.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..models.backbones import read_backbone_config
from ..models.wording import did_you_mean
from .arguments import ModelArguments, unless_none
from .points import point_name
from .recipes import RecipeError, read_recipe

BASE_FILE = "base.yaml"
BASE_NEEDED = {"base": dict, "factors": dict, "learning_rates": dict, "tuned": list, "seeds": list}
BASE_KEYS = BASE_NEEDED | {"spread_by": list}
PART_KEYS = {"title": str, "points": list, "reference": dict, "figure": str, "lines": bool, "claims": list}
KINDS: Mapping[type, str] = {dict: "names with values", list: "a list", str: "text", bool: "true or false"}
CLAIM_KEYS = ("claim", "better", "than", "margin", "for_each")
FRACTIONS = ("train_fraction", "top_share")  # may be written as 1/3
OF_ADAPTERS = ("adapter_options", "top_share")  # settings that mean nothing without an adapter
PARAMETERS = "trained_parameters"  # a figure's axis that is not a factor
NOT_USED = "–"  # level of a factor that makes no difference to a point

Levels = tuple[tuple[str, str], ...]  # factor and level, in the order of the factors


@dataclass(frozen=True)
class Comparison:
    """Two points of a claim.

    Attributes:
        better: levels of the point that is said to be more accurate.
        than: levels of the other one.
    """

    better: Levels
    than: Levels


@dataclass(frozen=True)
class Claim:
    """A statement about accuracies that holds in all comparisons, or does not.

    Attributes:
        text: the statement.
        threshold: the first point of a comparison must be more accurate than the second by more than this [fraction];
            negative in claims of "not worse by more than".
        comparisons: the points.
    """

    text: str
    threshold: float
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Part:
    """One question of a study.

    Attributes:
        name: name of its file.
        title: the question.
        references: for each point, in the order of the page, the point that it is compared with in the table and the
            figure; itself if there is none.
        reference: name of the points that others are compared with: the levels that they share; None without any.
        figure: factor along the axis of its figure, or `trained_parameters`; None for no figure.
        lines: whether lines join the points of the figure, since its axis has an order.
        claims: what is tested.
    """

    name: str
    title: str
    references: Mapping[Levels, Levels]
    reference: str | None
    figure: str | None
    lines: bool
    claims: tuple[Claim, ...]

    @property
    def points(self) -> tuple[Levels, ...]:
        """Levels of each point."""
        return tuple(self.references)


@dataclass(frozen=True)
class Study:
    """A study as read from its folder; see `read_study`.

    Attributes:
        base: settings of all runs.
        factors: for each factor the settings of its levels; the first level is the default, and where factors set the
            same argument, the later one wins.
        learning_rates: those to choose from, by level of the first tuned factor.
        tuned: factors whose levels have a learning rate of their own.
        seeds: of every point; the first is also that of the runs that choose the learning rate.
        spread_by: factors with which the spread between seeds changes; points with the same levels of them share it.
        parts: the questions.
        num_blocks: blocks of the backbone.
        path: the folder that it was read from.
    """

    base: Mapping[str, Any]
    factors: Mapping[str, Mapping[str, Mapping[str, Any]]]
    learning_rates: Mapping[str, Sequence[float]]
    tuned: Sequence[str]
    seeds: Sequence[int]
    spread_by: Sequence[str]
    parts: Sequence[Part]
    num_blocks: int
    path: Path

    def levels(self, chosen: Mapping[str, Any]) -> Levels:
        """Return the level of every factor: the default where none is chosen, a dash where it makes no difference."""
        full = {factor: str(chosen.get(factor, next(iter(levels)))) for factor, levels in self.factors.items()}
        return tuple(
            (factor, level if self._makes_a_difference(factor, full) else NOT_USED) for factor, level in full.items()
        )

    def _makes_a_difference(self, factor: str, levels: Mapping[str, str]) -> bool:
        kinds = [self._settings({**levels, factor: level}) for level in self.factors[factor]]
        return len(kinds) == 1 or any(kind != kinds[0] for kind in kinds)

    def _settings(self, levels: Mapping[str, str]) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        for factor, level in levels.items():
            settings |= self.factors[factor][next(iter(self.factors[factor])) if level == NOT_USED else level]
        if unless_none(settings.get("adapter", self.base.get("adapter", ModelArguments.adapter))) is None:
            settings = {name: value for name, value in settings.items() if name not in OF_ADAPTERS}
        if "top_share" in settings:  # of the blocks, so that one study fits backbones of any depth
            settings["top_blocks"] = max(1, round(settings.pop("top_share") * self.num_blocks))
        return settings

    def settings(self, levels: Levels, learning_rate: float, seed: int) -> dict[str, Any]:
        """Return the settings of a run, besides those of all runs."""
        return {**self._settings(dict(levels)), "learning_rate": learning_rate, "seed": seed}

    def folder(self, levels: Levels, learning_rate: float, seed: int) -> str:
        """Return the name of a run's folder."""
        return point_name(self.settings(levels, learning_rate, seed))

    def tuned_group(self, levels: Levels) -> Levels:
        """Return the point at which the learning rate of a point is chosen: its tuned levels, the others default."""
        return self.levels({factor: level for factor, level in levels if factor in self.tuned and level != NOT_USED})

    def spread_group(self, levels: Levels) -> str:
        """Return what a point has in common with all points that share its spread between seeds."""
        return ", ".join(f"{factor} {level}" for factor, level in levels if factor in self.spread_by)

    def rates(self, group: Levels) -> Sequence[float]:
        """Return the learning rates to choose from for a group."""
        return self.learning_rates[dict(group)[self.tuned[0]]]

    def points(self) -> list[Levels]:
        """Return the points of all parts, each once."""
        return list(dict.fromkeys(point for part in self.parts for point in part.points))

    def groups(self) -> list[Levels]:
        """Return the points at which learning rates are chosen, each once."""
        return list(dict.fromkeys(self.tuned_group(point) for point in self.points()))


def read_study(folder: str | Path, changes: Mapping[str, Any] | None = None) -> Study:
    """Read a study from its folder.

    `base.yaml` has `base` (settings of all runs), `factors`, `learning_rates`, `tuned`, `seeds` and, optionally,
    `spread_by`, as in `Study`. A factor is a mapping of levels to settings, or a list of values of the argument with
    its name. Every other YAML file is a part: `title`, `points` (a list of mappings from factors to a level or a list
    of levels, which are combined), and optionally `reference` (levels in which the point that a point is compared with
    in tables and figures differs from it), `figure`, `lines` and `claims`. A claim has its text under `claim`, `better`
    and `than` (levels), `margin` (the threshold, in percentage points, default 0) and `for_each` (factors and lists of
    levels, for both sides).

    Args:
        folder: the folder.
        changes: settings of all runs that differ from those of the file, such as the backbone.

    Raises:
        RecipeError: if a file is missing or not of that form.
        ValueError: if the backbone is unknown.
    """
    folder = Path(folder)
    content = _read(folder / BASE_FILE, BASE_KEYS, BASE_NEEDED)
    base = _with_fractions({**content["base"], **(changes or {})}, folder / BASE_FILE)
    factors = {name: _levels_of(name, levels, folder / BASE_FILE) for name, levels in content["factors"].items()}
    config = read_backbone_config(base.get("backbone", ModelArguments.backbone), revision=base.get("backbone_revision"))
    study = Study(
        base=base,
        factors=factors,
        learning_rates=content["learning_rates"],
        tuned=tuple(content["tuned"]),
        seeds=tuple(content["seeds"]),
        spread_by=tuple(content.get("spread_by") or ()),
        parts=(),
        num_blocks=config.num_hidden_layers,
        path=folder,
    )
    _check_base(study, folder / BASE_FILE)
    paths = sorted(path for path in folder.glob("*.yaml") if path.name != BASE_FILE)
    if not paths:
        raise RecipeError(f"{folder}: no part of a study. Expected YAML files with `points:` beside {BASE_FILE}.")
    return replace(study, parts=tuple(_read_part(path, study) for path in paths))


def _read(path: Path, kinds: Mapping[str, type], needed: Collection[str]) -> dict[str, Any]:
    """Read a YAML file with these keys, each of its kind."""
    content = read_recipe(path)
    for key, value in content.items():
        if key not in kinds:
            raise RecipeError(f"{path}: unknown key {key!r}. Expected {', '.join(kinds)}.{did_you_mean(key, kinds)}")
        if value is not None and not isinstance(value, kinds[key]):
            raise RecipeError(f"{path}: `{key}:` is {value!r}. Expected {KINDS[kinds[key]]}.")
    for key in needed:
        if not content.get(key):
            raise RecipeError(f"{path}: `{key}:` is missing or empty.")
    return content


def _with_fractions(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return settings with fractions such as 1/3 as numbers."""
    try:
        return {name: float(Fraction(value)) if name in FRACTIONS else value for name, value in settings.items()}
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise RecipeError(f"{path}: not a fraction ({error}). Write one of {', '.join(FRACTIONS)} as 1/3.") from None


def _levels_of(factor: str, levels: Any, path: Path) -> dict[str, dict[str, Any]]:
    if isinstance(levels, list) and levels:
        return {str(value): _with_fractions({factor: value}, path) for value in levels}
    if isinstance(levels, dict) and levels and all(isinstance(settings, dict) for settings in levels.values()):
        return {str(level): _with_fractions(settings, path) for level, settings in levels.items()}
    raise RecipeError(f"{path}: factor {factor}: expected a list of values, or levels with settings; found {levels!r}.")


def _check_base(study: Study, path: Path) -> None:
    for key, factors in (("tuned", study.tuned), ("spread_by", study.spread_by)):
        for factor in factors:
            if factor not in study.factors:
                known = ", ".join(study.factors)
                raise RecipeError(f"{path}: {key} has {factor!r}, which is not a factor. Factors: {known}.")
    for level in study.factors[study.tuned[0]]:
        rates = study.learning_rates.get(level)
        if not (isinstance(rates, list) and rates and all(isinstance(rate, float) and rate > 0 for rate in rates)):
            raise RecipeError(
                f"{path}: learning_rates of {level!r} is {rates!r}. Expected a list of numbers above 0, such as 1.0e-3."
            )
    if len(set(study.seeds)) < len(study.seeds) or not all(type(seed) is int for seed in study.seeds):
        raise RecipeError(f"{path}: seeds is {list(study.seeds)}. Expected different whole numbers.")


def _read_part(path: Path, study: Study) -> Part:
    content = _read(path, PART_KEYS, ("title", "points"))
    chosen = [levels for factors in content["points"] for levels in _combined(factors, study, path)]
    reference = _single_levels(content.get("reference") or {}, "reference", study, path)
    references = {study.levels(levels): study.levels({**levels, **reference}) for levels in chosen}
    for needed in references.values():
        if needed not in references:
            raise RecipeError(f"{path}: reference needs {dict(needed)}, which is not under `points:`.")
    figure = content.get("figure")
    if figure not in (None, PARAMETERS, *study.factors):
        raise RecipeError(
            f"{path}: figure is {figure!r}. Expected {PARAMETERS} or a factor: {', '.join(study.factors)}."
        )
    name = ", ".join(reference.values()) or None
    part = Part(path.stem, content["title"], references, name, figure, bool(content.get("lines")), ())
    return replace(part, claims=tuple(_read_claim(claim, part, study, path) for claim in content.get("claims") or []))


def _combined(chosen: Any, study: Study, path: Path) -> Iterator[dict[str, str]]:
    """Yield the combinations of a mapping from factors to levels, or lists of levels."""
    if not isinstance(chosen, dict):
        raise RecipeError(f"{path}: expected factors with their levels, found {chosen!r}.")
    values = [value if isinstance(value, list) else [value] for value in chosen.values()]
    for combination in itertools.product(*values):
        levels = dict(zip(chosen, map(str, combination), strict=True))
        for factor, level in levels.items():
            if factor not in study.factors:
                raise RecipeError(f"{path}: no factor {factor!r}.{did_you_mean(factor, study.factors)}")
            if level not in study.factors[factor]:
                known = study.factors[factor]
                raise RecipeError(f"{path}: factor {factor} has no level {level!r}. Levels: {', '.join(known)}.")
        yield levels


def _single_levels(chosen: Any, key: str, study: Study, path: Path) -> dict[str, str]:
    """Return factors with one level each."""
    if not isinstance(chosen, dict) or any(isinstance(level, list) for level in chosen.values()):
        raise RecipeError(f"{path}: {key} is {chosen!r}. Expected factors with a level each.")
    return next(_combined(chosen, study, path))


def _read_claim(content: Any, part: Part, study: Study, path: Path) -> Claim:
    if not isinstance(content, dict) or not {"claim", "better", "than"} <= set(content) <= set(CLAIM_KEYS):
        raise RecipeError(f"{path}: expected a claim with {', '.join(CLAIM_KEYS)}; found {content!r}.")
    each, margin = content.get("for_each") or {}, content.get("margin", 0.0)
    if not (isinstance(each, dict) and all(isinstance(levels, list) for levels in each.values())):
        raise RecipeError(f"{path}: for_each is {each!r}. Expected factors with lists of levels.")
    if type(margin) not in (int, float):
        raise RecipeError(f"{path}: margin is {margin!r}. Expected a number of percentage points, such as -0.2.")
    better, than = (_single_levels(content[side], side, study, path) for side in ("better", "than"))
    comparisons = []
    for shared in _combined(each, study, path):
        comparison = Comparison(study.levels({**shared, **better}), study.levels({**shared, **than}))
        for levels in (comparison.better, comparison.than):
            if levels not in part.references:
                raise RecipeError(f"{path}: {content['claim']!r} needs {dict(levels)}, which is not under `points:`.")
        if comparison.better == comparison.than:
            raise RecipeError(f"{path}: {content['claim']!r} compares {dict(comparison.better)} with itself.")
        comparisons.append(comparison)
    return Claim(content["claim"], margin / 100, tuple(comparisons))
