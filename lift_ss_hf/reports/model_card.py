"""Model cards, filled from the files of a training run. What was not measured is left out, never guessed.

`write_card("runs/train_q8")` reads `metrics.json`, `corpora.json`, `recipe.yaml` and `model/config.json` of the run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.constants import REPOCARD_NAME

from ..corpora.catalogue import find_corpus
from ..models.atomic import replacing
from ..models.backbones import BUNDLED, get_family
from ..models.wording import counted, first_line
from .provenance import TOKEN
from .tables import ACCURACY_TITLES, card_markdown

TEMPLATE = Path(__file__).parents[1] / "assets" / "model_card.md"
TASK = "token-classification"
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])/(?:[^\s/\"'`]+/)*([^\s/\"'`]+)|[A-Za-z]:\\\S*\\(\S+)")
BACKBONE_LICENCES = {BUNDLED: "CC BY 4.0 data (UniProt), Apache-2.0 weights"}
BLOCK_MIX_PHRASES = {
    None: "",
    "mean": " over a learned mean of all blocks' outputs",
    "concat": " over all blocks' outputs side by side",
}


def redact(text: str) -> str:
    """Remove what is private from a text: absolute paths are cut to their last part, access tokens are replaced.

    Example:
        >>> redact("train_q8.py --train /home/me/corpora/mine.txt --token hf_abcdefgh1234")
        'train_q8.py --train mine.txt --token (token)'
    """
    return ABSOLUTE_PATH.sub(lambda found: found[1] or found[2], TOKEN.sub("(token)", text))


def write_card(run: str | Path) -> Path:
    """Write the card of a finished training run to `model/README.md` in the run's folder.

    Returns:
        the card's path.

    Raises:
        ValueError: if the folder does not hold a finished run.
    """
    card = make_card(run)
    path = Path(run) / "model" / REPOCARD_NAME
    with replacing(path) as part:
        part.write_text(str(card), "utf-8")
    return path


def make_card(run: str | Path) -> ModelCard:
    """Return the card of a finished training run. Arguments and errors are those of `write_card`."""
    run = Path(run)
    config = _read(run / "model" / "config.json")
    metrics = _read(run / "metrics.json")
    recipe = _read(run / "recipe.yaml")
    corpora = _read(run / "corpora.json")
    results = eval_results(metrics, corpora)
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag=TASK,
        tags=["biology", "protein", "secondary-structure", "lift_ss_hf", "adapters"],
        base_model=hub_id(config.get("backbone_name")),
        metrics=["accuracy", "sov99"] if results else None,
        model_name=run.resolve().name if results else None,
        eval_results=results or None,
    )
    text = {
        "name": run.resolve().name,
        "summary": _summary(config),
        "results": card_markdown(metrics["corpora"], _public_name),
        "calibration": _calibration(metrics.get("calibration")),
        "training": _training(config, recipe, corpora, metrics),
        "licences": _licences(config, recipe),
    }
    text = {name: redact(part) for name, part in text.items()}
    return ModelCard.from_template(data, template_path=str(TEMPLATE), **text)


def eval_results(metrics: Mapping[str, Any], corpora: Mapping[str, Any]) -> list[EvalResult]:
    """Return every measured accuracy and SOV'99 [fraction], with its 95 % interval if there is one.

    Args:
        metrics: content of a run's `metrics.json`.
        corpora: content of its `corpora.json`.
    """
    results = []
    for name, result in metrics["corpora"].items():
        for level, scores in result["scores"].items():
            titles = {level: ACCURACY_TITLES[level], "sov99": f"SOV'99 ({level}, {scores['sov_mode']} mode)"}
            for key, title in titles.items():
                if scores.get(key) is None:
                    continue
                interval = {bound: scores.get(f"{key}_{bound}") for bound in ("low", "high")}
                results.append(
                    EvalResult(
                        task_type=TASK,
                        task_name="Protein secondary structure prediction",
                        dataset_type=_public_name(name),
                        dataset_name=_public_name(name),
                        dataset_split=result["split"],
                        dataset_revision=corpora.get(name, {}).get("sha256_of_sequences_and_states"),
                        metric_type="accuracy" if key == level else f"sov99_{level}",
                        metric_name=title,
                        metric_value=scores[key],
                        metric_args=None if None in interval.values() else {"interval_95": interval},
                    )
                )
    return results


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        content = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except FileNotFoundError as error:
        raise ValueError(
            f"{path}: no such file. Expected the folder of a finished run of recipes/train_q8.py."
        ) from error
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: cannot be parsed ({first_line(error)}). Run the training again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected names and values, found {type(content).__name__}. Run the training again.")
    return content


def _public_name(name: str) -> str:
    """Return a corpus's name as it is, and only the last part of a path."""
    return name if find_corpus(name) else Path(name).name


