"""Writing a corpus: parquet files and a dataset card that the datasets library loads, all at once or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import yaml

from ..models.atomic import replacing_folder
from ..models.states import STATE_MEANINGS, UNRESOLVED
from ..version import __version__
from .catalogue import DEFAULT_CONFIG
from .chains import Chain, CorpusError
from .columns import BASE_FEATURES, SplitCounts

COLUMN_MEANINGS = {
    "id": "name of the chain in the source, unique within a split",
    "sequence": "residues, one letter each, as the source has them",
    "states": f"DSSP states, one letter a residue, same length; {UNRESOLVED} where there is none",
    "num_residues": "length of the chain [residues]",
    "pdb_id": "PDB code, as far as `id` tells it",
    "pdb_chain": "chain in the PDB entry, as far as `id` tells it",
    "chain": "which distinct chain the row's domain stands on",
    "chain_states": f"states of the whole chain; {UNRESOLVED} only where unresolved",
    "resolved_mask": "one boolean a residue: True where it has coordinates",
    "domain_mask": "one boolean a residue: True where it belongs to the row's domain",
}


@dataclass(frozen=True)
class CardFacts:
    """What a card says beyond what is counted.

    Attributes:
        title: the corpus's name for people.
        summary: one sentence.
        license: the Hub's identifier; `unknown` where the user's own data has none.
        num_states: 9 or 8.
        made_by: the command that wrote it.
        sources: per source a line: address and checksum.
        trains_for: a sentence on what it may train for, empty where it is a test set.
        absent: splits that could not be built, with the reason.
    """

    title: str
    summary: str
    license: str
    num_states: int = 9
    license_note: str = ""
    homepage: str = ""
    made_by: str = ""
    sources: Sequence[str] = ()
    trains_for: str = ""
    notes: str = ""
    citation: str = ""
    absent: Sequence[str] = ()
    column_meanings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """One split of one configuration, read and counted."""

    name: str
    chains: Sequence[Chain]
    counts: SplitCounts
    config: str = DEFAULT_CONFIG

    @classmethod
    def of(cls, name: str, chains: Sequence[Chain], config: str = DEFAULT_CONFIG) -> Split:
        """Chains that have not been counted yet."""
        counts = SplitCounts()
        return cls(name, list(counts.count(chains)), counts, config)


def write_corpus(
    folder: str | Path, splits: Sequence[Split], facts: CardFacts, features: datasets.Features | None = None
) -> None:
    """Write `folder/README.md` and `folder/data/*.parquet`; an older corpus there is replaced in one step.

    Args:
        folder: the corpus's folder; its name is the corpus's name on the Hub.
        splits: the splits, at least one, none empty.
        facts: what the card says.
        features: the columns; those of `Chain.row()` of the first chain where left out.

    Raises:
        CorpusError: if there is nothing to write, or the folder holds something that is no corpus.
    """
    folder = Path(folder)
    if not splits or any(not split.chains for split in splits):
        empty = ", ".join(split.name for split in splits if not split.chains) or "no split"
        raise CorpusError(f"{folder}: nothing to write ({empty} has no chains).")
    if folder.exists() and not _is_replaceable(folder):
        raise CorpusError(f"{folder}: holds something that is no corpus. Name another folder, or remove it.")
    with replacing_folder(folder) as part:
        (part / "data").mkdir()
        sizes = {}
        for split in splits:
            rows = [chain.row() for chain in split.chains]
            table = datasets.Dataset.from_list(rows, features=features)
            features = table.features
            path = part / "data" / file_name(split.name, split.config)
            # not Dataset.to_parquet, whose progress bar would run for every corpus; the schema carries the features
            pq.write_table(table.data.table, path)
            sizes[split.config, split.name] = (table.data.nbytes, path.stat().st_size)
        assert features is not None
        (part / "README.md").write_text(_card(folder.resolve().name, splits, facts, features, sizes), "utf-8")


def _is_replaceable(folder: Path) -> bool:
    """Whether a folder is empty, or holds a corpus of ours and nothing else: what is replaced is removed."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    if not names:
        return True
    card = folder / "README.md"
    return (
        names == {"README.md", "data"}
        and "dataset_info:" in card.read_text("utf-8", errors="replace")
        and all(path.suffix == ".parquet" for path in (folder / "data").iterdir())
    )


def file_name(split: str, config: str) -> str:
    """Name of a split's file in the folder `data` of a corpus."""
    prefix = "" if config == DEFAULT_CONFIG else f"{config}-"
    return f"{prefix}{split}-00000-of-00001.parquet"


