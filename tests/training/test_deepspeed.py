"""DeepSpeed ZeRO-2 and ZeRO-3 really run, two processes: equal to plain data parallelism, whole, resumable."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from small_runs import ROOT, launch, write_data

from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.training.checkpoints import last_checkpoint

pytest.importorskip("deepspeed", reason="DeepSpeed is an extra: DS_BUILD_OPS=0 pip install '.[deepspeed]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("g++"), reason="DeepSpeed compiles its communication on a CPU: needs g++"),
]

FP32 = ("--mixed_precision", "no")
TWO_EPOCHS = ("--num_train_epochs", "2")
TOLERANCE = 1e-5  # of the weights, after a learning rate of 1e-2 over 2 epochs


def finish(arguments):
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module", params=["esm", "t5"])
def expected(request, tmp_path_factory):
    """Data of one family, and the weights that two plain processes end with."""
    folder = write_data(tmp_path_factory.mktemp(request.param), request.param)
    finish(launch("cpu_ddp", folder, folder / "ddp", *TWO_EPOCHS))
    return folder, load_file(folder / "ddp" / "model" / "model.safetensors")


@pytest.mark.process
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_it_trains_as_plain_processes_do_and_resumes(expected, stage, tmp_path):
    data, weights = expected
    out, configuration = tmp_path / "run", f"deepspeed_zero{stage}"
    finish(launch(configuration, data, out, "--num_train_epochs", "1", options=FP32))
    assert "learnt" in json.loads((out / "metrics.json").read_text())
    finish(launch(configuration, data, out, *TWO_EPOCHS, "--resume_from_checkpoint", "last", options=FP32))
    found = load_file(out / "model" / "model.safetensors")
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(found[name], tensor, atol=TOLERANCE, rtol=0)
    model = SecondaryStructureModel.from_pretrained(out / "model")
    assert all(parameter.numel() for parameter in model.parameters())
    other_world = launch(
        configuration, data, out, "--num_train_epochs", "3", "--resume_from_checkpoint", "last",
        options=(*FP32, "--num_processes", "1"),
    )  # fmt: skip
    refused = subprocess.run(other_world, capture_output=True, text=True)
    assert refused.returncode != 0
    assert f"{last_checkpoint(out).name}: written by 2 processes under ZeRO, found 1" in refused.stderr


@pytest.mark.process
def test_the_saved_model_is_scored_by_several_processes(expected, tmp_path):
    data, _ = expected
    config = ROOT / "accelerate_configs" / "deepspeed_zero3.yaml"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), *FP32]
    evaluate = [str(ROOT / "recipes" / "evaluate.py"), str(data / "ddp" / "model"), "--corpora", str(data / "test.txt")]
    finish([*launcher, *evaluate, "--out", str(tmp_path), "--bootstrap", "0"])
    found, before = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path, data / "ddp"))
    for results in (found, before):
        (result,) = results["corpora"].values()
        assert result["num_chains"] == 10
    assert [r["scores"]["q9"]["q9"] for r in found["corpora"].values()] == [
        r["scores"]["q9"]["q9"] for r in before["corpora"].values()
    ]
