"""A model's card, made of what a run measured: never a number that was not, and what is absent is left out.

write_card("runs/train_q8")    # reads metrics.json, corpora.json, environment.json, recipe.yaml, model/config.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..corpora import load_catalogue
from ..corpora.catalogue import CorpusName
from ..models.atomic import replacing
from .provenance import TOKEN
from .tables import ACCURACY_TITLES, card_markdown

TEMPLATE = Path(__file__).parents[1] / "assets" / "model_card.md"
TASK = "token-classification"
CARD_FILE = "README.md"
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])/(?:[^\s/\"'`]+/)*([^\s/\"'`]+)|[A-Za-z]:\\\S*\\(\S+)")
LICENSES = {"bundled": "CC BY 4.0 data (UniProt), Apache-2.0 weights"}
SEEN_OF_BLOCKS = {
    None: "",
    "mean": " over a learned mean of all blocks' outputs",
    "concat": " over all blocks' outputs side by side",
}
BACKBONE_CITATIONS = {
    "esm": "Lin et al. 2023, Science 379:1123 (ESM-2); Rives et al. 2021, PNAS 118:e2016239118 (ESM-1b)",
    "t5": "Elnaggar et al. 2022, IEEE TPAMI 44:7112 (ProtTrans)",
    "bert": "Elnaggar et al. 2022, IEEE TPAMI 44:7112 (ProtTrans)",
}


def public_text(text: str) -> str:
    """Text without what is of one machine or one person: absolute paths keep their last part, tokens nothing."""
    return ABSOLUTE_PATH.sub(lambda found: found[1] or found[2], TOKEN.sub("(token)", text))


def write_card(run: str | Path) -> Path:
    """Write `model/README.md` of a run's directory from the files that `run_training` left there.

    Returns:
        the card's path.

    Raises:
        ValueError: if the directory holds no finished run.
    """
    run = Path(run)
    card = make_card(run)
    path = run / "model" / CARD_FILE
    with replacing(path) as part:
        part.write_text(str(card), "utf-8")
    return path


def make_card(run: str | Path) -> ModelCard:
    """The card of a run's directory. Arguments and errors as of `write_card`."""
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
    text = {name: public_text(part) for name, part in text.items()}
    return ModelCard.from_template(data, template_path=str(TEMPLATE), **text)


def eval_results(metrics: Mapping[str, Any], corpora: Mapping[str, Any]) -> list[EvalResult]:
    """Every accuracy and SOV'99 that was measured, with its interval where there is one [fraction]."""
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
            f"{path}: not there. Expected the directory of a finished run, as train_q8.py writes."
        ) from error
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({str(error).splitlines()[0]}). Run the training again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a table of names and values, found {type(content).__name__}.")
    return content


def _public_name(name: str) -> str:
    """A corpus by name, or of a path its last part."""
    return name if CorpusName.parse(name).corpus in load_catalogue() else Path(name).name


def hub_id(name: str | None) -> str | None:
    """`org/name` if it is one; a folder of this machine is none of the reader's business."""
    return name if name and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) else None


def _summary(config: Mapping[str, Any]) -> str:
    backbone = Path(config.get("backbone_name") or "a backbone of its own").name
    adapter = f"a {config['adapter']} adapter" if config.get("adapter") else "no adapter"
    line = f"Predicts secondary structure states ({config['states']}) of protein chains: {backbone} with {adapter} and "
    line += f"the {config['head']} head{SEEN_OF_BLOCKS[config.get('block_mix')]}, trained with lift_ss_hf."
    if config.get("backbone_revision"):
        line += f" Backbone revision: {config['backbone_revision']}."
    if config.get("backbone_fingerprint"):
        line += f" Backbone fingerprint: `{config['backbone_fingerprint']}`."
    return line


def _calibration(fitted: Mapping[str, Any] | None) -> str:
    if fitted is None:
        return ""
    return (
        f"Confidences are calibrated on {fitted['num_residues']:,} residues of the validation chains (temperature "
        f"{fitted['temperature']:.3f}): expected calibration error {100 * fitted['error_before']:.1f} % before, "
        f"{100 * fitted['error_after']:.1f} % after, on the same residues."
    )


def _training(
    config: Mapping[str, Any], recipe: Mapping[str, Any], corpora: Mapping[str, Any], metrics: Mapping[str, Any]
) -> str:
    measured = metrics["environment"]
    lines = []
    for split in ("train", "validation"):
        if split in corpora:
            facts, names = (
                corpora[split],
                ", ".join(map(_public_name, _corpora(recipe, split))) or "held-out training chains",
            )
            lines.append(
                f"- {split}: {names}: {facts['chains']:,} chains, {facts['residues']:,} residues, sha256 of sequences "
                f"and states `{facts['sha256_of_sequences_and_states']}`"
            )
    lines.append(f"- command: `{measured['command']}`, seed {recipe.get('seed')}")
    balance = f", balanced by {config['balance']} frequency" if config.get("balance") else ""
    hidden = f"; {100 * recipe['mask_fraction']:g} % of the residues hidden" if recipe.get("mask_fraction") else ""
    lines.append(f"- loss: {config['loss']}{balance}{hidden}")
    packages = ", ".join(f"{name} {version}" for name, version in measured["packages"].items())
    lines.append(f"- lift_ss_hf {measured['lift_ss_hf']} at commit {measured['commit'] or 'unknown'}; {packages}")
    hardware = [measured["processor"], f"{measured['threads']} threads", *measured["accelerators"]]
    lines.append(f"- hardware: {', '.join(map(str, hardware))}")
    if metrics.get("training_seconds") is not None:
        since = " since it was last resumed" if recipe.get("resume_from_checkpoint") else ""
        lines.append(f"- training took {metrics['training_seconds']:,.0f} s{since}")
    return "\n".join(lines)


def _corpora(recipe: Mapping[str, Any], split: str) -> list[str]:
    """Names or paths of a split's corpora; none where its chains were held out of the training chains."""
    return [name for name in recipe.get(split) or [] if name != "none"]


def _licences(config: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    lines = ["- code and trained weights: Apache-2.0"]
    name = config.get("backbone_name")
    lines.append(f"- backbone: {LICENSES.get(str(name), 'see its own card')}")
    catalogue = load_catalogue()
    for corpus in [*_corpora(recipe, "train"), *_corpora(recipe, "validation")]:
        entry = catalogue.get(CorpusName.parse(corpus).corpus)
        line = f"- {_public_name(corpus)}: {entry.origin.license if entry else 'see its own card'}"
        if line not in lines:
            lines.append(line)
    family = config["backbone_config"]["model_type"]
    if name != "bundled" and family in BACKBONE_CITATIONS:
        lines.append(f"- the backbone's citation: {BACKBONE_CITATIONS[family]}")
    return "\n".join(lines)
