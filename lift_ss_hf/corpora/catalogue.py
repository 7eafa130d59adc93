"""Read `catalogue.yaml`, the list of corpora, into typed entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import PurePath
from typing import Any

import yaml

from ..models.wording import did_you_mean

DEFAULT_CONFIG = "default"
SPLIT_ORDER = ("train", "validation", "test")


@dataclass(frozen=True)
class Origin:
    """Where source files come from: a repository or a software package.

    Attributes:
        name: key of the origin in the catalogue.
        homepage: address of the repository or program.
        folder: subfolder of a source folder that holds the origin's files.
        license: the Hub's identifier of the licence.
        license_note: a sentence on the licence, for dataset cards.
        url: base address of the files; None if they cannot be downloaded.
        instead: how to get the files if `url` is None.
    """

    name: str
    homepage: str
    folder: str
    license: str
    license_note: str
    url: str | None = None
    instead: str | None = None


@dataclass(frozen=True)
class SourceFile:
    """One source file: its checksum, its format and the expected counts.

    Attributes:
        path: path of the file below the origin's `url`.
        form: file format, a key of `readers.READERS`.
        origin: where the file comes from.
        git_blob: checksum as printed by `git hash-object`. Give either this or `sha256`.
        sha256: SHA-256 checksum.
        chains, residues, labelled: expected counts; None if the file has not been counted yet.
        instead: how to get the file if it cannot be downloaded.
    """

    path: str
    form: str
    origin: Origin
    git_blob: str | None = None
    sha256: str | None = None
    chains: int | None = None
    residues: int | None = None
    labelled: int | None = None
    instead: str | None = None

    @property
    def name(self) -> str:
        """Return the file name without folders."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def url(self) -> str | None:
        """Return the download address, or None if there is none."""
        return None if self.origin.url is None else self.origin.url + self.path

    @property
    def checksum(self) -> str:
        """Return the pinned checksum as `git_blob:HEX` or `sha256:HEX`."""
        return f"git_blob:{self.git_blob}" if self.git_blob else f"sha256:{self.sha256}"


@dataclass(frozen=True)
class CorpusConfig:
    """One configuration of a corpus.

    Attributes:
        name: `default`, or the part of the corpus name after the colon.
        splits: source file of each split, in the order train, validation, test.
        trains_for: names of the test corpora that the training split may be used for.
    """

    name: str
    splits: Mapping[str, SourceFile]
    trains_for: tuple[str, ...]


@dataclass(frozen=True)
class CorpusEntry:
    """One entry of the catalogue: a corpus with all its configurations.

    Attributes:
        name: name of the corpus.
        title: name for display.
        summary: one sentence.
        origin: where the files come from; single files may name another origin.
        num_states: 9, or 8 if the states were assigned without P.
        citation: BibTeX entries.
        configs: configurations by name; `default` is always one of them.
        notes: Markdown for the dataset card.
    """

    name: str
    title: str
    summary: str
    origin: Origin
    num_states: int
    citation: str
    configs: Mapping[str, CorpusConfig]
    notes: str = ""


@dataclass(frozen=True)
class CataloguedCorpus:
    """A corpus of the catalogue in one configuration, as selected by a name such as `promod3:lt25id`."""

    entry: CorpusEntry
    config: CorpusConfig

    def __str__(self) -> str:
        return self.entry.name if self.config.name == DEFAULT_CONFIG else f"{self.entry.name}:{self.config.name}"

    def crossed_tests(self, tests: Sequence[str]) -> list[str]:
        """Return the test corpora that this training corpus must not be used for; see `crossed_tests`."""
        corpora = {test: find_corpus(PurePath(test).name) for test in tests}
        return [test for test, found in corpora.items() if found and found.entry.name not in self.config.trains_for]


@cache
def load_catalogue() -> Mapping[str, CorpusEntry]:
    """Return the entries of all corpora by name, in the order of the catalogue."""
    return parse_catalogue(resources.files(__package__).joinpath("catalogue.yaml").read_text("utf-8"))


def parse_catalogue(text: str) -> dict[str, CorpusEntry]:
    """Parse the text of a catalogue; the header of `catalogue.yaml` describes the format.

    Raises:
        ValueError: if an entry lacks a field, has an unknown one or names an unknown origin.
    """
    data = yaml.safe_load(text)
    origins = {name: Origin(name=name, **fields) for name, fields in data["origins"].items()}
    entries = {}
    for name, fields in data["corpora"].items():
        try:
            entries[name] = _entry(name, fields, origins)
        except KeyError as error:
            raise ValueError(
                f"catalogue.yaml: {name}: missing field or unknown origin {error}. See the header of the file."
            ) from None
        except TypeError as error:  # from _config or a dataclass, which names the field
            raise ValueError(f"catalogue.yaml: {name}: {error}. See the header of the file.") from None
    return entries


