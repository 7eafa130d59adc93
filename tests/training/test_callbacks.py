"""Callbacks: a run on a CPU returns free memory."""

from types import SimpleNamespace

import pytest
import torch
from small_runs import train, write_data

from lift_ss_hf.training import callbacks
from lift_ss_hf.training.callbacks import TRIM_STEPS, ReturnFreeMemory


@pytest.fixture
def returns(monkeypatch):
    """A list that gets an entry each time that memory is returned."""
    calls = []
    monkeypatch.setattr(callbacks, "return_free_memory", lambda: calls.append(1))
    return calls


@pytest.mark.parametrize(("device", "number"), [("cpu", 2), ("cuda", 0)])
def test_steps_of_training_and_of_evaluation_count_on_a_cpu(returns, device, number):
    callback, args = ReturnFreeMemory(), SimpleNamespace(device=torch.device(device))
    for _ in range(TRIM_STEPS - 1):
        callback.on_step_end(args, None, None, model=None)
    assert not returns
    for _ in range(TRIM_STEPS + 1):
        callback.on_prediction_step(args, None, None, eval_dataloader=None)
    assert len(returns) == number


def test_a_run_returns_memory(returns, monkeypatch, tmp_path):
    monkeypatch.setattr(callbacks, "TRIM_STEPS", 2)
    train(write_data(tmp_path), tmp_path / "run", "--num_train_epochs", "1", "--bootstrap", "0")
    assert returns
