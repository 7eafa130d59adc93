"""README and the pages of docs/: their code blocks, and the modules that build the site."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from scripts import ROOT, load_module

DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted(DOCS.rglob("*.md"))

BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?"
    r"(?P<indent> *)```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^(?P=indent)```$",
    re.M | re.S,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: python, bash, console (commands after `$ `, and their output) or text.
        text: what is in it.
        title: name of the file that it shows; None for most.
        reason: why it is not run; None if it is.
        place: page and line, for messages.
    """

    language: str
    text: str
    title: str | None
    reason: str | None
    place: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    source = page.read_text("utf-8")
    for found in BLOCK.finditer(source):
        place = f"{page.relative_to(ROOT)}:{source[: found.start()].count(chr(10)) + 1}"
        yield Block(found["language"], found["text"], found["title"], found["reason"], place)


def commands(block: Block) -> list[tuple[list[str], list[str]]]:
    """Return the commands of a bash or console block as argument lists, each with the lines of output it shows."""
    found: list[tuple[list[str], list[str]]] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language == "console" and not line.startswith("$ "):
            found[-1][1].append(line)
        elif words := shlex.split(line.removeprefix("$ "), comments=True):
            found.append((words, []))
    return found


def load(name: str) -> ModuleType:
    """Import one of the modules in docs/, which is not a package."""
    return load_module(DOCS / f"{name}.py")
