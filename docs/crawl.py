"""Check a built site: no dead link or anchor, and nothing loaded from another site.

python docs/crawl.py site
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "object": "data",
}
LOADED_RELATIONS = {"stylesheet", "icon", "preload", "preconnect", "modulepreload"}
NEEDS_NETWORK = {"mermaid"}  # classes that make the theme load a script from elsewhere


class Page(HTMLParser):
    """The ids of a page, what it links to, and what it loads."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what one element refers to."""
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if given.get(LOADED.get(tag, "")):
            self.loads.append(given[LOADED[tag]])
        if tag == "link" and LOADED_RELATIONS & set(given.get("rel", "").split()):
            self.loads.append(given["href"])
        self.loads += [f"the network, for class {name}" for name in NEEDS_NETWORK & set(given.get("class", "").split())]


def problems(site: Path) -> Iterator[str]:
    """Yield a line for each dead link or anchor of a site, and for each thing that it loads from elsewhere."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site}: no pages. Build the site first: make docs."
    for path, page in pages.items():
        if path == site / "404.html":
            continue  # its links start at the root of a server
        name = path.relative_to(site)
        for target in page.loads:
            if (
                urlsplit(target).scheme not in ("", "data")
                or urlsplit(target).netloc
                or target.startswith("the network")
            ):
                yield f"{name}: loads {target}"
        for target in [*page.links, *page.loads]:
            yield from (f"{name}: {problem}" for problem in _dead(target, path, pages))


def _dead(target: str, path: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """Yield what is wrong with one link of a page, if it leads to another file of the site."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc or target.startswith("the network"):
        return
    file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if file.is_dir():
        file /= "index.html"
    if not file.is_file():
        yield f"dead link {target}"
    elif parts.fragment and file in pages and unquote(parts.fragment) not in pages[file].ids:
        yield f"no such anchor {target}"


def main() -> int:
    """Print the problems of the site that the command line names, and return the exit status."""
    found = list(problems(Path(sys.argv[1]).resolve()))
    print("\n".join([*found, f"{len(found)} problems" if found else "no dead link, and nothing loaded from elsewhere"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
