"""The pages of docs/ keep up with the code: links, navigation, public names, commands, presets, formats, corpora."""

import re

import pytest
import yaml
from docs_pages import DOCS, PAGES, README, ROOT, load

from lift_ss_hf.corpora.catalogue import load_catalogue
from lift_ss_hf.models.adapter_methods import ADAPTERS
from lift_ss_hf.prediction.formats import FORMATS
from lift_ss_hf.training.arguments import CHANGED_DEFAULTS

hooks = load("hooks")


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page):
    text = hooks.FENCED.sub("", page.read_text("utf-8"))
    dead = [link[1] for link in hooks.LINK.finditer(text) if hooks.linked_file(page, link[1]) is None]
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_has_one_title_and_starts_with_a_sentence(page):
    text = re.sub(r"\A---\n.*?\n---\n", "", page.read_text("utf-8"), flags=re.S)
    title, blank, first = text.strip().splitlines()[:3]
    assert title.startswith("# ")
    assert blank == ""
    assert first.endswith((".", ":"))


def test_the_navigation_has_every_page_once():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = re.findall(r"[\w/]+\.md", str(nav))
    assert sorted(name for name in named if not name.startswith(hooks.REPOSITORY)) == sorted(
        page.relative_to(DOCS).as_posix() for page in PAGES
    )
    copied = [name.removeprefix(f"{hooks.REPOSITORY}/") for name in named if name.startswith(hooks.REPOSITORY)]
    assert copied
    assert all((ROOT / name).is_file() for name in copied)


def test_every_public_name_is_in_the_reference():
    stub = (ROOT / "lift_ss_hf" / "__init__.pyi").read_text()
    public = set(re.findall(r"^from .* as (\w+)$", stub, re.M))
    page = (DOCS / "reference" / "python.md").read_text()
    assert set(re.findall(r"^::: lift_ss_hf\.(\w+)$", page, re.M)) == {*public, "states"}


def test_every_preset_and_format_and_launch_file_and_corpus_is_on_its_page():
    def page(name):
        return (DOCS / name).read_text()

    assert [name for name in ADAPTERS if f"`{name}`" not in page("explanations/adapters.md")] == []
    assert [name for name in FORMATS if f"`{name}`" not in page("tutorials/predict_a_proteome.md")] == []
    launch = [path.name for path in (ROOT / "accelerate_configs").iterdir()]
    assert [name for name in launch if f"[{name}]" not in page("how_to/launch.md")] == []
    families = {re.sub(r"\d+_2022$|(?<=pisces)\d+$", "", name) for name in load_catalogue()}
    assert [name for name in families if f"| {name}" not in page("reference/corpora.md")] == []


def test_comments_are_replaced_by_the_code():
    def replaced(comment):
        return hooks.COMMENT.sub(lambda found: hooks.COMMENTS[found[1]](found[2]), comment)

    commands = replaced("<!-- commands -->")
    assert commands.startswith("## lift-ss\n\n```text\nusage: lift-ss ")
    assert "\n\n## lift-ss predict\n\n```text\nusage: lift-ss predict " in commands
    table = replaced("<!-- arguments: CorpusArguments -->")
    assert "| `--train` | `sample` |" in table
    assert "--learning_rate" not in table
    assert "| `--learning_rate` | `0.001` |" in replaced("<!-- arguments: RecipeTrainingArguments -->")
    assert all(f"`--{name}`" in replaced("<!-- changed defaults -->") for name in CHANGED_DEFAULTS)


class Page:
    """What mkdocs tells a hook about a page."""

    class file:  # noqa: N801
        abs_src_path = str(DOCS / "how_to" / "launch.md")
        src_uri = "how_to/launch.md"


def test_links_to_the_repository_lead_into_the_site_and_code_is_left_alone():
    text = "[a](../../recipes) [b](clusters.md#slurm) [c](../../CONTRIBUTING.md#rooms) [d](https://e.org/x) [e](no.md)"
    changed = hooks.on_page_markdown(f"{text}\n\n```text\n[a](../../recipes)\n```\n", Page)
    assert changed.splitlines()[0] == (
        "[a](../repository/recipes/README.md) [b](clusters.md#slurm) [c](../repository/CONTRIBUTING.md#rooms) "
        "[d](https://e.org/x) [e](no.md)"
    )
    assert "\n[a](../../recipes)\n" in changed