def _card(
    name: str, splits: Sequence[Split], facts: CardFacts, features: datasets.Features, sizes: Mapping[Any, Any]
) -> str:
    front = yaml.safe_dump(_front_matter(splits, facts, features, sizes), sort_keys=False, allow_unicode=True)
    parts = [f"---\n{front}---", f"# {facts.title}", facts.summary, _usage(name, splits)]
    parts += ["## Contents", _counts_table(splits)]
    parts += [f"Not in this build: {reason}" for reason in facts.absent]
    parts += ["## Columns", _columns(features, facts), "## States", _states_table(facts)]
    if facts.notes:
        parts += ["## What to know", facts.notes]
    if facts.trains_for:
        parts += ["## Leakage", facts.trains_for]
    parts += ["## Origin", _origin(splits, facts)]
    if facts.citation:
        parts += ["## Citation", f"```bibtex\n{facts.citation.strip()}\n```"]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _front_matter(
    splits: Sequence[Split], facts: CardFacts, features: datasets.Features, sizes: Mapping[Any, Any]
) -> dict[str, Any]:
    configs = list(dict.fromkeys(split.config for split in splits))
    largest = max(split.counts.chains for split in splits)
    front: dict[str, Any] = {
        "license": facts.license,
        "pretty_name": facts.title,
        "task_categories": ["token-classification"],
        "tags": ["biology", "protein", "secondary-structure", "dssp", f"q{facts.num_states}"],
        "size_categories": [_size_category(largest)],
        "configs": [],
        "dataset_info": [],
    }
    for config in configs:
        own = [split for split in splits if split.config == config]
        front["configs"].append(
            {
                "config_name": config,
                "data_files": [
                    {"split": split.name, "path": f"data/{file_name(split.name, split.config)}"} for split in own
                ],
            }
        )
        front["dataset_info"].append(
            {
                "config_name": config,
                "features": features._to_yaml_list(),
                "splits": [
                    {"name": split.name, "num_bytes": sizes[config, split.name][0], "num_examples": split.counts.chains}
                    for split in own
                ],
                "download_size": sum(sizes[config, split.name][1] for split in own),
                "dataset_size": sum(sizes[config, split.name][0] for split in own),
            }
        )
    return front


def _size_category(rows: int) -> str:
    """The Hub's name for a number of rows."""
    bounds = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    return next((name for bound, name in bounds if rows < bound), "1M<n<10M")


def _usage(name: str, splits: Sequence[Split]) -> str:
    named = [split for split in splits if split.config != DEFAULT_CONFIG]
    lines = ["```python", "import datasets", ""]
    lines.append(f'corpus = datasets.load_dataset("lift_ss/{name}", split="{splits[0].name}")')
    lines += [f'{s.config} = datasets.load_dataset("lift_ss/{name}", "{s.config}", split="{s.name}")' for s in named]
    return "\n".join([*lines, "```"])


def _counts_table(splits: Sequence[Split]) -> str:
    lines = [
        "| configuration | split | chains | residues | with a state | longest chain | chains without any state |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for split in splits:
        c = split.counts
        lines.append(
            f"| {split.config} | {split.name} | {c.chains:,} | {c.residues:,} | {c.labelled:,} | {c.longest:,} "
            f"| {c.unlabelled_chains:,} |"
        )
    return "\n".join(lines)


def _columns(features: datasets.Features, facts: CardFacts) -> str:
    meanings = {**COLUMN_MEANINGS, **facts.column_meanings}
    assert set(BASE_FEATURES) <= set(features)
    return "\n".join(f"- `{name}`: {meanings.get(name, 'as the source gives it')}" for name in features)


def _states_table(facts: CardFacts) -> str:
    lines = ["| state | name | meaning |", "| --- | --- | --- |"]
    lines += [f"| {letter} | {name} | {meaning} |" for letter, (name, meaning) in STATE_MEANINGS.items()]
    lines.append(f"| {UNRESOLVED} | none | residue without a state: never scored, never trained on |")
    if facts.num_states == 8:
        lines.append("\nAssigned before mkdssp 4: there is no P in this corpus, such residues are L.")
    return "\n".join(lines)


def _origin(splits: Sequence[Split], facts: CardFacts) -> str:
    lines = [f"- {source}" for source in facts.sources]
    if facts.homepage:
        lines.append(f"- Homepage: {facts.homepage}")
    lines.append(f"- Licence: {facts.license}. {facts.license_note}".rstrip())
    changes = [
        f"{split.config}/{split.name}: {what}: {number:,}"
        for split in splits
        for what, number in sorted(split.counts.changes.items())
    ]
    lines.append("- Changed on reading: " + ("; ".join(changes) if changes else "nothing") + ".")
    lines.append(f"- Built by lift_ss_hf {__version__}" + (f": `{facts.made_by}`." if facts.made_by else "."))
    return "\n".join(lines)
