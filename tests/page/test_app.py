"""The page without a browser: what its buttons do, what its server refuses, and that it leaves nothing behind."""

import json
import os
import signal
import socket
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from forked_runs import free_port
from tools import needs_gradio

from lift_ss_hf.page import serving
from lift_ss_hf.page.chains import EXAMPLE, Limits
from lift_ss_hf.page.serving import load_models, open_page, serve

pytestmark = needs_gradio
LIMITS = Limits(sequences=4, residues=200)
API = "gradio_api"


@pytest.fixture(scope="module")
def models():
    return load_models(["bundled"])


@pytest.fixture(scope="module")
def address(models):
    with open_page(models, LIMITS) as address:
        yield address


@pytest.fixture
def callbacks(models, tmp_path):
    from lift_ss_hf.page.app import Callbacks

    return Callbacks(models | {"three": SimpleNamespace(alphabet="q3")}, LIMITS, tmp_path)


# ---- buttons -------------------------------------------------------------------------------------------------------


def test_a_model_is_offered_with_the_states_it_can_report(callbacks):
    assert [name for _, name in callbacks.alphabets("bundled")["choices"]] == ["q9", "q8", "q3", "q3_lift_ss"]
    assert callbacks.alphabets("three") == {"choices": [("three", "q3")], "value": "q3"}


def test_an_error_replaces_the_results_by_one_escaped_line(callbacks, tmp_path):
    found, line, results, *_ = callbacks.predict(">a<b>\nMKT4", "bundled", "q3", None, lambda *args, **options: None)
    assert found is None
    assert "record 1 (a&lt;b&gt;): &#x27;4&#x27; at position 4" in line
    assert results["visible"] is False
    assert list(tmp_path.iterdir()) == []


def test_the_next_prediction_deletes_the_files_of_the_last(callbacks, tmp_path):
    def predict(previous):
        return callbacks.predict(EXAMPLE, "bundled", "q3", previous, lambda *args, **options: None)[0]

    second = predict(predict(None))
    assert list(tmp_path.iterdir()) == [Path(second.folder.name)]


def test_a_table_without_the_states_of_the_model_is_not_offered(callbacks, monkeypatch):
    from lift_ss_hf.page import app

    found = SimpleNamespace(predictions=[], summary="", write_tables=lambda: [None, Path("a.csv"), Path("a.parquet")])
    monkeypatch.setattr(app, "answer", lambda *_: found)
    tables = callbacks.predict(EXAMPLE, "three", "q3", None, None)[-3:]
    assert [(table["value"], table["visible"]) for table in tables] == [
        (None, False),
        ("a.csv", True),
        ("a.parquet", True),
    ]


def test_an_answer_that_is_gone_is_told(callbacks):
    assert "Predict again" in callbacks.show(None, "0")[0]
    assert len(callbacks.draw(None, "0")) == 2


# ---- server --------------------------------------------------------------------------------------------------------


def join(address, session, *data, body=None):
    """Ask the page to predict, as its own script does."""
    config = requests.get(f"{address}config").json()
    index = next(each["id"] for each in config["dependencies"] if len(each["inputs"]) == 4)
    request = {"data": data, "fn_index": index, "session_hash": session}
    headers = {"Content-Type": "application/json"}
    return requests.post(f"{address}{API}/queue/join", data=body or json.dumps(request), headers=headers)


def outcome(address, session):
    """Wait for the end of a prediction, and return it."""
    with requests.get(f"{address}{API}/queue/data", params={"session_hash": session}, stream=True) as events:
        for line in events.iter_lines():
            if line.startswith(b"data:") and (event := json.loads(line[5:]))["msg"] == "process_completed":
                return event
    raise AssertionError("the prediction has no end")


def test_files_of_the_server_are_refused(address):
    for path in (
        "/etc/passwd",
        Path(serving.__file__),
        Path.cwd() / "setup.cfg",
        "https://example.org/",
        "//etc/passwd",
    ):
        assert requests.get(f"{address}{API}/file={path}").status_code in (403, 404), path
    assert requests.post(f"{address}{API}/upload", files={"files": b"x"}).status_code == 404


@pytest.mark.parametrize("path", ["/etc/passwd", "https://example.org/chains.fasta"])
def test_a_visitor_cannot_send_a_file_or_an_address_in_place_of_text(address, path):
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    assert join(address, "file", file, "bundled", "q3", None).status_code == 400


def test_a_request_that_is_too_large_or_not_json_is_refused(address):
    assert join(address, "large", "M" * 9 * LIMITS.characters, "bundled", "q3", None).status_code == 413
    assert join(address, "other", body=b"data").status_code == 400


def test_a_visitor_cannot_name_a_model(address, monkeypatch):
    monkeypatch.setattr(serving, "load_predictor", lambda *args: pytest.fail("a model is loaded"))
    assert join(address, "model", EXAMPLE, "org/model", "q3", None).ok
    assert outcome(address, "model")["success"] is False


def test_what_a_visitor_sees_comes_from_this_host_only(address):
    page = requests.get(address)
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert "fonts.googleapis" not in page.text
    assert "cdnjs" not in page.text


def test_two_sessions_get_their_own_files(address):
    for session, chain in (("one", "MKTAYIAK"), ("two", "ACDEFGHI")):
        assert join(address, session, f">{session}\n{chain}", "bundled", "q3", None).ok
    table = -2  # the last outputs are the files: .ss2, CSV, Parquet
    urls = {session: outcome(address, session)["output"]["data"][table]["value"]["url"] for session in ("one", "two")}
    for session, url in urls.items():
        rows = requests.get(url).text.splitlines()[1:]
        assert {row.split(",")[1] for row in rows} == {session}


def test_the_server_asks_no_other_host(models, monkeypatch):
    hosts, ask = set(), socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args, **kw: hosts.add(host) or ask(host, *args, **kw))
    with open_page(models, LIMITS) as address:
        assert requests.get(address).ok
    assert hosts <= {"127.0.0.1", "localhost", None}


def test_it_stops_at_sigterm_restarts_at_the_same_port_and_leaves_no_file(models, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before, port = dict(os.environ), free_port()
    statuses = []

    def visit_and_stop():
        for _ in range(600):
            try:
                statuses.append(requests.get(f"http://127.0.0.1:{port}/", timeout=10).status_code)
                break
            except requests.ConnectionError:
                threading.Event().wait(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    for _ in range(2):
        visitor = threading.Thread(target=visit_and_stop)
        visitor.start()
        serve(models, LIMITS, "127.0.0.1", port)
        visitor.join()
    assert statuses == [200, 200]
    assert list(tmp_path.iterdir()) == []
    assert dict(os.environ) == before


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1"])  # the latter belongs to no machine (RFC 5737)
def test_a_port_that_is_in_use_and_a_host_that_is_another_are_told(models, host):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen at {host}, port {port}: .* or correct --host"):  # noqa: SIM117
            with open_page(models, LIMITS, host, port):
                pass
