"""Sharing a model end to end: the real clients in clean processes with empty caches, against a Hub on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import running_hub
from models import save_tiny_backbone
from safetensors.torch import load_file

from lift_ss_hf.modeling import EsmForSecondaryStructure
from lift_ss_hf.sharing import check_staged, stage_model
from lift_ss_hf.tokenization import ResidueTokenizer

ROOT = Path(__file__).parents[1]
SEQUENCES = ["MKTAYIAKQR", "GSHMLEE", "ACDEFGHIKLMNPQRSTVWY"]


@pytest.fixture
def hub():
    with running_hub() as server:
        yield server


@pytest.fixture
def saved(tmp_path):
    backbone = save_tiny_backbone(tmp_path / "backbone", "esm")
    model = EsmForSecondaryStructure.from_backbone(backbone, adapter="bottleneck", top_blocks=2, head_channels=16)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path / "run" / "model"
    model.save_pretrained(folder, include_backbone=True)
    ResidueTokenizer.from_pretrained(backbone).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["backbone_name"] = None
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def in_clean_process(hub, folder, *command, package=True, token="hf_testtokentesttoken"):
    """Run with empty caches, from an empty folder; without the package on the path unless `package`."""
    folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHONPATH"))}
    environment |= {"HF_HOME": str(folder / "hf"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1"}
    if token:
        environment["HF_TOKEN"] = token
    if package:
        environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, cwd=folder, env=environment
    )


def push(hub, saved, tmp_path, *options):
    return in_clean_process(
        hub, tmp_path / f"push{len(list(tmp_path.iterdir()))}", ROOT / "recipes" / "push.py", saved, *options
    )


BLOCKED = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "lift_ss_hf":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
"""
PIPELINE = """
import json
from transformers import pipeline
predictor = pipeline(model="org/name", trust_remote_code=True)
print(json.dumps([predictor(SEQUENCES, states="q3"), predictor(SEQUENCES, states="q3", batch_size=3)]))
"""
LOGITS = """
import torch
from safetensors.torch import save_file
tokens = torch.from_numpy(tokenizer.encode("MKTAYIAKQR"))[None]
with torch.no_grad():
    save_file({"logits": model(tokens, torch.ones_like(tokens)).logits}, "logits.safetensors")
"""


@pytest.mark.slow
def test_a_pushed_model_gives_the_same_with_and_without_the_package(hub, saved, tmp_path):
    done = push(hub, saved, tmp_path, "org/name", "--private")
    assert done.returncode == 0, done.stderr
    assert "hf_testtoken" not in done.stdout + done.stderr
    remote = BLOCKED + PIPELINE.replace("SEQUENCES", repr(SEQUENCES))
    done = in_clean_process(hub, tmp_path / "remote", "-c", remote, package=False)
    assert done.returncode == 0, done.stderr
    single, batched = json.loads(done.stdout.splitlines()[-1])
    assert [chain["sequence"] for chain in single] == SEQUENCES
    assert [chain["states"] for chain in batched] == [chain["states"] for chain in single]
    for chain, together in zip(single, batched, strict=True):
        assert set(chain["states"]) <= set("CEH")
        assert len(chain["states"]) == len(chain["confidence"]) == len(chain["sequence"])
        assert together["confidence"] == pytest.approx(chain["confidence"], abs=1e-5)

    ours = "from lift_ss_hf import SecondaryStructureModel, ResidueTokenizer\n"
    ours += 'model, tokenizer = (c.from_pretrained("org/name") for c in (SecondaryStructureModel, ResidueTokenizer))\n'
    theirs = BLOCKED + "from transformers import pipeline\n"
    theirs += 'p = pipeline(model="org/name", trust_remote_code=True); model, tokenizer = p.model, p.residues\n'
    logits = []
    for name, code in (("ours", ours), ("theirs", theirs)):
        done = in_clean_process(hub, tmp_path / name, "-c", code + LOGITS, package=name == "ours")
        assert done.returncode == 0, done.stderr
        logits.append(load_file(tmp_path / name / "logits.safetensors")["logits"])
    assert torch.equal(*logits)


def test_a_private_model_is_not_there_without_a_token(hub, saved, tmp_path):
    assert push(hub, saved, tmp_path, "org/name", "--private").returncode == 0
    code = "from lift_ss_hf import SecondaryStructureModel as M\ntry: M.from_pretrained('org/name')\n"
    code += "except ValueError: print('refused')"
    assert in_clean_process(hub, tmp_path / "anyone", "-c", code, token=None).stdout.strip() == "refused"


def test_an_upload_that_breaks_off_leaves_nothing_visible(hub, saved, tmp_path):
    hub.fails_on_commit = True
    done = push(hub, saved, tmp_path, "org/name")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert hub.snapshot("org/name", "main")[1] == {}


def test_a_branch_is_pushed_beside_the_main_one(hub, saved, tmp_path):
    done = push(hub, saved, tmp_path, "org/name", "--revision", "second")
    assert done.returncode == 0, done.stderr
    assert "model.safetensors" in hub.snapshot("org/name", "second")[1]
    assert hub.snapshot("org/name", "main")[1] == {}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("training_args.bin", "x", "not pushed"),
        ("config.json", '{"backbone_name": "/home/me/backbone"}', "absolute path"),
        ("config.json", '{"backbone_name": "../backbones/mine"}', "is a folder, which nobody else has"),
        ("config.json", '{"backbone_name": "/srv/mine"}', "is a folder, which nobody else has"),
        ("README.md", "token hf_abcdefghijkl", "access token"),
    ],
)
def test_what_must_not_leave_the_machine_is_refused(name, content, says, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=says):
        check_staged(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        stage_model(tmp_path, tmp_path / "staging")
