"""benchmarks/prediction.py: every way predicts what the stock model does, and what is not installed is said to be."""

import importlib
import sys

import pytest
from scripts import ROOT

CHAINS = ["MKTAYIAKQRQISFVKSHFSRQ", "MQIFVKTLTGKTITLEVEPSD", "GSHM"]


@pytest.fixture
def benchmark(monkeypatch):
    """Return the module, found beside those that it imports, with a small shape."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setitem(importlib.import_module("training").SHAPES, "8M", (2, 32, 4))
    yield importlib.import_module("prediction")
    for name in ("prediction", "prediction_peers", "training", "origin"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("shape", ["8M", "prot_t5"])
def test_ways_predict_the_same(benchmark, monkeypatch, capsys, shape):
    monkeypatch.setattr(benchmark, "is_installed", lambda *modules: False)
    monkeypatch.setattr(benchmark, "prot_t5_config", lambda blocks: small_t5(benchmark))
    benchmark.print_shape(shape, CHAINS, rounds=1)
    rows = {row.split(" | ")[1]: row.rstrip(" |").split(" | ")[2:] for row in capsys.readouterr().out.splitlines()}
    for way in ("stock, file order", "stock, one at a time", "stock, sorted", "packed rows"):
        assert rows[way][-1] == "100.00", way
    assert rows["OpenVINO, static int8"][0] == "not installed"
    assert ("fair-esm, sorted" in rows) == (shape == "8M")


def test_a_way_with_other_states_is_told_apart(benchmark, monkeypatch, capsys):
    """A peer that is fast because it computes something else shows in the last column."""
    monkeypatch.setattr(benchmark, "is_installed", lambda *modules: "esm" in modules)
    wrong = {"fair-esm, sorted": (("esm",), lambda stock: lambda chains: [[-1] * len(chain) for chain in chains])}
    monkeypatch.setattr(benchmark, "ESM_ONLY", wrong)
    benchmark.print_shape("8M", CHAINS, rounds=1)
    (row,) = (row for row in capsys.readouterr().out.splitlines() if "fair-esm" in row)
    assert row.endswith("| 0.00 |")


def small_t5(benchmark):
    """Return T5 of ProtT5's proportions, an eighth as wide."""
    return benchmark.T5Config(
        vocab_size=128, d_model=128, num_layers=1, num_heads=4, d_kv=16, d_ff=512, use_cache=False
    )


@pytest.mark.parametrize("name", ["fair-esm, sorted", "esm-cpp", "ONNX Runtime", "OpenVINO"])
def test_exact_peers_agree_where_they_are_installed(benchmark, name):
    modules, make = (benchmark.ESM_ONLY | benchmark.ENGINES)[name]
    if not benchmark.is_installed(*modules):
        pytest.skip(f"{', '.join(modules)} not installed")
    with benchmark.torch.inference_mode():
        stock, usual = benchmark.esm_stock("8M")
        assert [labels.tolist() for labels in make(stock)(CHAINS)] == [labels.tolist() for labels in usual(CHAINS)]
