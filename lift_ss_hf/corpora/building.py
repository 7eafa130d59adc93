"""From the catalogue to a folder with a card, and from there to the Hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub

from .catalogue import DEFAULT_CONFIG, CorpusEntry, SourceFile
from .chains import CorpusError
from .columns import SplitCounts, corpus_features, read_source
from .sources import find_source
from .writing import CardFacts, Split, file_name, write_corpus


@dataclass
class BuildResult:
    """What came of building one corpus: a line for each split."""

    built: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def build_corpus(entry: CorpusEntry, out: Path, data_dir: str | Path | None = None) -> BuildResult:
    """Write `out/NAME` with the splits that can be read; those that cannot are told, in the result and on the card.

    Args:
        entry: the catalogue's entry.
        out: folder of the corpora.
        data_dir: a folder that holds the sources; else LIFT_SS_DATA_DIR, the cache, and the network.
    """
    splits: list[Split] = []
    absent: list[str] = []
    only_there: list[str] = []
    sources: list[str] = []
    result = BuildResult()
    for config in entry.configs.values():
        for name, source in config.splits.items():
            label = name if config.name == DEFAULT_CONFIG else f"{config.name}/{name}"
            try:
                split = _read_split(source, name, config.name, data_dir)
            except CorpusError as error:
                result.failures.append(f"{entry.name} {label}: {error}")
                absent.append(f"{label} ({source.name} was not at hand, or not sound, when this was built).")
                if (out / entry.name / "data" / file_name(name, config.name)).is_file():
                    only_there.append(label)
                continue
            splits.append(split)
            sources.append(f"{label}: {source.url or source.name} ({source.checksum})")
            counts = split.counts
            result.built.append(
                f"{entry.name} {label}: {counts.chains:,} chains, {counts.residues:,} residues, "
                f"{counts.labelled:,} with a state"
            )
    if only_there:
        kept = f"{out / entry.name} is left as it is, for only there is {', '.join(only_there)}"
        return BuildResult(failures=[*result.failures, f"{entry.name}: {kept}. Remove it to build the rest anew."])
    if splits:
        form = next(iter(entry.config().splits.values())).form
        try:
            write_corpus(out / entry.name, splits, _facts(entry, sources, absent), corpus_features(form))
        except CorpusError as error:
            return BuildResult(failures=[*result.failures, f"{entry.name}: {error}"])
    return result


def _read_split(source: SourceFile, name: str, config: str, data_dir: str | Path | None) -> Split:
    path = find_source(source, data_dir)
    counts = SplitCounts()
    return Split(name, list(read_source(source, path, counts)), counts, config)


def _facts(entry: CorpusEntry, sources: list[str], absent: list[str]) -> CardFacts:
    return CardFacts(
        title=entry.title,
        summary=entry.summary,
        license=entry.origin.license,
        num_states=entry.num_states,
        license_note=entry.origin.license_note,
        homepage=entry.origin.homepage,
        made_by=f"python dataset_scripts/build.py {entry.name}",
        sources=sources,
        trains_for=_trains_for(entry),
        notes=entry.notes,
        citation=entry.citation,
        absent=absent,
    )


def _trains_for(entry: CorpusEntry) -> str:
    lines = []
    for config in entry.configs.values():
        if set(config.splits) == {"test"}:
            continue
        name = entry.name if config.name == DEFAULT_CONFIG else f"{entry.name}, configuration {config.name},"
        allowed = ", ".join(config.trains_for) or "no catalogued test set: it holds chains or relatives of them"
        lines.append(f"- {name} may train for: {allowed}.")
    lines.append(
        "\nTraining and test sets of different families share chains: never cross them. "
        "`python dataset_scripts/leakage.py TRAIN --tests ...` counts exact duplicates and homologues."
    )
    return "\n".join(lines) if len(lines) > 1 else ""


def push_corpus(folder: Path, organisation: str) -> str:
    """Push a built corpus to `ORG/NAME` in one commit, so that nothing half-pushed is ever visible.

    Returns:
        the repository's id.

    Raises:
        OSError: what the Hub client raises: no token, no right, no connection.
    """
    api = huggingface_hub.HfApi()
    repo = f"{organisation}/{folder.name}"
    api.create_repo(repo, repo_type="dataset", exist_ok=True)
    api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=folder, commit_message=f"Build {folder.name}")
    return repo
