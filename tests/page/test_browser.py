"""The page in headless Chromium: type, run, see it drawn, download; errors, a phone, the keyboard, two visitors.

And `predictions.html`, which is drawn in the same way, with a thousand chains. Screenshots are written if
LIFT_SS_SCREENSHOTS names a folder, as in CI: look at them when you change a page.
"""

import os
import shutil
import zipfile
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tools import needs_browser

from lift_ss_hf.page.chains import Limits
from lift_ss_hf.page.serving import load_models, open_page
from lift_ss_hf.prediction.html_page import draw_chain, page_end, page_start
from lift_ss_hf.prediction.result import Prediction

pytestmark = needs_browser
SCREENSHOTS = os.environ.get("LIFT_SS_SCREENSHOTS")
LIMITS = Limits(sequences=4, residues=200)
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 812}
PEPTIDE = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"
HOSTILE = "<img/src=x/onerror=window.hacked=1>${window.hacked=1}{{hacked}}<script>window.hacked=1</script>"


@pytest.fixture(scope="module")
def address():
    with open_page(load_models(["bundled"]), LIMITS, about="How accurate it is.") as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """A tab of its own in the browser, with a history of its own; every request it makes is noted.

    Attributes:
        page: Playwright's.
        requests: addresses.
    """

    def __init__(self, browser, address, viewport=None, **options):
        self.context = browser.new_context(viewport=viewport or DESKTOP, **options)
        self.context.set_default_timeout(60_000)
        self.page, self.requests = self.context.new_page(), []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.box = self.page.locator("#chains textarea")
        self.box.wait_for()

    def predict(self, text):
        self.box.fill(text)
        self.page.locator("#predict").click()

    def wait_for_drawing(self, name):
        self.page.locator("#drawing h2", has_text=name).wait_for()

    def wait_for_figures(self):
        self.page.locator("#download_svg:not([disabled])").wait_for()

    def message(self, kind):
        line = self.page.locator(f"#message .{kind}")
        line.wait_for()
        return line.inner_text()

    def states(self):
        """The predicted states of the chain, as they are drawn."""
        return "".join(self.page.locator("#drawing text.H, #drawing text.E, #drawing text.C").all_text_contents())

    def download(self, name, folder):
        with self.page.expect_download() as download:
            self.page.locator(f"#download_{name}").click()
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path

    def screenshot(self, name):
        if SCREENSHOTS:
            self.page.screenshot(path=Path(SCREENSHOTS, f"{name}.png"), full_page=True)

    def is_hacked(self):
        return self.page.evaluate("() => 'hacked' in window")


@pytest.fixture
def visit(browser, address):
    visitors = []

    def visit(**options):
        visitors.append(Visitor(browser, address, **options))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        visitor.context.close()


def test_the_example_is_drawn_and_downloaded_and_no_request_leaves_the_host(visit, address, tmp_path):
    visitor = visit()
    visitor.page.locator("#example").click()
    visitor.wait_for_drawing("1ubq_A")
    assert visitor.message("summary").startswith("2 chains, 205 residues in ")
    states = visitor.states()
    assert len(states) == 76
    visitor.wait_for_figures()
    visitor.page.locator("button", has_text="States of each residue").click()
    rows = visitor.page.locator("#table tbody tr")
    rows.first.wait_for()
    assert "".join(row.split()[2] for row in rows.all_inner_texts()) == states
    visitor.screenshot("desktop")

    table = pq.read_table(visitor.download("parquet", tmp_path))
    assert "".join(table["state"].to_pylist()[:76]) == states
    lines = visitor.download("csv", tmp_path).read_text().splitlines()
    assert len(lines) == 1 + table.num_rows == 206
    with zipfile.ZipFile(visitor.download("ss2", tmp_path)) as archive:
        assert sorted(archive.namelist()) == ["00000001_1ubq_A.ss2", "00000002_1lyz_A.ss2"]
        assert archive.read("00000001_1ubq_A.ss2").startswith(b"# PSIPRED VFORMAT")
    assert Image.open(visitor.download("png", tmp_path)).size[0] > 500
    ElementTree.parse(visitor.download("svg", tmp_path))
    assert {urlsplit(url).netloc for url in visitor.requests if not url.startswith(("data:", "blob:"))} == {
        urlsplit(address).netloc
    }


def test_an_error_is_one_line_and_the_next_try_works(visit):
    visitor = visit()
    for text, says in (
        ("", "There is no sequence yet."),
        ("MKT4", "record 1 (record_1): '4' at position 4"),
        (f">{HOSTILE}\nMKT4", HOSTILE),
        (">a\nMKT\n" * 5, "more than 4 sequences"),
        (f">a\n{'M' * 201}", "201 residues, but this page takes up to 200"),
    ):
        visitor.predict(text)
        visitor.page.locator("#message .error", has_text=says).wait_for()
        assert "\n" not in visitor.message("error")
    visitor.screenshot("error")
    visitor.predict(PEPTIDE)
    visitor.wait_for_drawing("record_1")
    assert not visitor.is_hacked()


