"""DeepSpeed's ZeRO stages, two processes: equal to plain data parallelism, saved whole, resumable."""

import json
import shutil
import subprocess

import pytest
import torch
from forked_runs import launched_environment, run_forked, train_forked
from safetensors.torch import load_file
from small_runs import ROOT, flags, launch, write_data

from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.training.checkpoints import last_checkpoint

pytest.importorskip("deepspeed", reason="DeepSpeed is an extra: DS_BUILD_OPS=0 pip install '.[deepspeed]'")
pytestmark = [
    pytest.mark.tools,
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("g++"), reason="DeepSpeed compiles its communication on a CPU: needs g++"),
]

FP32 = ("--mixed_precision", "no")
SHORT = ("--bootstrap", "0", "--num_train_epochs")
RESUME = ("--resume_from_checkpoint", "last")
TOLERANCE = 1e-5  # of the weights, after a learning rate of 1e-2 over 2 epochs


def run_under(stage, arguments, log, num_processes=2, **options):
    config = ROOT / "accelerate_configs" / f"deepspeed_zero{stage}.yaml"
    environment = launched_environment("--config_file", str(config), *FP32, "--num_processes", str(num_processes))
    return run_forked(arguments, log, num_processes=num_processes, environment=environment, **options)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """For each family the folder of its data, in which `ddp` is a run of two plain processes."""
    folders = {}
    for family in ("esm", "t5"):
        folder = folders[family] = write_data(tmp_path_factory.mktemp(family), family)
        done = train_forked(folder, folder / "ddp", *SHORT, "2", num_processes=2)
        assert done.statuses == [0, 0], done.stderr
    return folders


@pytest.mark.parametrize(("family", "stage"), [("esm", 1), ("t5", 2), ("esm", 3), ("t5", 3)])
def test_it_trains_as_plain_processes_do_and_resumes(plain, family, stage, tmp_path):
    data, out = plain[family], tmp_path / "run"
    if (family, stage) == ("esm", 3):  # one launch as a user has it
        command = launch(f"deepspeed_zero{stage}", data, out, *SHORT, "1", options=FP32)
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    else:
        done = run_under(stage, flags(data, out, *SHORT, "1"), tmp_path / "first")
        assert done.statuses == [0, 0], done.stderr
    assert "learnt" in json.loads((out / "metrics.json").read_text())
    done = run_under(stage, flags(data, out, *SHORT, "2", *RESUME), tmp_path / "second")
    assert done.statuses == [0, 0], done.stderr
    expected, found = (load_file(run / "model" / "model.safetensors") for run in (data / "ddp", out))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=TOLERANCE, rtol=0)
    model = SecondaryStructureModel.from_pretrained(out / "model")
    assert all(parameter.numel() for parameter in model.parameters())
    refused = run_under(stage, flags(data, out, *SHORT, "3", *RESUME), tmp_path / "third", num_processes=1)
    assert refused.statuses == [2]
    assert f"{last_checkpoint(out).name}: written by 2 processes under ZeRO, found 1" in refused.stderr


def test_the_saved_model_is_scored_by_several_processes(plain, tmp_path):
    data = plain["esm"]
    arguments = [str(data / "ddp" / "model"), "--corpora", str(data / "test.txt"), "--out", str(tmp_path)]
    done = run_under(3, [*arguments, "--bootstrap", "0"], tmp_path / "log", script=ROOT / "recipes" / "evaluate.py")
    assert done.statuses == [0, 0], done.stderr
    found, before = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path, data / "ddp"))
    for results in (found, before):
        (result,) = results["corpora"].values()
        assert result["num_chains"] == 10
    assert [r["scores"]["q9"]["q9"] for r in found["corpora"].values()] == [
        r["scores"]["q9"]["q9"] for r in before["corpora"].values()
    ]
