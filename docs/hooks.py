"""What mkdocs adds to the pages: files of the repository, the help of commands, and tables of arguments.

Pages link to files of the repository by relative paths, which work on a hosting site too. Here each file that is linked
becomes a part of the site, below `repository/`: Markdown as a page, so that benchmarks and READMEs are shown and never
copied, and everything else as it is.

A comment is replaced by what the code says:

    <!-- commands -->                   the help of `lift-ss`, and of each of its commands in a section of its own
    <!-- arguments: ModelArguments -->  the fields of a dataclass of lift_ss_hf.training
    <!-- changed defaults -->           what differs from transformers.TrainingArguments, with the reasons
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REPOSITORY = "repository"  # the folder of the site for files outside docs/

LINK = re.compile(r"\]\((?![a-z]+:)([^()\s#]+)((?:#[^()\s]*)?)\)")
FENCED = re.compile(r"(^[ ]*(`{3,}).*?^[ ]*\2[ ]*$)", re.M | re.S)
COMMENT = re.compile(r"^<!-- (commands|arguments|changed defaults)(?:: (\w+))? -->$", re.M)
HELP_WIDTH = "100"  # [characters]


def on_files(files: Any, config: Any) -> Any:
    """Add each file of the repository that a page links to, and those that these link to."""
    from mkdocs.structure.files import File

    pending = [Path(page.abs_src_path) for page in files.documentation_pages() if page.abs_src_path]
    added: set[Path] = set()
    while pending:
        page = pending.pop()
        for target in linked_files(page):
            if target not in added and not target.is_relative_to(DOCS):
                added.add(target)
                files.append(File.generated(config, site_path(target), abs_src_path=str(target)))
                pending += [target] if target.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace comments by what the code says, and lead links to files of the repository to their copies in the site."""
    source = Path(page.file.abs_src_path)

    def rewrite(link: re.Match[str]) -> str:
        target = linked_file(source, link[1])
        if target is None:
            return link[0]  # mkdocs reports it
        return f"]({os.path.relpath(site_path(target), Path(page.file.src_uri).parent)}{link[2]})"

    if source.is_relative_to(DOCS):
        markdown = COMMENT.sub(lambda comment: COMMENTS[comment[1]](comment[2]), markdown)
    return outside_fences(lambda text: LINK.sub(rewrite, text), markdown)


def outside_fences(change: Callable[[str], str], markdown: str) -> str:
    """Apply a function to all text outside fenced code."""
    parts, end = [], 0
    for fence in FENCED.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])


def linked_files(page: Path) -> Iterator[Path]:
    """Yield the files of the repository that a page links to."""
    text = FENCED.sub("", page.read_text("utf-8"))
    for link in LINK.finditer(text):
        target = linked_file(page, link[1])
        if target is not None:
            yield target


def linked_file(page: Path, link: str) -> Path | None:
    """Return the file that a relative link of a page leads to, README.md for a folder; None if there is none.

    Symbolic links are followed in the site, not here: a page keeps the place at which it is linked.
    """
    target = Path(os.path.normpath(page.parent / link))
    if target.is_dir():
        target /= "README.md"
    return target if target.is_file() and target.is_relative_to(ROOT) else None


def site_path(file: Path) -> str:
    """Return the path in the site's sources of a file of the repository."""
    if file.is_relative_to(DOCS):
        return file.relative_to(DOCS).as_posix()
    return f"{REPOSITORY}/{file.relative_to(ROOT).as_posix()}"


def command_sections(_: str | None) -> str:
    """Return the help of `lift-ss` and of each of its commands, in sections."""
    from lift_ss_hf.cli.lift_ss import parser

    top = parser()
    (commands,) = (action for action in top._actions if isinstance(action.choices, dict))
    with mock.patch.dict(os.environ, {"COLUMNS": HELP_WIDTH}):
        texts = {"lift-ss": top.format_help()}
        texts |= {
            f"lift-ss {name}": commands.choices[name].format_help() for name in commands.choices if name != "help"
        }
    return "\n\n".join(f"## {name}\n\n```text\n{text}```" for name, text in texts.items())


def argument_table(name: str | None) -> str:
    """Return a table of the flags that a dataclass of arguments adds to those of its parents."""
    from lift_ss_hf.training import arguments, memory, pretraining

    rooms = (arguments, memory, pretraining)
    (found,) = {vars(room)[name] for room in rooms if name in vars(room)}
    own = [field for field in dataclasses.fields(found) if field.name in found.__annotations__]
    rows = [f"| `--{field.name}` | {_default(field)} | {_cell(field.metadata['help'])} |" for field in own]
    return "\n".join(["| flag | default | what it sets |", "| --- | --- | --- |", *rows])


def changed_defaults(_: str | None) -> str:
    """Return a table of the defaults that differ from those of transformers, with their reasons."""
    from lift_ss_hf.training.arguments import CHANGED_DEFAULTS

    rows = [f"| `--{name}` | {_cell(reason)} |" for name, reason in CHANGED_DEFAULTS.items()]
    return "\n".join(["| flag | our default, and why |", "| --- | --- |", *rows])


COMMENTS = {"commands": command_sections, "arguments": argument_table, "changed defaults": changed_defaults}


def _default(field: dataclasses.Field) -> str:
    value = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]
    if value is None or value == []:
        return "unset"
    return f"`{' '.join(map(str, value)) if isinstance(value, list) else value}`"


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")
