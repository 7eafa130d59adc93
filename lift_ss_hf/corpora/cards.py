"""The dataset card of a corpus: metadata for the Hub and the datasets library, then text and tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import yaml

from ..models.states import STATE_MEANINGS, UNRESOLVED
from ..version import __version__
from .catalogue import DEFAULT_CONFIG, CorpusEntry
from .columns import BASE_FEATURES
from .splits import Split

Sizes = Mapping[tuple[str, str], tuple[int, int]]  # (configuration, split): bytes in memory, bytes of the parquet file

COLUMN_MEANINGS = {
    "id": "name of the chain in the source, unique within a split",
    "sequence": "residues, one letter each, as in the source",
    "states": f"DSSP states, one letter per residue, same length; {UNRESOLVED} for residues without a state",
    "num_residues": "length of the chain [residues]",
    "pdb_id": "PDB code, if `id` contains one",
    "pdb_chain": "chain of the PDB entry, if `id` contains one",
    "chain": "the distinct whole chain that contains the row's domain",
    "chain_states": f"states of the whole chain; {UNRESOLVED} for unresolved residues only",
    "resolved_mask": "one boolean per residue: True if it has coordinates",
    "domain_mask": "one boolean per residue: True if it belongs to the row's domain",
}


@dataclass(frozen=True)
class CardFacts:
    """What a card says apart from the counts.

    Attributes:
        title: name of the corpus for display.
        summary: one sentence.
        license: the Hub's identifier of the licence; `unknown` if it is not known.
        num_states: 9 or 8.
        license_note: a sentence on the licence.
        homepage: address of the origin.
        made_by: the command that wrote the corpus.
        sources: one line per source file: address and checksum.
        trains_for: Markdown on the test sets that the corpus may be used for; empty for a test set.
        notes: Markdown.
        citation: BibTeX entries.
        missing: one line per split that could not be built, with the reason.
        column_meanings: descriptions of further columns.
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
    missing: Sequence[str] = ()
    column_meanings: Mapping[str, str] = field(default_factory=dict)


def origin_facts(entry: CorpusEntry) -> dict[str, Any]:
    """Return what the card of every corpus made from a catalogued one says: licence, homepage, states, citation."""
    return {
        "license": entry.origin.license,
        "license_note": entry.origin.license_note,
        "homepage": entry.origin.homepage,
        "num_states": entry.num_states,
        "citation": entry.citation,
    }


def file_name(split: str, config: str) -> str:
    """Return the name of a split's parquet file in the folder `data` of a corpus."""
    config_prefix = "" if config == DEFAULT_CONFIG else f"{config}-"
    return f"{config_prefix}{split}-00000-of-00001.parquet"


def dataset_card(
    name: str, splits: Sequence[Split], facts: CardFacts, features: datasets.Features, sizes: Sizes
) -> str:
    """Return the text of a corpus's README.md.

    Args:
        name: what `datasets.load_dataset` loads it by: a folder, or a name on the Hub.
        splits: its splits.
        facts: what the card says apart from the counts.
        features: its columns.
        sizes: size of each split [bytes].
    """
    front = yaml.safe_dump(_front_matter(splits, facts, features, sizes), sort_keys=False, allow_unicode=True)
    parts = [f"---\n{front}---", f"# {facts.title}", facts.summary, _usage(name, splits)]
    parts += ["## Contents", _counts_table(splits)]
    parts += [f"Not in this build: {reason}" for reason in facts.missing]
    parts += ["## Columns", _columns(features, facts), "## States", _states_table(facts)]
    if facts.notes:
        parts += ["## Notes", facts.notes]
    if facts.trains_for:
        parts += ["## Leakage", facts.trains_for]
    parts += ["## Origin", _origin(splits, facts)]
    if facts.citation:
        parts += ["## Citation", f"```bibtex\n{facts.citation.strip()}\n```"]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def renamed_card(card: str, name: str) -> str:
    """Return the text of a corpus's card with another name in the calls that load it."""
    return re.sub(r'load_dataset\("[^"]*"', lambda _: f'load_dataset("{name}"', card)


def _front_matter(
    splits: Sequence[Split], facts: CardFacts, features: datasets.Features, sizes: Sizes
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
        members = [split for split in splits if split.config == config]
        front["configs"].append(
            {
                "config_name": config,
                "data_files": [
                    {"split": split.name, "path": f"data/{file_name(split.name, split.config)}"} for split in members
                ],
            }
        )
        front["dataset_info"].append(
            {
                "config_name": config,
                "features": features._to_yaml_list(),
                "splits": [
                    {"name": split.name, "num_bytes": sizes[config, split.name][0], "num_examples": split.counts.chains}
                    for split in members
                ],
                "download_size": sum(sizes[config, split.name][1] for split in members),
                "dataset_size": sum(sizes[config, split.name][0] for split in members),
            }
        )
    return front


def _size_category(rows: int) -> str:
    """Return the Hub's name for a number of rows."""
    bounds = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    return next((name for bound, name in bounds if rows < bound), "1M<n<10M")


def _usage(name: str, splits: Sequence[Split]) -> str:
    others = [split for split in splits if split.config != DEFAULT_CONFIG]
    lines = ["```python", "import datasets", ""]
    lines.append(f'corpus = datasets.load_dataset("{name}", split="{splits[0].name}")')
    lines += [f'{s.config} = datasets.load_dataset("{name}", "{s.config}", split="{s.name}")' for s in others]
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
    return "\n".join(f"- `{name}`: {meanings.get(name, 'as in the source')}" for name in features)


def _states_table(facts: CardFacts) -> str:
    lines = ["| state | name | meaning |", "| --- | --- | --- |"]
    lines += [f"| {letter} | {name} | {meaning} |" for letter, (name, meaning) in STATE_MEANINGS.items()]
    lines.append(f"| {UNRESOLVED} | none | residue without a state: not used for training or scoring |")
    if facts.num_states == 8:
        lines.append("\nThese states were assigned before mkdssp 4, without P: such residues are L.")
    return "\n".join(lines)


def _origin(splits: Sequence[Split], facts: CardFacts) -> str:
    lines = [f"- {source}" for source in facts.sources]
    if facts.homepage:
        lines.append(f"- Homepage: {facts.homepage}")
    lines.append(f"- Licence: {facts.license}. {facts.license_note}".rstrip())
    changes = [
        f"{split.label}: {change}: {number:,}"
        for split in splits
        for change, number in sorted(split.counts.changes.items())
    ]
    lines.append("- Changes made on reading: " + ("; ".join(changes) if changes else "none") + ".")
    lines.append(f"- Built by lift_ss_hf {__version__}" + (f": `{facts.made_by}`." if facts.made_by else "."))
    return "\n".join(lines)
