"""Provenance: what a number was measured with, without what is private, and which chains a model was trained on."""

import json

import numpy as np
import pytest
from hub_server import offline, running_hub, using_hub

from lift_ss_hf.reports import provenance
from lift_ss_hf.reports.provenance import (
    TOKEN,
    TRAINING_CHAINS,
    count_duplicates,
    environment,
    in_training,
    load_training_chains,
    save_training_chains,
    sequence_hashes,
    shown_command,
    write_json,
)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--hub_token", "secret"],
        ["--push_to_hub_token=secret"],
        ["--hub-token", "secret"],
        ["--push-to-hub-token=secret"],
        ["--note", "hf_secret123"],
        ["--note", "hf_jwt_secret123.se-cr_et"],
        ["--note", "hf_oauth_eyJsecret"],
    ],
)
def test_a_token_is_not_shown(arguments):
    shown = shown_command(["/home/me/recipes/train_q8.py", "--seed", "1", *arguments])
    assert shown.startswith("train_q8.py --seed 1 --")
    assert shown.endswith("(token)")
    assert "secret" not in shown


def test_names_of_settings_are_not_tokens():
    assert TOKEN.search("hf_hub_offline, hf_oauth_scopes, hf_oauth_expiration_minutes, HF_TOKEN, hf_token") is None


def test_the_environment_can_be_written_and_names_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/home/me/evaluate.py", "bundled"])
    write_json(tmp_path / "new" / "environment.json", environment())
    text = (tmp_path / "new" / "environment.json").read_text("utf-8")
    assert "/home" not in text
    assert json.loads(text)["command"] == "evaluate.py bundled"
    assert json.loads(text)["packages"]["numpy"] == np.__version__


def test_the_commit_says_whether_the_checkout_has_changes(monkeypatch):
    answers = {"ls-files": "provenance.py", "rev-parse": "abc", "status": ""}
    monkeypatch.setattr(provenance, "_git", lambda command, *_: answers[command])
    assert provenance.commit() == "abc"
    answers["status"] = " M setup.cfg"
    assert provenance.commit() == "abc-modified"


def test_outside_a_checkout_there_is_no_commit(monkeypatch):
    def fail(*_):
        raise FileNotFoundError("git")

    monkeypatch.setattr(provenance, "_git", fail)
    assert provenance.commit() is None


def test_training_chains_are_found_again(tmp_path):
    assert load_training_chains(tmp_path) is None
    save_training_chains(tmp_path, ["MKV", "ACD", "MKV"])
    saved = load_training_chains(tmp_path)
    assert np.array_equal(saved, sequence_hashes(["ACD", "MKV"]))
    assert list(in_training(saved, ["MKV", "MK", "MKV", "ACD"])) == [True, False, True, True]
    assert count_duplicates(saved, ["MKV", "MK", "MKV", "ACD"]) == 3
    assert count_duplicates(saved, []) == 0
    assert in_training(None, ["MKV"]) is count_duplicates(None, ["MKV"]) is None


def test_training_chains_of_the_hub_are_found_unless_it_has_none_or_cannot_be_asked(tmp_path, caplog):
    save_training_chains(tmp_path / "model", ["MKV"])
    chains = (tmp_path / "model" / TRAINING_CHAINS).read_bytes()
    with running_hub() as hub, using_hub(hub, tmp_path / "home"):
        hub.add("org/known", {TRAINING_CHAINS: chains})
        hub.add("org/other", {"config.json": b"{}"})
        assert count_duplicates(load_training_chains("org/known"), ["MKV", "ACD"]) == 1
        assert load_training_chains("org/other") is None
        assert not caplog.messages
        with offline():
            assert count_duplicates(load_training_chains("org/known"), ["MKV"]) == 1
            assert load_training_chains("org/new") is None
    assert caplog.messages[0].startswith("org/new: not known which chains it was trained on (")
