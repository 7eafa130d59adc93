"""Build a catalogued corpus as a folder with a dataset card, and push that folder to the Hub."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
from huggingface_hub.constants import REPOCARD_NAME

from .cards import CardFacts, file_name, origin_facts, renamed_card
from .catalogue import DEFAULT_CONFIG, CorpusEntry, SourceFile
from .chains import CorpusError
from .columns import corpus_features
from .sources import find_source
from .splits import Split, SplitCounts, read_source, split_label
from .writing import write_corpus


@dataclass
class BuildResult:
    """Which splits of a corpus were built and which were not.

    Attributes:
        built: one line per split that was written, with its counts.
        failures: one line per split or corpus that was not, with the reason.
    """

    built: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def build_corpus(entry: CorpusEntry, out: Path, data_dir: str | Path | None = None) -> BuildResult:
    """Write the splits of a corpus that can be read to `out/NAME`.

    The other splits are reported in the result and on the card. An existing folder is left unchanged if it has a
    split that cannot be read now.

    Args:
        entry: entry of the catalogue.
        out: folder of the corpora.
        data_dir: a folder that holds the source files; see `load_corpus` for the default.
    """
    folder = out / entry.name
    splits: list[Split] = []
    sources: list[str] = []
    missing: list[str] = []
    only_in_folder: list[str] = []
    result = BuildResult()
    for config in entry.configs.values():
        for name, source in config.splits.items():
            label = split_label(name, config.name)
            try:
                splits.append(_read_split(source, name, config.name, data_dir))
            except CorpusError as error:
                result.failures.append(f"{entry.name} {label}: {error}")
                missing.append(f"{label} ({source.name} was missing or invalid at build time).")
                if (folder / "data" / file_name(name, config.name)).is_file():
                    only_in_folder.append(label)
            else:
                sources.append(f"{label}: {source.url or source.name} ({source.checksum})")
                result.built.append(f"{entry.name} {label}: {splits[-1].counts}")
    problem = None
    if only_in_folder:
        problem = (
            f"{folder} was left unchanged: {', '.join(only_in_folder)} would be lost. Remove it to build the rest."
        )
    elif splits:
        try:
            form = next(iter(entry.configs[DEFAULT_CONFIG].splits.values())).form
            write_corpus(folder, splits, _card_facts(entry, sources, missing), corpus_features(form))
        except ValueError as error:
            problem = str(error)
    if problem is not None:
        return BuildResult(failures=[*result.failures, f"{entry.name}: {problem}"])
    return result


def _read_split(source: SourceFile, name: str, config: str, data_dir: str | Path | None) -> Split:
    path = find_source(source, data_dir)
    counts = SplitCounts()
    return Split(name, list(read_source(source, path, counts)), counts, config)


def _card_facts(entry: CorpusEntry, sources: list[str], missing: list[str]) -> CardFacts:
    return CardFacts(
        title=entry.title,
        summary=entry.summary,
        made_by=f"python dataset_scripts/build.py {entry.name}",
        sources=sources,
        trains_for=_trains_for(entry),
        notes=entry.notes,
        missing=missing,
        **origin_facts(entry),
    )


def _trains_for(entry: CorpusEntry) -> str:
    """Return the card's text on leakage; empty for a corpus with nothing but a test split."""
    lines = []
    for config in entry.configs.values():
        if set(config.splits) == {"test"}:
            continue
        name = entry.name if config.name == DEFAULT_CONFIG else f"{entry.name}, configuration {config.name},"
        if config.trains_for:
            lines.append(f"- {name} may be used to train models for: {', '.join(config.trains_for)}.")
        else:
            lines.append(
                f"- {name} must not be used to train models for any catalogued test set: it contains their chains, or "
                "homologues of them."
            )
    if not lines:
        return ""
    lines.append(
        "\nTraining and test sets of different families share chains: do not combine them. "
        "`python dataset_scripts/leakage.py TRAIN --tests ...` counts exact duplicates and homologues."
    )
    return "\n".join(lines)


def push_corpus(folder: Path, organisation: str) -> str:
    """Push a built corpus to `ORGANISATION/NAME` in a single commit.

    Returns:
        the id of the repository.

    Raises:
        OSError: from the Hub client: no token, no permission or no connection.
    """
    api = huggingface_hub.HfApi()
    repo = f"{organisation}/{folder.name}"
    api.create_repo(repo, repo_type="dataset", exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        staging = shutil.copytree(folder, Path(temporary) / folder.name)
        card = staging / REPOCARD_NAME
        card.write_text(renamed_card(card.read_text("utf-8"), repo), "utf-8")
        api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=staging, commit_message=f"Build {folder.name}")
    return repo
