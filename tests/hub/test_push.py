"""Sharing a model end to end: the real clients, readers in new processes with empty caches, a Hub on loopback."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from clean_process import TOKEN, in_clean_process, in_forked_process
from forked_runs import free_port
from hub_server import running_hub
from huggingface_hub import HfApi
from safetensors.torch import load_file
from tiny_models import save_tiny_backbone
from tools import skip_without_gradio

from lift_ss_hf.hub.push import check_staged, stage_model
from lift_ss_hf.models.esm import EsmForSecondaryStructure
from lift_ss_hf.models.tokenization import ResidueTokenizer

ROOT = Path(__file__).parents[2]
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


def push(hub, saved, tmp_path, *options):
    folder = tmp_path / f"push{len(list(tmp_path.iterdir()))}"
    return in_forked_process(hub, folder, ROOT / "recipes" / "push.py", saved, *options)


BLOCKED = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "lift_ss_hf":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
"""
# each way to load the model saves its logits under a name
LOGITS = """
import torch
from safetensors.torch import save_file
def save_logits(name, model, tokenizer):
    tokens = torch.from_numpy(tokenizer.encode_sequence("MKTAYIAKQR"))[None]
    with torch.no_grad():
        save_file({"logits": model(tokens, torch.ones_like(tokens)).logits}, name)
"""
WITHOUT_THE_PACKAGE = """
import json
from transformers import pipeline
predictor = pipeline(model="org/name", trust_remote_code=True)
save_logits("remote", predictor.model, predictor.tokenizer)
print(json.dumps([predictor(SEQUENCES, states="q3"), predictor(SEQUENCES, states="q3", batch_size=3)]))
"""
WITH_THE_PACKAGE = """
import lift_ss_hf
from transformers import pipeline
by_task = pipeline("protein-secondary-structure", model="org/name")
save_logits("by_task", by_task.model, by_task.tokenizer)
inferred = pipeline(model="org/name")
save_logits("inferred", inferred.model, inferred.tokenizer)
classes = (lift_ss_hf.SecondaryStructureModel, lift_ss_hf.ResidueTokenizer)
save_logits("loaded", *(each.from_pretrained("org/name") for each in classes))
"""


@pytest.mark.process
@pytest.mark.slow
def test_a_pushed_model_gives_the_same_with_and_without_the_package(hub, saved, tmp_path):
    done = push(hub, saved, tmp_path, "org/name", "--private")
    assert done.statuses == [0], done.stderr
    assert "hf_testtoken" not in done.stdout + done.stderr
    code = BLOCKED + LOGITS + WITHOUT_THE_PACKAGE.replace("SEQUENCES", repr(SEQUENCES))
    done = in_clean_process(hub, tmp_path / "without", "-c", code, package=False)
    assert done.returncode == 0, done.stderr
    single, batched = json.loads(done.stdout.splitlines()[-1])
    assert [chain["sequence"] for chain in single] == SEQUENCES
    assert [chain["states"] for chain in batched] == [chain["states"] for chain in single]
    for chain, together in zip(single, batched, strict=True):
        assert set(chain["states"]) <= set("CEH")
        assert len(chain["states"]) == len(chain["confidence"]) == len(chain["sequence"])
        assert together["confidence"] == pytest.approx(chain["confidence"], abs=1e-5)
    done = in_clean_process(hub, tmp_path / "with", "-c", LOGITS + WITH_THE_PACKAGE)
    assert done.returncode == 0, done.stderr
    expected = load_file(tmp_path / "without" / "remote")["logits"]
    for name in ("by_task", "inferred", "loaded"):
        assert torch.equal(load_file(tmp_path / "with" / name)["logits"], expected), name


@pytest.mark.process
def test_a_private_model_is_not_there_without_a_token(hub, saved, tmp_path):
    assert push(hub, saved, tmp_path, "org/name", "--private").statuses == [0]
    code = "from lift_ss_hf import SecondaryStructureModel as M\ntry: M.from_pretrained('org/name')\n"
    code += "except ValueError: print('refused')"
    assert in_clean_process(hub, tmp_path / "anyone", "-c", code, token=None).stdout.strip() == "refused"


@pytest.mark.process
def test_an_upload_that_breaks_off_leaves_nothing_visible(hub, saved, tmp_path):
    hub.fails_on_commit = True
    done = push(hub, saved, tmp_path, "org/name")
    assert done.statuses == [2]
    assert "Traceback" not in done.stderr
    assert hub.snapshot("org/name", "main")[1] == {}


@pytest.mark.process
def test_a_repository_that_is_there_gets_another_commit(hub, saved, tmp_path):
    assert push(hub, saved, tmp_path, "org/name").statuses == [0]
    first = hub.snapshot("org/name", "main")[0]
    config = json.loads((saved / "config.json").read_text()) | {"calibration_temperature": 1.5}
    (saved / "config.json").write_text(json.dumps(config))
    assert push(hub, saved, tmp_path, "org/name").statuses == [0]
    code = "from lift_ss_hf import SecondaryStructureModel as M\n"
    code += (
        f"for r in (None, {first!r}): print(M.from_pretrained('org/name', revision=r).config.calibration_temperature)"
    )
    assert in_clean_process(hub, tmp_path / "anyone", "-c", code).stdout.split() == ["1.5", "1.0"]


