"""docs/crawl.py finds dead links and anchors, and what a page loads from elsewhere."""

import sys

from docs_pages import load

crawl = load("crawl")


def site(folder, body, head=""):
    (folder / "other").mkdir()
    (folder / "other" / "index.html").write_text('<h1 id="title">Other</h1>')
    (folder / "a.svg").write_text("<svg/>")
    (folder / "index.html").write_text(f"<html><head>{head}</head><body>{body}</body></html>")
    return folder


def test_a_site_without_a_problem(tmp_path):
    body = '<h2 id="here">.</h2> <a href="#here">.</a> <a href="other/index.html#title">.</a> <a href="other/">.</a>'
    head = '<script src="a.svg"></script><link rel="canonical" href="https://example.org">'
    page = site(tmp_path, body + '<img src="a.svg#only-light"><a href="https://example.org/x">.</a>', head)
    assert list(crawl.problems(page)) == []


def test_each_problem_is_one_line(tmp_path):
    body = '<a href="gone.html">.</a> <a href="#gone">.</a> <a href="other/index.html#gone">.</a> <img src="gone.png">'
    head = (
        '<script src="https://cdn.example.org/x.js"></script><link rel="stylesheet" href="//fonts.example.org/x.css">'
    )
    page = site(tmp_path, body + '<pre class="mermaid">graph</pre>', head)
    assert list(crawl.problems(page)) == [
        "index.html: loads https://cdn.example.org/x.js",
        "index.html: loads //fonts.example.org/x.css",
        "index.html: loads the network, for class mermaid",
        "index.html: dead link gone.html",
        "index.html: no such anchor #gone",
        "index.html: no such anchor other/index.html#gone",
        "index.html: dead link gone.png",
    ]


def test_the_exit_status_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["crawl.py", str(site(tmp_path, '<a href="gone.html">.</a>'))])
    assert crawl.main() == 1
    assert "dead link gone.html" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["crawl.py", str(tmp_path / "other")])
    assert crawl.main() == 0


def test_an_empty_folder_is_not_a_site(tmp_path):
    assert "Build the site first" in next(crawl.problems(tmp_path))