def hub_id(name: str | None) -> str | None:
    """Return a name that can be a Hub id, `ORG/NAME`, and None for others, such as paths of this machine.

    Example:
        >>> hub_id("facebook/esm2_t6_8M_UR50D"), hub_id("/data/esm2"), hub_id("bundled")
        ('facebook/esm2_t6_8M_UR50D', None, None)
    """
    return name if name and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) else None


def _summary(config: Mapping[str, Any]) -> str:
    backbone = Path(config.get("backbone_name") or "a custom backbone").name
    adapter = f"a {config['adapter']} adapter" if config.get("adapter") else "no adapter"
    line = f"Predicts secondary structure states ({config['states']}) of protein chains: {backbone} with {adapter} and "
    line += f"the {config['head']} head{BLOCK_MIX_PHRASES[config.get('block_mix')]}, trained with lift_ss_hf."
    if config.get("backbone_revision"):
        line += f" Backbone revision: {config['backbone_revision']}."
    if config.get("backbone_fingerprint"):
        line += f" Backbone fingerprint: `{config['backbone_fingerprint']}`."
    return line


def _calibration(fitted: Mapping[str, Any] | None) -> str:
    if fitted is None:
        return ""
    return (
        f"Confidences are calibrated on {counted(fitted['num_residues'], 'residue')} of the validation chains "
        f"(temperature {fitted['temperature']:.3f}). On these residues the expected calibration error was "
        f"{100 * fitted['error_before']:.1f} % before and {100 * fitted['error_after']:.1f} % after."
    )


def _training(
    config: Mapping[str, Any], recipe: Mapping[str, Any], corpora: Mapping[str, Any], metrics: Mapping[str, Any]
) -> str:
    measured = metrics["environment"]
    lines = []
    origins = {part["name"]: part["origin"] for part in metrics.get("splits", [])}
    for split in ("train", "validation"):
        if split in corpora:
            names = ", ".join(map(_public_name, _corpora(recipe, split))) or origins.get(
                split, "held-out training chains"
            )
            facts = corpora[split]
            line = (
                f"- {split}: {names}: {counted(facts['chains'], 'chain')}, {counted(facts['residues'], 'residue')}, "
                f"sha256 of sequences and states `{facts['sha256_of_sequences_and_states']}`"
            )
            if split == "validation" and "validation" in metrics:
                line += f"; {metrics['validation']['duplicates_in_training']:,} of the chains are in training"
            lines.append(line)
    lines.append(f"- command: `{measured['command']}`, seed {recipe.get('seed')}")
    balance = f", balanced by {config['balance']} frequency" if config.get("balance") else ""
    masked = f"; {100 * recipe['mask_fraction']:g} % of the residues masked" if recipe.get("mask_fraction") else ""
    lines.append(f"- loss: {config['loss']}{balance}{masked}")
    packages = ", ".join(f"{name} {version}" for name, version in measured["packages"].items())
    lines.append(f"- lift_ss_hf {measured['lift_ss_hf']} at commit {measured['commit'] or 'unknown'}; {packages}")
    hardware = [measured["processor"], counted(measured["threads"], "thread"), *measured["accelerators"]]
    lines.append(f"- hardware: {', '.join(map(str, hardware))}")
    if metrics.get("training_seconds") is not None:
        since = " since it was last resumed" if recipe.get("resume_from_checkpoint") else ""
        lines.append(f"- training took {metrics['training_seconds']:,.0f} s{since}")
    return "\n".join(lines)


def _corpora(recipe: Mapping[str, Any], split: str) -> list[str]:
    """Return the names or paths of a split's corpora, without the words that stand for other chains or for none."""
    return [name for name in recipe.get(split) or [] if name not in ("none", "split")]


def _licences(config: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    lines = ["- code and trained weights: Apache-2.0"]
    name = config.get("backbone_name")
    lines.append(f"- backbone: {BACKBONE_LICENCES.get(str(name), 'see its own card')}")
    for corpus in [*_corpora(recipe, "train"), *_corpora(recipe, "validation")]:
        found = find_corpus(corpus)
        line = f"- {_public_name(corpus)}: {found.entry.origin.license if found else 'see its own card'}"
        if line not in lines:
            lines.append(line)
    citation = get_family(config["backbone_config"]["model_type"]).citation
    if name != BUNDLED and citation:
        lines.append(f"- citation of the backbone: {citation}")
    return "\n".join(lines)