def _entry(name: str, fields: Mapping[str, Any], origins: Mapping[str, Origin]) -> CorpusEntry:
    rest = dict(fields)
    origin = origins[rest.pop("origin")]
    default = {"splits": rest.pop("splits"), "trains_for": rest.pop("trains_for", ())}
    configs = {DEFAULT_CONFIG: default, **rest.pop("configs", {})}
    return CorpusEntry(
        name=name,
        origin=origin,
        configs={key: _config(key, value, origin, origins) for key, value in configs.items()},
        **rest,
    )


def _config(name: str, fields: Mapping[str, Any], origin: Origin, origins: Mapping[str, Origin]) -> CorpusConfig:
    if unknown := {*fields} - {"splits", "trains_for", "instead"} | {*fields["splits"]} - {*SPLIT_ORDER}:
        raise TypeError(f"unknown field or split {', '.join(sorted(unknown))}")
    splits = {}
    for split in SPLIT_ORDER:
        if split in fields["splits"]:
            source = dict(fields["splits"][split])
            source["origin"] = origins[source["origin"]] if "origin" in source else origin
            splits[split] = SourceFile(**{"instead": fields.get("instead", origin.instead), **source})
    return CorpusConfig(name, splits, tuple(fields.get("trains_for", ())))


def find_corpus(name: str) -> CataloguedCorpus | None:
    """Return the corpus of the catalogue that a name selects, or None if the catalogue has no such corpus.

    Args:
        name: name of a corpus, with the configuration after a colon: `casp12`, `promod3:lt25id`.
    """
    corpus, _, config = name.partition(":")
    entry = load_catalogue().get(corpus)
    if entry is None or (config or DEFAULT_CONFIG) not in entry.configs:
        return None
    return CataloguedCorpus(entry, entry.configs[config or DEFAULT_CONFIG])


def get_corpus(name: str) -> CataloguedCorpus:
    """Return the corpus of the catalogue that a name selects.

    Args:
        name: as for `find_corpus`.

    Raises:
        ValueError: if the catalogue has no such corpus or configuration; the message lists the choices.

    Example:
        >>> corpus = get_corpus("promod3:lt25id")
        >>> corpus.entry.title, corpus.config.name
        ('ProMod3 structure database', 'lt25id')
    """
    if (found := find_corpus(name)) is not None:
        return found
    catalogue = load_catalogue()
    corpus, _, config = name.partition(":")
    if corpus in catalogue:
        choices = ", ".join(catalogue[corpus].configs)
        raise ValueError(f"{corpus} has no configuration {config!r}. Choose one of: {choices}.")
    hint = did_you_mean(corpus.lower().replace("_", ""), catalogue)
    raise ValueError(f"unknown corpus {corpus!r}.{hint} Choose one of: {', '.join(sorted(catalogue))}.")


def versions_of(name: str) -> dict[str, str]:
    """Return the catalogued versions of a source file: the corpora that hold each, by checksum.

    Args:
        name: name of the file.

    Example:
        >>> sorted(versions_of("PISCES_30_train.txt").values())
        ['pisces30', 'pisces30_2022']
    """
    versions: dict[str, str] = {}
    for entry in load_catalogue().values():
        for config in entry.configs.values():
            for source in config.splits.values():
                if source.name == name:
                    versions.setdefault(source.checksum, entry.name)
    return versions


def crossed_tests(train: str, tests: Sequence[str]) -> list[str]:
    """Return the test corpora that share chains or homologues with a training corpus.

    A model trained on `train` must not be scored on them.

    Args:
        train: name of a training corpus (`promod3:lt25id`), or the folder it was built in. Corpora that are not in
            the catalogue are never reported.
        tests: names or folders of test corpora. Those that are not in the catalogue are ignored.

    Returns:
        the crossed test corpora, in the order given.

    Source: which test sets LIFT_SS used with which training set; its training and test sets of different families
        share chains.

    Example:
        >>> crossed_tests("spot1d", ["test2016", "casp12"])
        ['casp12']
    """
    corpus = find_corpus(PurePath(train).name)
    return corpus.crossed_tests(tests) if corpus else []