@pytest.mark.process
def test_a_dry_run_lists_the_files_that_are_then_pushed(hub, saved, tmp_path):
    done = push(hub, saved, tmp_path, "org/model", "--dry-run")
    assert (done.statuses, hub.repos) == ([0], {})
    assert push(hub, saved, tmp_path, "org/model").statuses == [0]
    _, files = hub.snapshot("org/model", "main")
    pushed = {name: len(content) for name, content in files.items() if name != ".gitattributes"}
    sizes = {line.split()[2]: int(line.split()[0].replace(",", "")) for line in done.stdout.splitlines()[:-1]}
    assert sizes.keys() == pushed.keys()
    assert done.stdout.splitlines()[-1].split() == [f"{sum(sizes.values()):,}", "bytes", "in", str(len(sizes)), "files"]


@pytest.mark.process
def test_a_branch_is_pushed_beside_the_main_one(hub, saved, tmp_path):
    done = push(hub, saved, tmp_path, "org/name", "--revision", "second")
    assert done.statuses == [0], done.stderr
    assert "model.safetensors" in hub.snapshot("org/name", "second")[1]
    assert hub.snapshot("org/name", "main")[1] == {}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("training_args.bin", "x", "not pushed"),
        ("config.json", '{"backbone_name": "/home/me/backbone"}', "absolute path"),
        ("config.json", '{"backbone_name": "../backbones/mine"}', "is a local folder, which nobody else has"),
        ("config.json", '{"backbone_name": "/srv/mine"}', "is a local folder, which nobody else has"),
        ("README.md", "token hf_abcdefghijkl", "access token"),
    ],
)
def test_what_must_not_leave_the_machine_is_refused(name, content, says, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=says):
        check_staged(tmp_path)


