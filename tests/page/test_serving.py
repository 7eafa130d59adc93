"""Starting the page: what is checked before it is served, and the Space that is made of it."""

import configparser
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from lift_ss_hf.page import SPACE
from lift_ss_hf.page.chains import Limits
from lift_ss_hf.page.guard import holds_text_only
from lift_ss_hf.page.serving import load_models, open_page, shown_name

ROOT = Path(__file__).parents[2]


def test_a_missing_gradio_is_told_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs gradio\. Install it: pip install 'lift_ss_hf\[page\]'"):  # noqa: SIM117
        with open_page({}, Limits()):
            pass


def test_visitors_do_not_see_where_a_model_lies(tmp_path, monkeypatch):
    (tmp_path / "run" / "model").mkdir(parents=True)
    assert shown_name(str(tmp_path / "run" / "model")) == "run/model"
    monkeypatch.chdir(tmp_path / "run" / "model")
    assert shown_name(".") == "run/model"


def test_two_models_of_one_name_are_refused_before_any_is_loaded(tmp_path):
    names = [str(tmp_path / part / "run" / "model") for part in "ab"]
    for name in names:
        Path(name).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"two models are called 'run/model'\. Rename a folder"):
        load_models(names)


def test_a_request_nested_too_deeply_is_refused():
    assert not holds_text_only(b"[" * 100_000)


def test_the_space_requires_what_the_package_does_at_the_tested_versions():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = re.findall(r"^([\w-]+)[<>=]", setup["options"]["install_requires"].strip(), re.M)
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints-4.57.txt").read_text(), re.M))
    required = (SPACE / "requirements.txt").read_text().splitlines()[1:]
    assert [re.match(r"[\w-]+", line)[0] for line in required] == ["adapters", *needed]
    pinned = dict(line.split("==") for line in required if "==" in line)
    assert pinned == {name: pins[name] for name in ("adapters", *needed) if name in pins}
    head = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    assert (head["sdk"], head["sdk_version"], head["app_file"]) == ("gradio", pins["gradio"], "app.py")