def test_a_header_is_shown_and_never_run_and_another_chain_can_be_chosen(visit):
    visitor = visit()
    visitor.predict(f">{HOSTILE}\n{PEPTIDE}\n>other\n{PEPTIDE[:20]}")
    visitor.wait_for_drawing(HOSTILE)  # as it was typed
    visitor.wait_for_figures()
    visitor.page.locator("#chain label", has_text="2. other, 20 residues").click()
    visitor.wait_for_drawing("other")
    assert len(visitor.states()) == 20
    assert HOSTILE in visitor.page.locator("#chain label").first.inner_text()
    assert not visitor.is_hacked()


def test_a_file_is_opened(visit, tmp_path):
    path = tmp_path / "chains.fasta"
    path.write_text(f">from_a_file\n{PEPTIDE}\n")
    visitor = visit()
    visitor.page.locator("input[type=file]").set_input_files(path)
    visitor.page.wait_for_function("() => document.querySelector('#chains textarea').value.includes('from_a_file')")
    visitor.page.locator("#predict").click()
    visitor.wait_for_drawing("from_a_file")
    assert not [url for url in visitor.requests if "upload" in url]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_phone_shows_all_without_scrolling_sideways(visit, scheme):
    visitor = visit(viewport=PHONE, color_scheme=scheme, has_touch=True)
    visitor.page.locator("#example").tap()
    visitor.wait_for_drawing("1ubq_A")
    visitor.wait_for_figures()
    visitor.page.locator("button", has_text="States of each residue").tap()
    visitor.page.locator("#table tbody tr").first.wait_for()
    visitor.screenshot(f"phone_{scheme}")
    assert visitor.page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_keyboard_is_enough(visit, tmp_path):
    visitor = visit(color_scheme="dark")
    press = visitor.page.keyboard.press

    def tab_to(selector):
        for _ in range(30):
            press("Tab")
            if visitor.page.evaluate("(found) => document.activeElement.closest(found) !== null", selector):
                return
        raise AssertionError(f"Tab does not lead to {selector}")

    tab_to("#chains")
    visitor.page.keyboard.type(PEPTIDE)
    tab_to("#predict")
    press("Enter")
    visitor.wait_for_drawing("record_1")
    visitor.wait_for_figures()
    tab_to("#download_csv")
    with visitor.page.expect_download() as download:
        press("Enter")
    assert download.value.suggested_filename == "predictions.csv"
    visitor.screenshot("desktop_dark")


def test_two_visitors_at_once_see_their_own_answers(visit, tmp_path):
    chains = {"first": PEPTIDE, "second": PEPTIDE[::-1]}
    visitors = {name: visit() for name in chains}
    for name, visitor in visitors.items():
        visitor.predict(f">{name}\n{chains[name]}")
    for name, visitor in visitors.items():
        visitor.wait_for_drawing(name)
        path = visitor.download("csv", tmp_path / name)
        rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
        assert {row[1] for row in rows} == {name}
        assert "".join(row[3] for row in rows) == chains[name]


def drawn_chains(page):
    """The names of the chains whose rows the browser has drawn, rather than passed over as out of view."""
    return page.evaluate(
        """() => [...document.querySelectorAll("section")]
            .filter(chain => chain.querySelector("svg").checkVisibility({contentVisibilityAuto: true}))
            .map(chain => chain.firstElementChild.textContent)"""
    )


def test_predictions_of_a_thousand_chains_are_searched_and_drawn_only_in_view(browser, tmp_path):
    path, sequence = tmp_path / "predictions.html", 10 * PEPTIDE
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], len(sequence))
    chains = (
        draw_chain(Prediction(number, f"chain_{number}", sequence, "q3", probabilities, "q3"))
        for number in range(1, 1001)
    )
    path.write_text("".join([page_start("Predictions"), *chains, page_end()]), "utf-8")
    with browser.new_context(viewport=DESKTOP) as context:
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(path.as_uri())
        assert page.locator("section").count() == 1000
        first = drawn_chains(page)
        assert first[0] == "chain_1"
        assert len(first) < 20

        page.locator("input").fill("CHAIN_77")
        assert page.locator("output").inner_text() == "11 of 1000"
        shown = page.locator("section:visible h2").all_text_contents()
        assert shown == ["chain_77", *(f"chain_{number}" for number in range(770, 780))]
        last = page.locator("section:visible h2").last
        last.scroll_into_view_if_needed()
        drawn = "chain => chain.parentElement.querySelector('svg').checkVisibility({contentVisibilityAuto: true})"
        page.wait_for_function(drawn, arg=last.element_handle())
        if SCREENSHOTS:
            page.screenshot(path=Path(SCREENSHOTS, "predictions_searched.png"))
