"""Source files: from a folder, the cache or a server on this machine; a failed download leaves nothing behind."""

import http.server
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from corpus_files import TEXT, blob_id

from lift_ss_hf.corpora.catalogue import get_corpus
from lift_ss_hf.corpora.chains import CorpusError
from lift_ss_hf.corpora.sources import MissingSourceError, download_dir, find_source

OLD = TEXT.replace(b"MKV", b"MKI")


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.body`, with `server.claimed` as its length."""

    def do_GET(self):
        self.server.requests.append(self.path)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.claimed or len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.body, server.claimed, server.status, server.requests = TEXT, None, 200, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def source(server, tmp_path, monkeypatch):
    """PISCES_25_train as in the catalogue, but small and served from this machine."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("LIFT_SS_DATA_DIR", raising=False)
    source = get_corpus("pisces25").config.splits["train"]
    origin = replace(source.origin, url=f"http://127.0.0.1:{server.server_port}/data/")
    return replace(source, origin=origin, git_blob=blob_id(TEXT))


def nothing_left():
    return not download_dir().exists() or not list(download_dir().iterdir())


def test_a_download_is_verified_and_kept(source, server):
    path = find_source(source)
    assert path.read_bytes() == TEXT
    assert find_source(source) == path
    assert server.requests == ["/data/PISCES_25_train.txt"]  # the second time came from the cache


def test_a_damaged_cache_is_downloaded_again(source, server):
    find_source(source).write_bytes(b"damaged")
    assert find_source(source).read_bytes() == TEXT
    assert len(server.requests) == 2


@pytest.mark.parametrize("layout", ["lift_ss/PISCES_25_train.txt", "PISCES_25_train.txt"])
@pytest.mark.parametrize("through", ["argument", "variable"])
def test_a_folder_comes_before_the_network(source, server, tmp_path, monkeypatch, layout, through):
    path = tmp_path / "mine" / layout
    path.parent.mkdir(parents=True)
    path.write_bytes(TEXT)
    if through == "variable":
        monkeypatch.setenv("LIFT_SS_DATA_DIR", str(tmp_path / "mine"))
    assert find_source(source, tmp_path / "mine" if through == "argument" else None) == path
    assert server.requests == []


def test_a_wrong_file_in_a_folder_is_an_error(source, server, tmp_path):
    (tmp_path / "PISCES_25_train.txt").write_bytes(TEXT[:-1])
    with pytest.raises(
        CorpusError, match=r"not the file in the catalogue: found checksum git_blob:\w+, expected git_blob:"
    ):
        find_source(source, tmp_path)
    assert server.requests == []


def test_another_version_of_a_file_is_passed_over(source, server, tmp_path, monkeypatch):
    """The training files of PISCES_30 to 50 have one name and two versions."""
    monkeypatch.setattr("lift_ss_hf.corpora.sources.versions_of", lambda name: {f"git_blob:{blob_id(OLD)}": "p_2022"})
    old, new = tmp_path / "lift_ss" / source.name, tmp_path / source.name
    old.parent.mkdir()
    old.write_bytes(OLD)
    assert find_source(source, tmp_path).read_bytes() == TEXT  # downloaded
    new.write_bytes(TEXT)
    assert find_source(source, tmp_path) == new
    new.unlink()
    shutil.rmtree(download_dir())
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingSourceError, match=r"where lift_ss.PISCES_25_train\.txt is that of p_2022; offline mode"):
        find_source(source, tmp_path)


def test_a_truncated_download_leaves_nothing(source, server):
    server.claimed = len(TEXT) + 100
    with pytest.raises(
        MissingSourceError,
        match=rf"download failed: Connection broken: .*\({len(TEXT)} bytes read, 100 more expected\)\)",
    ):
        find_source(source)
    assert nothing_left()


def test_an_interrupted_download_leaves_nothing(source, monkeypatch):
    def interrupted(self, url, output_file, pooch):
        Path(output_file).write_bytes(TEXT[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_source(source)
    assert nothing_left()


def test_html_instead_of_data_leaves_nothing(source, server):
    server.body = b"<html>Please log in to the wireless network</html>"
    with pytest.raises(CorpusError, match=r"HTML instead of data"):
        find_source(source)
    assert nothing_left()


def test_a_file_that_changed_upstream_is_rejected(source, server):
    server.body = TEXT.replace(b"MKV", b"MKA")
    with pytest.raises(CorpusError, match=r"http://127\.0\.0\.1:\d+/data/PISCES_25_train\.txt: not the file"):
        find_source(source)
    assert nothing_left()


@pytest.mark.parametrize("problem", ["404", "refused", "offline"])
def test_an_unavailable_file_is_reported_with_the_ways_to_get_it(source, server, monkeypatch, problem):
    if problem == "404":
        server.status, expected = 404, "download failed: 404 .*Not Found"
    elif problem == "refused":
        source = replace(source, origin=replace(source.origin, url="http://127.0.0.1:9/"))
        expected = "download failed: .*refused"
    else:
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        expected = "offline mode is on"
    with pytest.raises(MissingSourceError, match=rf"PISCES_25_train\.txt is not available .*{expected}") as error:
        find_source(source)
    for way in ["--source DIR", "data_dir=", "LIFT_SS_DATA_DIR", source.url]:
        assert way in str(error.value)
    assert "\n" not in str(error.value) and "HTTPConnectionPool" not in str(error.value)
    assert nothing_left()


def test_promod3_names_the_script_that_makes_it(source):
    with pytest.raises(MissingSourceError, match=r"no download address.*dataset_scripts/promod3\.py"):
        find_source(get_corpus("promod3").config.splits["train"])


def test_a_path_that_is_not_a_folder_is_reported(source, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"nowhere is not a folder"):
        find_source(source, tmp_path / "nowhere")
    monkeypatch.setenv("LIFT_SS_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"LIFT_SS_DATA_DIR: .*nowhere is not a folder"):
        find_source(source)