@pytest.mark.parametrize("is_on_the_hub", [True, False])
def test_a_folder_named_like_a_repository_is_pushed_only_if_there_is_one(tmp_path, monkeypatch, is_on_the_hub):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HfApi, "repo_exists", lambda api, name: is_on_the_hub)
    Path("runs/backbone").mkdir(parents=True)
    Path("config.json").write_text(json.dumps({"backbone_name": "runs/backbone"}))
    with nullcontext() if is_on_the_hub else pytest.raises(ValueError, match="'runs/backbone' is a local folder"):
        check_staged(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        stage_model(tmp_path, tmp_path / "staging")


# ---- from the Trainer ----------------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.slow
def test_a_run_pushes_its_finished_model_and_keeps_no_token(hub, tmp_path):
    flags = "--backbone bundled --head linear --max_steps 2 --save_steps 1 --bootstrap 0 --push_to_hub True"
    flags += (
        f" --hub_model_id org/run --hub_token {TOKEN} --output_dir run --train_fraction 0.1 --max_train_residues 100"
    )
    done = in_forked_process(hub, tmp_path / "a", ROOT / "recipes" / "train_q8.py", *flags.split(), token=None)
    assert done.statuses == [0], done.stderr
    files = hub.snapshot("org/run", "main")[1]
    assert {"config.json", "model.safetensors", "esm.py", "pipeline.py", "README.md", "tokenizer.json"} <= set(files)
    assert len(hub.repos["org/run"]["main"]) == 2  # empty, and one commit
    assert sum(map(len, files.values())) < 5e6
    assert b"Q3 accuracy" in files["README.md"]
    assert b'pipeline(model="org/run", trust_remote_code=True)' in files["README.md"]
    assert b"ORG/NAME" not in files["README.md"]
    assert "ORG/NAME" in (tmp_path / "a" / "run" / "model" / "README.md").read_text()
    del hub.repos["org/run"]  # a run that was killed before it was pushed
    again = (*flags.split(), "--output_dir", tmp_path / "a" / "run", "--resume")
    done = in_forked_process(hub, tmp_path / "b", ROOT / "recipes" / "train_q8.py", *again, token=None)
    assert done.statuses == [0], done.stderr
    assert set(hub.snapshot("org/run", "main")[1]) == set(files)
    for path in (tmp_path / "a" / "run").rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    assert TOKEN not in done.stdout + done.stderr
    for name, content in files.items():
        assert str(tmp_path).encode() not in content, name
        assert TOKEN.encode() not in content, name


@pytest.mark.process
def test_a_backbone_that_nobody_else_has_is_told_before_the_training(hub, saved, tmp_path):
    flags = f"--backbone {saved.parents[2] / 'backbone'} --push_to_hub True --hub_model_id org/run --output_dir run"
    done = in_forked_process(hub, tmp_path / "a", ROOT / "recipes" / "train_q8.py", *flags.split())
    assert done.statuses == [2]
    assert "is a local folder, which nobody else has" in done.stderr.splitlines()[-1]
    assert "org/run" not in hub.repos


@pytest.mark.process
@pytest.mark.slow
def test_the_stock_trainer_pushes_the_source_of_a_registered_class(hub, saved, tmp_path):
    code = f"""
from transformers import Trainer, TrainingArguments
from lift_ss_hf import EsmForSecondaryStructure
EsmForSecondaryStructure.register_for_auto_class("AutoModelForTokenClassification")
model = EsmForSecondaryStructure.from_pretrained({str(saved)!r})
arguments = TrainingArguments("out", push_to_hub=True, hub_model_id="org/stock", report_to="none")
Trainer(model, arguments).push_to_hub()
"""
    (tmp_path / "stock.py").write_text(code)
    done = in_forked_process(hub, tmp_path / "a", tmp_path / "stock.py")
    assert done.statuses == [0], done.stderr
    files = hub.snapshot("org/stock", "main")[1]
    assert {"config.json", "model.safetensors", "modeling.py", "pipeline.py"} <= set(files)
    code = "from lift_ss_hf import SecondaryStructureModel; SecondaryStructureModel.from_pretrained('org/stock')"
    assert in_clean_process(hub, tmp_path / "b", "-c", code).returncode == 0


# ---- corpora and Spaces ----------------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.slow
def test_a_corpus_is_pushed_and_read_back_equal_and_as_a_stream(hub, shared_corpora, tmp_path):
    build = ("build.py", "casp12", "--source", shared_corpora, "--out", "built", "--push-to-hub", "org")
    done = in_forked_process(hub, tmp_path / "a", ROOT / "dataset_scripts" / build[0], *build[1:])
    assert done.statuses == [0], done.stderr
    files = hub.snapshot("datasets/org/casp12", "main")[1]
    assert set(files) >= {"README.md", "data/test-00000-of-00001.parquet"}
    assert b'load_dataset("org/casp12", split="test")' in files["README.md"]
    assert 'load_dataset("built/casp12", split="test")' in (tmp_path / "a" / "built/casp12/README.md").read_text()
    code = """
import datasets, json
from lift_ss_hf import load_corpus
whole = datasets.load_dataset("org/casp12", split="test")
stream = list(datasets.load_dataset("org/casp12", split="test", streaming=True))
ours = load_corpus("casp12", split="test", data_dir=SOURCE)
columns = ("id", "sequence", "states")
print([len(whole), *(list(whole[c]) == list(ours[c]) == [row[c] for row in stream] for c in columns)])
"""
    code = code.replace("SOURCE", repr(str(shared_corpora)))
    done = in_clean_process(hub, tmp_path / "b", "-c", code, token=None)
    assert done.stdout.splitlines()[-1:] == ["[47, True, True, True]"], done.stderr


@pytest.mark.process
@pytest.mark.slow
def test_the_metric_is_a_space_and_needs_no_package(hub, tmp_path):
    done = in_forked_process(hub, tmp_path / "a", ROOT / "recipes" / "push_metric.py", "org/q8_sov")
    assert done.statuses == [0], done.stderr
    files = hub.snapshot("spaces/org/q8_sov", "main")[1]
    assert {"README.md", "app.py", "q8_sov.py", "scoring.py"} <= set(files)
    assert b'evaluate.load("org/q8_sov")' in files["README.md"]
    assert b"lift_ss_hf/metrics/q8_sov" not in files["README.md"]
    code = (
        BLOCKED
        + """
import evaluate
metric = evaluate.load("org/q8_sov", module_type="metric")
print(metric.compute(references=["HHHHHHLLEEEE"], predictions=["HHHLHHLLEEEL"], states="q3")["q3"])
"""
    )
    done = in_clean_process(hub, tmp_path / "b", "-c", code, package=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(10 / 12)


# runs the Space, visits it, and stops it
VISIT = """
import os, runpy, signal, sys, threading, time, urllib.request
os.chdir(@SPACE@); sys.path[0] = @SPACE@; os.environ["GRADIO_SERVER_PORT"] = "@PORT@"
def visit():
    for _ in range(1200):
        try:
            page = urllib.request.urlopen("http://127.0.0.1:@PORT@/").read().decode()
            print("Secondary structure from sequence" in page, sys.modules["lift_ss_hf"].__file__)
            break
        except OSError:
            time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=visit).start()
runpy.run_path("app.py", run_name="__main__")
"""


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.tools
@skip_without_gradio
def test_the_page_is_a_space_that_brings_the_package(hub, tmp_path):
    done = in_forked_process(hub, tmp_path / "a", ROOT / "recipes" / "push_space.py", "org/page", "--private")
    assert done.statuses == [0], done.stderr
    files = hub.snapshot("spaces/org/page", "main")[1]
    assert {"README.md", "app.py", "requirements.txt", "lift_ss_hf/page/app.py"} <= set(files)
    assert not [name for name in files if "__pycache__" in name]
    assert "spaces/org/page" in hub.private
    space = tmp_path / "space"
    for name, content in files.items():
        path = space / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    code = VISIT.replace("@SPACE@", repr(str(space))).replace("@PORT@", str(free_port()))
    done = in_clean_process(hub, tmp_path / "b", "-c", code, package=False, token=None)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", str(space / "lift_ss_hf" / "__init__.py")]
