"""The catalogue of corpora: `catalogue.yaml`, read into typed entries."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import PurePath
from typing import Any

import yaml

DEFAULT_CONFIG = "default"
SPLIT_ORDER = ("train", "validation", "test")


@dataclass(frozen=True)
class Origin:
    """Where files come from: a repository or a program's package.

    Attributes:
        name: its key in the catalogue.
        folder: its folder below a source folder.
        license: the Hub's identifier of the licence.
        url: address below which the files lie; None where nothing can be downloaded.
        instead: how to get the files where `url` is None.
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
    """One file of an origin, pinned, and what must be read from it.

    Attributes:
        path: its name below the origin.
        form: the reader's name.
        git_blob: checksum as of `git hash-object`; or `sha256`.
        chains, residues, labelled: expected counts; None where the file has not been counted yet.
        instead: how to get the file where it cannot be downloaded.
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
        """The file's name without folders."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def url(self) -> str | None:
        """Where to download it; None where it cannot be."""
        return None if self.origin.url is None else self.origin.url + self.path

    @property
    def checksum(self) -> str:
        """The pinned checksum, with its kind."""
        return f"git_blob:{self.git_blob}" if self.git_blob else f"sha256:{self.sha256}"


@dataclass(frozen=True)
class CorpusConfig:
    """One configuration of a corpus: its splits, and the tests it may train for."""

    name: str
    splits: Mapping[str, SourceFile]
    trains_for: tuple[str, ...]


@dataclass(frozen=True)
class CorpusEntry:
    """All that the catalogue says of one corpus."""

    name: str
    title: str
    summary: str
    origin: Origin
    num_states: int
    unresolved: bool
    citation: str
    configs: Mapping[str, CorpusConfig]
    notes: str = ""

    def config(self, name: str | None = None) -> CorpusConfig:
        """The configuration of that name, the default one for None.

        Raises:
            ValueError: if there is none; the choices are listed.
        """
        name = name or DEFAULT_CONFIG
        if name not in self.configs:
            raise ValueError(f"{self.name} has no configuration {name!r}. Choose one of: {', '.join(self.configs)}.")
        return self.configs[name]


@dataclass(frozen=True)
class CorpusName:
    """`pisces25`, or `promod3:lt25id` where a configuration is meant."""

    corpus: str
    config: str = DEFAULT_CONFIG

    @classmethod
    def parse(cls, name: str) -> CorpusName:
        """Take a name apart at the colon."""
        corpus, _, config = name.partition(":")
        return cls(corpus, config or DEFAULT_CONFIG)


@cache
def load_catalogue() -> Mapping[str, CorpusEntry]:
    """Every corpus by name, in the catalogue's order."""
    text = resources.files(__package__).joinpath("catalogue.yaml").read_text("utf-8")
    data = yaml.safe_load(text)
    origins = {name: Origin(name=name, **fields) for name, fields in data["origins"].items()}
    return {name: _entry(name, fields, origins) for name, fields in data["corpora"].items()}


def _entry(name: str, fields: dict[str, Any], origins: Mapping[str, Origin]) -> CorpusEntry:
    fields = dict(fields)
    origin = origins[fields.pop("origin")]
    whole = {"splits": fields.pop("splits"), "trains_for": fields.pop("trains_for", ())}
    configs = {DEFAULT_CONFIG: whole, **fields.pop("configs", {})}
    return CorpusEntry(
        name=name,
        origin=origin,
        configs={key: _config(key, value, origin, origins) for key, value in configs.items()},
        **fields,
    )


def _config(name: str, fields: dict[str, Any], origin: Origin, origins: Mapping[str, Origin]) -> CorpusConfig:
    splits = {}
    for split in SPLIT_ORDER:
        if split in fields["splits"]:
            source = dict(fields["splits"][split])
            source["origin"] = origins[source["origin"]] if "origin" in source else origin
            splits[split] = SourceFile(**{"instead": fields.get("instead", origin.instead), **source})
    return CorpusConfig(name, splits, tuple(fields["trains_for"]))


def get_corpus(name: str) -> CorpusEntry:
    """The catalogue's entry of that name.

    Raises:
        ValueError: if there is none; the closest name and the choices are listed.
    """
    catalogue = load_catalogue()
    if name in catalogue:
        return catalogue[name]
    close = difflib.get_close_matches(name.lower().replace("_", ""), catalogue, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ValueError(f"unknown corpus {name!r}.{hint} Choose one of: {', '.join(sorted(catalogue))}.")


def crossed_tests(train: str, tests: Sequence[str]) -> list[str]:
    """Those of the tests that a training corpus must not be used for, since it holds their relatives.

    Args:
        train: a corpus, with its configuration after a colon (`promod3:lt25id`), or the folder it was built in; of
            one that the catalogue does not know nothing can be said, and nothing is returned.
        tests: test corpora, named likewise; those the catalogue does not know are passed over.

    Returns:
        the names in question, in the order given.

    Source: what LIFT_SS trained for which test; LIFT_SS's own sets share chains across that line.
    """
    name, known = CorpusName.parse(PurePath(train).name), load_catalogue()
    if name.corpus not in known:
        return []
    allowed = known[name.corpus].config(name.config).trains_for
    corpora = {test: CorpusName.parse(PurePath(test).name).corpus for test in tests}
    return [test for test, corpus in corpora.items() if corpus in known and corpus not in allowed]
